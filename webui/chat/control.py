"""The supervisord that runs this process, for whoever may restart things: its local socket only."""

from __future__ import annotations

import http.client
import os
import re
import xmlrpc.client
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from supervisor.states import ProcessStates
from supervisor.xmlrpc import SupervisorTransport

ENGINE = "vllm"
LOG_BYTES = 20_000

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class ControlError(Exception):
    """supervisord does not answer, or refuses."""


class Control:
    """Blocks while it asks.

    Args:
        environ: where supervisord told this process, when it started it, where it listens.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._url = environ.get("SUPERVISOR_SERVER_URL", "")
        self.page = environ.get("SUPERVISOR_PROCESS_NAME", "webui")

    @property
    def is_there(self) -> bool:
        """Whether there is one that can be asked."""
        return self._url.startswith("unix://")

    def restart(self, name: str) -> None:
        """End a program as a user would, and have it come back; of several engines, each.

        supervisord starts again what ends without its own order. (An order to stop, and one to
        start, would come from a process that may itself have been stopped between them.)

        Raises:
            ControlError: supervisord does not answer, or knows no such program.
        """
        for program in self._named(name):
            full_name = f"{program['group']}:{program['name']}"
            if program["state"] in {ProcessStates.RUNNING, ProcessStates.STARTING}:
                self._ask("signalProcess", full_name, "TERM")
            else:
                self._ask("startProcess", full_name, False)

    def log(self, name: str) -> str:
        """The end of a program's log, whole lines; of several engines, of each.

        Raises:
            ControlError: as :meth:`restart`.
        """
        programs = self._named(name)
        texts = [_end_of(Path(program["stdout_logfile"])) for program in programs]
        if len(texts) == 1:
            return texts[0]
        names = [program["name"] for program in programs]
        return "\n".join(f"== {n} ==\n{text}" for n, text in zip(names, texts, strict=True))

    def _named(self, name: str) -> list[dict[str, Any]]:
        """A program, or those of a group."""
        programs = self._ask("getAllProcessInfo")
        if found := [one for one in programs if name in {one["name"], one["group"]}]:
            return found
        raise ControlError(f"no program {name}")

    def _ask(self, what: str, *values: Any) -> Any:
        if not self.is_there:
            raise ControlError("no supervisord has started this")
        transport = SupervisorTransport(None, None, self._url)
        server = cast("Any", xmlrpc.client.ServerProxy("http://127.0.0.1", transport)).supervisor
        try:
            return getattr(server, what)(*values)
        except xmlrpc.client.Fault as fault:
            raise ControlError(fault.faultString) from None
        except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
            raise ControlError(type(error).__name__) from None


def _end_of(path: Path) -> str:
    # Not through supervisord: what programs print need not be XML.
    try:
        with path.open("rb") as file:
            begin = max(0, file.seek(0, os.SEEK_END) - LOG_BYTES)
            file.seek(begin)
            text = file.read(LOG_BYTES).decode(errors="replace")
    except OSError as error:
        raise ControlError(f"{path}: {error.strerror}") from None
    text = _COLOURS.sub("", text)
    return text.partition("\n")[2] if begin else text
