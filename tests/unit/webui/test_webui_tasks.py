"""webui.chat.tasks: the operator's tasks beside the ready-made ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from webui.chat.tasks import all_tasks, refilled
from webui.chat.words import TEXTS
from webui.client.tasks import TASKS, Language
from webui.settings import Settings

MENU: dict[str, Any] = {
    "name": "menu",
    "title": {"en": "Menu", "zh": "菜单"},
    "prompt": {"en": "All prices in $; write ${x}.", "zh": "价格单位：$"},
    "temperature": 0.2,
    "max_tokens": 300,
    "json_schema": {"type": "object"},
}


def test_an_operators_task_is_asked_as_it_is_written() -> None:
    """Nothing in it is taken for a blank; its schema becomes the answer's."""
    menu = all_tasks([MENU])["menu"]
    assert menu.text("en").startswith("All prices in $; write ${x}.")
    assert menu.text("zh").startswith("价格单位：$")
    assert (menu.temperature, menu.max_tokens) == (0.2, 300)
    form = menu.response_format
    assert form is not None
    assert form["json_schema"]["schema"] == {"type": "object"}


def test_it_may_take_the_place_of_a_ready_made_one() -> None:
    """In its place in the list; the others stay."""
    own = all_tasks([{**MENU, "name": "invoice", "json_schema": None}])
    assert own["invoice"].response_format is None
    assert [*own] == [*TASKS]
    assert own["read"] is TASKS["read"]


def test_the_launcher_hands_them_over_as_text() -> None:
    """In the environment, like everything."""
    settings = Settings.from_environ({"WEBUI_TASKS": json.dumps([MENU])})
    assert settings.tasks == (MENU,)
    assert Settings.from_environ({}).tasks == ()


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.blanks])
def test_blanks_can_be_filled_again_and_again(name: str, language: Language) -> None:
    """Each time the question is the task's with those words; emptied, it is the task's own."""
    task = TASKS[name]
    words, old = task.text(language), dict[str, str]()
    for value in ("a", "an 8 in $1", "", "中"):
        new = {blank: f"{value}{n}" for n, blank in enumerate(task.blanks)} if value else {}
        words, old = refilled(words, task, language, old, new), new
        assert words == task.text(language, **new)


def test_a_question_that_was_edited_keeps_its_edits() -> None:
    """Also where a blank's words stand elsewhere; and no blank is found whose words have gone."""
    task = TASKS["product"]
    words = f"A mug! {task.text('en', product='A')} A."
    again = refilled(words, task, "en", {"product": "A"}, {"product": "B"})
    assert again == f"A mug! {task.text('en', product='B')} A."
    assert refilled("What is it?", task, "en", {}, {"product": "B"}) == "What is it?"
    other = refilled(task.text("en"), task, "en", {"grade": "3"}, {"product": "B"})
    assert other == task.text("en", product="B"), "what stood in another task's blanks is no matter"


def test_every_blank_has_a_name_for_people() -> None:
    names = {blank for task in TASKS.values() for blank in task.blanks}
    assert {f"blank_{name}" for name in names} == {n for n in TEXTS if n.startswith("blank_")}
