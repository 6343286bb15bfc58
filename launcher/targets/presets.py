"""Configurations for rented machines; deploy/presets/*.yaml and docs/providers.md are made of them.

What differs between providers is which port the outside reaches, which disk is large and stays,
where models come from fastest, and how soon a container is killed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from launcher.config import DeployConfig
from launcher.profiles import GPU, Profile

# What containers get at a stop where nobody says otherwise, and times that fit into it.
DOCKER_STOP_S = 10
SHORT_STOP: Mapping[str, Mapping[str, Any]] = {
    "engine": {"stop_timeout_s": 1},
    "webui": {"stop_timeout_s": 2},
    "service": {"stop_limit_s": DOCKER_STOP_S},
}
# huggingface.co is not reached from mainland China; `launch download` takes ModelScope there, and
# vLLM, where nothing was downloaded before, this mirror.
IN_CHINA: Mapping[str, Mapping[str, Any]] = {
    "model": {"source": "modelscope"},
    "engine": {"environment": {"HF_ENDPOINT": "https://hf-mirror.com"}},
}
PUBLIC: Mapping[str, Mapping[str, Any]] = {
    "webui": {"host": "0.0.0.0", "require_keys": True},  # noqa: S104  (reached from outside)
}


@dataclass(frozen=True)
class Preset:
    """A provider, where its disk and its addresses are, and the YAML for it."""

    title: str
    data_disk: str
    address: str
    profile: Profile


def _merged(parts: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Sections joined key by key; of a key in several, maps are joined and others replaced."""
    result: dict[str, dict[str, Any]] = {}
    for part in parts:
        for name, section in part.items():
            known = result.setdefault(name, {})
            for key, value in section.items():
                both = isinstance(value, Mapping) and isinstance(known.get(key), Mapping)
                known[key] = {**known[key], **value} if both else value
    return result


def _preset(
    name: str,
    title: str,
    address: str,
    *parts: Mapping[str, Mapping[str, Any]],
    data_disk: str = "",
) -> Preset:
    """What every preset says, then ``parts``; the model's cache lies on the large disk."""
    cache = {"engine": {"environment": {"HF_HOME": f"{data_disk}/huggingface"}}}
    values = _merged([GPU.values, PUBLIC, *parts, *([cache] if data_disk else [])])
    headline = f"STEP3-VL-10B on {title}; docs/providers.md says what to click and to type."
    return Preset(title, data_disk, address, Profile(f"presets/{name}.yaml", headline, values))


def _on_port(port: int, *, through_proxy: bool) -> dict[str, dict[str, Any]]:
    """Proxies cut off answers that say nothing for long."""
    webui = {"port": port, "json_keep_alive": True} if through_proxy else {"port": port}
    return {"webui": webui}


PRESETS: Mapping[str, Preset] = {
    "autodl": _preset(
        "autodl",
        "AutoDL",
        "the one that the console shows for port 6006",
        IN_CHINA,
        _on_port(6006, through_proxy=True),
        SHORT_STOP,
        data_disk="/root/autodl-tmp",
    ),
    "csdn": _preset(
        "csdn",
        "CSDN's GPU rental, and others like it that show port 7860",
        "`https://gpu-POD-7860.web.gpu.csdn.net`",
        IN_CHINA,
        _on_port(7860, through_proxy=True),
        SHORT_STOP,
    ),
    "runpod": _preset(
        "runpod",
        "Runpod",
        "`https://POD-7860.proxy.runpod.net`",
        _on_port(7860, through_proxy=True),
        SHORT_STOP,
        data_disk="/workspace",
    ),
    "vast": _preset(
        "vast",
        "Vast.ai",
        "`http://PUBLIC_IPADDR:VAST_TCP_PORT_7860`",
        _on_port(7860, through_proxy=False),
        SHORT_STOP,
        data_disk="/workspace",
    ),
    "ubuntu": _preset(
        "ubuntu",
        "an Ubuntu machine of one's own",
        "`http://MACHINE:7860`",
        _on_port(7860, through_proxy=False),
    ),
}


def providers_table() -> str:
    """A Markdown table of what differs."""
    heads = ["preset", "port", "address of the page", "data disk", "models from", "stop"]
    rows = [heads, ["---"] * len(heads)]
    for preset in PRESETS.values():
        config = DeployConfig.model_validate(preset.profile.values)
        file, limit = preset.profile.file_name, config.service.stop_limit_s
        rows.append(
            [
                f"[{file}](../deploy/{file})",
                str(config.webui.port),
                preset.address,
                f"`{preset.data_disk}`" if preset.data_disk else "where the checkout lies",
                "ModelScope" if config.model.source == "modelscope" else "what answers first",
                f"within {limit:g} s" if limit else f"{config.stop_wait_s} s, nothing kills sooner",
            ]
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
