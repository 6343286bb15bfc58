"""``serve.yaml`` for a Ray cluster: `serve run serve.yaml`, or `serve deploy` where one runs."""

from __future__ import annotations

from pathlib import Path

import yaml

from launcher.layout import LOOPBACK
from launcher.planning import with_weights
from launcher.programs import model_location, ray_arguments, vllm_environment
from launcher.ray_application import IMPORT_PATH, NAME
from launcher.render import RenderedFile
from launcher.targets.deployment import Deployment
from launcher.targets.dockerfile import check_own_engine

HEAD = """\
# Made by `launch render --target ray`; run it with `serve run serve.yaml`.
# Every machine of the cluster needs the same packages, and the model's folder at the same path.
"""
SECRETS = "# Secrets are left out, for the processes of Ray to have them already: {}.\n"


def ray(deployment: Deployment) -> list[RenderedFile]:
    """Serve's configuration, as its own schema has it.

    Raises:
        ConfigError: the YAML needs something that Ray does not have.
    """
    check_own_engine(deployment)
    config = with_weights(deployment.config, deployment.config.model.weights)
    if config.model.folder is not None:
        # The file lies elsewhere than the YAML that it is relative to.
        folder = model_location(config, deployment.config_path)
        model = config.model.model_copy(update={"folder": folder})
        config = config.model_copy(update={"model": model})
    secrets = deployment.secrets
    plain = {n: text for n, text in vllm_environment(config).items() if n not in secrets}
    document = {
        "proxy_location": "HeadOnly",
        "http_options": {"host": LOOPBACK, "port": config.engine.port},
        "applications": [
            {
                "name": NAME,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": ray_arguments(config, Path("/"), plain, on_cpu=deployment.on_cpu),
            }
        ],
    }
    head = HEAD + (SECRETS.format(", ".join(secrets)) if secrets else "")
    content = head + yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return [RenderedFile(deployment.out / "serve.yaml", content)]
