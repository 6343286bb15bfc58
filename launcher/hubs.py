"""The two hubs' protocols: which files a model has at a commit, and a file's bytes from a place on.

What a hub answers is not trusted. Paths, sizes and hashes of its list are checked here before they
are used; who stores a file compares its content with the list's hash (:mod:`launcher.download`).
"""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase
from ipaddress import ip_address
from typing import Any, ClassVar, Literal, TypeGuard
from urllib.parse import quote

import aiohttp
from yarl import URL

from launcher.errors import ConfigError, LauncherError

HubName = Literal["huggingface", "modelscope"]
Source = Literal["auto", "huggingface", "modelscope"]
HashKind = Literal["sha256", "git-sha1"]

# What is fetched, by a file's name: all that vLLM, transformers and people read, and nothing else.
# Weights in other formats are copies of the safetensors, and some run code when they are opened.
WANTED = {
    "*.json": "configuration, tokenizer, and the index of the shards",
    "*.safetensors": "the weights",
    "*.py": "the classes that --trust-remote-code runs",
    "*.jinja": "chat templates",
    "*.txt": "vocabularies and merges",
    "*.model": "sentencepiece tokenizers",
    "*.md": "the model card",
    "LICENSE": "what one may do with it",
}
# Without these in the folder itself there is nothing to serve, whatever else a list holds.
NEEDED = ("config.json", "*.safetensors")

# Ours: no file of a hub may have these names.
MANIFEST = "step3vl-manifest.json"
LOCK = ".step3vl-download.lock"
INCOMPLETE = ".incomplete"

NOT_A_LIST = "it has another form than this hub's lists"

MAX_FILES = 10_000
MAX_LIST_BYTES = 20_000_000
MAX_NAME_BYTES = 240  # the system's 255, less what INCOMPLETE adds
MAX_REDIRECTS = 10
MAX_RETRY_AFTER_S = 60.0
PIECE_BYTES = 1_000_000

FOR_NOW = {429, 500, 502, 503, 504}
REDIRECTS = {301, 302, 303, 307, 308}


class TemporaryError(Exception):
    """A hub, or the way to it, failed for now; ``retry_after`` is in seconds, None if not said."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ListError(ValueError):
    """A hub's list cannot be used, or must not be; the message says why."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a list: what it must be, and where it is."""

    path: str
    size: int
    hash_kind: HashKind
    hash: str
    url: URL


@dataclass(frozen=True)
class Listing:
    """The files to fetch of a model at a commit."""

    hub: Hub
    commit: str
    files: tuple[RemoteFile, ...]


@dataclass(frozen=True)
class _Entry:
    """A line of a hub's list, unchecked."""

    path: Any
    size: Any
    hash_kind: HashKind
    hash: Any
    commit: Any = None
    """That made this version of the file, where the hub says so."""


class Hub(ABC):
    """A hub's addresses, its secret, and how it writes its lists."""

    name: ClassVar[HubName]
    title: ClassVar[str]
    endpoint_name: ClassVar[str]
    default_endpoint: ClassVar[str]
    token_name: ClassVar[str]

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Take the address and the token from the environment.

        Raises:
            ConfigError: the environment has something else there.
        """
        self.endpoint = _endpoint(self.endpoint_name, environ, self.default_endpoint)
        self._token = _token(self.token_name, environ)

    @property
    def secrets(self) -> dict[str, str]:
        """Headers for this hub's own host, and for no other."""
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    @abstractmethod
    def list_url(self, hub_id: str, revision: str) -> URL:
        """Where the list of files is."""

    @abstractmethod
    def file_url(self, hub_id: str, commit: str, path: str) -> URL:
        """Where a file's content is."""

    @abstractmethod
    def entries(self, document: dict[str, Any]) -> tuple[Any, list[_Entry]]:
        """The commit that a list names, and its files; both unchecked.

        Raises:
            ListError: it is not such a list.
        """


