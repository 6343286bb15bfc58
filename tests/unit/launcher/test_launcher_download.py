"""launcher.download: whatever a hub does, a file has its name only when it is whole and right."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path

import pytest
from fakes.fake_hub import COMMIT, HUB_ID, LIST, Client, FakeHub, Fault, blob_sha1, sha256
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.download import (
    TELL_EVERY_S,
    TRIES,
    FileEntry,
    Manifest,
    Meter,
    Progress,
    download,
    in_words,
    problems_of,
    read_manifest,
    write_all,
)
from launcher.errors import ConfigError, LauncherError
from launcher.hubs import LOCK, MANIFEST, Source

SHARD = "model-00001-of-00002.safetensors"
OTHER_SHARD = "model-00002-of-00002.safetensors"
FILES = {
    "config.json": b'{"architectures": ["Any"]}',
    "modeling.py": b"class Model: ...\n",
    SHARD: bytes(range(256)) * 40,
    OTHER_SHARD: bytes(reversed(range(256))) * 20,
    "merges.txt": b"",
    "folder/a b+c%.md": "读我".encode(),
}
UNWANTED = {
    "pytorch_model.bin": b"pickle",
    "model.gguf": b"gguf",
    "onnx/model.onnx": b"onnx",
    "look.png": b"png",
    ".gitattributes": b"* text",
    ".hidden.py": b"hidden",
    ".github/workflow.md": b"hidden",
}
SIZE = len(FILES[SHARD])
TOTAL = sum(map(len, FILES.values()))
BOTH = pytest.mark.parametrize("source", ["huggingface", "modelscope"])


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub({**FILES, **UNWANTED}) as hub:
        yield hub


@pytest.fixture
def client(hub: FakeHub, tmp_path: Path) -> Client:
    return Client(hub, tmp_path / "model")


def refuse(*_: object) -> None:
    raise AssertionError("this must not be called")


# What a good hub gives


@BOTH
def test_a_model_is_fetched_whole(client: Client, source: Source) -> None:
    """All that is wanted, byte for byte, and nothing else."""
    client.download(source)
    assert client.contents() == FILES
    assert client.hub.fetched == {name for name, content in FILES.items() if content}


@BOTH
def test_the_manifest_says_what_was_fetched_and_from_where(client: Client, source: Source) -> None:
    """It is what `download` returns, and what is read later."""
    manifest = client.download(source)
    assert manifest == read_manifest(client.folder)
    assert (manifest.source, manifest.hub_id) == (source, HUB_ID)
    assert (manifest.revision, manifest.commit) == ("main", COMMIT)
    assert manifest.files.keys() == FILES.keys()
    for name, content in FILES.items():
        in_lfs = source == "modelscope" or name.endswith(".safetensors")
        kind, digest = ("sha256", sha256) if in_lfs else ("git-sha1", blob_sha1)
        mtime = (client.folder / name).stat().st_mtime_ns
        assert manifest.files[name] == FileEntry(len(content), kind, digest(content), mtime)
    assert problems_of(client.folder, manifest, hashes=True) == []


@BOTH
def test_a_second_download_fetches_and_reads_nothing(
    client: Client, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes and times are enough, and no room is needed."""
    first = client.download(source)
    client.hub.seen.clear()
    client.free_bytes = 0
    monkeypatch.setattr("launcher.download._pieces", refuse)
    assert client.download(source) == first
    assert client.hub.fetched == set()
    assert client.told[-1].bytes_done == client.told[-1].bytes_total == TOTAL


def test_files_that_are_there_are_not_fetched(client: Client) -> None:
    """Without a manifest their hashes tell, and so where only their times are other ones."""
    client.folder.mkdir()
    (client.folder / SHARD).write_bytes(FILES[SHARD])
    client.download()
    os.utime(client.folder / OTHER_SHARD, ns=(1, 1))
    client.download()
    assert client.hub.asked(SHARD) == []
    assert client.hub.asked(OTHER_SHARD) == [None]
    assert read_manifest(client.folder).files[OTHER_SHARD].mtime_ns == 1


