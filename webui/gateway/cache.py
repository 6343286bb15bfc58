"""Answers kept for requests that would be answered alike: no chance in the sampling, same images.

In a file, so that they outlive a restart; off unless the operator gives it room.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import orjson

from webui.gateway.relay import MEGABYTE

logger = logging.getLogger(__name__)

T = TypeVar("T")

_TABLE = """
    create table if not exists answers
        (key blob primary key, body blob not null, used real not null) without rowid
"""
_OLDEST = "select key, length(body) from answers order by used limit 100"


def cacheable(document: Mapping[str, Any]) -> bool:
    """Whether the same request gets the same answer: greedy, one, whole."""
    return (
        document.get("temperature") == 0
        and not document.get("stream")
        and (document.get("n") or 1) == 1
    )


def cache_key(document: Mapping[str, Any], *of: str) -> bytes:
    """Of a request whose images are there by name; its order of fields makes no difference.

    ``of`` are whose it is and which model answers: what tells equal requests apart.
    """
    text = orjson.dumps([*of, document], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).digest()


class AnswerCache:
    """A table of answers, bounded by the bytes that they hold; those longest unused go first.

    Args:
        file: is made, readable by its owner only.
        max_mb: in MB of a million bytes.
    """

    def __init__(self, file: Path, max_mb: int) -> None:
        self._limit = max_mb * MEGABYTE
        # One thread for one connection; it never holds up the event loop.
        self._thread = ThreadPoolExecutor(1, "cache")
        file.touch(mode=0o600)
        self._database, self._size = self._thread.submit(_opened, file).result()

    def close(self) -> None:
        self._thread.submit(self._database.close).result()
        self._thread.shutdown()

    async def get(self, key: bytes) -> bytes | None:
        """A kept answer."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._safely, lambda: self._get(key))

    def put(self, key: bytes, body: bytes) -> None:
        """Keep an answer, soon: nobody waits for it."""
        self._thread.submit(self._safely, lambda: self._put(key, body))

    @staticmethod
    def _safely(work: Callable[[], T]) -> T | None:
        """A full disk or a broken file costs kept answers, never a request."""
        try:
            return work()
        except sqlite3.Error as error:
            logger.warning("answers cannot be kept: %s", error)
            return None

    def _get(self, key: bytes) -> bytes | None:
        row = self._database.execute("select body from answers where key = ?", [key]).fetchone()
        if row is None:
            return None
        self._database.execute("update answers set used = ? where key = ?", [time.time(), key])
        return bytes(row[0])

    def _put(self, key: bytes, body: bytes) -> None:
        if len(body) > self._limit:
            return
        execute = self._database.execute
        old = execute("select length(body) from answers where key = ?", [key]).fetchone()
        execute("insert or replace into answers values (?, ?, ?)", [key, body, time.time()])
        self._size += len(body) - (old[0] if old else 0)
        while self._size > self._limit:
            for old, length in self._database.execute(_OLDEST).fetchall():
                self._database.execute("delete from answers where key = ?", [old])
                self._size -= length
                if self._size <= self._limit:
                    break


def _opened(file: Path) -> tuple[sqlite3.Connection, int]:
    """The table and the bytes it holds. A damaged one is begun anew: it holds nothing that cannot
    be had again."""
    try:
        return _connected(file)
    except sqlite3.OperationalError:  # somebody else holds it, or the disk is full
        raise
    except sqlite3.DatabaseError:
        for damaged in file.parent.glob(f"{file.name}*"):
            damaged.unlink()
        file.touch(mode=0o600)
        return _connected(file)


def _connected(file: Path) -> tuple[sqlite3.Connection, int]:
    database = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    try:
        database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = off")
        database.execute(_TABLE)
        [[size]] = database.execute("select coalesce(sum(length(body)), 0) from answers")
    except sqlite3.Error:
        database.close()
        raise
    return database, int(size)
