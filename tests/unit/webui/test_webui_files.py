"""webui.chat.files: a talk as a file, and back."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import png

from webui.chat.conversation import Conversation, Figures, Turn
from webui.chat.files import FileError, file_name, read_json, write_json, write_markdown
from webui.chat.words import FILES


@pytest.fixture
def talk(tmp_path: Path) -> Conversation:
    """Two turns, one of them with two pictures."""
    paths = []
    for colour in ("red", "blue"):
        path = tmp_path / "pictures" / colour / "image.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(png(46, 31, colour))
        paths.append(path)
    figures = Figures(first_token_s=0.25, total_s=2, prompt_tokens=10, completion_tokens=5)
    first = Turn("Which? 哪个\n", tuple(paths), "Hm.", "Red.", True, "compare", figures)
    return Conversation((first, Turn("And now?", done=True))).with_key()


def document(**changes: Any) -> dict[str, Any]:
    """A file's, of one question."""
    whole = {"format": "step3vl-conversation", "version": 1, "turns": [{"question": "Hi"}]}
    return {**whole, **changes}


def read(value: Any, folder: Path) -> tuple[Conversation, str]:
    path = folder / "talk.json"
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return read_json(path, folder / "opened")


def test_what_is_saved_is_read_back(talk: Conversation, tmp_path: Path) -> None:
    """With pictures in files of its own, and as a conversation of its own."""
    write_json(talk, "A talk", tmp_path / "talk.json")
    found, title = read_json(tmp_path / "talk.json", tmp_path / "opened")
    assert title == "A talk"
    assert found.key not in {"", talk.key}
    without = [replace(turn, pictures=()) for turn in found.turns]
    assert without == [replace(turn, pictures=()) for turn in talk.turns]
    before, after = talk.turns[0].pictures, found.turns[0].pictures
    assert [path.read_bytes() for path in after] == [path.read_bytes() for path in before]
    assert [path.name for path in after] == ["image.png", "image.png"]
    assert all((tmp_path / "opened") in path.parents for path in after)


def test_a_picture_that_is_gone_is_left_out(talk: Conversation, tmp_path: Path) -> None:
    """Of both kinds of files."""
    talk.turns[0].pictures[0].unlink()
    write_json(talk, "", tmp_path / "talk.json")
    found, _ = read_json(tmp_path / "talk.json", tmp_path / "opened")
    assert len(found.turns[0].pictures) == 1
    write_markdown(talk, "", "model", "en", tmp_path / "talk.zip")
    assert zipfile.ZipFile(tmp_path / "talk.zip").namelist() == [
        "pictures/1-2.png",
        "conversation.md",
    ]


def test_markdown_stands_beside_its_pictures(talk: Conversation, tmp_path: Path) -> None:
    """In the order of the talk, with thinking in a fold."""
    write_markdown(talk, "A talk", "Step3-VL", "zh", tmp_path / "talk.zip")
    with zipfile.ZipFile(tmp_path / "talk.zip") as archive:
        assert archive.read("pictures/1-2.png") == talk.turns[0].pictures[1].read_bytes()
        words = archive.read("conversation.md").decode()
    expected = [
        "# A talk",
        "## 1. 我",
        "![1](pictures/1-1.png)",
        "![2](pictures/1-2.png)",
        "Which? 哪个",
        "## 1. Step3-VL",
        "<details><summary>思考中</summary>",
        "Hm.",
        "</details>",
        "Red.",
        "## 2. 我",
        "And now?",
        "## 2. Step3-VL",
    ]
    assert [line for line in words.splitlines() if line] == expected


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"", "file_format"),
        (b"\xff\xfe{", "file_format"),
        (b"[" * 100_000, "file_format"),
        ([], "file_format"),
        (document(format="other"), "file_format"),
        (document(version="1"), "file_format"),
        (document(version=2), "file_newer"),
        (document(turns={}), "file_format"),
        (document(turns=[]), "file_format"),
        (document(turns=[{}] * 1001), "file_format"),
        (document(turns=["Hi"]), "file_format"),
        (document(turns=[{"question": 1}]), "file_format"),
        (document(title=[]), "file_format"),
        (document(turns=[{"pictures": "x"}]), "file_format"),
        (document(turns=[{"pictures": ["x"]}]), "file_format"),
        (document(turns=[{"pictures": [{"url": "http://example.com/a.png"}]}]), "file_picture"),
        (document(turns=[{"pictures": [{"url": "data:text/html;base64,PGI+"}]}]), "file_picture"),
        (document(turns=[{"pictures": [{"url": "data:image/png;base64,PGI+"}]}]), "file_picture"),
        (document(turns=[{"pictures": [{"url": "data:image/png;base64,!"}]}]), "file_picture"),
    ],
)
def test_what_is_no_talk_is_refused(value: Any, code: str, tmp_path: Path) -> None:
    """In words, and with nothing left of it."""
    with pytest.raises(FileError) as caught:
        read(value, tmp_path)
    assert caught.value.code == code
    assert FILES[code].en
    assert not [path for path in (tmp_path / "opened").rglob("*") if path.is_file()]


def test_one_bad_picture_takes_the_good_ones_with_it(talk: Conversation, tmp_path: Path) -> None:
    """Nothing half-opened stays."""
    write_json(talk, "", tmp_path / "whole.json")
    whole = json.loads((tmp_path / "whole.json").read_bytes())
    whole["turns"][1]["pictures"] = [{"url": "data:image/png;base64,AAAA"}]
    with pytest.raises(FileError):
        read(whole, tmp_path)
    assert not [path for path in (tmp_path / "opened").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../../etc/passwd", "passwd"),
        ("/etc/x.png", "x.png"),
        ("..", "picture"),
        (".hidden.png", "hidden.png"),
        ("a b<c>.png", "a-b-c-.png"),
        ("图" * 200 + ".png", "图" * 56 + ".png"),
        ("", "picture"),
    ],
)
def test_a_name_leads_nowhere_else(
    name: str, expected: str, talk: Conversation, tmp_path: Path
) -> None:
    """Whoever wrote the file."""
    write_json(talk, "", tmp_path / "whole.json")
    whole = json.loads((tmp_path / "whole.json").read_bytes())
    whole["turns"][0]["pictures"][0]["name"] = name
    found, _ = read(whole, tmp_path)
    path = found.turns[0].pictures[0]
    assert path.name == expected
    assert path.resolve().parent.parent == (tmp_path / "opened").resolve()


def test_figures_and_texts_are_not_believed(tmp_path: Path) -> None:
    """What is no figure is none; what no encoding can carry is replaced."""
    figures = {"first_token_s": "1", "total_s": float("nan"), "prompt_tokens": 1.5, "other": 1}
    turn = {"question": "half \ud83d", "figures": {**figures, "completion_tokens": 7}}
    found, title = read(document(turns=[turn], title="two\nlines"), tmp_path)
    assert found.turns[0].figures == Figures(completion_tokens=7)
    assert found.turns[0].question == "half ?"
    assert title == "two lines"


@pytest.mark.parametrize(
    ("title", "expected"),
    [("What is it?", "What-is-it"), ("图里有什么？", "图里有什么"), ("../..", "conversation")],
)
def test_a_file_is_called_like_its_talk(title: str, expected: str) -> None:
    """As far as any system allows."""
    assert file_name(title) == expected
