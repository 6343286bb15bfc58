"""``launch download``: a model's files from a hub into a folder, whole or not at all.

A file is written to ``NAME.incomplete``, hashed while it is written, and gets its name only when
its hash is the one that the hub's list promises. The manifest comes last. So whatever ends a
download, the same call goes on where it stopped, and a folder with a manifest was whole once.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import stat
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, Protocol, get_args

from launcher.errors import ConfigError, LauncherError
from launcher.hubs import (
    INCOMPLETE,
    LOCK,
    MANIFEST,
    PIECE_BYTES,
    HashKind,
    Hub,
    HubName,
    Listing,
    RemoteFile,
    Source,
    TemporaryError,
    Web,
    check_names,
    hubs_of,
    is_safe,
    open_web,
)
from launcher.render import RenderedFile, write_if_changed

PARALLEL = 4
TRIES = 8
LIST_PAUSES_S = (1.0, 2.0)
MAX_PAUSE_S = 30.0
RESERVE_BYTES = 2_000_000_000
TELL_EVERY_S = 0.2
RATE_WINDOW_S = 10.0


@dataclass(frozen=True)
class Progress:
    """How far a download is; bytes of files that were there already count as done."""

    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int
    bytes_per_second: float
    """Over the last seconds (:data:`RATE_WINDOW_S`), of what came from the hub."""
    eta_s: float | None
    """None while nothing comes."""


@dataclass(frozen=True)
class FileEntry:
    """A file of a manifest, as it was when it was whole."""

    size: int
    hash_kind: HashKind
    hash: str
    mtime_ns: int


@dataclass(frozen=True)
class Manifest:
    """What was downloaded, and from where."""

    source: HubName
    hub_id: str
    revision: str
    """As it was asked for."""
    commit: str
    files: Mapping[str, FileEntry]
    """By path, relative to the folder."""


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


@dataclass(frozen=True)
class Machine:
    """What a download asks of the machine; tests put something else here. Times in seconds."""

    free_bytes: Callable[[Path], int] = _free_bytes
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    clock: Callable[[], float] = time.monotonic
    list_timeout_s: float = 10.0
    read_timeout_s: float = 30.0


def download(
    hub_id: str,
    folder: Path,
    *,
    revision: str = "main",
    source: Source = "auto",
    environ: Mapping[str, str] = os.environ,
    tell: Callable[[Progress], None],
    machine: Machine = Machine(),
) -> Manifest:
    """Bring a folder to what a model is on a hub; what is there already is kept.

    Args:
        revision: a branch, a tag or a commit.
        source: ``auto`` takes the hub that answers first.
        environ: may hold HF_ENDPOINT, MODELSCOPE_ENDPOINT, HF_TOKEN, MODELSCOPE_API_TOKEN and
            proxies.
        tell: called at most five times a second, and at the end.

    Raises:
        LauncherError: it could not be done; the same call goes on where this one stopped.
    """
    if source not in get_args(Source):
        raise ConfigError(f"{source!r} is no source; write one of {', '.join(get_args(Source))}")
    check_names(hub_id, revision)
    order = _Order(hub_id, folder, revision, source, environ, tell, machine)
    return asyncio.run(_download(order))


@dataclass(frozen=True)
class _Order:
    """The arguments of :func:`download`."""

    hub_id: str
    folder: Path
    revision: str
    source: Source
    environ: Mapping[str, str] = field(repr=False)
    tell: Callable[[Progress], None]
    machine: Machine


async def _download(order: _Order) -> Manifest:
    machine, folder = order.machine, order.folder
    async with open_web(
        order.environ,
        list_timeout_s=machine.list_timeout_s,
        read_timeout_s=machine.read_timeout_s,
    ) as web:
        listing = await _find_listing(order, web)
        with _only_one(folder):
            old = read_manifest(folder)
            if old and old.hub_id != order.hub_id:
                raise LauncherError(f"{folder} holds {old.hub_id}; choose another folder")
            job = _Job(web, listing, folder, old.files if old else {}, machine)
            await job.run(order.tell)
            new = Manifest(
                listing.hub.name, order.hub_id, order.revision, listing.commit, job.entries
            )
            with job.disk_errors():
                _remove_leftovers(folder, old, new)
                _write_manifest(folder, new)
            return new


async def _find_listing(order: _Order, web: Web) -> Listing:
    """From the hub that the folder came from, or else from the one that answers first.

    The hubs' copies of a model may differ in a card or a notice, so a folder is not filled from
    both without need.
    """
    hubs = hubs_of(order.source, order.environ)
    old = read_manifest(order.folder)
    before = [hub for hub in hubs if old and hub.name == old.source]
    if len(hubs) > len(before) > 0:
        try:
            return await _first_listing(order, web, before)
        except LauncherError:
            pass  # it is asked again with the other, and then what it says counts
    return await _first_listing(order, web, hubs)


async def _first_listing(order: _Order, web: Web, hubs: list[Hub]) -> Listing:
    tasks = {hub.name: asyncio.create_task(_listing(order, web, hub)) for hub in hubs}
    try:
        for answer in asyncio.as_completed(tasks.values()):
            try:
                return await answer
            except LauncherError as error:
                failure = error
    finally:
        await _end(tasks.values())
    if len(hubs) == 1:
        raise failure
    said = "; ".join(str(task.exception()) for task in tasks.values())
    raise LauncherError(f"no hub can give {order.hub_id} at {order.revision}: {said}")


async def _listing(order: _Order, web: Web, hub: Hub) -> Listing:
    """Ask one hub, a few times where that may help."""
    for pause in (*LIST_PAUSES_S, None):
        try:
            return await web.list_files(hub, order.hub_id, order.revision)
        except TemporaryError as fault:
            if pause is None or (fault.retry_after or 0.0) > pause:
                what = f"{order.hub_id} at {order.revision}"
                raise LauncherError(
                    f"{hub.title} gave no list of {what}: {fault}; try again later"
                ) from None
        await order.machine.pause(pause)
    raise AssertionError("the last pause is None")


class _Job:
    """Fills one folder from one list."""

    def __init__(
        self,
        web: Web,
        listing: Listing,
        folder: Path,
        known: Mapping[str, FileEntry],
        machine: Machine,
    ) -> None:
        self._web = web
        self._listing = listing
        self._folder = folder
        self._known = known
        self._machine = machine
        self._missing: list[RemoteFile] = []
        self._meter = Meter({file.path: file.size for file in listing.files}, machine.clock)
        self.entries: dict[str, FileEntry] = {}

    async def run(self, tell: Callable[[Progress], None]) -> None:
        """Work, and tell how far it is.

        Raises:
            LauncherError: a file, or room for it, could not be had.
        """
        work = asyncio.create_task(self._work())
        try:
            done: set[asyncio.Task[None]] = set()
            while not done:
                tell(self._progress())
                done, _ = await asyncio.wait({work}, timeout=TELL_EVERY_S)
            work.result()
            await self._machine.pause(TELL_EVERY_S)  # not more often, the last time included
            tell(self._progress())
        finally:
            await _end([work])

    @contextmanager
    def disk_errors(self) -> Iterator[None]:
        """Put what the disk refuses into words."""
        try:
            yield
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise LauncherError(
                    f"no room is left on the disk of {self._folder}: {_gb_up(self._meter.left)} GB"
                    " more are needed; make room, and the same call goes on"
                ) from None
            raise LauncherError(
                f"{error.filename or self._folder} cannot be used: {error.strerror or error}"
            ) from None

    def _progress(self) -> Progress:
        return self._meter.progress(files_done=len(self.entries))

    async def _work(self) -> None:
        with self.disk_errors():
            for file in self._listing.files:
                await self._look_at(file)
            self._require_room()
            queue = iter(self._missing)
            await _together(self._fetch_from(queue) for _ in range(PARALLEL))

    async def _look_at(self, file: RemoteFile) -> None:
        """Is it there already? Its hash is computed only where the manifest cannot tell."""
        path = self._folder / file.path
        is_same = _is_as_known(path, file, self._known.get(file.path))
        if not is_same and _size_of(path) == file.size:
            digest = _new_digest(file.hash_kind, file.size)
            await _feed(digest, path)
            is_same = digest.hexdigest() == file.hash
        if is_same:
            _incomplete(path).unlink(missing_ok=True)
            self.entries[file.path] = _entry_of(file, path)
            self._meter.place(file.path, file.size)
            return
        begun = _size_of(_incomplete(path)) or 0
        self._meter.place(file.path, begun if begun <= file.size else 0)
        self._missing.append(file)

    def _require_room(self) -> None:
        if not self._meter.left:
            return
        needed = self._meter.left + RESERVE_BYTES
        free = self._machine.free_bytes(self._folder)
        if free < needed:
            raise LauncherError(
                f"the download needs {_gb_up(needed)} GB, {_gb_down(free)} GB are free on the disk"
                f" of {self._folder}; make room there or choose another folder"
            )

    async def _fetch_from(self, queue: Iterator[RemoteFile]) -> None:
        for file in queue:
            await self._fetch(file)

    async def _fetch(self, file: RemoteFile) -> None:
        """A file, whole and under its name; fetched twice where its hash is wrong."""
        path = self._folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):
            with _Partial(_incomplete(path), file) as partial:
                await _feed(partial.digest, partial.path)
                await self._fill(partial, file)
                if partial.digest.hexdigest() == file.hash:
                    await asyncio.to_thread(partial.sync)
                    partial.path.replace(path)
                    self.entries[file.path] = _entry_of(file, path)
                    return
            partial.path.unlink()
            self._meter.place(file.path, 0)
        raise LauncherError(
            f"{file.path} from {self._listing.hub.title} has another content than its list says,"
            " twice; try the other source, or later"
        )

    async def _fill(self, partial: _Partial, file: RemoteFile) -> None:
        """Go on until all bytes are there, however often the connection is lost.

        Raises:
            LauncherError: try after try brought no new byte.
        """
        failures, furthest = 0, partial.size
        while partial.size < file.size:
            fault = TemporaryError("the hub ended the file too early")
            try:
                await self._fetch_some(partial, file)
            except TemporaryError as error:
                fault = error
            if partial.size == file.size:
                return
            # Bytes that were there before, of a file begun anew, are no progress.
            failures = 0 if partial.size > furthest else failures + 1
            furthest = max(furthest, partial.size)
            if failures == TRIES:
                raise LauncherError(
                    f"{file.path} cannot be had from {self._listing.hub.title}: {fault}"
                    f" ({TRIES} tries without a new byte); the same call goes on from here"
                )
            await self._machine.pause(_pause_s(failures, fault))

    async def _fetch_some(self, partial: _Partial, file: RemoteFile) -> None:
        """What one answer brings."""
        async with self._web.open_file(self._listing.hub, file, partial.size) as body:
            if body.start != partial.size:  # another part, or all of it
                partial.restart()
                self._meter.place(file.path, 0)
            if body.start is None:
                raise TemporaryError("the hub sent another part of the file than the one asked for")
            while partial.size < file.size and (piece := await body.read()):
                piece = piece[: file.size - partial.size]
                partial.append(piece)
                self._meter.receive(file.path, len(piece))


class Meter:
    """Bytes that are there, and how fast they come."""

    def __init__(self, sizes: Mapping[str, int], clock: Callable[[], float]) -> None:
        """Begin with nothing.

        Args:
            sizes: of the whole files in bytes, by path.
        """
        self._places = dict.fromkeys(sizes, 0)
        self._total = sum(sizes.values())
        self._clock = clock
        self._received = 0
        self._samples: deque[tuple[float, int]] = deque()

    @property
    def left(self) -> int:
        """Bytes that are missing."""
        return self._total - sum(self._places.values())

    def place(self, path: str, size: int) -> None:
        """So much of a file is there."""
        self._places[path] = size

    def receive(self, path: str, size: int) -> None:
        """So much more came from the hub."""
        self._places[path] += size
        self._received += size

    def progress(self, files_done: int) -> Progress:
        """As of now."""
        now = self._clock()
        self._samples.append((now, self._received))
        while self._samples[0][0] < now - RATE_WINDOW_S:
            self._samples.popleft()
        since, received = self._samples[0]
        rate = (self._received - received) / (now - since) if now > since else 0.0
        left = self.left
        eta_s = left / rate if rate else (None if left else 0.0)
        return Progress(files_done, len(self._places), self._total - left, self._total, rate, eta_s)


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


class _Partial:
    """``NAME.incomplete``, open, with the hash of what was put into it."""

    def __init__(self, path: Path, file: RemoteFile) -> None:
        self.path = path
        self._file = file
        # Unbuffered: what was taken from the hub is in the file, whatever happens next.
        self._stream: FileIO = path.open("ab", buffering=0)
        self.digest = _new_digest(file.hash_kind, file.size)
        self.size = self._stream.tell()
        if self.size > file.size:  # of another version
            self.restart()

    def __enter__(self) -> _Partial:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def restart(self) -> None:
        """Drop what is there."""
        self._stream.truncate(0)
        self.digest = _new_digest(self._file.hash_kind, self._file.size)
        self.size = 0

    def append(self, piece: bytes) -> None:
        write_all(self._stream, piece)
        self.digest.update(piece)
        self.size += len(piece)

    def sync(self) -> None:
        """Onto the disk: a name must not outlive what it names."""
        os.fsync(self._stream.fileno())


def write_all(stream: FileIO, piece: bytes) -> None:
    """All of it: an unbuffered file may take less, where the disk is nearly full."""
    rest = memoryview(piece)
    while rest:
        rest = rest[stream.write(rest) :]


def _pause_s(failures: int, fault: TemporaryError) -> float:
    """As long as the hub asks for, else one second, two, four and so on."""
    if fault.retry_after is not None:
        return fault.retry_after
    return min(2.0 ** max(failures - 1, 0), MAX_PAUSE_S)


async def _together(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all at once; the first that fails ends the others."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        await _end(tasks)


async def _end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel what still runs, and wait until it is over."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Keep other downloads out: two that write one file would spoil it after its hash was right.

    Raises:
        LauncherError: there is another one, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise LauncherError(f"{folder} cannot be written: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LauncherError(
                f"another download fills {folder} already; wait until it is done"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


def _incomplete(path: Path) -> Path:
    return path.with_name(path.name + INCOMPLETE)


def _new_digest(kind: HashKind, size: int) -> _Digest:
    """Git puts a blob's size before its content."""
    if kind == "sha256":
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(PIECE_BYTES):
            yield piece


