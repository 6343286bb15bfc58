"""Batches that visitors start on the page: they run in its process, whoever looks; after a restart
they can go on."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import openai

from webui.batch.work import Asker, BatchError, Journal, Picture, Progress, Result, pictures_in, run

logger = logging.getLogger(__name__)

DAY_S = 24 * 3600
MAX_AT_ONCE = 16
MAX_RESTING = 50
MAX_FOLDERS = 500
MEGABYTE = 1_000_000
# Less than that is for the engine's logs and everything else on the disk.
RESERVE_BYTES = 500 * MEGABYTE


@dataclass(frozen=True)
class Question:
    """``request`` are fields of a chat request, without messages. ``folder`` is one of the
    operator's, instead of pictures of the visitor's own."""

    words: str
    request: Mapping[str, Any]
    at_once: int
    folder: str = ""

    def as_document(self) -> dict[str, Any]:
        document = asdict(self)
        if not self.folder:  # batches of earlier versions have none
            del document["folder"]
        return document


@dataclass(frozen=True)
class Snapshot:
    """Of a visitor's batch. ``problem`` is why it cannot go on."""

    progress: Progress
    results: Sequence[Result]
    is_running: bool
    problem: str = ""


@dataclass
class _Job:
    folder: Path
    question: Question
    pictures: Sequence[Picture]
    journal: Journal
    progress: Progress
    task: asyncio.Task[None] | None = None
    problem: str = ""