class HuggingFace(Hub):
    """huggingface.co, or a mirror of it."""

    name = "huggingface"
    title = "Hugging Face"
    endpoint_name = "HF_ENDPOINT"
    default_endpoint = "https://huggingface.co"
    token_name = "HF_TOKEN"  # noqa: S105  (where it is, not what)

    def list_url(self, hub_id: str, revision: str) -> URL:
        pinned = f"{hub_id}/revision/{quote(revision, safe='')}"
        return URL(f"{self.endpoint}/api/models/{pinned}?blobs=true", encoded=True)

    def file_url(self, hub_id: str, commit: str, path: str) -> URL:
        return URL(f"{self.endpoint}/{hub_id}/resolve/{commit}/{quote(path)}", encoded=True)

    def entries(self, document: dict[str, Any]) -> tuple[Any, list[_Entry]]:
        lines = _objects(document.get("siblings"))
        return document.get("sha"), [self._entry(line) for line in lines]

    def _entry(self, line: dict[str, Any]) -> _Entry:
        """``blobId`` of a file in LFS is that of its pointer, so ``lfs`` comes first."""
        path, lfs = line.get("rfilename"), line.get("lfs")
        if isinstance(lfs, dict):
            return _Entry(path, lfs.get("size"), "sha256", lfs.get("sha256"))
        return _Entry(path, line.get("size"), "git-sha1", line.get("blobId"))


class ModelScope(Hub):
    """modelscope.cn, or another site of its kind."""

    name = "modelscope"
    title = "ModelScope"
    endpoint_name = "MODELSCOPE_ENDPOINT"
    default_endpoint = "https://modelscope.cn"
    token_name = "MODELSCOPE_API_TOKEN"  # noqa: S105  (where it is, not what)

    @property
    def secrets(self) -> dict[str, str]:
        """Its older addresses read the token from a cookie."""
        cookie = {"Cookie": f"m_session_id={self._token}"} if self._token else {}
        return super().secrets | cookie

    def list_url(self, hub_id: str, revision: str) -> URL:
        # What the other hub calls main is master here.
        branch = "master" if revision == "main" else revision
        query = f"Revision={quote(branch, safe='')}&Recursive=true"
        return URL(f"{self.endpoint}/api/v1/models/{hub_id}/repo/files?{query}", encoded=True)

    def file_url(self, hub_id: str, commit: str, path: str) -> URL:
        query = f"Revision={commit}&FilePath={quote(path, safe='')}"
        return URL(f"{self.endpoint}/api/v1/models/{hub_id}/repo?{query}", encoded=True)

    def entries(self, document: dict[str, Any]) -> tuple[Any, list[_Entry]]:
        if document.get("Code") != 200:
            raise ListError(f"it says {str(document.get('Message'))[:200]!r}")
        data = document.get("Data")
        if not isinstance(data, dict):
            raise ListError(NOT_A_LIST)
        lines = [line for line in _objects(data.get("Files")) if line.get("Type") != "tree"]
        return self._commit(data, lines), [self._entry(line) for line in lines]

    def _commit(self, data: dict[str, Any], lines: list[dict[str, Any]]) -> Any:
        """The head's commit; where it is not said, the newest that made a file of the list."""
        head = data.get("LatestCommitter")
        if isinstance(head, dict) and is_commit(head.get("Id")):
            return head["Id"]
        dated = [line for line in lines if isinstance(line.get("CommittedDate"), int)]
        return max(dated, key=lambda line: int(line["CommittedDate"]), default={}).get("Revision")

    def _entry(self, line: dict[str, Any]) -> _Entry:
        path, size, digest = line.get("Path"), line.get("Size"), line.get("Sha256")
        return _Entry(path, size, "sha256", digest, line.get("Revision"))


def hubs_of(source: Source, environ: Mapping[str, str]) -> list[Hub]:
    """The hubs to ask.

    Raises:
        ConfigError: the environment has a hub's address or token in no usable form.
    """
    kinds: list[type[Hub]] = [HuggingFace, ModelScope]
    return [kind(environ) for kind in kinds if source in ("auto", kind.name)]


