"""The images of a request: found, fetched or decoded, admitted, and made fit for the engine.

An image may be an http(s) address, a ``data:`` URL or plain base64. What the engine reads safely
goes on byte for byte. The engine keeps what it has made of an image under a name of ours, so that
in later turns of a talk the name is enough: nothing is decoded, sent or processed twice.
"""

from __future__ import annotations

import asyncio
import binascii
import contextlib
import hashlib
import io
import os
import re
import secrets
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import orjson
from yarl import URL

from webui.gateway.documents import parsed
from webui.gateway.errors import ApiError, refused
from webui.gateway.image_parts import ImagePart, image_parts
from webui.gateway.image_urls import ImageUrls, Wanted, host_of
from webui.gateway.relay import MEGABYTE
from webui.gateway.uploads import Uploads
from webui.pictures import (
    Header,
    PictureError,
    as_data_url,
    check,
    cost_of,
    normalised,
    read_header,
)

T = TypeVar("T")
MAX_IMAGES = 64
# Decoding a picture of 50 million pixels takes about a gigabyte.
DECODERS = 2
MAX_TYPE_LENGTH = 200
# Names of images that the engine should have; 200 bytes each.
MAX_KNOWN = 10_000
# Shorter texts are hashed sooner than a thread is woken.
HASHED_AT_ONCE = 65_536
_BASE64 = re.compile(r"[A-Za-z0-9+/_\s-]{24,}={0,2}\s*")
_IMAGE_TYPE = re.compile(r"image/|application/octet-stream$|$", re.IGNORECASE)


@dataclass(frozen=True)
class _Loaded:
    """An image that was admitted, as it came. ``kept`` is its ``data:`` URL, where that is well
    formed."""

    data: bytes
    header: Header
    name: str
    kept: str | None

    @property
    def url(self) -> str:
        """For the engine, of a picture that fits."""
        start = f"data:{self.header.media_type};base64,"
        if self.kept is not None and self.kept.startswith(start):
            return self.kept
        return as_data_url(self.header.media_type, self.data)


class Placed:
    """The images of one chat request, in its document.

    Those that the engine should have are there by name only.
    """

    def __init__(self, images: Images, parts: list[ImagePart]) -> None:
        self._images = images
        self._parts = parts
        self._fetched: dict[str, bytes] = {}
        self._tokens: dict[str, int] = {}
        self.named_only = False
        """Whether there are some of which the engine gets no more than the name."""
        self.characters = sum(len(part.source) for part in parts)
        """Of the client's request, that named them."""
        self.tokens = 0
        """Of the prompt, for all of them."""

    def __len__(self) -> int:
        return len(self._parts)

    async def fill(self, *, with_bytes: bool = False) -> None:
        """Put names into the document, and bytes where the engine needs them, or everywhere.

        Raises:
            ApiError: an image cannot be used; says which and why.
        """
        if not self._parts:
            return
        if not self._fetched:
            self._fetched = await self._images.fetch([part.source for part in self._parts])
        self.tokens, self.named_only = 0, False
        found = await self._images.found(self._parts, self._fetched, with_bytes=with_bytes)
        for part in self._parts:
            image = found[part.source]
            part.put(image.url, image.name)
            self.tokens += image.tokens
            self.named_only |= image.url is None
            self._tokens[image.name] = image.tokens

    async def check(self) -> None:
        """Find out why the engine has no answer to them: it does not say which it cannot read.

        Raises:
            ApiError: one is damaged.
        """
        checked: set[str] = set()
        for part in self._parts:
            if part.source not in checked:
                checked.add(part.source)
                try:
                    await self._images.check(part, self._fetched)
                except ApiError as error:
                    if error.code == "image_unreadable":  # not that it has gone meanwhile
                        raise

    @contextlib.contextmanager
    def names_alone(self) -> Iterator[None]:
        """For a while, the document says which images it is about, without their bytes."""
        urls = [part.part["image_url"] for part in self._parts]
        for part in self._parts:
            part.part["image_url"] = None
        try:
            yield
        finally:
            for part, url in zip(self._parts, urls, strict=True):
                part.part["image_url"] = url

    def accepted(self) -> None:
        """The engine has them all: from here on names will do, and their bytes can go."""
        self._images.remember(self._tokens)
        for part in self._parts:
            part.put(None, part.part["uuid"])
            part.source = ""
        self._fetched = {}


@dataclass(frozen=True)
class _Image:
    """As the engine gets it: a name, and a ``data:`` URL unless the name is enough."""

    name: str
    tokens: int
    url: str | None


