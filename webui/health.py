"""Two questions that supervisors and load balancers ask: are you alive, do you serve?"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse

from webui.engine_status import EngineProbe


class Health:
    """``/livez`` speaks for this process alone, ``/readyz`` for the whole service."""

    def __init__(self, probe: EngineProbe) -> None:
        self._probe = probe

    async def live(self, _request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def ready(self, _request: Request) -> JSONResponse:
        status = await self._probe.status()
        if status.ready:
            return JSONResponse({"status": "ready"})
        document = {"status": status.phase, "message": status.message, "seconds": status.seconds}
        headers = {"retry-after": str(status.retry_after)}
        return JSONResponse(document, 503, headers)
