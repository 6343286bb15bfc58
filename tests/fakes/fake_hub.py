"""A stand-in for both hubs and for a CDN: a local server that speaks their protocols, with faults.

    with FakeHub({"config.json": b"{}"}) as hub:
        hub.faults["config.json"] = [Fault(cut=1)]
        ...

A fault is used up by one request for its file; ``LIST`` stands for the list of files. After the
last one the hub behaves, unless ``hub.always`` has a fault for that file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from launcher.download import TELL_EVERY_S, Machine, Manifest, Progress, download
from launcher.hubs import LOCK, MANIFEST, Source

LIST = ""
HUB_ID = "owner/model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Fault:
    """How an answer differs from a good one; faults of one answer add up."""

    status: int | None = None
    """Answer with this, and no file."""
    headers: Mapping[str, str] = field(default_factory=dict)
    redirect: str | None = None
    """Send the client there."""
    body: bytes | None = None
    """Instead of the file, with a status that says that it is the file."""
    ignore_range: bool = False
    content_range: str | None = None
    """Instead of the true one; empty for none at all."""
    range_status: int = 206
    chunked: bool = False
    """Send the body without its length."""
    flip: int | None = None
    """Send a wrong byte at this place of the file."""
    cut: int | None = None
    """Close the connection after so many bytes of the body."""
    reset: bool = False
    """Close it the rude way."""
    stall: bool = False
    """After ``cut`` bytes say nothing more, and do not close."""


@dataclass(frozen=True)
class Seen:
    """A request: its target as it came, the file that it is about, and its headers."""

    target: str
    name: str | None
    headers: dict[str, str]


def blob_sha1(content: bytes) -> str:
    """Git's hash of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def made_by(name: str) -> str:
    """The commit that made a file: not that of the list."""
    return sha256(name.encode())[:40]