class Images:
    """Makes a request's images ready.

    Args:
        urls: fetches what is named by address.
        max_mb: of one image, in MB of a million bytes.
        max_sum_mb: of all images of a request, as they stand in its body.
        secret: of this installation. The engine trusts names blindly, so nobody else must be able
            to make the name of another's image.
        uploads: files that our own page may name.
    """

    def __init__(
        self, urls: ImageUrls, max_mb: int, max_sum_mb: int, secret: bytes, uploads: Uploads
    ) -> None:
        self._urls = urls
        self._uploads = uploads
        self._secret = secret
        self._max_mb = max_mb
        self._max_sum_mb = max_sum_mb
        # Of their own: threads go on when a client has left, and must not be more than these.
        self._decoders = ThreadPoolExecutor(DECODERS, "decoder")
        self._known: OrderedDict[str, int] = OrderedDict()
        self._upload_names: OrderedDict[tuple[Path, int, int], str] = OrderedDict()

    def close(self) -> None:
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def put_in(self, document: dict[str, Any]) -> Placed:
        """Give a chat request its images as the engine gets them.

        Raises:
            ApiError: an image cannot be used; says which and why.
        """
        placed = Placed(self, [*image_parts(document)])
        await placed.fill()
        return placed

    async def found(
        self, parts: list[ImagePart], fetched: dict[str, bytes], *, with_bytes: bool
    ) -> dict[str, _Image]:
        """What the engine gets for each source."""
        uses = Counter(part.source for part in parts)
        numbers: dict[str, int] = {}
        for part in parts:
            numbers.setdefault(part.source, part.number)
        found, left = {}, self._max_sum_mb * MEGABYTE
        for source, number in numbers.items():
            name = await self._name_of(source, number, fetched)
            tokens = self._known.get(name)
            if tokens is not None and not with_bytes:
                self._known.move_to_end(name)
                found[source] = _Image(name, tokens, None)
                continue
            loaded = await self._load(source, number, fetched)
            url = loaded.url if loaded.header.fits else await self._normalised(loaded)
            left -= len(url) * uses[source]
            if left < 0:
                message = f"The images are together larger than {self._max_sum_mb} MB."
                raise refused(message, "image_too_large", 413)
            found[source] = _Image(name, _tokens_of(loaded.header), url)
        return found

    def remember(self, tokens: dict[str, int]) -> None:
        """The engine has the images of these names; so many tokens each."""
        self._known.update(tokens)
        while len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    async def _name_of(self, source: str, number: int, fetched: dict[str, bytes]) -> str:
        """Of an image, by its bytes or by the text that holds them."""
        if (path := self._uploads.path_of(source)) is not None:
            return await self._name_of_upload(path, number)
        content = fetched.get(source, source)
        if len(content) <= HASHED_AT_ONCE:
            return _keyed_hash(content, self._secret)
        return await asyncio.to_thread(_keyed_hash, content, self._secret)

    async def _name_of_upload(self, path: Path, number: int) -> str:
        """A file is read once for it, however many turns a talk has."""
        try:
            status = path.stat()
            key = (path, status.st_mtime_ns, status.st_size)
            name = self._upload_names.pop(key, None)
            if name is None:
                name = _keyed_hash(await asyncio.to_thread(path.read_bytes), self._secret)
        except OSError:
            raise _no_longer_there(number) from None
        self._upload_names[key] = name
        if len(self._upload_names) > MAX_KNOWN:
            self._upload_names.popitem(last=False)
        return name

    async def inspect(self, body: bytes) -> bytes:
        """What images are and cost, without the model: the answer of ``/images/inspect``.

        Raises:
            ApiError: the request has another form, or an image cannot be used.
        """
        document = parsed(body)
        sources = document.get("images", [document.get("image")])
        if not isinstance(sources, list) or not all(isinstance(s, str) for s in sources):
            message = 'Send {"image": ...} or {"images": [...]}: addresses, data: URLs or base64.'
            raise ApiError(400, message, "invalid_request", param="images")
        fetched = await self.fetch(sources)
        headers: dict[str, Header] = {}
        for number, source in enumerate(sources, start=1):
            if source not in headers:
                headers[source] = (await self._load(source, number, fetched)).header
        images = [_described(n, headers[source]) for n, source in enumerate(sources, start=1)]
        total = sum(image["tokens"] for image in images)
        return orjson.dumps({"object": "list", "images": images, "tokens": total})

    async def fetch(self, sources: list[str]) -> dict[str, bytes]:
        """Of the sources, those that are addresses.

        Raises:
            ApiError: there are too many sources, or one cannot be had.
        """
        if len(sources) > MAX_IMAGES:
            raise refused(f"A request may have at most {MAX_IMAGES} images.", "too_many_images")
        uses = Counter(source for source in sources if _is_web_address(source))
        wanted = [Wanted(source, sources.index(source) + 1, uses[source]) for source in uses]
        return await self._urls.fetch(wanted) if wanted else {}

    async def _load(self, source: str, number: int, fetched: dict[str, bytes]) -> _Loaded:
        """Decoded, and admitted by its header."""
        if (path := self._uploads.path_of(source)) is not None:
            return await asyncio.to_thread(_loaded_upload, path, number)
        where = f"Image {number}"
        return await asyncio.to_thread(_loaded, source, fetched.get(source), where, self._max_mb)

    async def check(self, part: ImagePart, fetched: dict[str, bytes]) -> None:
        """Decode an image, all of it.

        Raises:
            ApiError: it is damaged.
        """
        await self._decode(check, await self._load(part.source, part.number, fetched))

    async def _normalised(self, loaded: _Loaded) -> str:
        return as_data_url(*await self._decode(normalised, loaded))

    async def _decode(self, decode: Callable[[bytes, Header, str], T], loaded: _Loaded) -> T:
        loop = asyncio.get_running_loop()
        arguments = (loaded.data, loaded.header, loaded.name)
        try:
            return await loop.run_in_executor(self._decoders, decode, *arguments)
        except PictureError as error:
            raise refused(str(error), error.code) from None


