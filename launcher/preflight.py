"""What would stand in the way of ``up``: all of it at once, each with what to do about it.

Nothing here reads the host; :mod:`launcher.machine` does.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from launcher.config import DeployConfig
from launcher.host_checks import OPEN_FILES
from launcher.layout import engines_on, has_head
from launcher.machine import (
    CPU_ENGINE,
    GPU_ENGINE,
    NO_PACKAGE,
    SHM,
    Graphics,
    Machine,
    Memory,
    Model,
)
from launcher.paths import Paths
from launcher.programs import gpu_share, workers_of

MB, GB, MIB = 10**6, 10**9, 1 << 20

LEAST_RUN_BYTES = GB
ENGINE_BYTES = 4 * GB
"""What the engine and the WebUI take beside the weights."""
DOWNLOAD_MARGIN_BYTES = 5 * GB
DOCKER_SHM_BYTES = 64 * MIB
GOOD_SHM_BYTES = 1024 * MIB
GOOD_OPEN_FILES = 4096
EARLIEST_NOW = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
MOST_SKEW_S = 60.0

# The first driver of each CUDA: within one major version every minor one will do (NVIDIA's "minor
# version compatibility").
FIRST_DRIVERS = {11: 450, 12: 525, 13: 580}

# With one of these the cards may be in other machines, so ours are not counted.
MANY_MACHINES = {"nnodes", "data-parallel-size-local", "data-parallel-address"}

# TOKENIZERS_PARALLELISM and the like hold no secret.
_SECRET_NAME = re.compile(
    r"token(?!iz)|key|secret|passw|passphrase|credential|_pat$", re.IGNORECASE
)


@dataclass(frozen=True)
class Finding:
    """Something in the way of ``up`` (grave), or that may surprise; and what to do about it."""

    grave: bool
    what: str
    fix: str


def is_secret_name(name: str) -> bool:
    """Whether what a variable or key of this name holds is nobody's business."""
    return _SECRET_NAME.search(name) is not None


def findings(
    config: DeployConfig, config_path: Path, paths: Paths, machine: Machine
) -> list[Finding]:
    """Everything that would stop ``up`` or may surprise, grave or not, in no order.

    Args:
        machine: from :func:`read_machine`, for the same configuration.
    """
    # Of a program that stands in for vLLM nobody knows what it needs.
    is_vllm_here = config.engine.command is None and engines_on(config, machine.node) > 0
    of_the_engine: list[Iterable[Finding]] = [
        _of_the_driver(machine.graphics),
        _of_missing_cards(config, machine),
        _of_slices(config, machine.graphics),
        _of_cards(config, machine),
        _of_the_processor(machine),
        _of_memory(config, machine),
        _of_shared_memory(config, machine.memory),
    ]
    of_the_rest: list[Iterable[Finding]] = [
        _of_the_checkpoint(machine),
        _of_disks(config, paths, machine),
        _of_ports(machine),
        _of_permissions(config, config_path, paths, machine),
        _of_keys(config, machine),
        _of_open_files(machine),
        _of_the_clock(config, paths, machine),
        _of_proxies(machine),
        _of_leftovers(machine),
    ]
    groups = of_the_engine + of_the_rest if is_vllm_here else of_the_rest
    return [finding for group in groups for finding in group]


def beside_the_cards(config: DeployConfig, paths: Paths, machine: Machine) -> list[Finding]:
    """What a plan's cards need of the rest of this machine, and do not find: the driver, memory,
    shared memory and disks.

    Args:
        config: with the plan's choices.
        machine: from :func:`read_machine`, for the same configuration.
    """
    return [
        *_of_the_driver(machine.graphics),
        *_of_memory(config, machine),
        *_of_shared_memory(config, machine.memory),
        *_of_disks(config, paths, machine),
    ]


def in_words(found: Sequence[Finding]) -> list[str]:
    """Lines for a terminal, what is grave first."""
    lines = []
    for finding in sorted(found, key=lambda finding: not finding.grave):
        lines += [f"{'✗' if finding.grave else '!'} {finding.what}", f"  → {finding.fix}"]
    return lines or ["Nothing stands in the way of `launch up`."]


