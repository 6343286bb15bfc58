"""Uploads of the page have a limit, all visitors together."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from webui import guarded_page
from webui.gateway.keys import Keys
from webui.guarded_page import UPLOAD_PATH, GuardedPage


def status_of(page: GuardedPage, path: str) -> int:
    """Of one request."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "headers": [], "client": ("127.0.0.1", 1)}
    asyncio.run(page(scope, None, send))  # type: ignore[arg-type]
    status: int = sent[0]["status"]
    return status


async def inner(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})


@pytest.mark.fault(24, "507 when the uploads of all visitors reach 2 GB")
@pytest.mark.parametrize(("limit", "status"), [(10, 507), (1000, 200)])
def test_uploads_end_at_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, status: int
) -> None:
    """What is there already counts, in all folders; only uploads are refused."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "picture.png").write_bytes(bytes(100))
    monkeypatch.setattr(guarded_page, "MAX_UPLOADS_BYTES", limit)
    page = GuardedPage(inner, Keys(None, required=False), tmp_path)
    assert status_of(page, UPLOAD_PATH) == status
    assert status_of(page, "/") == 200


@pytest.mark.fault(24, "what broken uploads left is deleted")
def test_what_broken_uploads_left_is_deleted(tmp_path: Path) -> None:
    """After a while, and only that: whole uploads lie in folders of their own."""
    (tmp_path / "a").mkdir()
    names = ["tmpold", "tmpnew", "a/picture.png"]
    for name in names:
        (tmp_path / name).write_bytes(bytes(100))
        if name != "tmpnew":
            os.utime(tmp_path / name, (0, 0))
    page = GuardedPage(inner, Keys(None, required=False), tmp_path)
    assert status_of(page, UPLOAD_PATH) == 200
    assert [name for name in names if (tmp_path / name).exists()] == names[1:]


@pytest.mark.fault(24, "507 when the uploads of all visitors reach 2 GB")
def test_claims_take_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that come at once, what has come counts; a refused one leaves nothing behind."""
    monkeypatch.setattr(guarded_page, "MAX_UPLOADS_BYTES", 1000)
    kinds: list[str] = []

    async def taking(_scope: Any, receive: Any, send: Any) -> None:
        kinds.append((await receive())["type"])
        if len(kinds) < 3:
            await asyncio.gather(upload(600), upload(300))
        await send({"type": "http.response.start", "status": 413, "headers": []})

    page = GuardedPage(taking, Keys(None, required=False), tmp_path)

    async def upload(size: int) -> None:
        headers = [(b"content-length", str(size).encode())]
        scope = {"type": "http", "path": UPLOAD_PATH, "headers": headers, "client": ("::1", 1)}

        async def receive() -> Any:
            return {"type": "http.request", "body": bytes(size)}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] != 413:
                kinds.append(str(message["status"]))

        await page(scope, receive, send)

    asyncio.run(upload(700))
    assert kinds == ["http.request", "507", "http.request"]
    kinds[:] = ["", "", ""]
    asyncio.run(upload(1000))
    assert kinds[3:] == ["http.request"]