def install_secret(file: Path | None) -> bytes:
    """This installation's own, made the first time; without a file, this process's own."""
    secret = secrets.token_bytes(32)
    if file is None:
        return secret
    if not file.exists():
        new = file.with_name(f".{file.name}.{os.getpid()}")
        new.touch(mode=0o600)
        new.write_bytes(secret)
        with contextlib.suppress(FileExistsError):  # another process was first
            os.link(new, file)
        new.unlink()
    return file.read_bytes()


def _keyed_hash(content: str | bytes, key: bytes) -> str:
    data = content if isinstance(content, bytes) else content.encode()
    return hashlib.blake2b(data, digest_size=20, key=key).hexdigest()


def _tokens_of(header: Header) -> int:
    return cost_of(header.width, header.height).tokens


def _loaded(source: str, fetched: bytes | None, where: str, max_mb: int) -> _Loaded:
    """Decode base64 and look at the header."""
    data, kept, name = fetched, None, where
    if data is None:
        data, kept = _decoded(source.strip(), where)
        if len(data) > max_mb * MEGABYTE:
            message = f"{where}: larger than {max_mb} MB; shrink it first."
            raise refused(message, "image_too_large", 413)
    else:
        name = f"{where}: what {host_of(URL(source.strip()))} sent"
    try:
        return _Loaded(data, read_header(io.BytesIO(data), name), name, kept)
    except PictureError as error:
        raise refused(str(error), error.code) from None


def _loaded_upload(path: Path, number: int) -> _Loaded:
    """A file that was sized when it was uploaded."""
    try:
        data = path.read_bytes()
        return _Loaded(data, read_header(io.BytesIO(data), path.name), path.name, None)
    except OSError:
        raise _no_longer_there(number) from None
    except PictureError as error:
        raise refused(str(error), error.code) from None


def _no_longer_there(number: int) -> ApiError:
    return refused(f"Image {number} is no longer there. Attach it again.", "image_gone")


def _is_web_address(source: str) -> bool:
    return source[:16].lstrip().lower().startswith(("http:", "https:"))


def _decoded(source: str, where: str) -> tuple[bytes, str | None]:
    """The bytes of a ``data:`` URL or of plain base64, and the URL itself where it is well formed.

    Raises:
        ApiError: it is neither.
    """
    if source[:5].lower() != "data:":
        if not _BASE64.match(source[:4096]) or ":" in source[:64]:
            message = f"{where}: give an http(s) address, a data: URL, or base64."
            raise refused(message, "media_url_refused")
        return _from_base64(source, where), None
    start, comma, text = source.partition(",")
    kind, *parameters = start[5 : 5 + MAX_TYPE_LENGTH].split(";")
    if not comma or len(start) > MAX_TYPE_LENGTH or "base64" not in map(str.strip, parameters):
        raise refused(f"{where}: a data: URL must be an image in base64.", "media_url_refused")
    if not _IMAGE_TYPE.match(kind):
        raise refused(f"{where}: {kind[:60]} is no image.", "media_url_refused")
    try:
        return binascii.a2b_base64(text, strict_mode=True), source
    except (binascii.Error, ValueError):
        return _from_base64(unquote(text), where), None


def _from_base64(text: str, where: str) -> bytes:
    """With line breaks, without padding, or in the alphabet of URLs too."""
    plain = re.sub(r"\s", "", text).translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        return binascii.a2b_base64(plain + "=" * (-len(plain) % 4), strict_mode=True)
    except (binascii.Error, ValueError):
        raise refused(f"{where}: its base64 is broken.", "image_unreadable") from None


def _described(number: int, header: Header) -> dict[str, Any]:
    width, height = header.shown
    cost = cost_of(header.width, header.height)
    return {
        "index": number,
        "format": header.kind,
        "width": header.width,
        "height": header.height,
        "seen_width": width,
        "seen_height": height,
        "reencoded": not header.fits,
        "crops": cost.crops,
        "tokens": cost.tokens,
    }
