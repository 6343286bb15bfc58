"""The tasks of the page: ready-made ones, and the operator's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from webui.client.tasks import TASKS, Language, Task, Words

# As many letters before and after a blank tell where it stands.
EDGE = 16


def all_tasks(own: Iterable[Mapping[str, Any]]) -> Mapping[str, Task]:
    """By their names; one of the operator's takes the place of a ready-made one of its name.

    Args:
        own: entries of ``webui.tasks``, as the launcher has checked them.
    """
    return {**TASKS, **{entry["name"]: _task(entry) for entry in own}}


def blanks_of(tasks: Mapping[str, Task]) -> list[str]:
    """The names of all that tasks leave open, each once."""
    return [*dict.fromkeys(blank for task in tasks.values() for blank in task.blanks)]


def refilled(
    words: str, task: Task, language: Language, old: Mapping[str, str], new: Mapping[str, str]
) -> str:
    """A task's question with other words in its blanks, also where it has been edited; but not
    where the words around a blank have."""
    old = {blank: word for blank, word in old.items() if blank in task.blanks}  # of another task
    before, after = task.pieces(language, **old), task.pieces(language, **new)
    for place in range(1, len(before), 2):
        left, right = before[place - 1][-EDGE:], before[place + 1][:EDGE]
        words = words.replace(left + before[place] + right, left + after[place] + right, 1)
    return words


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
