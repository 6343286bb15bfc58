"""webui.gateway.uploads and images: files that only our own page may name."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import png

from webui.gateway.errors import ApiError
from webui.gateway.image_urls import ImageUrls
from webui.gateway.images import Images
from webui.gateway.uploads import Uploads, new_secret


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    path.write_bytes(png(40, 30, "red"))
    return path


def test_an_address_is_known_to_its_maker_only(red: Path) -> None:
    """Another gateway's, a cut one, and a plain path mean nothing."""
    secret = new_secret()
    uploads = Uploads(secret)
    address = uploads.address_of(red)
    assert uploads.path_of(address) == Uploads(secret).path_of(address) == red
    others = [
        Uploads(new_secret()).address_of(red),
        address[1:],
        address.upper(),
        str(red),
        "",
        "upload-:/x",
        "二",
    ]
    assert [uploads.path_of(other) for other in others] == [None] * len(others)


def asked(images: Images, *addresses: str) -> list[Any]:
    """The image parts as the engine would get them; then the engine has them."""
    parts = [{"type": "image_url", "image_url": {"url": address}} for address in addresses]
    document = {"messages": [{"role": "user", "content": parts}]}

    async def run() -> list[Any]:
        placed = await images.put_in(document)
        sent = [dict(part) for part in parts]
        placed.accepted()
        return sent

    return asyncio.run(run())


@pytest.fixture
def images(uploads: Uploads) -> Iterator[Images]:
    urls = object.__new__(ImageUrls)  # nothing is fetched
    images = Images(urls, 1, 2, b"secret", uploads)
    yield images
    images.close()


@pytest.fixture
def uploads() -> Uploads:
    return Uploads(new_secret())


def test_a_file_is_read_once_however_long_the_talk(
    red: Path, uploads: Uploads, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte the first time; afterwards its name is enough, and nothing is read at all."""
    address = uploads.address_of(red)
    [first] = asked(images, address)
    assert base64.b64decode(first["image_url"]["url"].split(",")[1]) == red.read_bytes()
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it was read again"))
    [second] = asked(images, address)
    assert (second["image_url"], second["uuid"]) == (None, first["uuid"])


def test_a_file_that_has_changed_is_another_picture(
    red: Path, uploads: Uploads, images: Images
) -> None:
    """Never the old picture under a new file's name."""
    [first] = asked(images, uploads.address_of(red))
    red.write_bytes(png(50, 30, "blue"))
    [second] = asked(images, uploads.address_of(red))
    assert second["uuid"] != first["uuid"]
    assert base64.b64decode(second["image_url"]["url"].split(",")[1]) == red.read_bytes()


def test_the_same_picture_in_two_files_is_one(
    red: Path, tmp_path: Path, uploads: Uploads, images: Images
) -> None:
    """By its content."""
    (tmp_path / "again.png").write_bytes(red.read_bytes())
    first, second = asked(
        images, uploads.address_of(red), uploads.address_of(tmp_path / "again.png")
    )
    assert first["uuid"] == second["uuid"]


def test_a_file_that_is_gone_is_told_by_number(red: Path, uploads: Uploads, images: Images) -> None:
    """The page deletes pictures in time; nothing of the path is told."""
    address = uploads.address_of(red)
    gone = uploads.address_of(red.with_name("gone.png"))
    with pytest.raises(ApiError) as caught:
        asked(images, address, gone)
    assert caught.value.code == "image_gone"
    assert "Image 2" in caught.value.message
    assert "gone.png" not in caught.value.message


def test_a_file_that_is_no_picture_is_told_by_name(
    red: Path, uploads: Uploads, images: Images
) -> None:
    """Admitted as every other picture is."""
    red.write_bytes(b"no picture")
    with pytest.raises(ApiError, match=r"red\.png is not a picture"):
        asked(images, uploads.address_of(red))
