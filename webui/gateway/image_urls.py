"""Images by web address: fetched here, by rules.

The engine fetches nothing. A caller could otherwise have this machine read what only it can reach:
a cloud's metadata address, a router, a database. So an address must be public, and the address that
was checked is the one that is connected to, at every redirect anew.
"""

from __future__ import annotations

import asyncio
import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from webui.gateway.errors import refused
from webui.gateway.relay import MEGABYTE

MAX_REDIRECTS = 3
CONNECTIONS = 64
CONNECTIONS_OF_A_REQUEST = 4
TIMEOUT_S = 20.0
CHUNK = 65536
# IPv4 addresses inside IPv6 ones: translated (RFC 6052), and 6to4 (RFC 3056).
_NAT64 = ip_network("64:ff9b::/96")
# Not private by the register, but no part of the web: Azure's wire server, site-local addresses
# (RFC 3879), documentation (RFC 9637).
_OTHERS = [ip_network(n) for n in ("168.63.129.16/32", "fec0::/10", "3fff::/20")]


class _NotPublicError(OSError):
    """A name that leads into a private network."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the internet, also where it wraps an IPv4 address.

    Raises:
        ValueError: it is no IP address.
    """
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        if ip in _NAT64:
            ip = IPv4Address(int(ip) & 0xFFFFFFFF)
        else:
            ip = ip.ipv4_mapped or ip.sixtofour or ip
    if any(ip in network for network in _OTHERS):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


class PublicResolver(AbstractResolver):
    """Names to addresses; refuses a name if one of its addresses is not public."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        results = []
        for kind, _, protocol, _, address in found:
            ip = str(address[0])
            if not is_public(ip):
                raise _NotPublicError(host)
            results.append(
                ResolveResult(
                    hostname=host,
                    host=ip,
                    port=port,
                    family=kind,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST,
                )
            )
        return results

    async def close(self) -> None:
        """Nothing is held."""


@dataclass
class _Request:
    """What the images of one request share: connections, and a limit on their sum.

    ``left`` counts bytes as they will stand in the body, in base64 and as often as they are used.
    """

    gate: asyncio.Semaphore
    left: float
    limit_mb: int

    def take(self, size: int, uses: int) -> None:
        self.left -= size * uses * 4 / 3
        if self.left < 0:
            raise refused(f"The images are together larger than {self.limit_mb} MB.")


@dataclass(frozen=True)
class Wanted:
    """An image: its URL, its number in the request (from 1), how often it is used."""

    url: str
    number: int
    uses: int


class ImageUrls:
    """Fetches images.

    Args:
        max_mb: of one image, in MB of a million bytes.
        max_sum_mb: of all images of a request, as they stand in its body.
        trusted: hosts (``name`` or ``name:port``) that may be private.
    """

    def __init__(self, max_mb: int, max_sum_mb: int, trusted: frozenset[str]) -> None:
        self._max_mb = max_mb
        self._max_sum_mb = max_sum_mb
        self._trusted = frozenset(host.lower() for host in trusted)
        self._public = _session(PublicResolver())
        self._private = _session(None)

    async def close(self) -> None:
        await self._public.close()
        await self._private.close()

    async def fetch(self, images: list[Wanted]) -> dict[str, bytes]:
        """The bytes behind each URL; the first failure ends the others.

        Raises:
            ApiError: an image cannot be had; says which and why.
        """
        gate = asyncio.Semaphore(CONNECTIONS_OF_A_REQUEST)
        request = _Request(gate, self._max_sum_mb * MEGABYTE, self._max_sum_mb)
        try:
            async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
                tasks = {
                    image.url: group.create_task(self._bytes_of(image, request)) for image in images
                }
        except TimeoutError:
            raise refused(f"The images took over {TIMEOUT_S:.0f} s to fetch.") from None
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return {url: task.result() for url, task in tasks.items()}

    async def _bytes_of(self, image: Wanted, request: _Request) -> bytes:
        where = f"Image {image.number}"
        try:
            url = _as_written(image.url.strip())
        except ValueError:
            raise refused(f"{where}: its URL cannot be read.", "media_url_refused") from None
        async with request.gate:
            for _ in range(MAX_REDIRECTS + 1):
                try:
                    answer = await self._get(url, where, image, request)
                except (OSError, aiohttp.ClientError, ValueError) as error:
                    reason, code = _reason(error)
                    raise refused(f"{where}: {host_of(url)} {reason}.", code) from None
                if isinstance(answer, bytes):
                    return answer
                url = answer
        raise refused(f"{where}: {host_of(url)} redirects too often.")

    async def _get(self, url: URL, where: str, image: Wanted, request: _Request) -> bytes | URL:
        """What is there, or where it is instead."""
        async with self._session_for(url).get(url, allow_redirects=False) as response:
            if response.status in {301, 302, 303, 307, 308}:
                return url.join(_as_written(response.headers.get("location", "")))
            if response.status != 200:
                raise refused(f"{where}: {host_of(url)} answered {response.status}.")
            parts, size = [], 0
            async for part in response.content.iter_chunked(CHUNK):
                size += len(part)
                if size > self._max_mb * MEGABYTE:
                    raise refused(f"{where}: larger than {self._max_mb} MB.")
                request.take(len(part), image.uses)
                parts.append(part)
            return b"".join(parts)

    def _session_for(self, url: URL) -> aiohttp.ClientSession:
        """Names are checked where they are resolved, addresses here.

        Raises:
            OSError: the URL leads elsewhere than to the web.
        """
        host = url.host
        if url.scheme not in {"http", "https"} or not host:
            raise _NotPublicError(host)
        if {host, f"{host}:{url.port}"} & self._trusted:
            return self._private
        try:
            public = is_public(host)
        except ValueError:
            # 127.1 or 2130706433: the system would make an address of it, behind our back.
            public = not host.replace(".", "").isdigit()
        if not public:
            raise _NotPublicError(host)
        return self._public


def _as_written(text: str) -> URL:
    """An URL whose path and query are sent as they are: signatures may be over the very bytes.

    Raises:
        ValueError: it cannot be read, or two ways of reading it find different hosts.
    """
    url = URL(text)
    if re.fullmatch(r"[!-~]+", text) and url.is_absolute():
        exact = URL(text, encoded=True)
        if (exact.scheme, exact.host, exact.port) != (url.scheme, url.host, url.port):
            raise ValueError(text)
        return exact
    return url


def _session(resolver: AbstractResolver | None) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, limit=CONNECTIONS),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"user-agent": "step3vl", "accept": "image/*"},
        trust_env=False,
    )


def host_of(url: URL) -> str:
    """For a message: as much of the name as can be shown."""
    host = (url.host or "its host")[:200]
    return host.encode("ascii", "replace").decode()


def _reason(error: Exception) -> tuple[str, str]:
    """Why a fetch failed, and the code for it. Names in a private network and names that do not
    exist sound alike, so that nobody can list ours."""
    if isinstance(error, aiohttp.ClientSSLError):
        return "has no valid certificate", "image_not_available"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (_NotPublicError, aiohttp.ClientConnectorDNSError)):
            return "is not an address on the public web", "media_url_refused"
        cause = getattr(cause, "os_error", None) or cause.__cause__
    if isinstance(error, aiohttp.InvalidURL | UnicodeError):
        return "is not a name that can be used", "media_url_refused"
    return "cannot be reached", "image_not_available"
