"""Where the images of a chat request stand, in whichever of its forms, and how the engine wants
them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from webui.gateway.errors import refused

# Kinds of content parts that hold text; anything else but an image is refused.
TEXT_PARTS = {"text", "input_text", "output_text", "refusal", "thinking"}
IMAGE_PARTS = {"image_url", "input_image"}
# In a part of text these would be pictures, sounds or cache entries to the engine all the same.
MEDIA_KEYS = ("image", "audio", "video", "embeds", "uuid")


@dataclass
class ImagePart:
    """An image of a request: its number, from 1, and the address, ``data:`` URL or base64 that
    names it. ``part`` is where it stands."""

    number: int
    part: dict[str, Any]
    source: str

    def put(self, url: str | None, name: str) -> None:
        """Give the part this URL (None: the engine has the image already) and name, and nothing
        else of what it had.

        An id of the client's (``uuid``) would name a picture in the engine's cache, whoever put it
        there.
        """
        self.part.clear()
        self.part.update(type="image_url", image_url=url and {"url": url}, uuid=name)


def image_parts(document: dict[str, Any]) -> Iterator[ImagePart]:
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
                yield ImagePart(number, part, _source_of(part, number))
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