@pytest.mark.parametrize("spoil", ["change", "cut", "remove"])
def test_a_spoilt_file_is_fetched_again(client: Client, spoil: str) -> None:
    """The second download mends the folder."""
    client.download()
    path = client.folder / SHARD
    wrong = {"change": b"x" * SIZE, "cut": FILES[SHARD][:-1]}
    path.unlink() if spoil == "remove" else path.write_bytes(wrong[spoil])
    client.download()
    assert client.contents() == FILES
    assert client.hub.asked(SHARD) == [None, None]
    assert client.hub.asked("config.json") == [None]


def test_a_new_commit_replaces_the_old_one(client: Client) -> None:
    """What the hub dropped goes, unless somebody changed it; what nobody fetched stays."""
    client.hub.files |= {"old.py": b"old", "edited.py": b"mine soon"}
    client.download()
    (client.folder / "edited.py").write_bytes(b"mine")
    (client.folder / "notes.txt").write_bytes(b"mine too")
    (client.folder / "old.py.incomplete").write_bytes(b"")
    for name in ("old.py", "edited.py"):
        del client.hub.files[name]
    client.hub.files["modeling.py"] = b"class Model: new = True\n"
    manifest = client.download()
    mine = {"edited.py": b"mine", "notes.txt": b"mine too"}
    assert client.contents() == {**FILES, "modeling.py": b"class Model: new = True\n", **mine}
    assert "old.py" not in manifest.files


def test_a_folder_with_another_model_is_refused(client: Client) -> None:
    """Two models in one folder would be neither."""
    client.download()
    path = client.folder / MANIFEST
    path.write_text(path.read_text().replace(HUB_ID, "owner/other"))
    with pytest.raises(LauncherError, match="holds owner/other; choose another folder"):
        client.download()
    assert read_manifest(client.folder).hub_id == "owner/other"


def test_a_second_download_into_the_folder_waits_its_turn(client: Client) -> None:
    """Two that write the same file would spoil it."""
    client.folder.mkdir()
    with (client.folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LauncherError, match="another download fills"):
            client.download()
    assert client.hub.fetched == set()
    client.download()


def test_four_files_come_at_a_time(hub: FakeHub, client: Client) -> None:
    """Not more, however long they take; and progress is told five times a second."""
    hub.files |= {f"shard-{n}.safetensors": b"12" for n in range(8)}
    hub.always = {name: Fault(cut=1, stall=True) for name in hub.files}
    times = []

    def tell(progress: Progress) -> None:
        times.append(time.monotonic())
        if progress.bytes_done == 4 and len(times) > 4:
            raise KeyboardInterrupt

    client.tell = tell
    with pytest.raises(KeyboardInterrupt):
        client.download()
    assert len(hub.fetched) == 4
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert min(gaps) > TELL_EVERY_S * 0.99


# Interruptions


@BOTH
def test_a_dropped_connection_is_resumed(client: Client, source: Source) -> None:
    """From the byte where it was lost."""
    client.hub.faults[SHARD] = [Fault(cut=1000), Fault(cut=500, reset=True)]
    client.download(source)
    assert client.contents() == FILES
    first, second, *rest = client.hub.asked(SHARD)
    assert (first, second) == (None, "bytes=1000-")
    # Of what was sent before a reset, some may be lost on the way.
    assert rest[-1] in {f"bytes={1000 + n}-" for n in range(501)}


def test_an_interrupted_call_goes_on_where_it_stopped(client: Client) -> None:
    """Ctrl-C leaves what came, and nothing under a name that it does not deserve."""
    client.hub.faults[SHARD] = [Fault(cut=1000, stall=True)]

    def interrupt(progress: Progress) -> None:
        if progress.files_done == len(FILES) - 1 and progress.bytes_done == TOTAL - SIZE + 1000:
            raise KeyboardInterrupt

    client.tell = interrupt
    with pytest.raises(KeyboardInterrupt):
        client.download()
    left = {name: content for name, content in FILES.items() if name != SHARD}
    assert client.contents() == {**left, f"{SHARD}.incomplete": FILES[SHARD][:1000]}
    assert read_manifest(client.folder) is None
    client.hub.seen.clear()
    client.tell = print
    client.download()
    assert client.hub.asked(SHARD) == ["bytes=1000-"]
    assert client.hub.fetched == {SHARD}
    assert client.contents() == FILES


