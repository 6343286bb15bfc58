"""The relay that most Python gateways are: Starlette in front, httpx behind.

python plain_relay.py PORT UPSTREAM
"""

from __future__ import annotations

import sys

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

client = httpx.AsyncClient(base_url=sys.argv[2], timeout=None, limits=httpx.Limits())  # noqa: S113


async def relay(request: Request) -> StreamingResponse:
    asked = client.build_request(
        request.method,
        request.url.path,
        headers={"content-type": request.headers.get("content-type", "")},
        content=await request.body(),
    )
    answer = await client.send(asked, stream=True)
    kind = {"content-type": answer.headers.get("content-type", "")}
    end = BackgroundTask(answer.aclose)
    return StreamingResponse(answer.aiter_raw(), answer.status_code, kind, background=end)


if __name__ == "__main__":
    app = Starlette(routes=[Route("/{path:path}", relay, methods=["GET", "POST"])])
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False)