def check_names(hub_id: str, revision: str) -> None:
    """Refuse what is no name of a model or of a revision; both become parts of an address.

    Raises:
        ConfigError: one of them is not.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*", hub_id):
        raise ConfigError(f"{hub_id!r} is not a model's name on a hub: write owner/model")
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._/-]*", revision) or ".." in revision:
        raise ConfigError(f"{revision!r} is not a revision: write a branch, a tag or a commit")


def _endpoint(name: str, environ: Mapping[str, str], default: str) -> str:
    """A hub's address without the slash at its end."""
    try:
        url = URL(environ.get(name) or default)
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host or url.user or url.query_string:
        # The value is not shown: it may hold a password.
        raise ConfigError(f"{name} is not an address of a hub; write one like {default}")
    return str(url).rstrip("/")


def _token(name: str, environ: Mapping[str, str]) -> str:
    token = environ.get(name, "").strip()
    if not re.fullmatch(r"[!-~]*", token):
        raise ConfigError(f"{name} holds characters that no token has; copy it again")
    return token


def is_safe(path: str) -> bool:
    """Whether a hub's path can only mean a place inside the folder, and is what it looks like."""
    return path.isprintable() and "\\" not in path and all(map(_is_plain, path.split("/")))


def _is_plain(name: str) -> bool:
    """A part of a path; an empty one is a slash at the start, at the end, or two in a row."""
    return (
        name not in {"", ".", "..", MANIFEST, LOCK}
        and name == name.strip()
        and not name.endswith(INCOMPLETE)
        and len(name.encode()) <= MAX_NAME_BYTES
    )


def is_wanted(path: str) -> bool:
    """Whether a file is fetched; hidden files and folders never are."""
    names = path.split("/")
    hidden = any(name.startswith(".") for name in names)
    return not hidden and any(fnmatchcase(names[-1], pattern) for pattern in WANTED)


