"""launcher.targets.ray: a file that Ray Serve itself accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from rendered_targets import ELSEWHERE, OUT
from support import ROOT

from launcher.cli import main
from launcher.config import DeployConfig
from launcher.programs import NO_MEDIA_DOMAIN
from launcher.targets.deployment import Deployment
from launcher.targets.table import TARGETS

CHECKPOINT = ROOT / "deploy" / "models" / "step3-vl-demo"


def rendered(**sections: Any) -> dict[str, Any]:
    sections = {"model": {"folder": str(CHECKPOINT)}, **sections}
    config = DeployConfig.model_validate(sections)
    deployment = Deployment(config, ROOT / "deploy" / "x.yaml", OUT, ELSEWHERE)
    [file] = TARGETS["ray"].render(deployment)
    assert (file.path, file.mode) == (OUT / "serve.yaml", 0o600)
    document = yaml.safe_load(file.content)
    assert isinstance(document, dict)
    return document


@pytest.mark.filterwarnings("ignore")  # Ray's own, on being imported
@pytest.mark.parametrize("on_cpu", [True, False])
def test_ray_accepts_it(on_cpu: bool) -> None:
    """The whole file, and the arguments of the application, as Ray would read them."""
    from ray.serve.llm import LLMServingArgs
    from ray.serve.schema import ServeDeploySchema

    options = {"tensor-parallel-size": 1 if on_cpu else 2, "max-model-len": 8192}
    variables = {"VLLM_CPU_KVCACHE_SPACE": "1"} if on_cpu else {}
    engine = {"port": 8123, "replicas": 2, "options": options, "environment": variables}
    document = rendered(engine=engine)
    read = ServeDeploySchema.model_validate(document)
    [application] = read.applications
    assert application.import_path == "ray.serve.llm:build_openai_app"
    assert (read.http_options.host, read.http_options.port) == ("127.0.0.1", 8123)
    [llm] = LLMServingArgs.model_validate(application.args).llm_configs
    read_engine = llm.get_engine_config()
    assert read_engine.actual_hf_model_id == str(CHECKPOINT)
    assert read_engine.engine_kwargs["allowed_media_domains"] == [NO_MEDIA_DOMAIN]
    bundle = {"CPU": 1} if on_cpu else {"GPU": 1}
    assert read_engine.placement_bundles == [bundle] * (1 if on_cpu else 2)


def test_the_command_writes_it_with_the_models_whole_path(tmp_path: Path) -> None:
    """It lies elsewhere than the YAML that the folder is relative to."""
    config = tmp_path / "deploy.yaml"
    (tmp_path / "model").mkdir()
    config.write_text("model: {folder: model}\n")
    out = tmp_path / "out"
    assert main(["render", "--target", "ray", "--config", str(config), "--out", str(out)]) == 0
    [application] = yaml.safe_load((out / "serve.yaml").read_text())["applications"]
    [llm] = application["args"]["llm_configs"]
    assert llm["model_loading_config"]["model_source"] == str(tmp_path / "model")


def test_a_model_of_the_hub_is_named_as_there() -> None:
    document = rendered(model={"hub_id": "stepfun-ai/Step3-VL-10B", "names": ["big"]})
    [llm] = document["applications"][0]["args"]["llm_configs"]
    assert llm["model_loading_config"] == {
        "model_id": "big",
        "model_source": "stepfun-ai/Step3-VL-10B",
    }
    assert "HF_HUB_OFFLINE" not in llm["runtime_env"]["env_vars"]