def test_what_was_there_before_is_hashed_too(client: Client) -> None:
    """A wrong beginning is found by the hash of the whole, and the file comes anew."""
    client.folder.mkdir()
    (client.folder / f"{SHARD}.incomplete").write_bytes(b"wrong")
    client.download()
    assert client.hub.asked(SHARD) == ["bytes=5-", None]
    assert client.contents() == FILES


@pytest.mark.parametrize(
    ("begun", "asked"), [(FILES[SHARD], []), (FILES[SHARD] + b"x", [None]), (b"", [None])]
)
def test_a_begun_file_of_any_length_is_used_or_not(
    client: Client, begun: bytes, asked: list[str | None]
) -> None:
    """A whole one needs no request, one that is too long cannot be the file's beginning."""
    client.folder.mkdir()
    (client.folder / f"{SHARD}.incomplete").write_bytes(begun)
    client.download()
    assert client.hub.asked(SHARD) == asked
    assert client.contents() == FILES


def test_a_begun_file_that_is_too_long_costs_no_try(client: Client) -> None:
    """It is dropped before anything is fetched, so a wrong byte may still come once."""
    client.folder.mkdir()
    (client.folder / f"{SHARD}.incomplete").write_bytes(FILES[SHARD] + b"x")
    client.hub.faults[SHARD] = [Fault(flip=5)]
    client.download()
    assert client.contents() == FILES


def test_the_rest_of_a_download_goes_where_the_file_is_whole(client: Client) -> None:
    """Else the checkpoint would seem unfinished for ever."""
    client.download()
    (client.folder / f"{SHARD}.incomplete").write_bytes(b"old")
    client.download()
    assert client.contents() == FILES


@BOTH
def test_a_server_without_ranges_sends_the_file_anew(client: Client, source: Source) -> None:
    """The second answer is put in place of the first, not behind it."""
    client.hub.faults[SHARD] = [Fault(cut=1000), Fault(ignore_range=True)]
    client.download(source)
    assert client.hub.asked(SHARD) == [None, "bytes=1000-"]
    assert client.contents() == FILES


@pytest.mark.parametrize(
    "said", ["", f"bytes 999-{SIZE - 1}/{SIZE}", f"bytes 1000-{SIZE}/{SIZE + 1}", "bytes */5", "x"]
)
def test_another_range_than_asked_for_is_not_used(client: Client, said: str) -> None:
    """The file begins anew, without a range."""
    client.hub.faults[SHARD] = [Fault(cut=1000), Fault(content_range=said)]
    client.download()
    assert client.hub.asked(SHARD) == [None, "bytes=1000-", None]
    assert client.contents() == FILES


@pytest.mark.parametrize("said", [None, f"bytes 1000-{SIZE - 1}/*"])
def test_a_range_is_a_range_whatever_its_status(client: Client, said: str | None) -> None:
    """ModelScope sends ranges with a 200."""
    client.hub.faults[SHARD] = [Fault(cut=1000), Fault(range_status=200, content_range=said)]
    client.download()
    assert client.hub.asked(SHARD) == [None, "bytes=1000-"]
    assert client.contents() == FILES


def test_a_range_that_a_shorter_file_has_not_begins_anew(client: Client) -> None:
    """A 416 says that the hub's copy is another one for now."""
    client.hub.faults[SHARD] = [Fault(cut=1000), Fault(body=b"short")]
    client.download()
    assert client.hub.asked(SHARD) == [None, "bytes=1000-", None]
    assert client.contents() == FILES