def is_commit(value: Any) -> TypeGuard[str]:
    """Whether this is a whole commit's name, which can mean nothing else later on."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{40}", value) is not None


def _objects(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(line, dict) for line in value):
        raise ListError(NOT_A_LIST)
    return value


def _listing(hub: Hub, hub_id: str, revision: str, document: Any) -> Listing:
    """Read a hub's list.

    Raises:
        ListError: it cannot be used, or must not be.
    """
    if not isinstance(document, dict):
        raise ListError(NOT_A_LIST)
    named, entries = hub.entries(document)
    commit = revision if is_commit(revision) else named
    if not is_commit(commit):
        raise ListError("it names no commit")
    if len(entries) > MAX_FILES:
        raise ListError(f"{len(entries)} files are more than {MAX_FILES}")
    for entry in entries:
        if not isinstance(entry.path, str) or not is_safe(entry.path):
            raise ListError(f"the path {entry.path!r:.200} is not allowed")
    wanted = [entry for entry in entries if is_wanted(entry.path)]
    if len({entry.path for entry in wanted}) < len(wanted):
        raise ListError("it names a file twice")
    beside = [entry.path for entry in wanted if "/" not in entry.path]
    for pattern in NEEDED:
        if not any(fnmatchcase(path, pattern) for path in beside):
            raise ListError(f"it has no {pattern}")
    return Listing(hub, commit, tuple(_checked(hub, hub_id, commit, entry) for entry in wanted))


def _checked(hub: Hub, hub_id: str, commit: str, entry: _Entry) -> RemoteFile:
    digits = {"sha256": 64, "git-sha1": 40}[entry.hash_kind]
    digest = entry.hash.lower() if isinstance(entry.hash, str) else ""
    if not re.fullmatch(f"[0-9a-f]{{{digits}}}", digest):
        raise ListError(f"it has no hash of {entry.path!r}")
    if not isinstance(entry.size, int) or isinstance(entry.size, bool) or entry.size < 0:
        raise ListError(f"it has no size of {entry.path!r}")
    # The commit that made this version of the file has the same content as the list's.
    made = entry.commit if is_commit(entry.commit) else commit
    url = hub.file_url(hub_id, made, entry.path)
    return RemoteFile(entry.path, entry.size, entry.hash_kind, digest, url)


class Body:
    """A file's content as it comes; ``start`` is where it begins, None if not where it was asked.

    Bytes are those of the file from ``start`` on, as many as the hub sends.
    """

    def __init__(self, response: aiohttp.ClientResponse, start: int | None) -> None:
        self._response = response
        self.start = start

    async def read(self) -> bytes:
        """What has come; empty at the end.

        Raises:
            TemporaryError: the connection was lost.
        """
        with network_faults(self._response.url):
            return await self._response.content.readany()


class Web:
    """Asks hubs, and whom they send us to."""

    def __init__(
        self, session: aiohttp.ClientSession, environ: Mapping[str, str], list_timeout_s: float
    ) -> None:
        self._session = session
        self._environ = environ
        self._list_timeout_s = list_timeout_s

    async def list_files(self, hub: Hub, hub_id: str, revision: str) -> Listing:
        """Ask for the files of a model.

        Raises:
            LauncherError: the hub has no usable list, or cannot be asked.
            TemporaryError: it failed for now.
        """
        what = f"{hub_id} at {revision}"
        try:
            async with asyncio.timeout(self._list_timeout_s):
                content = await self._read_list(hub, hub.list_url(hub_id, revision), what)
        except TimeoutError:
            limit = f"{self._list_timeout_s:g} s"
            raise LauncherError(f"{hub.title} gave no list of {what} within {limit}") from None
        try:
            return _listing(hub, hub_id, revision, json.loads(content))
        except (ValueError, RecursionError) as error:
            raise LauncherError(f"{hub.title}'s list of {what} cannot be used: {error}") from None

    async def _read_list(self, hub: Hub, url: URL, what: str) -> bytes:
        content = bytearray()
        async with self._get(hub, url, what, {}) as response:
            body = Body(response, 0)
            while piece := await body.read():
                content += piece
                if len(content) > MAX_LIST_BYTES:
                    limit = f"{MAX_LIST_BYTES / 1e6:.0f} MB"
                    raise LauncherError(f"{hub.title}'s list of {what} has more than {limit}")
        return bytes(content)

    @asynccontextmanager
    async def open_file(self, hub: Hub, file: RemoteFile, position: int) -> AsyncIterator[Body]:
        """A file's content from ``position`` (bytes) on, or from its start where the hub prefers.

        Raises:
            LauncherError: the hub does not give it to us.
            TemporaryError: it failed for now.
        """
        asked = {"Range": f"bytes={position}-"} if position else {}
        async with self._get(hub, file.url, file.path, asked) as response:
            yield Body(response, _start(response, position, file.size))

    @asynccontextmanager
    async def _get(
        self, hub: Hub, url: URL, what: str, headers: Mapping[str, str]
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        response = await self._follow(hub, url, headers)
        try:
            _check_status(response, hub, what)
            yield response
        finally:
            response.close()

    async def _follow(
        self, hub: Hub, url: URL, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """Ask, and go where we are sent; by ourselves, to know whom the secret may be shown."""
        for _ in range(MAX_REDIRECTS):
            own = url.origin() == URL(hub.endpoint).origin()
            with network_faults(url):
                response = await self._session.get(
                    url,
                    headers={**headers, **(hub.secrets if own else {})},
                    proxy=proxy_for(url, self._environ),
                    allow_redirects=False,
                )
            if response.status not in REDIRECTS:
                return response
            response.close()
            url = redirected(url, response.headers.get("Location", ""))
        raise LauncherError(f"{hub.title} sends us from one address to the next without an end")


@asynccontextmanager
async def open_web(
    environ: Mapping[str, str], *, list_timeout_s: float, read_timeout_s: float
) -> AsyncIterator[Web]:
    """Connections for one download.

    Args:
        list_timeout_s: for a whole list of files.
        read_timeout_s: for a connection, and for each wait for bytes.
    """
    timeout = aiohttp.ClientTimeout(
        total=None, sock_connect=read_timeout_s, sock_read=read_timeout_s
    )
    async with aiohttp.ClientSession(
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        # Compressed, a file would have neither its size nor its places.
        headers={"User-Agent": "step3vl", "Accept-Encoding": "identity"},
        read_bufsize=PIECE_BYTES,
        timeout=timeout,
    ) as session:
        yield Web(session, environ, list_timeout_s)


@contextmanager
def network_faults(url: URL) -> Iterator[None]:
    """Put what the network does into words; addresses stay out, for some hold secrets."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError:
        raise LauncherError(
            f"the certificate of {url.host} is not trusted on this machine; where a proxy signs"
            " with its own, set SSL_CERT_FILE to a file with its authority"
        ) from None
    except TimeoutError:
        raise TemporaryError(f"{url.host} was silent for too long") from None
    except aiohttp.ClientHttpProxyError as error:
        raise TemporaryError(f"the proxy answered {error.status} for {url.host}") from None
    except aiohttp.ClientConnectorError as error:
        reason = error.os_error.strerror or type(error.os_error).__name__
        raise TemporaryError(f"no connection to {url.host}: {reason}") from None
    except (aiohttp.ClientError, OSError):
        raise TemporaryError(f"the connection to {url.host} was lost") from None