def _size_of(path: Path) -> int | None:
    """A regular file's size; None where there is none."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _is_as_known(path: Path, file: RemoteFile, known: FileEntry | None) -> bool:
    """Whether the manifest has this content under this path, and the file is as it was then."""
    if known is None or (known.hash_kind, known.hash) != (file.hash_kind, file.hash):
        return False
    return _size_of(path) == known.size and path.stat().st_mtime_ns == known.mtime_ns


async def _feed(digest: _Digest, path: Path) -> None:
    """Hash what a file has; other work goes on between the pieces."""
    for piece in _pieces(path):
        digest.update(piece)
        await asyncio.sleep(0)


def _entry_of(file: RemoteFile, path: Path) -> FileEntry:
    return FileEntry(file.size, file.hash_kind, file.hash, path.stat().st_mtime_ns)


def read_manifest(folder: Path) -> Manifest | None:
    """What was downloaded into a folder; None if nothing was, or that cannot be told any more.

    Raises:
        LauncherError: there is a manifest that this user may not read.
    """
    path = folder / MANIFEST
    try:
        return _parse_manifest(json.loads(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    except OSError as error:
        raise LauncherError(f"{path} cannot be read: {error.strerror}") from None


def _parse_manifest(document: Any) -> Manifest:
    """Read what :func:`_write_manifest` wrote.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: something else wrote it.
    """
    files = {path: FileEntry(**entry) for path, entry in document.pop("files").items()}
    manifest = Manifest(**document, files=files)
    texts = [manifest.hub_id, manifest.revision, manifest.commit, *(e.hash for e in files.values())]
    numbers = [number for e in files.values() for number in (e.size, e.mtime_ns)]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a text is missing")
    if not all(isinstance(number, int) for number in numbers):
        raise TypeError("a number is missing")
    if manifest.source not in get_args(HubName) or not all(is_safe(path) for path in files):
        raise ValueError("a hub or a path is not allowed")
    if not all(entry.hash_kind in get_args(HashKind) for entry in files.values()):
        raise ValueError("a kind of hash is not known")
    return manifest


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    text = json.dumps(asdict(manifest), indent=2, sort_keys=True) + "\n"
    write_if_changed(RenderedFile(folder / MANIFEST, text, 0o644))


def _remove_leftovers(folder: Path, old: Manifest | None, new: Manifest) -> None:
    """Take away what an earlier commit had and this one does not, where nobody changed it."""
    for name, entry in old.files.items() if old else ():
        path = folder / name
        if name in new.files:
            continue
        _incomplete(path).unlink(missing_ok=True)
        if _size_of(path) == entry.size and path.stat().st_mtime_ns == entry.mtime_ns:
            path.unlink()


def problems_of(folder: Path, manifest: Manifest, *, hashes: bool = False) -> list[str]:
    """What is no longer as it was downloaded; empty when all is.

    Args:
        hashes: compute every hash, which reads all of the files; else only those of files whose
            time of change is another one.
    """
    found = [
        f"{folder / name}: {problem}"
        for name, entry in sorted(manifest.files.items())
        if (problem := _problem(folder / name, entry, hashes=hashes))
    ]
    return found + [
        f"{path}: not part of the download, and would be run with the model; remove it"
        for path in sorted(folder.rglob("*.py"))
        if path.relative_to(folder).as_posix() not in manifest.files
    ]


def _problem(path: Path, entry: FileEntry, *, hashes: bool) -> str | None:
    try:
        size = _size_of(path)
        if size is None:
            return "missing"
        if size != entry.size:
            return f"{size} bytes where {entry.size} are promised; download it again"
        if not hashes and path.stat().st_mtime_ns == entry.mtime_ns:
            return None
        digest = _new_digest(entry.hash_kind, entry.size)
        for piece in _pieces(path):
            digest.update(piece)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if digest.hexdigest() != entry.hash:
        return "its content is not what the hub has; download it again"
    return None


def in_words(progress: Progress) -> str:
    """A line for a terminal: ``3.2 of 20.4 GB, 41 MB/s, about 7 min left``."""
    units = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
    unit, name = next((pair for pair in units if progress.bytes_total >= pair[0]), units[-1])
    words = [f"{progress.bytes_done / unit:.1f} of {progress.bytes_total / unit:.1f} {name}"]
    if progress.bytes_per_second and progress.eta_s:
        words += [_rate_in_words(progress.bytes_per_second), _time_in_words(progress.eta_s)]
    return ", ".join(words)


def _rate_in_words(rate: float) -> str:
    if rate < 1e6:
        return f"{rate / 1e3:.0f} kB/s"
    return f"{rate / 1e6:.{1 if rate < 1e7 else 0}f} MB/s"


def _time_in_words(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(seconds, 1):.0f} s left"
    if seconds < 90 * 60:
        return f"about {seconds / 60:.0f} min left"
    return f"about {seconds / 3600:.1f} h left"


def _gb_up(size: int) -> str:
    return f"{math.ceil(size / 1e8) / 10:.1f}"


def _gb_down(size: int) -> str:
    return f"{math.floor(size / 1e8) / 10:.1f}"
