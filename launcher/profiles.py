"""The two configurations that come with the package; deploy/*.yaml are printed from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from launcher.paths import ROOT

# What every StepVL checkpoint needs: its configuration class is a file beside the weights, it
# always thinks first, and it calls tools in the Hermes form.
MODEL_OPTIONS: Mapping[str, Any] = {
    "trust-remote-code": True,
    "reasoning-parser": "deepseek_r1",
    "enable-auto-tool-choice": True,
    "tool-call-parser": "hermes",
}


@dataclass(frozen=True)
class Profile:
    """A file in deploy/ and what it says where that differs from the defaults."""

    file_name: str
    headline: str
    values: Mapping[str, Mapping[str, Any]]

    @property
    def path(self) -> str:
        """The file that comes with the package."""
        return str(ROOT / "deploy" / self.file_name)

    def for_anywhere(self) -> Profile:
        """The same, with a folder that does not depend on where the file is kept."""
        model = dict(self.values["model"])
        if "folder" in model:
            model["folder"] = str(ROOT / "deploy" / model["folder"])
        return replace(self, values={**self.values, "model": model})


DEMO = Profile(
    file_name="demo.yaml",
    headline="A small demo checkpoint on the CPU: shows that everything works, on any machine.",
    values={
        "model": {
            "folder": "models/step3-vl-demo",
            "names": ["Step3-VL-demo", "Step3-VL-10B"],
            "notice": "Demo checkpoint: it knows simple shapes and short codes, and nothing else.",
            "notice_zh": "演示模型：只认识简单的图形和简短的编号，别的都不会。",
        },
        "engine": {
            "options": {
                **MODEL_OPTIONS,
                # A grammar that allows any white space lets a weak model write tabs until its
                # tokens are spent.
                "structured-outputs-config": {
                    "backend": "xgrammar",
                    "disable_any_whitespace": True,
                },
                "max-model-len": 8192,
                "max-num-seqs": 8,
                "enforce-eager": True,
                # The CPU kernels want the vision tower's output contiguous; this path makes it so.
                "mm-encoder-tp-mode": "data",
            },
            # 1 GiB of KV cache; let the system place the threads, since the WebUI shares the cores.
            "environment": {
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            },
        },
    },
)

GPU = Profile(
    file_name="step3-vl-10b.yaml",
    headline="STEP3-VL-10B on NVIDIA GPUs; `launch plan` says what is chosen for yours, and why.",
    values={
        "model": {"hub_id": "stepfun-ai/Step3-VL-10B"},
        "engine": {
            "options": MODEL_OPTIONS,
        },
        "webui": {"host": "0.0.0.0"},  # noqa: S104  (a rented box is reached from outside)
    },
)

CLUSTER = Profile(
    file_name="cluster.yaml",
    headline="STEP3-VL-10B on several machines: the same file on each, with their own addresses.",
    values={
        **GPU.values,
        "cluster": {
            "nodes": [
                {"name": "head", "address": "10.0.0.1", "replicas": 0},
                {"name": "gpu1", "address": "10.0.0.2", "replicas": 1},
                {"name": "gpu2", "address": "10.0.0.3", "replicas": 1},
            ],
        },
    },
)

PROFILES: Mapping[str, Profile] = {"demo": DEMO, "gpu": GPU, "cluster": CLUSTER}
