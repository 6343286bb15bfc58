"""The same question about many pictures: some at a time, on disk as it goes, so that what ends in
the middle goes on where it was.

A folder holds ``question.json``, ``results.jsonl`` (a line for each answer, as it comes) and, for a
spreadsheet, ``results.csv``.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import time
import zipfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import openai

from webui.chat.tables import BOM, harmless, table_of
from webui.pictures import PictureError, data_url

ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif"})
MAX_PICTURE_BYTES = 64_000_000
MAX_PICTURES = 100_000
# For how long an engine that restarts, or is full, is waited for; and after which pauses.
PATIENCE_S = 600.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 15.0
# What an answer breaks off for may be the picture itself.
BROKEN_TRIES = 3


class BatchError(Exception):
    """Nothing was asked; the message is for the person who wants it."""


@dataclass(frozen=True)
class Picture:
    """``name`` is its path below the folder, or in the zip file."""

    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Result:
    """An answer, or the reason why there is none. Seconds from the first try to the end."""

    file: str
    answer: str = ""
    error: str = ""
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Progress:
    """How far it is. ``seconds`` since the start of this run, in which ``now`` were asked."""

    done: int
    failed: int
    total: int
    now: int
    seconds: float

    @property
    def rest(self) -> int:
        """Those without an answer: failed, or not asked about yet."""
        return self.total - self.done

    @property
    def left_s(self) -> float | None:
        """About how long it takes from here; None before the first answer."""
        return self.seconds / self.now * (self.rest - self.failed) if self.now else None


def pictures_in(source: Path, max_bytes: int = MAX_PICTURE_BYTES) -> tuple[list[Picture], int]:
    """Of a picture, a folder and all below it, or a zip file; by name. And how many other files
    there are.

    Args:
        max_bytes: of one picture, as it is stored; a larger one is not read.

    Raises:
        BatchError: it is not there, cannot be read, or has no picture in it.
    """
    try:
        if source.is_dir():
            files = sorted(path for path in source.rglob("*") if path.is_file())
            found = [_in_file(path, str(path.relative_to(source)), max_bytes) for path in files]
        elif source.suffix.lower() == ".zip":
            found = [*_in_zip(source, max_bytes)]
        else:
            found = [_in_file(source, source.name, max_bytes)] if source.is_file() else []
    except (OSError, zipfile.BadZipFile) as error:
        raise BatchError(f"{source} cannot be read: {error}") from None
    pictures = [picture for picture in found if _is_picture(picture.name)]
    if not pictures:
        raise BatchError(f"{source}: there is no picture ({', '.join(sorted(ENDINGS))})")
    if len(pictures) > MAX_PICTURES:
        raise BatchError(f"{source}: {len(pictures)} pictures; {MAX_PICTURES} at most")
    return pictures, len(found) - len(pictures)


def _in_file(path: Path, name: str, max_bytes: int) -> Picture:
    def read() -> bytes:
        _admit(name, path.stat().st_size, max_bytes)
        return path.read_bytes()

    return Picture(name, read)


def _in_zip(path: Path, max_bytes: int) -> Iterator[Picture]:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
    for member in sorted(members, key=lambda member: member.filename):
        yield _in_member(path, member, max_bytes)


def _in_member(path: Path, member: zipfile.ZipInfo, max_bytes: int) -> Picture:
    def read() -> bytes:
        # The reader gives no more bytes than this, whatever is packed there.
        _admit(member.filename, member.file_size, max_bytes)
        with zipfile.ZipFile(path) as archive:
            return archive.read(member)

    return Picture(member.filename, read)


def _admit(name: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise PictureError(f"{name} has more than {max_bytes // 1_000_000} MB.")


def _is_picture(name: str) -> bool:
    path = Path(name)
    is_hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in ENDINGS and not is_hidden


class Journal:
    """What has been answered, in a folder; ``file`` has it as JSON lines.

    Args:
        question: all that makes an answer what it is. A folder is for one question.

    Raises:
        BatchError: the folder has answers to another question, or cannot be written.
    """

    def __init__(self, folder: Path, question: Mapping[str, Any]) -> None:
        self.file = folder / "results.jsonl"
        self._table = folder / "results.csv"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._check(folder / "question.json", question)
            self.results = {result.file: result for result in self._read()}
        except OSError as error:
            raise BatchError(f"{folder} cannot be written: {error}") from None

    @staticmethod
    def _check(file: Path, question: Mapping[str, Any]) -> None:
        text = json.dumps(question, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
        if not file.exists():
            file.write_text(text, encoding="utf-8")
        elif file.read_text(encoding="utf-8") != text:
            raise BatchError(
                f"{file.parent} has answers to another question ({file.name} tells which):"
                " choose another folder"
            )

    def _read(self) -> Iterator[Result]:
        known = {field.name for field in fields(Result)}
        with contextlib.suppress(FileNotFoundError):
            for line in self.file.read_text(encoding="utf-8").splitlines():
                # The last one may be half a line: a machine can stop at any time.
                with contextlib.suppress(ValueError, TypeError):
                    document = json.loads(line)
                    yield Result(**{key: document[key] for key in known & document.keys()})

    def add(self, result: Result) -> None:
        """Of a picture; it takes the place of an earlier one."""
        self.results[result.file] = result
        line = json.dumps(asdict(result), ensure_ascii=False)
        with self.file.open("a", encoding="utf-8") as file:
            if file.tell() and not _ends_with_line(self.file):
                file.write("\n")
            file.write(line + "\n")

    def write_table(self) -> Path:
        """All results, by name; an answer that is JSON in columns of its own."""
        rows: list[dict[str, str]] = []
        for name in sorted(self.results):
            result = self.results[name]
            table = None if result.error else table_of(result.answer)
            cells = table.rows if table else [{"answer": result.answer}]
            rows += [{"file": name, **row, "error": result.error} for row in cells]
        names = [column for row in rows for column in row if column != "error"]
        columns = [*dict.fromkeys(["file", *names]), "error"]
        with self._table.open("w", encoding="utf-8", newline="") as file:
            file.write(BOM)
            writer = csv.writer(file)
            writer.writerow(map(harmless, columns))
            writer.writerows([harmless(row.get(column, "")) for column in columns] for row in rows)
        return self._table


def _ends_with_line(file: Path) -> bool:
    with file.open("rb") as stream:
        stream.seek(-1, 2)
        return stream.read(1) == b"\n"


Ask = Callable[[Picture], Awaitable[Result]]


async def run(
    pictures: Sequence[Picture], journal: Journal, ask: Ask, at_once: int
) -> AsyncGenerator[Progress, None]:
    """Ask about what has no answer yet, what failed included, and tell after each.

    Leaving the loop early stops what is being asked; it is asked again the next time.
    """
    names = {picture.name for picture in pictures}
    done = {name for name in names & journal.results.keys() if not journal.results[name].error}
    waiting = iter([picture for picture in pictures if picture.name not in done])
    begun, now, failed = time.monotonic(), 0, 0
    yield Progress(len(done), 0, len(pictures), 0, 0.0)
    running: set[asyncio.Task[Result]] = set()
    try:
        while True:
            for picture in waiting:
                running.add(asyncio.ensure_future(ask(picture)))
                if len(running) >= at_once:
                    break
            if not running:
                return
            ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for result in (task.result() for task in ended):
                await asyncio.to_thread(journal.add, result)
                now += 1
                failed += bool(result.error)
            seconds = time.monotonic() - begun
            yield Progress(len(done) + now - failed, failed, len(pictures), now, seconds)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class Asker:
    """Asks an API about one picture.

    Args:
        request: fields of a chat request, without messages; those that are no field of OpenAI's
            under ``extra_body``.
    """

    def __init__(self, client: openai.AsyncOpenAI, request: Mapping[str, Any], words: str) -> None:
        self._client = client
        self._request = dict(request)
        self._words = words

    async def __call__(self, picture: Picture) -> Result:
        begun = time.monotonic()

        def result(**known: Any) -> Result:
            return Result(picture.name, seconds=round(time.monotonic() - begun, 3), **known)

        try:
            url = await asyncio.to_thread(lambda: data_url(picture.read(), picture.name))
        except (PictureError, OSError, RuntimeError, zipfile.BadZipFile) as error:
            return result(error=str(error) or type(error).__name__)
        broken, pause = 0, FIRST_PAUSE_S
        while True:
            try:
                return result(**await self._answer(url))
            except openai.APIStatusError as error:
                if error.status_code not in {408, 409, 429, 500, 502, 503, 504}:
                    return result(error=str(error.message)[:500])
                is_patient, words = error.status_code in {429, 503}, str(error.message)[:500]
            except openai.APIConnectionError as error:
                is_patient, words = True, f"no connection ({error})"
            except openai.APIError as error:
                is_patient, words = False, str(error.message)[:500]
            broken += not is_patient
            if broken >= BROKEN_TRIES or time.monotonic() - begun > PATIENCE_S:
                return result(error=words)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _answer(self, url: str) -> dict[str, Any]:
        parts: list[Any] = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": self._words},
        ]
        answer = await self._client.chat.completions.create(
            **self._request, messages=[{"role": "user", "content": parts}]
        )
        choice, used = answer.choices[0], answer.usage
        return {
            "answer": choice.message.content or "",
            "error": "" if choice.message.content else f"no answer ({choice.finish_reason})",
            "prompt_tokens": used.prompt_tokens if used else 0,
            "completion_tokens": used.completion_tokens if used else 0,
        }


def in_words(progress: Progress) -> str:
    """For a terminal."""
    parts = [f"{progress.done} of {progress.total}"]
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    if (left := progress.left_s) is not None and progress.done + progress.failed < progress.total:
        parts.append(f"about {_duration(left)} left")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
