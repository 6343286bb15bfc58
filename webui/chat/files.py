"""A talk as a file: JSON, which can be read back, and Markdown beside its pictures."""

from __future__ import annotations

import base64
import binascii
import json
import re
import secrets
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from webui.chat.conversation import Conversation, Figures, Turn
from webui.chat.words import text
from webui.client.tasks import Language
from webui.pictures import PictureError, media_type

FORMAT = "step3vl-conversation"
VERSION = 1
MAX_TURNS = 1000
MAX_TITLE = 120
MAX_NAME = 60


class FileError(Exception):
    """It is no talk. ``code`` says why: see :mod:`webui.chat.words`."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def file_name(title: str) -> str:
    """Of a title; for any system, without an ending."""
    return re.sub(r"[^\w-]+", "-", title)[:40].strip("-") or "conversation"


def write_json(talk: Conversation, title: str, path: Path) -> None:
    """With the pictures in it. They are read one after the other: all may be large."""
    with path.open("w", encoding="utf-8") as file:
        start = {"format": FORMAT, "version": VERSION, "title": title, "turns": []}
        file.write(json.dumps(start, ensure_ascii=False).removesuffix("]}"))
        for number, turn in enumerate(talk.turns):
            file.write(",\n" if number else "\n")
            file.write(json.dumps(_document(turn), ensure_ascii=False))
        file.write("\n]}\n")


def _document(turn: Turn) -> dict[str, Any]:
    pictures = []
    for path in turn.pictures:
        try:
            kind, data = media_type(path), path.read_bytes()
        except (PictureError, OSError):
            continue  # it has been deleted
        url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        pictures.append({"name": path.name, "url": url})
    return {
        "question": turn.question,
        "pictures": pictures,
        "reasoning": turn.reasoning,
        "answer": turn.answer,
        "task": turn.task,
        "figures": asdict(turn.figures),
    }


def write_markdown(
    talk: Conversation, title: str, model: str, language: Language, path: Path
) -> None:
    """A zip file with ``conversation.md``, and the pictures that it shows."""
    you = text("you", language)
    lines = [f"# {title}", ""]
    with zipfile.ZipFile(path, "w") as archive:
        for number, turn in enumerate(talk.turns, start=1):
            lines += [f"## {number}. {you}", ""]
            for place, picture in enumerate(turn.pictures, start=1):
                try:
                    ending = media_type(picture).partition("/")[2]
                    name = f"pictures/{number}-{place}.{ending}"
                    archive.write(picture, name)
                except (PictureError, OSError):
                    continue  # it has been deleted
                lines += [f"![{place}]({name})", ""]
            lines += [turn.question, "", f"## {number}. {model}", ""]
            if turn.reasoning:
                thought = text("thought", language)
                lines += [f"<details><summary>{thought}</summary>", "", turn.reasoning, ""]
                lines += ["</details>", ""]
            lines += [turn.answer, ""]
        archive.writestr("conversation.md", "\n".join(lines), zipfile.ZIP_DEFLATED)


def read_json(path: Path, folder: Path) -> tuple[Conversation, str]:
    """A talk and its title, from what :func:`write_json` wrote or somebody changed.

    Args:
        folder: for its pictures.

    Raises:
        FileError: it is no talk, not whole, or of a newer version; nothing of it is left.
    """
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise FileError("file_format") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise FileError("file_format")
    version, turns = document.get("version"), document.get("turns")
    if not isinstance(version, int) or not isinstance(turns, list):
        raise FileError("file_format")
    if version > VERSION:
        raise FileError("file_newer")
    if not 1 <= len(turns) <= MAX_TURNS:
        raise FileError("file_format")
    made: list[Path] = []
    try:
        talk = Conversation(tuple(_turn(turn, folder, made) for turn in turns)).with_key()
    except FileError:
        for picture in made:
            picture.unlink(missing_ok=True)
        raise
    return talk, " ".join(_words(document, "title").split())[:MAX_TITLE]


def _turn(document: Any, folder: Path, made: list[Path]) -> Turn:
    if not isinstance(document, dict):
        raise FileError("file_format")
    pictures = document.get("pictures", [])
    if not isinstance(pictures, list):
        raise FileError("file_format")
    before = len(made)
    for picture in pictures:
        _save_picture(picture, folder, made)
    return Turn(
        _words(document, "question"),
        tuple(made[before:]),
        _words(document, "reasoning"),
        _words(document, "answer"),
        done=True,
        task=_words(document, "task")[:MAX_NAME],
        figures=Figures.of(document.get("figures")),
    )


def _words(document: Mapping[str, Any], name: str) -> str:
    """Without the halves of characters that no encoding can carry."""
    words = document.get(name, "")
    if not isinstance(words, str):
        raise FileError("file_format")
    return words.encode(errors="replace").decode()


def _save_picture(document: Any, folder: Path, made: list[Path]) -> None:
    if not isinstance(document, dict):
        raise FileError("file_format")
    head, _, data = _words(document, "url").partition(",")
    if not head.startswith("data:image/") or not head.endswith(";base64"):
        raise FileError("file_picture")
    name = Path(_words(document, "name")).name[-MAX_NAME:]
    place = folder / f"opened-{secrets.token_hex(16)}"
    place.mkdir(parents=True)
    path = place / (re.sub(r"[^\w.-]+", "-", name).lstrip(".") or "picture")
    made.append(path)
    try:
        path.write_bytes(base64.b64decode(data, validate=True))
        media_type(path)
    except (binascii.Error, PictureError):
        raise FileError("file_picture") from None
