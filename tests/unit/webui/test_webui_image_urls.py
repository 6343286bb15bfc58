"""Which addresses image URLs may lead to, and which parts of a request are looked at."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from webui.gateway import image_urls
from webui.gateway.errors import ApiError
from webui.gateway.image_urls import ImageUrls, PublicResolver, Wanted, is_public


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    """Ordinary hosts, also as IPv4 inside IPv6."""
    assert is_public(address)


@pytest.mark.fault(1, "400 that names the image; nobody private is called")
@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.9",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "168.63.129.16",
        "fec0::1",
        "2002:7f00:1::",
    ],
)
def test_addresses_of_private_networks_are_not(address: str) -> None:
    """Loopback, private, link-local, shared, reserved, multicast, however they are written."""
    assert not is_public(address)


@pytest.mark.fault(1, "a name is resolved once, and judged by its worst address")
@pytest.mark.parametrize(
    ("addresses", "allowed"),
    [(["93.184.216.34"], True), (["93.184.216.34", "10.0.0.1"], False), (["::1"], False)],
)
def test_a_name_is_as_public_as_its_worst_address(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str], allowed: bool
) -> None:
    """What the name resolves to is checked, and handed on: nobody resolves it a second time."""

    async def resolve() -> list[str]:
        loop = asyncio.get_running_loop()

        async def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 80)) for a in addresses]

        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        return [found["host"] for found in await PublicResolver().resolve("a.example", 80)]

    if allowed:
        assert asyncio.run(resolve()) == addresses
    else:
        with pytest.raises(OSError, match=r"a\.example"):
            asyncio.run(resolve())


def test_a_host_that_stays_silent_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """One deadline for all images of a request, and what was begun is ended."""
    monkeypatch.setattr(image_urls, "TIMEOUT_S", 0.3)

    async def ask() -> str:
        gone = asyncio.Event()

        async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(1024):
                pass
            gone.set()
            writer.close()

        images = ImageUrls(1, 1, frozenset({"localhost"}))
        server = await asyncio.start_server(stay_silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        wanted = [Wanted(f"http://localhost:{port}/{n}", n, 1) for n in range(9)]
        try:
            with pytest.raises(ApiError) as caught:
                await asyncio.wait_for(images.fetch(wanted), 5)
            await asyncio.wait_for(gone.wait(), 5)
        finally:
            server.close()
            await images.close()
        return caught.value.message

    assert asyncio.run(ask()) == "The images took over 0 s to fetch."
