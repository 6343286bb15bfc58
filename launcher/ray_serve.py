"""Ray Serve in vLLM's place: starts a Ray or joins one, serves until SIGTERM, takes all away again.

    python -P -m launcher.ray_serve SETTINGS | --undo

A Ray of its own ends with this process, and what is left of it with the parent
(:mod:`launcher.engine`), whose descendants all of it are. A Ray that was there before is only asked
to stop the application.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from launcher.engine_preparation import say
from launcher.leftovers import descendants, has_ended, parent_of
from launcher.ray_application import NAME, variables_of_replicas

# Where `ray start` leaves the address of the cluster that it began, as Ray's own tools expect it.
CURRENT_CLUSTER = Path("/tmp/ray/ray_current_cluster")  # noqa: S108  (Ray's choice)
CONNECT_S = 2.0
LOOK_S = 1.0
UNDO = "--undo"
# For requests on their way between Ray's processes; used as they come, not taken at once.
OBJECT_STORE_BYTES = 500_000_000


@dataclass(frozen=True)
class RaySettings:
    host: str
    port: int
    folder: str
    """For a Ray of its own: logs and sockets."""
    replicas: int
    arguments: dict[str, Any]
    """Of the application (:func:`launcher.ray_application.application_arguments`)."""
    variables: list[str]
    """Names of those in this process's environment that are vLLM's."""

    def as_argument(self) -> str:
        return json.dumps(asdict(self))


def running_cluster() -> str | None:
    """The address of a Ray to join, host:port: the one that ``RAY_ADDRESS`` names, or one that
    `ray start` has begun on this machine and that answers. ``local``, as Ray has it, joins none.

    Raises:
        SystemExit: the one that is named does not answer; beside it, none is wanted.
    """
    given = os.environ.get("RAY_ADDRESS")
    if given == "local":
        return None
    if given:
        if not _answers(given):
            raise SystemExit(f"the Ray of RAY_ADDRESS, {given}, does not answer")
        return given
    try:
        address = CURRENT_CLUSTER.read_text().strip()
    except OSError:
        return None
    return address if _answers(address) else None


def _answers(address: str) -> bool:
    """Otherwise Ray would try for a minute or more."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, ValueError):
        return False
    return True


def own_environment(settings: RaySettings) -> dict[str, str]:
    """Of a Ray of its own, all of its processes."""
    cores = len(os.sched_getaffinity(0)) // settings.replicas
    return {
        # Its machine is then 127.0.0.1, and it listens there; elsewhere it would take the address
        # of a network, and listen on all. Ray has this switch for systems with firewalls that ask.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Other users of this machine still reach it; they have no token.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # When vLLM's core dies, Ray ends its workers too, before a replica takes its place.
        "RAY_kill_child_processes_on_worker_exit_with_raylet_subreaper": "true",
        # Otherwise a replica that was given one core computes with one thread.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores))),
    }


def _stop(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(0)


@contextlib.contextmanager
def connected(settings: RaySettings) -> Iterator[bool]:
    """To a Ray, until the end; whether it is somebody else's."""
    address = running_cluster()
    if address is None:
        os.environ.update(own_environment(settings))
    import ray  # which reads those variables

    if address is not None:
        say(f"joining the Ray at {address}")
        ray.init(address=address)
    else:
        say("starting a Ray of its own")
        # Of earlier runs; the engine's log has all that matters of them.
        shutil.rmtree(settings.folder, ignore_errors=True)
        ray.init(
            address="local",
            # A core for each replica, whatever there is; nothing else asks for one.
            num_cpus=settings.replicas,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _node_ip_address=settings.host,
            _temp_dir=settings.folder,
        )
    signal.signal(signal.SIGTERM, _stop)  # Ray has put a handler of its own there
    try:
        yield address is not None
    finally:
        ray.shutdown()


def children() -> list[int]:
    """What a Ray of its own consists of: the raylet for one. Of somebody else's, nothing."""
    own = os.getpid()
    return [pid for pid in descendants(own) if parent_of(pid) == own]


def wait_for_an_end(pids: list[int]) -> None:
    """Of one of them. Ray collects them itself, and goes on without."""
    while not any(map(has_ended, pids)):
        time.sleep(LOOK_S)


def arguments_of(settings: RaySettings, *, joined: bool) -> dict[str, Any]:
    """Of the application; the processes of a Ray of its own have its variables by themselves."""
    if not joined:
        return settings.arguments
    found = {name: os.environ[name] for name in settings.variables if name in os.environ}
    variables = {"env_vars": variables_of_replicas(found)}
    llms = [llm | {"runtime_env": variables} for llm in settings.arguments["llm_configs"]]
    return settings.arguments | {"llm_configs": llms}


def serve_until_stopped(settings: RaySettings, *, joined: bool) -> NoReturn:
    from ray import serve

    from launcher.ray_ingress import application

    if serve.status().proxies:
        raise SystemExit(
            "Serve runs in this Ray already, with an address of its own: `serve shutdown` there,"
            " or join another Ray"
        )
    try:
        options = {"host": settings.host, "port": settings.port}
        serve.start(proxy_location="HeadOnly", http_options=options)
        # Until it answers; an error where it cannot.
        quiet = {"enable_access_log": False}  # it is asked for its health every few seconds
        app = application(arguments_of(settings, joined=joined))
        serve.run(app, name=NAME, route_prefix="/", logging_config=quiet)
        wait_for_an_end(children())
        say("a process of Ray's has ended")
        os._exit(1)  # Ray would wait for it before anything else ends; the parent does not
    finally:
        serve.shutdown()


def undo() -> None:
    """What a process that was killed could not: stop the application in a Ray that lives on."""
    if (address := running_cluster()) is None:
        return
    import ray
    from ray import serve

    ray.init(address=address)
    if NAME in serve.status().applications:
        serve.shutdown()


def main(argv: list[str]) -> int:
    signal.signal(signal.SIGTERM, _stop)
    if argv == [UNDO]:
        undo()
        return 0
    settings = RaySettings(**json.loads(argv[0]))
    with connected(settings) as joined:
        serve_until_stopped(settings, joined=joined)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
