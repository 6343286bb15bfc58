"""The table of kept answers: what happens when its file is broken or held."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from webui.gateway.cache import AnswerCache, cache_key


def used(file: Path) -> AnswerCache:
    """A cache that has kept an answer."""
    cache = AnswerCache(file, 1)
    cache.put(b"a", b"answer")
    assert asyncio.run(cache.get(b"a")) == b"answer"
    return cache


def test_answers_outlive_a_restart(tmp_path: Path) -> None:
    """In a file for its owner only."""
    file = tmp_path / "answers.sqlite"
    used(file).close()
    assert file.stat().st_mode & 0o777 == 0o600
    again = AnswerCache(file, 1)
    assert asyncio.run(again.get(b"a")) == b"answer"
    again.close()


@pytest.mark.parametrize("start", [0, 4096])
def test_a_damaged_file_is_begun_anew(tmp_path: Path, start: int) -> None:
    """Wherever it is damaged."""
    file = tmp_path / "answers.sqlite"
    used(file).close()
    data = bytearray(file.read_bytes())
    data[start : start + 3000] = b"x" * 3000
    file.write_bytes(data)
    used(file).close()


def test_a_file_that_is_held_is_left_alone(tmp_path: Path) -> None:
    """Two of us must not empty each other's file."""
    file = tmp_path / "answers.sqlite"
    used(file).close()
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("pragma locking_mode = exclusive")
    holder.execute("begin exclusive")
    with pytest.raises(sqlite3.OperationalError):
        AnswerCache(file, 1)
    holder.close()
    again = AnswerCache(file, 1)
    assert asyncio.run(again.get(b"a")) == b"answer"
    again.close()


def test_whose_answer_it_is_makes_a_difference() -> None:
    """And which model gave it; the order of a request's fields does not."""
    assert cache_key({"a": 1, "b": 2}, "anna", "m") == cache_key({"b": 2, "a": 1}, "anna", "m")
    keys = [cache_key({}, who, what) for who in ("anna", "bert") for what in ("m", "n")]
    assert len(set(keys)) == 4