def test_a_page_in_place_of_the_file_does_not_cost_what_was_there(client: Client) -> None:
    """A login page of some network comes with a 200 and a length of its own."""
    page = Fault(body=b"<html>log in</html>", ignore_range=True)
    client.hub.faults[SHARD] = [Fault(cut=1000), page, page]
    client.download()
    assert client.hub.asked(SHARD) == [None, "bytes=1000-", "bytes=1000-", "bytes=1000-"]
    assert client.contents() == FILES


@BOTH
def test_a_body_that_ends_early_is_continued(client: Client, source: Source) -> None:
    """Without a length, an early end looks like a good one; the list's size tells."""
    client.hub.faults[SHARD] = [Fault(body=FILES[SHARD][:1000], chunked=True)]
    client.download(source)
    assert client.hub.asked(SHARD) == [None, "bytes=1000-"]
    assert client.contents() == FILES


def test_more_bytes_than_listed_are_not_taken(client: Client) -> None:
    """The rest of a body that is too long is left where it is."""
    client.hub.faults[SHARD] = [Fault(body=FILES[SHARD] + b"more", chunked=True)]
    client.download()
    assert client.hub.asked(SHARD) == [None]
    assert client.contents() == FILES


def test_a_silent_server_is_a_dropped_connection(client: Client) -> None:
    """After the read timeout the rest is asked for again."""
    client.read_timeout_s = 1.0
    client.hub.faults[SHARD] = [Fault(cut=1000, stall=True)]
    client.download()
    assert client.hub.asked(SHARD) == [None, "bytes=1000-"]
    assert client.contents() == FILES


# Tries


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_failure_for_now_is_tried_again(client: Client, status: int) -> None:
    """With pauses that grow."""
    client.hub.faults[SHARD] = [Fault(status=status)] * 3
    client.download()
    assert client.pauses == [1, 2, 4]
    assert client.contents() == FILES


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("said", "expected"), [("7", 7), ("0", 0), ("3600", 60), ("9" * 400, 60), ("soon", 1)]
)
def test_a_hub_says_how_long_to_wait(
    client: Client, status: int, said: str, expected: float
) -> None:
    """Not longer than a minute, and nonsense is passed over."""
    client.hub.faults[SHARD] = [Fault(status=status, headers={"Retry-After": said})]
    client.download()
    assert client.pauses == [expected]


def test_a_hub_says_until_when_to_wait(client: Client) -> None:
    """The other form of the header."""
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    client.hub.faults[SHARD] = [Fault(status=503, headers={"Retry-After": until})]
    client.download()
    [pause] = client.pauses
    assert 20 < pause <= 30


def test_a_hub_that_never_recovers_is_given_up(client: Client) -> None:
    """After eight tries, and what was had by then stays."""
    client.hub.faults[SHARD] = [Fault(cut=1000)]
    client.hub.always[SHARD] = Fault(status=503)
    with pytest.raises(LauncherError, match=rf"{SHARD} cannot .* Hugging Face: .* answered 503 \("):
        client.download()
    assert len(client.hub.asked(SHARD)) == 1 + TRIES
    assert client.pauses == [1, 1, 2, 4, 8, 16, 30, 30]
    assert client.contents()[f"{SHARD}.incomplete"] == FILES[SHARD][:1000]
    assert read_manifest(client.folder) is None


def test_any_new_byte_is_progress(client: Client) -> None:
    """A connection that is lost again and again still brings the file."""
    client.hub.faults[SHARD] = [Fault(cut=1)] * (TRIES * 2)
    client.download()
    assert client.contents() == FILES
    assert set(client.pauses) == {1}


@pytest.mark.parametrize(
    "faults",
    [
        [Fault(ignore_range=True, cut=1000)] * 20,
        [Fault(cut=1000), Fault(content_range="bytes 5-6/7")] * 10,
    ],
)
def test_the_same_bytes_again_are_no_progress(client: Client, faults: list[Fault]) -> None:
    """Else a server without ranges that always fails at one place would be asked for ever."""
    client.hub.faults[SHARD] = faults
    with pytest.raises(LauncherError, match=f"{TRIES} tries without a new byte"):
        client.download()
    assert len(client.hub.asked(SHARD)) == 1 + TRIES


