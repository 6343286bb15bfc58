"""``serve.yaml`` for a Ray cluster: `serve run serve.yaml`, or `serve deploy` where one runs."""

from __future__ import annotations

from pathlib import Path

import yaml

from launcher.config import DeployConfig
from launcher.layout import LOOPBACK
from launcher.programs import ray_arguments, vllm_environment
from launcher.ray_application import IMPORT_PATH, NAME
from launcher.render import RenderedFile

HEAD = """\
# Made by `launch render --target ray`; run it with `serve run serve.yaml`.
# Every machine of the cluster needs the same packages, and the model's folder at the same path.
"""


def ray(config: DeployConfig) -> list[RenderedFile]:
    """Serve's configuration, as its own schema has it."""
    document = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": LOOPBACK, "port": config.engine.port},
        "applications": [
            {
                "name": NAME,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": ray_arguments(config, Path("/"), vllm_environment(config)),
            }
        ],
    }
    content = HEAD + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return [RenderedFile(Path("serve.yaml"), content)]  # a token may be among the variables
