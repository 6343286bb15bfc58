"""The engines' own figures, in Prometheus's format; of several engines, each with its name."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from pathlib import Path

from webui.gateway.engine_client import EngineClient, EngineGoneError, EngineRefusedError
from webui.gateway.errors import ApiError
from webui.gateway.relay import Relay

PATH = "/metrics"
PATIENCE_S = 2.0
CONNECT_S = 1.0

_SAMPLE = re.compile(rb"^([A-Za-z_:][A-Za-z0-9_:]*)(?:\{(.*)\})?( .*)$")


class EngineMetrics:
    """
    Args:
        replicas: what the router's parent writes of several engines; None where there is one.
        authorization: for engines on other machines, or empty.
    """

    def __init__(self, relay: Relay, replicas: Path | None, authorization: str = "") -> None:
        self._relay = relay
        self._replicas = replicas
        self._authorization = authorization
        self._clients: dict[str, EngineClient] = {}

    async def text(self) -> bytes | None:
        """None where no engine answers."""
        if self._replicas is None:
            try:
                return await self._relay.fetch_text(PATH)
            except ApiError:
                return None
        names = _urls_in(self._replicas)
        texts = await asyncio.gather(*map(self._fetch, names.values()))
        answers = {name: text for name, text in zip(names, texts, strict=True) if text is not None}
        return joined(answers) if answers else None

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    async def _fetch(self, url: str) -> bytes | None:
        if (client := self._clients.get(url)) is None:
            client = self._clients[url] = EngineClient(
                url,
                connect_s=CONNECT_S,
                silence_s=PATIENCE_S,
                authorization=self._authorization,
            )
        try:
            async with asyncio.timeout(PATIENCE_S), await client.request("GET", PATH) as answer:
                return await answer.read() if answer.status == 200 else None
        except (TimeoutError, EngineRefusedError, EngineGoneError):
            return None


def _urls_in(file: Path) -> dict[str, str]:
    try:
        rows = json.loads(file.read_bytes())["replicas"]
        return {str(row["name"]): str(row["url"]) for row in rows}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def joined(texts: Mapping[str, bytes]) -> bytes:
    """The figures of several engines as one text: each metric once, with ``replica`` as a label."""
    families: dict[bytes, list[bytes]] = {}
    for replica, text in texts.items():
        label = b'replica="%s"' % replica.encode()
        family: list[bytes] = families.setdefault(b"", [])
        for line in text.splitlines():
            if line.startswith((b"# HELP ", b"# TYPE ")):
                family = families.setdefault(line.split(b" ", 3)[2], [])
                if line not in family:
                    family.append(line)
            elif found := _SAMPLE.match(line):
                name, labels, value = found.groups()
                family.append(b"%s{%s}%s" % (name, b",".join(filter(None, (label, labels))), value))
    return b"".join(line + b"\n" for lines in families.values() for line in lines)
