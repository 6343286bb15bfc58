"""webui.chat.words and options: languages, and what a request gets from the controls."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webui.chat.options import Options
from webui.chat.words import ERRORS, TEXTS, language_of, text, translations
from webui.client.tasks import TASKS, Words


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-US,en;q=0.9,zh;q=0.8", "en"),
        ("fr-FR,zh;q=0.3", "zh"),
        ("fr, en;q=0.5, zh-Hant-TW ; q=0.7", "zh"),
        ("de", "en"),
        ("zh;q=0", "en"),
        ("ZH", "zh"),
        ("zhx, *", "en"),
        ("zh;q=....", "en"),
    ],
)
def test_the_browser_says_the_language(accepted: str, language: str) -> None:
    """The one of ours that it likes best."""
    assert language_of(accepted) == language


@given(st.text(max_size=300))
def test_no_header_is_too_strange(accepted: str) -> None:
    """Anybody may send anything."""
    assert language_of(accepted) in {"en", "zh"}


def test_both_languages_say_the_same() -> None:
    """Every text is there twice, with the same blanks, and the Chinese one is Chinese."""

    def blanks(words: str) -> set[str | None]:
        return {name for _, name, _, _ in string.Formatter().parse(words)} - {None}

    for key, words in {**TEXTS, **ERRORS}.items():
        assert blanks(words.en) == blanks(words.zh), key
        has_words = key not in {"csv", "json", "top_p"}
        assert any("\u4e00" <= char <= "\u9fff" for char in words.zh) or not has_words, key


def test_the_page_is_given_all_of_them() -> None:
    """The titles of the tasks and what stands in their blanks too."""
    given_ = translations(TASKS, Words("demo", "演示"))
    assert given_["zh-CN"]["task_invoice"] == TASKS["invoice"].title.zh
    assert {key: given_["en"][key] for key in TEXTS} == {k: w.en for k, w in TEXTS.items()}
    assert (given_["en"]["notice"], given_["zh"]["notice"]) == ("demo", "演示")
    usual = {f"usual_{blank}" for task in TASKS.values() for blank in task.blanks}
    titles = {f"task_{name}" for name in TASKS}
    assert given_["zh"]["usual_grade"] == TASKS["maths"].blanks["grade"].zh
    for words in given_.values():
        assert words.keys() == TEXTS.keys() | titles | usual | {"notice"}
    assert text("speed", "en", speed=12.6) == "13 tokens/s"


def test_controls_become_fields() -> None:
    """As the API has them; only a JSON task has a form."""
    options = Options("low", False, 0.2, 0.9, 100, "Be brief.")
    fields = {"thinking": "low", "temperature": 0.2, "top_p": 0.9, "max_tokens": 100}
    own = Options("low", True, 0.2, 0.9, 100)
    assert own.fields(None) == {"thinking": "low", "max_tokens": 100}
    assert options.fields(None) == options.fields(TASKS["read"]) == fields
    assert options.fields(TASKS["safety"]) == {
        **fields,
        "response_format": TASKS["safety"].response_format,
    }


def test_a_task_brings_what_suits_it() -> None:
    """And a question of one's own the standard."""
    invoice = Options.of_task(TASKS["invoice"])
    found = (invoice.own_sampling, invoice.temperature, invoice.answer_tokens)
    assert found == (False, 0.1, 1024)
    assert Options.of_task(None) == Options()
