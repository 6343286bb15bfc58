"""The images of a request: found, fetched or decoded, admitted, and made fit for the engine.

An image may be an http(s) address, a ``data:`` URL or plain base64. What the engine reads safely
goes on byte for byte.
"""

from __future__ import annotations

import asyncio
import binascii
import io
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import orjson
from yarl import URL

from webui.gateway.documents import parsed
from webui.gateway.errors import ApiError, refused
from webui.gateway.image_urls import ImageUrls, Wanted, host_of
from webui.gateway.relay import MEGABYTE
from webui.pictures import (
    Header,
    PictureError,
    as_data_url,
    cost_of,
    normalised,
    read_header,
)

MAX_IMAGES = 64
# Decoding a picture of 50 million pixels takes about a gigabyte.
DECODERS = 2
# Kinds of content parts that hold text; anything else but an image is refused.
TEXT_PARTS = {"text", "input_text", "output_text", "refusal", "thinking"}
IMAGE_PARTS = {"image_url", "input_image"}
# In a part of text these would be pictures, sounds or cache entries to the engine all the same.
MEDIA_KEYS = ("image", "audio", "video", "embeds", "uuid")
MAX_TYPE_LENGTH = 200
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


@dataclass
class _Found:
    """An image part: its number in the request, from 1, and what it names."""

    number: int
    part: dict[str, Any]
    source: str


class Images:
    """Makes a request's images ready.

    Args:
        urls: fetches what is named by address.
        max_mb: of one image, in MB of a million bytes.
        max_sum_mb: of all images of a request, as they stand in its body.
    """

    def __init__(self, urls: ImageUrls, max_mb: int, max_sum_mb: int) -> None:
        self._urls = urls
        self._max_mb = max_mb
        self._max_sum_mb = max_sum_mb
        # Of their own: threads go on when a client has left, and must not be more than these.
        self._decoders = ThreadPoolExecutor(DECODERS, "decoder")

    def close(self) -> None:
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def put_in(self, document: dict[str, Any]) -> bool:
        """Give a chat request its images as the engine gets them; whether anything had to change.

        Raises:
            ApiError: an image cannot be used; says which and why.
        """
        found = [*_image_parts(document)]
        uses = Counter(image.source for image in found)
        urls, left = {}, self._max_sum_mb * MEGABYTE
        for source, loaded in (await self._load([image.source for image in found])).items():
            urls[source] = loaded.url if loaded.header.fits else await self._normalised(loaded)
            left -= len(urls[source]) * uses[source]
            if left < 0:
                message = f"The images are together larger than {self._max_sum_mb} MB."
                raise refused(message, "image_too_large", 413)
        changes = [_put(image.part, urls[image.source]) for image in found]
        return any(changes)

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
        loaded = await self._load(sources)
        images = [_described(n, loaded[s].header) for n, s in enumerate(sources, start=1)]
        total = sum(image["tokens"] for image in images)
        return orjson.dumps({"object": "list", "images": images, "tokens": total})

    async def _load(self, sources: list[str]) -> dict[str, _Loaded]:
        """Every source once: fetched or decoded, and admitted by its header."""
        if len(sources) > MAX_IMAGES:
            raise refused(f"A request may have at most {MAX_IMAGES} images.", "too_many_images")
        uses = Counter(sources)
        first = {source: sources.index(source) + 1 for source in uses}
        remote = [Wanted(s, first[s], uses[s]) for s in uses if _is_web_address(s)]
        fetched = await self._urls.fetch(remote) if remote else {}
        return {
            source: await asyncio.to_thread(
                _loaded, source, fetched.get(source), f"Image {number}", self._max_mb
            )
            for source, number in first.items()
        }

    async def _normalised(self, loaded: _Loaded) -> str:
        loop = asyncio.get_running_loop()
        try:
            kind, data = await loop.run_in_executor(
                self._decoders, normalised, loaded.data, loaded.header, loaded.name
            )
        except PictureError as error:
            raise refused(str(error), error.code) from None
        return as_data_url(kind, data)


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


def _image_parts(document: dict[str, Any]) -> Iterator[_Found]:
    """Every image part of a chat request, in order.

    Raises:
        ApiError: a part is of another kind than text and image.
    """
    messages = document.get("messages")
    number = 0
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, dict):
            raise refused("`content` must be a text or a list of parts.", "unsupported_content")
        for part in content if isinstance(content, list) else []:
            if not isinstance(part, dict):
                continue  # the engine takes plain strings as text, and refuses the rest
            kind = part.get("type")
            if kind is None or (isinstance(kind, str) and kind in IMAGE_PARTS):
                number += 1
                yield _Found(number, part, _source_of(part, number))
            elif not _is_text(part):
                shown = str(kind)[:60]
                raise refused(f"Content of type {shown!r} is not taken.", "unsupported_content")


def _is_text(part: dict[str, Any]) -> bool:
    """Of a kind that holds text, and without a field that makes more of it."""
    kind = part.get("type")
    known = isinstance(kind, str) and kind in TEXT_PARTS
    return known and not any(word in key for key in part for word in MEDIA_KEYS)


def _source_of(part: dict[str, Any], number: int) -> str:
    holder = part.get("image_url")
    url = holder.get("url") if isinstance(holder, dict) else holder
    if not isinstance(url, str) or not url.strip():
        raise refused(f"Image {number}: it has no URL.", "media_url_refused")
    return url


def _put(part: dict[str, Any], url: str) -> bool:
    """Give the part this URL and nothing else; False where that is what it had.

    An id of the client's (``uuid``) would name a picture in the engine's cache, whoever put it
    there.
    """
    holder, detail = part.get("image_url"), {}
    if isinstance(holder, dict):
        extra = set(part) - {"type", "image_url"} | set(holder) - {"url", "detail"}
        if not extra and part.get("type") == "image_url" and holder["url"] == url:
            return False
        detail = {"detail": holder["detail"]} if "detail" in holder else {}
    part.clear()
    part.update(type="image_url", image_url={"url": url, **detail})
    return True


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
