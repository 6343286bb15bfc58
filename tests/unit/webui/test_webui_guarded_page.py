"""Uploads of the page have a limit, all visitors together."""

from __future__ import annotations

import asyncio
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
