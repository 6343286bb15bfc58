"""The parent of vllm-router: starts it, and tells it which engines are well.

    python -m launcher.router SETTINGS

The router is started without an engine. Otherwise it would not serve before each of them has
loaded, and one that never does would keep it from starting at all. Engines that answer are added,
and those that do not, or hang, or are about to be restarted, are taken out, long before the router
itself would notice. Its circuit breaker is off: an engine that answers 500 to one damaged picture
would be shut out by it, and the next, which the picture is then sent to, as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from launcher.cluster_guard import read_key
from launcher.engine_causes import UNKNOWN, Cause
from launcher.engine_preparation import EX_SOFTWARE, say
from launcher.engine_state import (
    STOPPED,
    WAITING,
    StateFile,
    read_document,
    write_document,
)
from launcher.layout import LOOPBACK
from launcher.leftovers import end_with_parent
from launcher.members import ADVICE, Health, Member, together
from launcher.node_settings import has_another_key, not_started
from launcher.router_settings import RouterSettings

LOOK_S = 0.25
# With many engines, so many are asked in a second.
LOOKS_A_SECOND = 200
HEALTH_S = 3.0
ORDER_S = 5.0
ASK_S = 1.0
STOP_S = 3.0
# The gateway has limits of its own.
MAX_BODY_BYTES = 2_000_000_000


def command(port: int, figures_port: int) -> list[str]:
    """vllm-router as it is run: conversations stay where their pictures and prefixes are kept."""
    return [
        str(Path(sys.executable).parent / "vllm-router"),
        *("--host", LOOPBACK, "--port", str(port), "--policy", "sticky_least_loaded"),
        *("--health-check-interval-secs", "5", "--health-success-threshold", "1"),
        *("--health-check-timeout-secs", "3", "--health-failure-threshold", "2"),
        *("--worker-startup-check-interval", "1", "--disable-circuit-breaker"),
        *("--request-timeout-secs", "86400"),
        # It would send what an engine answers with 500 to the same one again and again; the gateway
        # tries again what no engine has answered.
        *("--disable-retries", "--max-payload-size", str(MAX_BODY_BYTES)),
        *("--prometheus-host", LOOPBACK, "--prometheus-port", str(figures_port)),
        *("--log-level", "warning"),
    ]


class Router:
    """One run of vllm-router."""

    def __init__(self, settings: RouterSettings, session: aiohttp.ClientSession) -> None:
        self._settings = settings
        self._session = session
        self._url = f"http://{LOOPBACK}:{settings.port}"
        self._members = [Member(replica) for replica in settings.engines]
        self._state = StateFile(Path(settings.state))
        self._said: object = None
        self._urls = {member.replica.url for member in self._members}
        self._documents: dict[str, Mapping[str, object]] = defaultdict(dict)
        """By title, what is known of engines on other machines."""
        key = read_key(Path(settings.key_file)) if settings.key_file else ""
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._look_s = max(LOOK_S, len(self._members) / LOOKS_A_SECOND)

    async def run(self) -> int:
        """Until it ends or is told to; the exit code for supervisord."""
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        child = await asyncio.create_subprocess_exec(
            *command(self._settings.port, self._settings.figures_port),
            stdin=asyncio.subprocess.DEVNULL,
            preexec_fn=lambda: end_with_parent(signal.SIGKILL),
        )
        ended, stopped = asyncio.create_task(child.wait()), asyncio.create_task(stop.wait())
        following = [asyncio.create_task(self._follow(member)) for member in self._members]
        following.append(asyncio.create_task(self._keep_strangers_out()))
        for node, url in self._settings.agents.items():
            following.append(asyncio.create_task(self._ask_about(node, url)))
        await asyncio.wait([ended, stopped, *following], return_when=asyncio.FIRST_COMPLETED)
        for task in (*following, stopped):
            task.cancel()
        results = await asyncio.gather(*following, return_exceptions=True)
        if not ended.done():
            child.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(ended), STOP_S)
        if not ended.done():
            child.kill()
            await ended
        for result in results:
            if isinstance(result, Exception):
                raise result
        if stop.is_set():
            self._state.write(STOPPED, "stopped")
            return 0
        words = f"the router ended by itself (exit {child.returncode}); its log says why"
        self._state.fail(Cause(UNKNOWN, words))
        say(words)
        return EX_SOFTWARE

    async def _follow(self, member: Member) -> None:
        while True:
            member.document = self._document(member)
            member.heard(await self._health(member))
            draining = self._draining()
            if member.is_wanted(draining) != member.is_routed:
                await self._change(member)
            self._publish(draining)
            await asyncio.sleep(self._look_s)

    async def _change(self, member: Member) -> None:
        """Have it get requests, or no more."""
        order = "remove_worker" if member.is_routed else "add_worker"
        if await self._order(order, member.replica.url):
            member.is_routed = not member.is_routed
            words = "gets requests" if member.is_routed else "gets no more requests"
            say(f"{member.replica.title} {words}")

    async def _ask_about(self, node: str, url: str) -> None:
        """Ask another machine how its engines do, again and again."""
        titles = [m.replica.title for m in self._members if m.replica.node == node]
        while True:
            found = await self._told_by(node, url)
            for title in titles:
                name = title.partition("/")[2]
                self._documents[title] = found.get(name) or found.get("") or {}
            await asyncio.sleep(ASK_S)

    async def _told_by(self, node: str, url: str) -> dict[str, Mapping[str, object]]:
        """By program; of one that says nothing, under the empty name, why."""
        limit = aiohttp.ClientTimeout(total=HEALTH_S)
        try:
            async with self._session.get(
                f"{url}/state", headers=self._headers, timeout=limit
            ) as answer:
                if answer.status == 200:
                    engines: dict[str, Mapping[str, object]] = (await answer.json())["engines"]
                    return engines
                words = has_another_key(node)
        except aiohttp.ClientConnectorError as error:
            words = "cannot be reached"
            if isinstance(error.os_error, ConnectionRefusedError):
                words = not_started(node)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, LookupError, TypeError):
            words = "does not answer"
        return {"": {"phase": WAITING, "message": words, ADVICE: True}}

    async def _keep_strangers_out(self) -> None:
        """Whoever is on this machine can give the router orders, and a page in its browser too:
        another engine would be sent questions, pictures, and the cluster's key."""
        while True:
            for url in await self._listed() - self._urls:
                say(f"{url} is no engine of ours; it is taken out")
                await self._order("remove_worker", url)
            await asyncio.sleep(LOOK_S)

    async def _listed(self) -> set[str]:
        """The engines that the router has."""
        limit = aiohttp.ClientTimeout(total=ORDER_S)
        try:
            async with self._session.get(f"{self._url}/list_workers", timeout=limit) as answer:
                return {str(url) for url in (await answer.json())["urls"]}
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError, LookupError, TypeError):
            return set()

    def _document(self, member: Member) -> Mapping[str, object]:
        file = self._settings.states.get(member.replica.title)
        return read_document(Path(file)) if file else self._documents[member.replica.title]

    def _draining(self) -> str:
        """The engine that is to get nothing new, for as long as whoever wants it so is there."""
        document = read_document(Path(self._settings.draining))
        pid = document.get("pid")
        if not isinstance(pid, int) or not Path(f"/proc/{pid}").exists():
            return ""
        return str(document.get("engine"))

    async def _health(self, member: Member) -> Health:
        limit = aiohttp.ClientTimeout(total=HEALTH_S)
        try:
            # With the key, where there is one: an engine that has another is not ours to ask.
            async with self._session.get(
                f"{member.replica.url}/health", headers=self._headers, timeout=limit
            ) as answer:
                return answer.status == 200
        except TimeoutError:
            return None
        except (aiohttp.ClientError, OSError):
            return False

    async def _order(self, order: str, engine: str) -> bool:
        """Whether the router has it so now; while it starts, it has not."""
        limit = aiohttp.ClientTimeout(total=ORDER_S)
        url, query = f"{self._url}/{order}", {"url": engine}
        try:
            async with self._session.post(url, params=query, timeout=limit) as answer:
                text = await answer.text()
        except (TimeoutError, aiohttp.ClientError, OSError):
            return False
        return answer.status == 200 or "already exists" in text or "not found" in text.lower()

    def _publish(self, draining: str) -> None:
        """Write what has changed."""
        rows = [member.as_row() for member in self._members]
        phase, message, more = together(self._members)
        if (found := (rows, phase, message, more, draining)) == self._said:
            return
        self._said = found
        self._state.write(phase, message, **more)
        write_document(Path(self._settings.replicas), {"replicas": rows, "draining": draining})


async def _run(settings: RouterSettings) -> int:
    # Not a connection kept for each engine: one that was kept says nothing about a new one.
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        return await Router(settings, session).run()


def main(argv: list[str]) -> int:
    return asyncio.run(_run(RouterSettings.from_argument(argv[0])))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