def exit_code(found: Sequence[Finding]) -> int:
    """1 if ``up`` would fail, else 0."""
    return int(any(finding.grave for finding in found))


def _of_the_driver(graphics: Graphics) -> Iterator[Finding]:
    if graphics.engine == CPU_ENGINE:
        return
    driver, needed = graphics.driver, graphics.torch_cuda
    if driver.cuda and needed and driver.cuda[0] < needed[0]:
        first = FIRST_DRIVERS.get(needed[0])
        newer = f"driver {first} or newer" if first else "a newer driver"
        yield Finding(
            True,
            f"the NVIDIA driver {driver.version or ''} can run CUDA {_dotted(driver.cuda)} at most,"
            f" and the installed torch is made for CUDA {_dotted(needed)}",
            f"install {newer} (on the host, if this is a container), then restart the machine",
        )
    if graphics.listed and driver.problem == NO_PACKAGE:
        yield Finding(
            False,
            f"nvidia-smi lists a card, but nobody can see who holds its memory: {driver.problem}",
            f"{sys.executable} -m pip install nvidia-ml-py",
        )
    elif graphics.listed and driver.problem:
        yield Finding(
            True,
            f"nvidia-smi lists a card, but NVML, by which vLLM finds it, fails: {driver.problem}",
            "install libnvidia-ml of the driver's own version; a container also needs"
            " NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        )


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _of_missing_cards(config: DeployConfig, machine: Machine) -> Iterator[Finding]:
    """No card where one is wanted, and one that is there for nothing."""
    graphics = machine.graphics
    if graphics.engine == CPU_ENGINE and graphics.answers:
        yield Finding(
            False,
            "an NVIDIA GPU answers, but vLLM for the CPU is installed here",
            "to use the card: `launch down`, delete .venv and run/config-path, `launch up`",
        )
    elif graphics.engine == CPU_ENGINE and config.model.hub_id is not None:
        yield Finding(
            False,
            f"no NVIDIA GPU answers: {config.model.hub_id} would run on the processor, and a long"
            " answer of a model of 10 B takes minutes there",
            "run it where a card answers, or take deploy/demo.yaml",
        )
    elif graphics.engine == GPU_ENGINE and graphics.torch_cuda and not graphics.answers:
        why = (
            "run nvidia-smi, which says why: after a new driver the machine must be restarted"
            if graphics.nvidia_smi
            else "install NVIDIA's driver, or start the container with --gpus all"
        )
        yield Finding(
            True,
            "the installed vLLM is for NVIDIA GPUs, and none answers",
            f"{why}; to run on the processor: delete .venv, `launch up`",
        )


def _of_slices(config: DeployConfig, graphics: Graphics) -> Iterator[Finding]:
    """MIG: CUDA gives a process one slice, and never more."""
    workers, chosen = workers_of(config), graphics.visible or ""
    if graphics.engine == CPU_ENGINE or _has_whole_cards(graphics, workers):
        return
    for card, slices in graphics.driver.sliced.items():
        if not slices:
            yield Finding(
                True,
                f"{card} is in MIG mode and has no slice, so nothing can use it",
                "make a slice (nvidia-smi mig -cgi PROFILE -C), or end MIG mode (nvidia-smi -mig"
                " 0)",
            )
        elif workers > 1:
            yield Finding(
                True,
                f"{workers} cards are asked for, and {card} is cut into slices (MIG), of which"
                " vLLM can use one only",
                "write tensor-parallel-size: 1 in engine.options, or end MIG mode (nvidia-smi -mig"
                " 0)",
            )
        elif not chosen.startswith("MIG-"):
            yield Finding(
                False,
                f"{card} is cut into slices (MIG, {slices} of them), and vLLM takes the first",
                "name one (nvidia-smi -L shows them) as CUDA_VISIBLE_DEVICES under"
                " engine.environment; its memory is not looked at before a start",
            )


def _has_whole_cards(graphics: Graphics, workers: int) -> bool:
    """Whether CUDA_VISIBLE_DEVICES names enough of those that are not cut; without it, CUDA takes
    a slice where there is one."""
    if graphics.driver.sliced:
        return graphics.visible is not None and len(graphics.cards) >= workers
    return graphics.answers


def _of_cards(config: DeployConfig, machine: Machine) -> Iterator[Finding]:
    """Their number, their kinds and their memory."""
    graphics, workers = machine.graphics, workers_of(config)
    if graphics.engine == CPU_ENGINE or not _has_whole_cards(graphics, workers):
        return
    there = len(graphics.listed if graphics.driver.problem else graphics.cards)
    options = config.engine.named_options
    if there < workers and _in_one_machine(options):
        yield _too_few_cards(workers, there, graphics.visible)
    used = graphics.cards[:workers]
    kinds = sorted({card.name for card in used})
    if workers_of(config, ["tensor"]) > 1 and len(kinds) > 1:
        yield Finding(
            False,
            f"the cards of one model differ: {', '.join(kinds)}; the smallest and slowest decides",
            "name equal ones as CUDA_VISIBLE_DEVICES under engine.environment",
        )
    share = gpu_share(config)
    for card in used:
        # Our own engine holds it, or what `up` ends before it starts one.
        ours = machine.running or (card.holders and card.holders.keys() <= {*machine.leftovers})
        if not ours and (shortage := card.shortage(share)) is not None:
            yield Finding(
                True,
                shortage,
                "end what holds it (nvidia-smi), or lower gpu-memory-utilization in engine.options",
            )


def _in_one_machine(options: Mapping[str, Any]) -> bool:
    backend = options.get("distributed-executor-backend") or "mp"
    return backend in {"mp", "uni"} and not MANY_MACHINES & options.keys()


def _too_few_cards(workers: int, there: int, visible: str | None) -> Finding:
    chosen = f" with CUDA_VISIBLE_DEVICES={visible}" if visible is not None else ""
    more = ", or let CUDA_VISIBLE_DEVICES name more" if chosen else ""
    return Finding(
        True,
        f"the options ask for {workers} GPUs (tensor x pipeline x data parallel), and there are"
        f" {there}{chosen}",
        f"lower tensor-parallel-size or data-parallel-size in engine.options{more}",
    )


def _of_the_processor(machine: Machine) -> Iterator[Finding]:
    on_cpu = machine.graphics.engine == CPU_ENGINE or not machine.graphics.answers
    if on_cpu and machine.cpu_flags is not None and "avx2" not in machine.cpu_flags:
        yield Finding(
            True,
            "the processor has no AVX2, which vLLM for the CPU cannot do without",
            "take a machine with AVX2 or a GPU; in a virtual machine, pass the host's processor"
            " through (QEMU: -cpu host)",
        )


def _weights(config: DeployConfig, model: Model) -> tuple[int, str]:
    """Their bytes, and in words how sure that is."""
    hub_id = config.model.hub_id
    if hub_id is None or model.complete:
        return model.weights or 0, ""
    # Not here yet, and the hub is not asked: what this model has in FP8 and in bf16.
    return 13 * GB if "fp8" in hub_id.lower() else 20 * GB, ", an assumption"


def _of_memory(config: DeployConfig, machine: Machine) -> Iterator[Finding]:
    memory, engine = machine.memory, machine.graphics.engine
    weights, sure = _weights(config, machine.model) if engine == CPU_ENGINE else (0, "")
    needed = weights + ENGINE_BYTES
    parts = f"{_gb(weights)} of weights{sure}, and {_gb(ENGINE_BYTES)} beside them"
    words = f"{_gb(needed)} ({parts})" if weights else f"about {_gb(needed)}"
    limited = memory.limit is not None and memory.limit == memory.most
    if memory.most is not None and memory.most < needed:
        yield Finding(
            engine == CPU_ENGINE,
            f"the engine needs {words} of memory, and"
            f" {'this container may have' if limited else 'this machine has'} {_gb(memory.most)}",
            "raise the container's limit (docker run --memory)"
            if limited and (memory.total or needed) >= needed
            else "take a larger machine or one with a GPU, or a smaller model: deploy/demo.yaml",
        )
    elif memory.free is not None and memory.free < needed and not machine.running:
        yield Finding(
            False,
            f"the engine needs {words} of memory, and {_gb(memory.free)} are free now",
            "end what uses the memory; `ps aux --sort -rss` shows it",
        )


def _of_shared_memory(config: DeployConfig, memory: Memory) -> Iterator[Finding]:
    """vLLM's workers pass pictures and tensors on through it."""
    if memory.shm is None or workers_of(config) < 2 or memory.shm >= GOOD_SHM_BYTES:
        return
    yield Finding(
        memory.shm <= DOCKER_SHM_BYTES,
        f"{SHM} has {memory.shm // MIB} MB, through which {workers_of(config)} workers of vLLM"
        " speak with each other",
        "start the container with --shm-size=8g or --ipc=host"
        if memory.shm <= DOCKER_SHM_BYTES
        else f"give it 1 GB or more: mount -o remount,size=8G {SHM}; Docker: --shm-size=8g",
    )


def _of_the_checkpoint(machine: Machine) -> Iterator[Finding]:
    for problem in machine.model.problems:
        yield Finding(
            True, f"model.folder: {problem}", "fetch that again, or name another model.folder"
        )
    if machine.no_batch_folder:
        yield Finding(
            True,
            f"webui.batch_folder: {machine.no_batch_folder} is no folder",
            f"mkdir -p {shlex.quote(machine.no_batch_folder)}",
        )


def _of_disks(config: DeployConfig, paths: Paths, machine: Machine) -> Iterator[Finding]:
    disk, model, logs = machine.disk, machine.model, config.logs
    if disk.run is not None and disk.run.free < LEAST_RUN_BYTES:
        yield Finding(
            True,
            f"{_gb(disk.run.free)} are free where {paths.run} lies; it needs"
            f" {_gb(LEAST_RUN_BYTES)}",
            f"free some space there: du -xh {shlex.quote(str(disk.run.folder))} | sort -h | tail",
        )
    grown = 3 * logs.max_mb * (logs.backups + 1) * MB
    if disk.logs is not None and disk.logs.free < grown:
        yield Finding(
            False,
            f"logs may grow to {_gb(grown)}, and {_gb(disk.logs.free)} are free where {paths.logs}"
            " lies",
            "free some space there, or lower logs.max_mb or logs.backups",
        )
    if config.model.hub_id is None or model.complete or disk.cache is None:
        return
    if not engines_on(config, machine.node):
        return
    weights, sure = _weights(config, model)
    needed = max(0, weights + DOWNLOAD_MARGIN_BYTES - model.fetched)
    if disk.cache.free < needed:
        yield Finding(
            True,
            f"{config.model.hub_id} must be fetched, for which {_gb(needed)} are needed (of"
            f" {_gb(weights)} of weights and some room{sure}); {_gb(disk.cache.free)} are free"
            f" where {disk.cache.folder} lies",
            "free some space there, or name a larger disk as HF_HOME under engine.environment",
        )


def _gb(size: int) -> str:
    return f"{size / GB:.1f} GB".replace(".0 GB", " GB")


def _of_ports(machine: Machine) -> Iterator[Finding]:
    for key, problem in machine.ports.items():
        yield Finding(True, f"{key}: {problem}", f"end that process or write another {key}")


def _of_permissions(
    config: DeployConfig, config_path: Path, paths: Paths, machine: Machine
) -> Iterator[Finding]:
    access = machine.access
    for folder in machine.disk.unwritable:
        quoted = shlex.quote(str(folder))
        yield Finding(
            True,
            f"{folder} cannot be written by this user",
            f'sudo chown -R "$(id -u)" {quoted}; or set STEP3VL_HOME to a folder of your own',
        )
    if access.keys_mode is not None and access.keys_mode & 0o077:
        yield Finding(
            False,
            f"{paths.keys} is open to other users",
            f"chmod 600 {shlex.quote(str(paths.keys))}",
        )
    environment = config.engine.environment
    secrets = sorted(name for name in environment if environment[name] and is_secret_name(name))
    if secrets and access.config_mode is not None and access.config_mode & 0o044:
        yield Finding(
            False,
            f"{config_path} holds {', '.join(secrets)} and can be read by other users",
            f"chmod 600 {shlex.quote(str(config_path))}",
        )


def _of_keys(config: DeployConfig, machine: Machine) -> Iterator[Finding]:
    webui, access = config.webui, machine.access
    if not has_head(config, machine.node):
        return
    if access.keys_problem:
        yield Finding(
            True, access.keys_problem, "mend or delete that file; `launch keys add NAME` makes it"
        )
    elif webui.require_keys and not access.keys:
        yield Finding(True, "webui.require_keys is set and there is no key", "launch keys add NAME")
    elif access.keys is None and not _is_loopback(webui.host):
        yield Finding(
            False,
            f"webui.host is {webui.host}: everyone who reaches port {webui.port} of this machine"
            " can use the model, without a key",
            "launch keys add NAME",
        )


def _is_loopback(host: str) -> bool:
    return host in {"localhost", "::1"} or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


def _of_open_files(machine: Machine) -> Iterator[Finding]:
    if machine.open_files is not None and machine.open_files < GOOD_OPEN_FILES:
        yield Finding(
            True,
            f"a process may have {machine.open_files} files and connections open at most",
            f"as root: docker run --ulimit nofile={OPEN_FILES}, or a line for nofile in"
            " /etc/security/limits.conf",
        )


def _of_the_clock(config: DeployConfig, paths: Paths, machine: Machine) -> Iterator[Finding]:
    if machine.now is not None and machine.now < EARLIEST_NOW:
        day = datetime.fromtimestamp(machine.now, UTC).date()
        fetches = config.model.hub_id is not None and not machine.model.complete
        yield Finding(
            fetches,
            f"the clock says {day}: certificates of sites will be refused",
            "timedatectl set-ntp true; or: date -s 'YYYY-MM-DD HH:MM'",
        )
    if machine.skew is not None and abs(machine.skew) > MOST_SKEW_S:
        yield Finding(
            False,
            f"what is written in {paths.run} is dated {machine.skew:+.0f} s from this machine's"
            " clock",
            "set the clocks of this machine and of its file server (NTP)",
        )


def _of_proxies(machine: Machine) -> Iterator[Finding]:
    left_out = [host for host in ("localhost", "127.0.0.1") if not _spares(machine.no_proxy, host)]
    if not machine.proxies or not left_out:
        return
    wanted = shlex.quote(",".join([*_words(machine.no_proxy), *left_out]))
    yield Finding(
        False,
        f"{', '.join(machine.proxies)} also holds for {' and '.join(left_out)}, where our own"
        " programs speak with each other",
        f"export no_proxy={wanted} NO_PROXY={wanted}",
    )


def _words(no_proxy: str) -> list[str]:
    return [word for word in re.split(r"[,\s]+", no_proxy) if word]


def _spares(no_proxy: str, host: str) -> bool:
    """Whether a value of ``no_proxy`` takes a host out, as most programs read it."""
    words = {word.lower() for word in _words(no_proxy)}
    network = {"127.0.0.0/8"} if host == "127.0.0.1" else {f".{host}"}
    return bool(words & {"*", host, *network})


def _of_leftovers(machine: Machine) -> Iterator[Finding]:
    if machine.leftovers and not machine.running:
        pids = " ".join(map(str, machine.leftovers))
        yield Finding(
            False,
            f"processes of an earlier start still run, and no supervisord looks after them: {pids}",
            f"`launch down` ends what a supervisord left; what was started by hand: kill {pids}",
        )
