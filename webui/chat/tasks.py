"""The tasks of the page: ready-made ones, and the operator's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from webui.client.tasks import TASKS, Task, Words


def all_tasks(own: Iterable[Mapping[str, Any]]) -> Mapping[str, Task]:
    """By their names; one of the operator's takes the place of a ready-made one of its name.

    Args:
        own: entries of ``webui.tasks``, as the launcher has checked them.
    """
    return {**TASKS, **{entry["name"]: _task(entry) for entry in own}}


def _task(entry: Mapping[str, Any]) -> Task:
    title, prompt = entry["title"], entry["prompt"]
    return Task(
        entry["name"],
        Words(title["en"], title["zh"]),
        Words(_plain(prompt["en"]), _plain(prompt["zh"])),
        temperature=entry["temperature"],
        max_tokens=entry["max_tokens"],
        schema=entry["json_schema"],
    )


def _plain(words: str) -> str:
    """What is no blank to be filled must not look like one."""
    return words.replace("$", "$$")