def test_a_failure_ends_the_other_files_too(client: Client) -> None:
    """They are not fetched to their ends first, and nothing goes on behind the caller's back."""
    client.hub.always = {SHARD: Fault(status=404), OTHER_SHARD: Fault(cut=1000, stall=True)}
    with pytest.raises(LauncherError, match=SHARD):
        client.download()
    client.hub.always.clear()
    client.download()
    assert client.contents() == FILES


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "needs a token or access; set HF_TOKEN"),
        (403, "or access"),
        (404, "has no"),
        (410, ""),
    ],
)
@pytest.mark.parametrize("name", [LIST, SHARD])
def test_a_refusal_is_not_tried_again(client: Client, name: str, status: int, said: str) -> None:
    """Neither for the list nor for a file."""
    client.hub.always[name] = Fault(status=status)
    with pytest.raises(LauncherError, match=f"Hugging Face.*{said}") as caught:
        client.download()
    assert (name or f"{HUB_ID} at main") in str(caught.value)
    assert len(client.hub.asked(name)) == 1
    assert client.pauses == []


# Wrong content


@BOTH
@pytest.mark.parametrize("name", ["modeling.py", SHARD])
def test_a_wrong_byte_is_fetched_again(client: Client, source: Source, name: str) -> None:
    """Once; the hash of the list counts, of whichever kind."""
    client.hub.faults[name] = [Fault(flip=5)]
    client.download(source)
    assert client.hub.asked(name) == [None, None]
    assert client.contents() == FILES


@BOTH
@pytest.mark.parametrize("name", ["modeling.py", SHARD])
def test_a_byte_that_stays_wrong_is_an_error(client: Client, source: Source, name: str) -> None:
    """Nothing of the file is kept."""
    client.hub.always[name] = Fault(flip=5)
    with pytest.raises(LauncherError, match=f"^{name} from .* has another content"):
        client.download(source)
    assert client.hub.asked(name) == [None, None]
    assert not {name, f"{name}.incomplete"} & client.contents().keys()
    assert read_manifest(client.folder) is None


def test_a_wrong_file_keeps_no_whole_one_out(client: Client) -> None:
    """The good file of before stays until the next good one is there."""
    client.download()
    client.hub.files[SHARD] = b"new" * 100
    client.hub.always[SHARD] = Fault(flip=5)
    with pytest.raises(LauncherError, match="another content"):
        client.download()
    assert client.contents() == FILES


# The disk