def _check_status(response: aiohttp.ClientResponse, hub: Hub, what: str) -> None:
    """Let through what has a body to read, 416 included: there :func:`_start` finds none."""
    status, host = response.status, response.url.host
    if status in FOR_NOW:
        wait = retry_after(response.headers.get("Retry-After"))
        raise TemporaryError(f"{host} answered {status}", wait)
    if status in {401, 403}:
        raise LauncherError(
            f"{hub.title} refuses {what} ({host} answered {status}): it needs a token or access;"
            f" set {hub.token_name}, or ask for access on the model's page"
        )
    if status == 404:
        raise LauncherError(f"{hub.title} has no {what}; check the name and the revision")
    if status not in {200, 206, 416}:
        raise LauncherError(f"{hub.title} does not give {what}: {host} answered {status}")


def retry_after(value: str | None) -> float | None:
    """The seconds that a ``Retry-After`` asks for, in either of its forms, within our limit."""
    if value is None:
        return None
    try:
        if re.fullmatch("[0-9]+", value):
            seconds = float(value)
        else:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _start(response: aiohttp.ClientResponse, position: int, size: int) -> int | None:
    """Where a body begins; None if not where it was asked to.

    The range counts more than the status: ModelScope gives ranges with a 200.

    Raises:
        TemporaryError: it is not the file; what we have of it must not be given up for that.
    """
    said, length = response.headers.get("Content-Range"), response.headers.get("Content-Length")
    if said is not None:
        match = re.fullmatch(r"bytes ([0-9]+)-[0-9]+/([0-9]+|\*)", said)
        fits = match and match[1] == str(position) and match[2] in {"*", str(size)}
        return position if fits else None
    if response.status != 200:
        return None
    if length not in {None, str(size)}:
        raise TemporaryError(f"{response.url.host} sent {length} bytes where {size} are listed")
    return 0


def redirected(url: URL, location: str) -> URL:
    """The next address, as it was written: a signed one must not be quoted anew."""
    as_written = re.fullmatch("[!-~]*", location) is not None
    try:
        target = url.join(URL(location, encoded=as_written))
    except ValueError:
        target = URL()
    downgraded = url.scheme == "https" and target.scheme == "http"
    if target.scheme not in {"http", "https"} or not target.host or downgraded:
        raise LauncherError(f"{url.host} sends us to an address that is not safe to follow")
    return target


def proxy_for(url: URL, environ: Mapping[str, str]) -> URL | None:
    """The proxy that the environment names for an address; none for this machine itself.

    Raises:
        ConfigError: it names what is no proxy for HTTP.
    """
    host = url.host or ""
    names = [f"{url.scheme}_proxy", f"{url.scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"]
    name = next((name for name in names if environ.get(name)), None)
    exceptions = {"no": environ.get("no_proxy") or environ.get("NO_PROXY") or ""}
    if name is None or is_this_machine(host):
        return None
    if urllib.request.proxy_bypass(f"{host}:{url.port}", exceptions):
        return None
    text = environ[name] if "://" in environ[name] else f"http://{environ[name]}"
    try:
        proxy = URL(text)
    except ValueError:
        proxy = URL()
    if proxy.scheme not in {"http", "https"} or not proxy.host:
        # The value is not shown: it may hold a password.
        raise ConfigError(f"{name} is not an HTTP proxy's address; write http://host:port")
    return proxy


def is_this_machine(host: str) -> bool:
    """Whether a host's name or address is the loopback's."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