class Batches:
    """One for each visitor, who is known by a secret of theirs; a new one takes the place of the
    one before.

    Args:
        folder: in which they are kept.
        client: for the API.
        keep_days: after which one that nobody goes on with is deleted.
        max_upload_mb: the largest that a picture may be, also in a zip file.
        shared: the operator's folder of pictures for all visitors, if there is one.
    """

    def __init__(
        self,
        folder: Path,
        client: openai.AsyncOpenAI,
        keep_days: float,
        max_upload_mb: int = 20,
        shared: Path | None = None,
    ) -> None:
        self._shared = shared
        self._folder = folder
        self._client = client
        self._keep_s = keep_days * DAY_S
        self._max_bytes = max_upload_mb * MEGABYTE
        self._jobs: dict[str, _Job] = {}
        # Of all visitors: each picture is in memory while it is asked about.
        self._places = asyncio.Semaphore(MAX_AT_ONCE)

    def folders(self) -> list[str]:
        """Those of the operator's that a question can be about: the shared one itself, as ``.``,
        and those right below it. Reads the disk; call it in a thread."""
        if self._shared is None:
            return []
        with contextlib.suppress(OSError):
            below = sorted(path.name for path in self._shared.iterdir() if path.is_dir())
            return [".", *[name for name in below if not name.startswith(".")][:MAX_FOLDERS]]
        return []

    async def start(
        self, owner: str, files: Sequence[Path], question: Question, key: str
    ) -> Snapshot:
        """Begin a new one.

        Args:
            files: pictures and zip files, which are copied.
            key: of the API, of the visitor; it is not kept.

        Raises:
            BatchError: there is no picture, or no room.
        """
        if question.folder:  # before what is there is deleted
            await asyncio.to_thread(self._pictures_of, question.folder)
        await self.stop(owner)
        folder = self._folder_of(owner)
        self._jobs.pop(owner, None)
        await asyncio.to_thread(self._lay_out, folder, files, question)
        return await self.go_on(owner, key)

    def _lay_out(self, folder: Path, files: Sequence[Path], question: Question) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._sweep()
            shutil.rmtree(folder, ignore_errors=True)
            size = sum(file.stat().st_size for file in files)
            if shutil.disk_usage(self._folder).free < RESERVE_BYTES + size:
                raise BatchError("the disk is full")
            folder.mkdir()
            for number, file in enumerate(files):
                place = folder / "pictures" / f"{number:05}"
                place.mkdir(parents=True)
                shutil.copyfile(file, place / file.name)
            order = json.dumps(question.as_document())
            (folder / "order.json").write_text(order, encoding="utf-8")
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise BatchError(error.strerror or str(error)) from None

    def _sweep(self) -> None:
        running = {self._folder_of(owner) for owner, job in self._jobs.items() if job.task}
        for folder in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if folder not in running and time.time() - folder.stat().st_mtime > self._keep_s:
                    shutil.rmtree(folder, ignore_errors=True)

    async def go_on(self, owner: str, key: str) -> Snapshot:
        """Ask about what has no answer yet, what failed included.

        Raises:
            BatchError: there is none, or it cannot be read.
        """
        job = await self._job(owner)
        if job is None:
            raise BatchError("there is nothing to go on with")
        if job.task is None:
            job.problem = ""
            job.task = asyncio.create_task(self._run(job, key))
        return _snapshot(job)

    async def stop(self, owner: str) -> None:
        """What has come stays."""
        job = self._jobs.get(owner)
        if job is not None and job.task is not None:
            job.task.cancel()
            await asyncio.gather(job.task, return_exceptions=True)

    def close(self) -> None:
        """Stop all of them: this process ends."""
        for job in self._jobs.values():
            if job.task is not None:
                job.task.cancel()

    async def look(self, owner: str) -> Snapshot | None:
        """How far it is; None where there is none."""
        with contextlib.suppress(BatchError):  # said to whoever goes on with it
            if (job := await self._job(owner)) is not None:
                return _snapshot(job)
        return None

    async def _job(self, owner: str) -> _Job | None:
        """As it is in memory, where those that do not run are forgotten in time."""
        if owner not in self._jobs:
            job = await asyncio.to_thread(self._opened, owner)
            if job is None:
                return None
            self._jobs.setdefault(owner, job)
            resting = [each for each, job in self._jobs.items() if job.task is None]
            for each in resting[:-MAX_RESTING]:
                del self._jobs[each]
        return self._jobs[owner]

    async def files(self, owner: str) -> tuple[Path, Path] | None:
        """The results so far: for a spreadsheet, and as JSON lines; None where there is none."""
        job = self._jobs.get(owner)
        if job is None:
            return None
        return await asyncio.to_thread(job.journal.write_table), job.journal.file

    async def _run(self, job: _Job, key: str) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        request = {**job.question.request, "extra_headers": headers}
        asker = Asker(self._client, request, job.question.words)

        async def ask(picture: Picture) -> Result:
            async with self._places:
                return await asker(picture)

        steps = run(job.pictures, job.journal, ask, job.question.at_once)
        try:
            async with contextlib.aclosing(steps):
                async for job.progress in steps:
                    pass
        except OSError as error:
            logger.warning("a batch stopped: %s", error)
            job.problem = error.strerror or str(error)
        finally:
            job.task = None

    def _opened(self, owner: str) -> _Job | None:
        folder = self._folder_of(owner)
        try:
            question = Question(**json.loads((folder / "order.json").read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise BatchError(f"it cannot be read: {error}") from None
        if question.folder:
            pictures = self._pictures_of(question.folder)
        else:
            pictures = _pictures_below(folder / "pictures", self._max_bytes)
        journal = Journal(folder, question.as_document())
        names = {picture.name for picture in pictures}
        results = [result for name, result in journal.results.items() if name in names]
        failed = sum(bool(result.error) for result in results)
        progress = Progress(len(results) - failed, failed, len(pictures), 0, 0.0)
        return _Job(folder, question, pictures, journal, progress)

    def _pictures_of(self, name: str) -> Sequence[Picture]:
        if self._shared is None or name not in self.folders():
            raise BatchError(f"there is no folder {name!r} here")
        try:
            found = pictures_in(self._shared / name, self._max_bytes)[0]
        except BatchError as error:  # whose words are for the operator
            logger.warning("a batch cannot begin: %s", error)
            raise BatchError(f"the pictures in {name!r} cannot be used") from None
        shown = [p for p in found if not any(part.startswith(".") for part in Path(p.name).parts)]
        if not shown:
            raise BatchError(f"there is no picture in {name!r}")
        return shown

    def _folder_of(self, owner: str) -> Path:
        return self._folder / hashlib.sha256(owner.encode()).hexdigest()[:32]


def _snapshot(job: _Job) -> Snapshot:
    results = [*job.journal.results.values()]
    return Snapshot(job.progress, results, job.task is not None, job.problem)


def _pictures_below(folder: Path, max_bytes: int) -> Sequence[Picture]:
    """By the names that they came with. Of two of the same name, the later one has a number."""
    found: dict[str, Picture] = {}
    for file in sorted(folder.rglob("*")):
        if not file.is_file():
            continue
        with contextlib.suppress(BatchError):  # said of all together
            for picture in pictures_in(file, max_bytes)[0]:
                name, number = picture.name, 1
                while name in found:
                    number += 1
                    path = Path(picture.name)
                    name = str(path.with_name(f"{path.stem} ({number}){path.suffix}"))
                found[name] = Picture(name, picture.read)
    if not found:
        raise BatchError("there is no picture in it")
    return [*found.values()]
