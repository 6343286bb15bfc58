"""The application as `launch up` runs it: Ray's own, with a ``/health`` that asks a replica.

Serve's ``/-/healthz`` speaks for its proxy alone, and ``/v1/models`` is answered before there is a
replica. So nothing of Ray's says over HTTP when a model is loaded, or that it has died since.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from ray import cloudpickle, serve
from ray.exceptions import RayError
from ray.llm._internal.serve.core.configs.openai_api_models import to_model_metadata
from ray.serve.exceptions import RayServeException
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
from starlette.responses import Response

# What the gateway asks for; Ray has more, which nobody needs here.
ROUTES: Mapping[str, Callable[[FastAPI], Any]] = {
    "models": lambda app: app.get("/v1/models"),
    "chat": lambda app: app.post("/v1/chat/completions"),
    "completions": lambda app: app.post("/v1/completions"),
    "health": lambda app: app.get("/health"),
}


class Ingress(OpenAiIngress):  # type: ignore[misc]
    def __init__(self, llm_deployments: Mapping[str, Any], **more: Any) -> None:
        super().__init__(llm_deployments, **more)
        [self._replicas] = llm_deployments.values()

    async def health(self) -> Response:
        """Of one replica, as vLLM's; without any, there is no answer."""
        try:
            await self._replicas.check_health.remote()
        except (RayError, RayServeException):
            return Response(status_code=503)
        return Response()


def application(arguments: Mapping[str, Any]) -> Any:
    """What ``ray.serve.llm:build_openai_app`` makes of the same arguments, with our ingress."""
    # On other machines of a cluster this package need not be installed.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    [document] = arguments["llm_configs"]
    config = LLMConfig(**document)
    ingress = serve.deployment(
        make_fastapi_ingress(Ingress, endpoint_map=dict(ROUTES)),
        **arguments["ingress_deployment_config"],
    )
    return ingress.bind(
        llm_deployments={config.model_id: build_llm_deployment(config)},
        model_cards={config.model_id: to_model_metadata(config.model_id, config)},
    )