class FakeHub:
    """Serves ``files`` until the ``with`` block ends."""

    def __init__(self, files: Mapping[str, bytes], host: str = "127.0.0.1") -> None:
        self.files = dict(files)
        self.more_lines: list[dict[str, Any]] = []
        """Put into the list, in the hub's own form."""
        self.branches = {"huggingface": "main", "modelscope": "master"}
        """The names that lists are asked for by."""
        self.document: Any = None
        """Instead of the list."""
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.always: dict[str, Fault] = {}
        self.seen: list[Seen] = []
        self.list_may_go = threading.Event()
        """Cleared, the list is kept back until the end."""
        self.list_may_go.set()
        self.over = threading.Event()
        self._server = _Server((host, 0), type("Handler", (_Handler,), {"hub": self}))
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self.port = self._server.server_address[1]
        self.url = f"http://{host}:{self.port}"

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.list_may_go.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def environ(self) -> dict[str, str]:
        """That lets a download find this hub, as either of the two."""
        return {"HF_ENDPOINT": self.url, "MODELSCOPE_ENDPOINT": self.url}

    def asked(self, name: str) -> list[str | None]:
        """The ranges of the requests for a file, in order."""
        return [seen.headers.get("range") for seen in self.seen if seen.name == name]

    @property
    def fetched(self) -> set[str]:
        """The files that were asked for."""
        return {seen.name for seen in self.seen if seen.name}

    def cdn_target(self, name: str) -> str:
        """A signed path, which means another file when it is quoted anew."""
        return f"/cdn/{quote(name)}?signature=a%2Bb%20c+d%3D&name=%7e"

    def next_fault(self, name: str) -> Fault:
        if self.faults[name]:
            return self.faults[name].pop(0)
        return self.always.get(name, Fault())

    def huggingface_list(self) -> dict[str, Any]:
        lines = []
        for name, content in self.files.items():
            line: dict[str, Any] = {"rfilename": name, "size": len(content)}
            if name.endswith(".safetensors"):
                pointer = b"version https://git-lfs.github.com/spec/v1\n" + name.encode()
                lfs = {"sha256": sha256(content), "size": len(content), "pointerSize": 134}
                line |= {"blobId": blob_sha1(pointer), "lfs": lfs}
            else:
                line["blobId"] = blob_sha1(content)
            lines.append(line)
        return {"id": HUB_ID, "sha": COMMIT, "siblings": lines + self.more_lines}

    def modelscope_list(self) -> dict[str, Any]:
        lines = [
            {"Path": name, "Size": len(content), "Sha256": sha256(content), "Type": "blob"}
            | {"Revision": made_by(name), "CommittedDate": 1_700_000_000}
            for name, content in self.files.items()
        ]
        folder = {"Path": "folder", "Size": 0, "Sha256": "", "Type": "tree"}
        data = {"Files": [folder, *lines, *self.more_lines], "LatestCommitter": {"Id": COMMIT}}
        return {"Code": 200, "Success": True, "Message": "success", "Data": data}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 50

    def handle_error(self, *_: object) -> None:
        """A client that went away is no error of ours."""


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        # A client that uses us as its proxy writes the whole address.
        target = re.sub("^http://[^/]*", "", self.path)
        url = urlsplit(target)
        name = self._name(url.path, parse_qs(url.query))
        headers = {key.lower(): value for key, value in self.headers.items()}
        self.hub.seen.append(Seen(self.path, name, headers))
        with contextlib.suppress(OSError):
            if name is None:
                self._answer(404, b'{"Code": 10010205001, "Message": "record not found"}', {})
            elif name == LIST:
                self._list(url.path)
            else:
                self._file(name, target)

    def _name(self, path: str, query: dict[str, list[str]]) -> str | None:
        """The file that an address is of, LIST for the list, None for neither."""
        revision = query.get("Revision", [""])[0]
        if path == f"/api/models/{HUB_ID}/revision/{self.hub.branches['huggingface']}":
            return LIST if query.get("blobs") == ["true"] else None
        if path == f"/api/v1/models/{HUB_ID}/repo/files":
            good = revision == self.hub.branches["modelscope"] and query.get("Recursive") == [
                "true"
            ]
            return LIST if good else None
        if path == f"/api/v1/models/{HUB_ID}/repo":
            name = query.get("FilePath", [""])[0]
            return name if name in self.hub.files and revision == made_by(name) else None
        match = re.fullmatch(f"(/{HUB_ID}/resolve/{COMMIT}|/cdn)/(.+)", path)
        name = unquote(match[2]) if match else ""
        return name if name in self.hub.files else None

    def _list(self, path: str) -> None:
        self.hub.list_may_go.wait()
        if (fault := self.hub.next_fault(LIST)) != Fault():
            self._send(fault, fault.body or b"", fault.status or 200, {})
            return
        hub = self.hub
        document = hub.modelscope_list() if "/v1/" in path else hub.huggingface_list()
        content = json.dumps(document if hub.document is None else hub.document).encode()
        self._answer(200, content, {})

    def _file(self, name: str, target: str) -> None:
        fault = self.hub.next_fault(name)
        if target.startswith("/cdn") and target != self.hub.cdn_target(name):
            self._answer(400, b"the signature is not of this address", {})
            return
        content = bytearray(self.hub.files[name] if fault.body is None else fault.body)
        if fault.flip is not None and fault.flip < len(content):
            content[fault.flip] ^= 1
        wanted = re.fullmatch("bytes=([0-9]+)-", self.headers.get("Range") or "")
        if wanted is None or fault.ignore_range or fault.status or fault.redirect:
            self._send(fault, bytes(content), fault.status or 200, {})
            return
        start = int(wanted[1])
        if start >= len(content):
            self._send(fault, b"", 416, {"Content-Range": f"bytes */{len(content)}"})
            return
        said = f"bytes {start}-{len(content) - 1}/{len(content)}"
        said = said if fault.content_range is None else fault.content_range
        headers = {"Content-Range": said} if said else {}
        self._send(fault, bytes(content[start:]), fault.range_status, headers)

    def _send(self, fault: Fault, body: bytes, status: int, headers: dict[str, str]) -> None:
        headers = {**headers, **fault.headers}
        if fault.redirect:
            status, body, headers = 302, b"", {**headers, "Location": fault.redirect}
        if fault.status and fault.status >= 400:
            body = b"no"
        self._answer(status, body, headers, cut=fault.cut, chunked=fault.chunked)
        if fault.stall:
            self.hub.over.wait()
        if fault.reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if fault.cut is not None or fault.reset:
            self.close_connection = True

    def _answer(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str],
        *,
        cut: int | None = None,
        chunked: bool = False,
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        part = body[:cut]
        if chunked:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if part else b"")
            self.wfile.write(b"0\r\n\r\n" if cut is None else b"")
        else:
            self.wfile.write(part)


@dataclass
class Client:
    """A download from a fake hub, and what it did meanwhile; it never really pauses."""

    hub: FakeHub
    folder: Path
    environ: dict[str, str] = field(default_factory=dict)
    """Beside the hub's address."""
    free_bytes: int = 10**13
    list_timeout_s: float = 10.0
    read_timeout_s: float = 10.0
    tell: Callable[[Progress], None] = lambda _: None
    told: list[Progress] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    """In seconds, between tries."""
    rests: list[int] = field(default_factory=list)
    """How often progress had been told when it was paused for its sake."""

    def download(self, source: Source = "huggingface", **more: Any) -> Manifest:
        machine = Machine(
            free_bytes=lambda _: self.free_bytes,
            pause=self._pause,
            list_timeout_s=self.list_timeout_s,
            read_timeout_s=self.read_timeout_s,
        )
        environ = {**self.hub.environ, **self.environ}
        arguments = {"source": source, "environ": environ, "tell": self._tell, "machine": machine}
        return download(HUB_ID, self.folder, **{**arguments, **more})

    async def _pause(self, seconds: float) -> None:
        if seconds == TELL_EVERY_S:
            self.rests.append(len(self.told))
        else:
            self.pauses.append(seconds)

    def _tell(self, progress: Progress) -> None:
        self.told.append(progress)
        self.tell(progress)

    def contents(self) -> dict[str, bytes]:
        """Every file of the folder but the download's own two."""
        own = {self.folder / MANIFEST, self.folder / LOCK}
        files = [path for path in self.folder.rglob("*") if path.is_file() and path not in own]
        return {path.relative_to(self.folder).as_posix(): path.read_bytes() for path in files}
