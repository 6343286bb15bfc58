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
        """End a program as a user would, and have it come back.

        supervisord starts again what ends without its own order. (An order to stop, and one to
        start, would come from a process that may itself have been stopped between them.)

        Raises:
            ControlError: supervisord does not answer, or knows no such program.
        """
        state = self._ask("getProcessInfo", name)["state"]
        if state in {ProcessStates.RUNNING, ProcessStates.STARTING}:
            self._ask("signalProcess", name, "TERM")
        else:
            self._ask("startProcess", name, False)

    def log(self, name: str) -> str:
        """The end of a program's log, whole lines.

        Raises:
            ControlError: as :meth:`restart`.
        """
        # Not through supervisord: what programs print need not be XML.
        path = Path(self._ask("getProcessInfo", name)["stdout_logfile"])
        try:
            with path.open("rb") as file:
                begin = max(0, file.seek(0, os.SEEK_END) - LOG_BYTES)
                file.seek(begin)
                text = file.read(LOG_BYTES).decode(errors="replace")
        except OSError as error:
            raise ControlError(f"{path}: {error.strerror}") from None
        text = _COLOURS.sub("", text)
        return text.partition("\n")[2] if begin else text

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
