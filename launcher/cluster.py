"""What the machines of a cluster know of each other: their key, their versions, their states."""

from __future__ import annotations

import http.client
import json
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from launcher.cluster_guard import read_key
from launcher.config import DeployConfig, NodeConfig
from launcher.errors import ConfigError, LauncherError
from launcher.layout import has_head
from launcher.node_settings import Versions, has_another_key, not_started
from launcher.programs import cluster_key_file
from launcher.terminal import say, warn

KEY_CHARACTERS = 32
OTHERS = 0o077
ASK_S = 3.0
ASKED_AT_ONCE = 32
RESTART_MARGIN_S = 30.0


class UnreachableError(LauncherError):
    """A machine does not answer; ``is_up`` where it refuses, so that it is only not started."""

    def __init__(self, message: str, *, is_up: bool) -> None:
        super().__init__(message)
        self.is_up = is_up


def ensure_key(config: DeployConfig, config_path: Path, node: str) -> None:
    """The head makes the key; the others are given it.

    Raises:
        ConfigError: it is not here, is none, or cannot be read or made.
    """
    file = cluster_key_file(config, config_path)
    try:
        _ensure_key(file, is_head=has_head(config, node))
    except OSError as error:
        raise ConfigError(f"cluster.key_file: {file}: {error.strerror}") from None


def _ensure_key(file: Path, *, is_head: bool) -> None:
    if not file.exists():
        if not is_head:
            raise ConfigError(
                f"cluster.key_file: {file} is not here; copy it from the head, where `launch up`"
                " makes it"
            )
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_urlsafe(KEY_CHARACTERS) + "\n")
        say(f"Made the cluster's key, {file}: copy it to the other machines, beside the YAML.")
    if file.stat().st_mode & OTHERS:
        raise ConfigError(f"{file} can be read by others: chmod 600 {file}")
    if len(key := read_key(file)) < KEY_CHARACTERS or len(key.split()) != 1:
        raise ConfigError(f"{file} holds no key; delete it on the head, and `launch up` makes one")


def check_others(config: DeployConfig, config_path: Path, node: str) -> None:
    """Name what is wrong with the other machines, before anything starts on this one."""
    own, others = Versions.here(config), [n for n in config.cluster.nodes if n.name != node]
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        for found in pool.map(lambda one: [*_problems(one, config, config_path, own)], others):
            for problem in found:
                warn(problem)


def _problems(
    other: NodeConfig, config: DeployConfig, config_path: Path, own: Versions
) -> Iterator[str]:
    try:
        told = Agent(other, config, config_path).state().get("versions", {})
    except UnreachableError as error:
        if not error.is_up:
            yield str(error)
        return
    except LauncherError as error:
        yield str(error)
        return
    where = f"{other.name} ({other.address})"
    for name, own_version in (("step3vl", own.step3vl), ("vllm", own.vllm)):
        if (theirs := str(told.get(name))) != own_version:
            yield f"{where} has {name} {theirs}, and this machine {own_version}: install the same"
    if told.get("settings") != own.settings:
        yield f"{where} was started with another YAML: copy this one there and `launch up`"


class Agent:
    """What answers for a machine of the cluster (:mod:`launcher.node_agent`)."""

    def __init__(self, node: NodeConfig, config: DeployConfig, config_path: Path) -> None:
        self._node = node
        self._port = config.engine.port
        self._stop_s = config.engine.stop_wait_s + RESTART_MARGIN_S
        self._key = read_key(cluster_key_file(config, config_path))

    def state(self) -> dict[str, Any]:
        """
        Raises:
            UnreachableError: it does not answer.
            LauncherError: it answers something else.
        """
        return self._ask("GET", "/state", ASK_S)

    def restart(self, program: str) -> None:
        """Stop an engine, and begin to start it.

        Raises:
            LauncherError: it could not be done.
        """
        self._ask("POST", f"/restart/{program}", self._stop_s)

    def _ask(self, method: str, path: str, limit_s: float) -> dict[str, Any]:
        name, address = self._node.name, self._node.address
        connection = http.client.HTTPConnection(address, self._port, timeout=limit_s)
        try:
            connection.request(method, path, headers={"authorization": f"Bearer {self._key}"})
            answer = connection.getresponse()
            body = answer.read()
        except ConnectionRefusedError:
            words = f"{name} ({address}) {not_started(name)}"
            raise UnreachableError(words, is_up=True) from None
        except (OSError, http.client.HTTPException) as error:
            raise UnreachableError(
                f"{name} ({address}) cannot be reached ({error}): is it running, is the address"
                f" right, and is port {self._port} open between the machines?",
                is_up=False,
            ) from None
        finally:
            connection.close()
        if answer.status == http.client.UNAUTHORIZED:
            raise LauncherError(f"{name} ({address}) {has_another_key(name)}")
        try:
            document = json.loads(body)
        except ValueError:
            document = None
        if answer.status != http.client.OK or not isinstance(document, dict):
            words = str(document.get("error")) if isinstance(document, dict) else ""
            raise LauncherError(f"{name} ({address}) answers {answer.status} {words}".rstrip())
        return document
