"""Three questions that supervisors and load balancers ask: do you live, serve, and have started?"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse

from webui.engine_status import EngineProbe, EngineStatus


class Health:
    """``/livez`` speaks for this process alone, ``/readyz`` for the whole service, ``/startupz``
    for the engine: how far its start is, and what stands in its way."""

    def __init__(self, probe: EngineProbe) -> None:
        self._probe = probe

    async def live(self, _request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    async def ready(self, _request: Request) -> JSONResponse:
        return _told(await self._probe.status())

    async def started(self, _request: Request) -> JSONResponse:
        return _told(await self._probe.startup())


def _told(status: EngineStatus) -> JSONResponse:
    if status.ready:
        return JSONResponse(status.document())
    return JSONResponse(status.document(), 503, {"retry-after": str(status.retry_after)})
