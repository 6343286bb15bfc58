"""The page behind a reverse proxy that has it under a prefix, as rented boxes do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from deployments import Engine, answers, running_webui
from pages import SECONDS, open_page, send
from playwright.sync_api import Browser, Page, expect
from support import free_port, png, wait_for

pytestmark = pytest.mark.browser

PREFIX = "/box/7860"
HOP_BY_HOP = {"transfer-encoding", "connection", "content-length", "keep-alive"}


@contextmanager
def proxy(upstream: str, *, strips: bool) -> Iterator[str]:
    """Of one address, with the prefix or without it; what comes is passed on piece by piece."""
    port, ended = free_port(), threading.Event()

    async def relay(request: web.Request) -> web.StreamResponse:
        path = request.raw_path.removeprefix(PREFIX) if strips else request.raw_path
        async with (
            aiohttp.ClientSession(auto_decompress=False) as client,
            client.request(
                request.method,
                f"{upstream}{path}",
                headers=request.headers,
                data=await request.read() or None,
                allow_redirects=False,
            ) as found,
        ):
            kept = {k: v for k, v in found.headers.items() if k.lower() not in HOP_BY_HOP}
            response = web.StreamResponse(status=found.status, headers=kept)
            await response.prepare(request)
            async for piece in found.content.iter_any():
                await response.write(piece)
            return response

    async def serve() -> None:
        application = web.Application(client_max_size=10_000_000)
        application.router.add_route("*", PREFIX + "{tail:.*}", relay)
        runner = web.AppRunner(application, shutdown_timeout=1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        await asyncio.to_thread(ended.wait)
        await runner.cleanup()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}{PREFIX}"
    finally:
        ended.set()
        thread.join(30)


def use(page: Page, url: str, picture: Path) -> None:
    """Pictures, answers, the code's address, and a reload."""
    open_page(page, f"{url}/")
    page.set_input_files("#pictures input[type=file]", picture)
    expect(page.locator("#pictures img").first).to_be_visible(timeout=10 * SECONDS)
    send(page, "what is it")
    talk = page.locator("#talk")
    expect(talk).to_contain_text("1 images, last: what is it.", timeout=20 * SECONDS)
    expect(talk.locator("img").first).to_be_visible(timeout=10 * SECONDS)
    page.locator("#code button").first.click()
    expect(page.locator("#code")).to_contain_text(f"{url}/api/v1", timeout=10 * SECONDS)
    assert answers(f"{url}/api/v1/models")
    page.reload()
    expect(talk).to_contain_text("1 images, last: what is it.", timeout=20 * SECONDS)


def test_the_page_lives_under_a_prefix(
    browser: Browser, engine_process: Engine, tmp_path: Path
) -> None:
    """Whether the proxy takes the prefix away or not; nothing is asked for elsewhere."""
    engine_process.script()
    red = tmp_path / "red.png"
    red.write_bytes(png(46, 31, "red"))
    with running_webui(tmp_path, engine_process, WEBUI_ROOT_PATH=PREFIX) as webui:
        wait_for(lambda: answers(f"{webui.url}/config"), 120, "the page is there")
        for strips in (True, False):
            context = browser.new_context()
            page, asked = context.new_page(), list[str]()
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            try:
                with proxy(webui.url, strips=strips) as url:
                    use(page, url, red)
                    context.close()
            finally:
                context.close()
            assert not [a for a in asked if a.startswith("http") and not a.startswith(url)]