def test_room_is_asked_for_first(client: Client) -> None:
    """Two gigabytes stay free; with a byte less nothing is fetched."""
    client.folder.mkdir()
    (client.folder / f"{SHARD}.incomplete").write_bytes(FILES[SHARD][:1000])
    (client.folder / "modeling.py").write_bytes(FILES["modeling.py"])
    needed = TOTAL - 1000 - len(FILES["modeling.py"]) + 2_000_000_000
    client.free_bytes = needed - 1
    expected = f"needs 2.1 GB, 2.0 GB are free on the disk of {client.folder}; make room"
    with pytest.raises(LauncherError, match=expected):
        client.download()
    assert client.hub.fetched == set()
    client.free_bytes = needed
    client.download()
    assert client.contents() == FILES


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_is_an_error(
    client: Client, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """With what is missing; when there is room again, the same call goes on."""

    def write(stream: io.FileIO, piece: bytes) -> None:
        if Path(f"/proc/self/fd/{stream.fileno()}").readlink().name == f"{SHARD}.incomplete":
            stream.write(piece[:100])
            raise OSError(number, os.strerror(number))
        write_all(stream, piece)

    monkeypatch.setattr("launcher.download.write_all", write)
    with pytest.raises(LauncherError, match=f"room .* {client.folder}: 0.1 GB more are needed"):
        client.download()
    assert SHARD not in client.contents()
    assert read_manifest(client.folder) is None
    monkeypatch.undo()
    client.hub.seen.clear()
    client.download()
    assert client.hub.asked(SHARD) == ["bytes=100-"]
    assert client.contents() == FILES


def test_all_of_a_piece_is_written() -> None:
    """An unbuffered file may take less than it is given."""

    class Narrow(io.BytesIO):
        def write(self, piece: bytes) -> int:
            return super().write(piece[:3])

    stream = Narrow()
    write_all(stream, b"0123456789")
    assert stream.getvalue() == b"0123456789"


def test_a_file_is_on_the_disk_before_it_has_its_name(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut there is no name with nothing behind it."""
    synced = []

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        name = path.relative_to(client.folder).as_posix().removesuffix(".incomplete")
        synced.append((name, path.read_bytes() == FILES[name], (client.folder / name).exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    client.download()
    assert sorted(synced) == [(name, True, False) for name in sorted(FILES)]


def test_a_folder_that_cannot_be_made_is_an_error(client: Client) -> None:
    """As is whatever else the disk refuses, in one line."""
    client.folder.write_bytes(b"a file")
    with pytest.raises(LauncherError, match=f"{client.folder} cannot be written: "):
        client.download()
    client.folder.unlink()
    (client.folder / "folder").parent.mkdir()
    (client.folder / "folder").write_bytes(b"a file")
    with pytest.raises(LauncherError, match=f"{client.folder}.* cannot be used: "):
        client.download()


# What was asked for


@pytest.mark.parametrize(
    ("hub_id", "more"),
    [
        ("model", {}),
        ("../model", {}),
        ("owner/..", {}),
        ("owner/model/more", {}),
        ("owner/mo del", {}),
        (HUB_ID, {"revision": ""}),
        (HUB_ID, {"revision": "a/../b"}),
        (HUB_ID, {"revision": "a?b"}),
        (HUB_ID, {"source": "elsewhere"}),
    ],
)
def test_names_that_no_hub_has_are_refused(
    client: Client, hub_id: str, more: dict[str, str]
) -> None:
    """They never become part of an address."""
    with pytest.raises(ConfigError):
        download(hub_id, client.folder, environ=client.hub.environ, tell=refuse, **more)
    assert client.hub.seen == []


# The manifest


@pytest.fixture
def manifest(client: Client) -> Manifest:
    """Of a folder to be spoilt."""
    return client.download()


def test_a_changed_module_is_found(client: Client, manifest: Manifest) -> None:
    """Of the same length too: its time of change makes its hash looked at."""
    path = client.folder / "modeling.py"
    path.write_bytes(FILES["modeling.py"].replace(b"Model", b"Other"))
    expected = f"{path}: its content is not what the hub has; download it again"
    assert problems_of(client.folder, manifest) == [expected]


@pytest.mark.parametrize("name", ["added.py", "folder/added.py"])
def test_an_added_module_is_found(client: Client, manifest: Manifest, name: str) -> None:
    """It would be run; other files of one's own are none of our business."""
    (client.folder / name).write_bytes(b"import os")
    (client.folder / "notes.txt").write_bytes(b"mine")
    expected = f"{client.folder / name}: not part of the download, and would be run with the model"
    assert problems_of(client.folder, manifest) == [f"{expected}; remove it"]


def test_a_cut_shard_is_found(client: Client, manifest: Manifest) -> None:
    """By its size."""
    path = client.folder / SHARD
    path.write_bytes(FILES[SHARD][:-1])
    expected = f"{path}: {SIZE - 1} bytes where {SIZE} are promised; download it again"
    assert problems_of(client.folder, manifest) == [expected]


def test_a_missing_file_is_found(client: Client, manifest: Manifest) -> None:
    """A folder in its place is no file."""
    (client.folder / SHARD).unlink()
    (client.folder / "config.json").unlink()
    (client.folder / "config.json").mkdir()
    paths = [client.folder / name for name in ("config.json", SHARD)]
    assert problems_of(client.folder, manifest) == [f"{path}: missing" for path in paths]


def test_a_flipped_byte_is_found_by_the_hashes(client: Client, manifest: Manifest) -> None:
    """And only by them, where the time of change does not tell."""
    path = client.folder / SHARD
    content = bytearray(FILES[SHARD])
    content[5000] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(manifest.files[SHARD].mtime_ns,) * 2)
    assert problems_of(client.folder, manifest) == []
    expected = f"{path}: its content is not what the hub has; download it again"
    assert problems_of(client.folder, manifest, hashes=True) == [expected]


def test_a_file_that_was_only_touched_is_no_problem(client: Client, manifest: Manifest) -> None:
    """Its hash is right."""
    os.utime(client.folder / SHARD, ns=(1, 1))
    assert problems_of(client.folder, manifest) == []


def test_a_whole_folder_is_not_read(
    client: Client, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check before each start must not take minutes."""
    monkeypatch.setattr("launcher.download._pieces", refuse)
    assert problems_of(client.folder, manifest) == []


def test_a_file_that_cannot_be_read_is_one_problem(
    client: Client, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read anything, so the disk is what refuses here."""

    def fail(path: Path) -> Iterator[bytes]:
        raise OSError(errno.EIO, "Input/output error") if path.name == SHARD else StopIteration

    monkeypatch.setattr("launcher.download._pieces", fail)
    os.utime(client.folder / SHARD, ns=(1, 1))
    expected = f"{client.folder / SHARD}: cannot be read: Input/output error"
    assert problems_of(client.folder, manifest) == [expected]


def test_a_folder_without_a_manifest_was_not_downloaded(tmp_path: Path) -> None:
    """Nor is there one where there is no folder."""
    assert read_manifest(tmp_path) is None
    assert read_manifest(tmp_path / "no") is None


@pytest.mark.parametrize(
    "change",
    [
        {"source": "auto"},
        {"hub_id": None},
        {"files": []},
        {"files": {"../config.json": None}},
        {"more": 1},
        {"entry": {"hash_kind": "md5"}},
        {"entry": {"size": "1"}},
        {"entry": {"hash": None}},
        {"name": "../config.json"},
    ],
)
def test_a_damaged_manifest_is_none(
    client: Client, manifest: Manifest, change: dict[str, object]
) -> None:
    """It cannot be told any more what was downloaded; the next download writes a new one."""
    path = client.folder / MANIFEST
    document = json.loads(path.read_text())
    entry = document["files"].pop("config.json")
    document["files"][change.pop("name", "config.json")] = entry
    entry.update(change.pop("entry", {}))
    path.write_text(json.dumps(document | change))
    assert read_manifest(client.folder) is None
    client.hub.seen.clear()
    assert client.download() == manifest
    assert client.hub.fetched == set()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"text"', "\xff"])
def test_a_manifest_that_is_no_object_is_none(tmp_path: Path, content: str) -> None:
    """As after a disk was full."""
    (tmp_path / MANIFEST).write_bytes(content.encode("latin-1"))
    assert read_manifest(tmp_path) is None


def test_a_manifest_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """Else one would be told that nothing was downloaded."""
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(LauncherError, match=f"{tmp_path / MANIFEST} cannot be read: "):
        read_manifest(tmp_path)


# Progress


def test_progress_begins_with_what_is_there_and_ends_with_all(client: Client) -> None:
    """What is there already counts as done, and not as speed."""
    client.folder.mkdir()
    (client.folder / f"{SHARD}.incomplete").write_bytes(FILES[SHARD][:-1])
    client.hub.faults[SHARD] = [Fault(status=503)]
    client.download()
    assert (client.told[0].bytes_done, client.told[0].bytes_total) == (0, TOTAL)
    last = client.told[-1]
    assert (last.files_done, last.files_total) == (len(FILES), len(FILES))
    assert (last.bytes_done, last.bytes_total, last.eta_s) == (TOTAL, TOTAL, 0)
    assert all(progress.bytes_done <= TOTAL for progress in client.told)
    # The last time is told after a pause too.
    assert client.rests == [len(client.told) - 1]


def test_the_rate_is_that_of_the_last_seconds() -> None:
    """A minute at another speed does not count any more."""
    now = 100.0
    meter = Meter({"a": 1000, "b": 1000}, lambda: now)
    meter.place("a", 500)
    assert meter.progress(0) == Progress(0, 2, 500, 2000, 0.0, None)
    meter.receive("a", 100)
    now = 102.0
    assert meter.progress(0) == Progress(0, 2, 600, 2000, 50.0, 28.0)
    for _ in range(60):
        now += 1
        meter.receive("b", 10)
        progress = meter.progress(1)
    assert progress == Progress(1, 2, 1200, 2000, 10.0, 80.0)


def test_a_file_begun_anew_takes_its_bytes_back() -> None:
    """And nothing comes at a negative speed."""
    now = 0.0
    meter = Meter({"a": 1000}, lambda: now)
    meter.progress(0)
    meter.receive("a", 600)
    meter.place("a", 0)
    now = 1.0
    assert meter.progress(0) == Progress(0, 1, 0, 1000, 600.0, 1000 / 600)


@pytest.mark.parametrize(
    ("done", "total", "rate", "eta_s", "expected"),
    [
        (3.21e9, 20.4e9, 41.3e6, 416.2, "3.2 of 20.4 GB, 41 MB/s, about 7 min left"),
        (0, 20.4e9, 0, None, "0.0 of 20.4 GB"),
        (20.4e9, 20.4e9, 41e6, 0.0, "20.4 of 20.4 GB"),
        (1e6, 12.3e6, 4.56e6, 2.5, "1.0 of 12.3 MB, 4.6 MB/s, about 2 s left"),
        (1e9, 2e9, 12_300, 81_300.8, "1.0 of 2.0 GB, 12 kB/s, about 22.6 h left"),
        (0, 900, 10.0, 90.0, "0.0 of 0.9 kB, 0 kB/s, about 2 min left"),
        (0, 5e9, 1e6, 5000.0, "0.0 of 5.0 GB, 1.0 MB/s, about 83 min left"),
        (5e9 - 1, 5e9, 1e6, 1e-6, "5.0 of 5.0 GB, 1.0 MB/s, about 1 s left"),
    ],
)
def test_progress_in_words(
    done: float, total: float, rate: float, eta_s: float | None, expected: str
) -> None:
    """A line for a terminal."""
    assert in_words(Progress(1, 2, int(done), int(total), rate, eta_s)) == expected


# Whatever happens

HURDLES = [
    Fault(status=503),
    Fault(status=429, headers={"Retry-After": "5"}),
    Fault(status=500, headers={"Retry-After": "x"}),
    Fault(cut=0),
    Fault(cut=1),
    Fault(cut=777),
    Fault(cut=100, reset=True),
    Fault(cut=300, chunked=True),
    Fault(cut=400, flip=100),
    Fault(flip=0),
    Fault(ignore_range=True),
    Fault(ignore_range=True, cut=200),
    Fault(range_status=200, cut=50),
    Fault(content_range=""),
    Fault(content_range="bytes 0-1/2"),
    Fault(body=b"<html>"),
    Fault(body=b"<html>", ignore_range=True, chunked=True),
    Fault(body=FILES[SHARD] + b"more", chunked=True),
    Fault(status=404),
]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(HURDLES), max_size=12),
    st.lists(st.sampled_from(HURDLES), max_size=3),
    st.sampled_from(["huggingface", "modelscope"]),
)
def test_no_file_is_ever_wrong(hurdles: list[Fault], others: list[Fault], source: Source) -> None:
    """The end is an error or the model, and a second call to a good hub always brings the model."""
    with FakeHub(FILES) as hub, tempfile.TemporaryDirectory() as folder:
        client = Client(hub, Path(folder))

        def check(_: object = None) -> None:
            for name, content in client.contents().items():
                assert name.endswith(".incomplete") or content == FILES[name]

        client.tell = check
        hub.faults[SHARD], hub.faults["modeling.py"] = list(hurdles), list(others)
        try:
            client.download(source)
        except LauncherError:
            check()
            assert read_manifest(client.folder) is None
        else:
            assert client.contents() == FILES
        hub.faults.clear()
        manifest = client.download(source)
        assert client.contents() == FILES
        assert problems_of(client.folder, manifest, hashes=True) == []
