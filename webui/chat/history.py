"""Conversations that visitors had, kept on this machine: texts in SQLite, each picture once.

Calls block and may come from several threads and, while a service is restarted, two processes.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from webui.chat.conversation import Conversation, Figures, Turn
from webui.pictures import PictureError, media_type

VERSION = 1
TITLE_LENGTH = 60
MAX_ENTRIES = 200
BUSY_S = 5.0
MEGABYTE = 1_000_000
DAY_S = 24 * 3600
# Less than that is for the engine's logs and everything else on the disk.
RESERVE_BYTES = 500 * MEGABYTE
SWEEP_S = 3600
# What is being written has a name of its own.
YOUNG_S = 3600

SCHEMA = """
CREATE TABLE conversations (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, title TEXT NOT NULL, changed_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX by_owner ON conversations (owner, changed_at);
CREATE TABLE turns (
    conversation TEXT NOT NULL REFERENCES conversations ON DELETE CASCADE,
    number INTEGER NOT NULL,
    question TEXT NOT NULL, reasoning TEXT NOT NULL, answer TEXT NOT NULL,
    task TEXT NOT NULL, figures TEXT NOT NULL,
    PRIMARY KEY (conversation, number)
) WITHOUT ROWID;
CREATE TABLE pictures (
    conversation TEXT NOT NULL REFERENCES conversations ON DELETE CASCADE,
    turn INTEGER NOT NULL, place INTEGER NOT NULL,
    file TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL,
    PRIMARY KEY (conversation, turn, place)
) WITHOUT ROWID;
CREATE INDEX by_file ON pictures (file);
"""


class HistoryError(Exception):
    """Something is not kept or not found. ``code`` says what: see :mod:`webui.chat.words`."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Entry:
    """A conversation in the list; ``changed_at`` in seconds since 1970."""

    id: str
    title: str
    changed_at: float


# The file that it is kept in, its own name, and bytes.
_Picture = Sequence[Any]


class History:
    """Who owns a conversation is told by a secret of theirs, of which only a hash is kept.

    Args:
        folder: for the database and the pictures; it is made.
        uploads: where pictures of an opened conversation are put for the page to show.
        quota_mb: for the pictures and texts of one owner.
        keep_days: after which an unchanged conversation is deleted.

    Raises:
        HistoryError: the database cannot be used.
    """

    def __init__(self, folder: Path, uploads: Path, quota_mb: int, keep_days: float) -> None:
        self._pictures = folder / "pictures"
        self._database = folder / "history.sqlite"
        self._uploads = uploads
        self._quota_bytes = quota_mb * MEGABYTE
        self._keep_s = keep_days * DAY_S
        self._swept_at = 0.0
        with _told():
            self._pictures.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
            self._database.touch(mode=0o600)
        with self._connected() as database:
            database.execute("BEGIN IMMEDIATE")
            [(version,)] = database.execute("PRAGMA user_version")
            if version > VERSION:
                raise HistoryError("history_newer")
            if version == 0:
                for statement in SCHEMA.split(";"):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {VERSION}")
            database.execute("COMMIT")

    def entries(self, owner: str, words: str = "") -> list[Entry]:
        """The owner's conversations, the last one first; only those with all these words, in
        whatever case, in the title, a question or an answer."""
        query = "SELECT id, title, changed_at FROM conversations AS c WHERE owner = ?"
        values = [_hashed(owner)]
        for word in words.split():
            query += (
                " AND (instr(fold(title), ?) OR EXISTS (SELECT 1 FROM turns WHERE"
                " conversation = c.id AND instr(fold(question || char(10) || answer), ?)))"
            )
            values += [word.casefold()] * 2
        with self._connected() as database:
            rows = database.execute(f"{query} ORDER BY changed_at DESC LIMIT {MAX_ENTRIES}", values)
            return [Entry(*row) for row in rows]

    def load(self, owner: str, key: str) -> Conversation:
        """Its pictures are there for the page to show, as if they had just been uploaded.

        Raises:
            HistoryError: there is none of this key, or it is another's.
        """
        with self._connected() as database:
            self._check(database, owner, key)
            pictures: dict[int, list[Path]] = {}
            rows = database.execute(
                "SELECT turn, file, name FROM pictures WHERE conversation = ? ORDER BY turn, place",
                [key],
            )
            for turn, file, name in rows:
                pictures.setdefault(turn, []).append(self._shown(file, name))
            rows = database.execute(
                "SELECT number, question, reasoning, answer, task, figures FROM turns"
                " WHERE conversation = ? ORDER BY number",
                [key],
            )
            return Conversation(
                tuple(
                    Turn(
                        question,
                        tuple(pictures.get(number, ())),
                        reasoning,
                        answer,
                        done=True,
                        task=task,
                        figures=Figures.of(json.loads(figures)),
                    )
                    for number, question, reasoning, answer, task, figures in rows
                ),
                key,
            )

    def save(self, owner: str, talk: Conversation) -> None:
        """Keep a conversation, which has a key, as it is now; one without turns is deleted.

        Raises:
            HistoryError: the owner's room or the disk is full, or the key is another's. What was
                kept before still is.
        """
        key = talk.key
        with self._connected() as database:
            # From here on no picture is deleted, and nothing is kept before the end.
            database.execute("BEGIN IMMEDIATE")
            row = (key, _hashed(owner), title_of(talk), 0)
            database.execute("INSERT OR IGNORE INTO conversations VALUES (?, ?, ?, ?)", row)
            self._check(database, owner, key)
            before = self._pictures_of(database, key)
            for table in ("turns", "pictures"):
                database.execute(f"DELETE FROM {table} WHERE conversation = ?", [key])  # noqa: S608
            for number, turn in enumerate(talk.turns):
                self._add(database, key, number, turn, before)
            now = time.time()
            database.execute("UPDATE conversations SET changed_at = ? WHERE id = ?", [now, key])
            if not talk.turns:
                database.execute("DELETE FROM conversations WHERE id = ?", [key])
            if self._used(database, owner) > self._quota_bytes:
                raise HistoryError("history_full")
            database.execute("COMMIT")
        if now - self._swept_at > SWEEP_S:
            self._swept_at = now
            self.sweep()

    @staticmethod
    def _pictures_of(database: sqlite3.Connection, key: str) -> Mapping[tuple[int, int], _Picture]:
        """By turn and place."""
        query = "SELECT turn, place, file, name, size FROM pictures WHERE conversation = ?"
        return {(turn, place): rest for turn, place, *rest in database.execute(query, [key])}

    def _add(
        self,
        database: sqlite3.Connection,
        key: str,
        number: int,
        turn: Turn,
        before: Mapping[tuple[int, int], _Picture],
    ) -> None:
        figures = json.dumps(asdict(turn.figures))
        texts = (turn.question, turn.reasoning, turn.answer, turn.task, figures)
        database.execute("INSERT INTO turns VALUES (?, ?, ?, ?, ?, ?, ?)", [key, number, *texts])
        for place, path in enumerate(turn.pictures):
            # The page deletes pictures in time; one that was kept before still is.
            picture = self._kept(path) or before.get((number, place))
            if picture is not None and picture[1] == path.name:
                database.execute(
                    "INSERT INTO pictures VALUES (?, ?, ?, ?, ?, ?)", [key, number, place, *picture]
                )

    def rename(self, owner: str, key: str, title: str) -> None:
        """Raises:
        HistoryError: as :meth:`load`.
        """
        with self._connected() as database:
            self._check(database, owner, key)
            title = " ".join(title.split())[: 2 * TITLE_LENGTH] or "…"
            database.execute("UPDATE conversations SET title = ? WHERE id = ?", [title, key])

    def title(self, owner: str, key: str) -> str:
        """Raises:
        HistoryError: as :meth:`load`.
        """
        with self._connected() as database:
            self._check(database, owner, key)
            query = "SELECT title FROM conversations WHERE id = ?"
            [(title,)] = database.execute(query, [key])
            return str(title)

    def delete(self, owner: str, key: str) -> None:
        """Raises:
        HistoryError: as :meth:`load`.
        """
        with self._connected() as database:
            self._check(database, owner, key)
            database.execute("DELETE FROM conversations WHERE id = ?", [key])

    def sweep(self) -> None:
        """Delete what has been kept for long enough, and pictures that belong to nothing."""
        now = time.time()
        with self._connected() as database:
            database.execute("DELETE FROM conversations WHERE changed_at < ?", [now - self._keep_s])
            for file in self._pictures.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if now - file.stat().st_mtime < YOUNG_S:
                        continue
                    # Nobody can begin to use it between the look and the end.
                    database.execute("BEGIN IMMEDIATE")
                    query = "SELECT 1 FROM pictures WHERE file = ? LIMIT 1"
                    if database.execute(query, [file.name]).fetchone() is None:
                        file.unlink()
                    database.execute("COMMIT")

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with (
            _told(),
            contextlib.closing(
                sqlite3.connect(self._database, BUSY_S, isolation_level=None)
            ) as database,
        ):
            database.execute("PRAGMA foreign_keys = ON")
            database.execute("PRAGMA journal_mode = WAL")
            database.create_function("fold", 1, str.casefold, deterministic=True)
            yield database

    @staticmethod
    def _check(database: sqlite3.Connection, owner: str, key: str) -> None:
        query = "SELECT 1 FROM conversations WHERE id = ? AND owner = ?"
        if database.execute(query, [key, _hashed(owner)]).fetchone() is None:
            raise HistoryError("history_gone")

    @staticmethod
    def _used(database: sqlite3.Connection, owner: str) -> int:
        """Bytes of the owner's texts and pictures, each picture once."""
        [(texts,)] = database.execute(
            "SELECT total(length(question) + length(reasoning) + length(answer)) FROM turns"
            " JOIN conversations ON id = conversation WHERE owner = ?",
            [_hashed(owner)],
        )
        [(pictures,)] = database.execute(
            "SELECT total(size) FROM (SELECT DISTINCT file, size FROM pictures"
            " JOIN conversations ON id = conversation WHERE owner = ?)",
            [_hashed(owner)],
        )
        return int(texts + pictures)

    def _kept(self, path: Path) -> _Picture | None:
        """Keep a picture, if it is not kept yet; its file, its own name and size. None where it is
        gone."""
        try:
            status = path.stat()
            name = _file_name(path, status.st_mtime_ns, status.st_size)
        except (FileNotFoundError, PictureError):
            return None
        file = self._pictures / name
        if not file.exists():
            if shutil.disk_usage(self._pictures).free < RESERVE_BYTES + status.st_size:
                raise HistoryError("history_disk")
            _copy(path, file)
        return name, path.name, status.st_size

    def _shown(self, file: str, name: str) -> Path:
        """A kept picture in the page's own folder, from where it may go in time."""
        target = self._uploads / f"kept-{file.partition('.')[0]}" / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # then it is told when it is asked about
                _copy(self._pictures / file, target)
        return target


def title_of(talk: Conversation) -> str:
    """The beginning of its first question."""
    words = " ".join(talk.turns[0].question.split()) if talk.turns else ""
    return words if len(words) <= TITLE_LENGTH else f"{words[: TITLE_LENGTH - 1]}…"


@functools.lru_cache(10_000)
def _file_name(path: Path, _changed: int, _size: int) -> str:
    """By content, which is read once as long as the file does not change."""
    kind = media_type(path).partition("/")[2]
    return f"{hashlib.sha256(path.read_bytes()).hexdigest()}.{kind}"


def _copy(source: Path, target: Path) -> None:
    """The whole of it, or nothing."""
    new = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        shutil.copyfile(source, new)
        new.replace(target)
    finally:
        new.unlink(missing_ok=True)


def _hashed(owner: str) -> str:
    return hashlib.sha256(owner.encode()).hexdigest()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What goes wrong below is told as :class:`HistoryError`."""
    try:
        yield
    except sqlite3.OperationalError as error:
        is_full = getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
        raise HistoryError("history_disk" if is_full else "history_broken") from error
    except sqlite3.Error as error:
        raise HistoryError("history_broken") from error
    except OSError as error:
        raise HistoryError("history_disk") from error
