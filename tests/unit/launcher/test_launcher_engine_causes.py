"""launcher.engine_causes: vLLM's own last words, and what a person is told to change."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.engine_causes import OPTIONS, OUT_OF_MEMORY, UNKNOWN, Cause, cause_of

GIB = 1 << 30

OUT_OF_GPU_MEMORY = (
    OUT_OF_MEMORY,
    "out of GPU memory: lower gpu-memory-utilization or max-model-len in engine.options,"
    " or end what else uses the card (nvidia-smi)",
)
KV_CACHE = (
    OUT_OF_MEMORY,
    "no memory left for the KV cache: lower max-model-len in engine.options",
)
PORT = (
    "port",
    "its port is taken: write another engine.port, or end the program that holds it",
)
DOWNLOAD = (
    "download",
    "the model could not be downloaded: check the network, or set HF_ENDPOINT to a mirror"
    " under engine.environment",
)
HUB = ("download", "the hub does not have this model: check model.hub_id")
WEIGHTS = ("weights", "a weights file is damaged: fetch it again")
MEMORY = (OUT_OF_MEMORY, "out of memory: lower VLLM_CPU_KVCACHE_SPACE")

CAUSES = [
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", OUT_OF_GPU_MEMORY),
    ("RuntimeError: CUDA error: OutOfMemoryError", OUT_OF_GPU_MEMORY),
    (
        "ValueError: Free memory on device cuda:0 (3.1/79.1 GiB) on startup is less than the"
        " engine's budget after excluding external process's weights (0.9, 60.0 GiB). It is less"
        " than desired",
        OUT_OF_GPU_MEMORY,
    ),
    ("ValueError: No available memory for the cache blocks. Try increasing it", KV_CACHE),
    (
        "ValueError: The model's max seq len (32768) is larger than the maximum number of tokens"
        " that can be stored in KV cache (1024).",
        KV_CACHE,
    ),
    (
        "ValueError: To serve at least one request with the model's max seq len (32768), (4.5 GiB"
        " KV cache is needed, which is larger than the available KV cache memory (0.0 GiB). Try"
        " increasing `gpu_memory_utilization`",
        KV_CACHE,
    ),
    ("OSError: [Errno 98] Address already in use", PORT),
    ("OSError: [Errno 98] error while attempting to bind on address ('127.0.0.1', 8000)", PORT),
    (
        "api_server.py: error: unrecognized arguments: --max-modellen=3 --x",
        (OPTIONS, "vLLM does not know --max-modellen: correct engine.options"),
    ),
    (
        "api_server.py: error: argument --max-model-len: invalid value: '{x}'",
        (
            OPTIONS,
            "vLLM refused an option, --max-model-len: correct engine.options",
        ),
    ),
    ("OSError: [Errno 28] No space left on device", ("disk", "the disk is full: free some space")),
    ("huggingface_hub.errors.LocalEntryNotFoundError: An error happened", DOWNLOAD),
    ("Failed to resolve 'huggingface.co' ([Errno -3] Temporary failure)", DOWNLOAD),
    ("OSError: We couldn't connect to 'https://huggingface.co' to load the files", DOWNLOAD),
    ("Cannot reach https://huggingface.co/x: offline mode is enabled.", DOWNLOAD),
    ("huggingface_hub.errors.GatedRepoError: 403 Client Error.", HUB),
    ("huggingface_hub.errors.RepositoryNotFoundError: 401 Client Error.", HUB),
    ("OSError: a/b is not a local folder and is not a valid model identifier listed on", HUB),
    ("safetensors_rust.SafetensorError: Error while deserializing header: x", WEIGHTS),
    ("OSError: Error while deserializing header: incomplete metadata", WEIGHTS),
    ("MemoryError", MEMORY),
    ("RuntimeError: DefaultCPUAllocator: Error code 12 (Cannot allocate memory)", MEMORY),
]


def cause_in(line: str) -> Cause:
    found = cause_of([line])
    assert found is not None
    return found


@pytest.mark.parametrize(("line", "expected"), CAUSES)
def test_a_known_cause_is_named_with_its_fix(line: str, expected: tuple[str, str]) -> None:
    """The words for people come with the log's own line, without process and time."""
    found = cause_in(f"(EngineCore pid=1) ERROR 11-22 18:09:40 [core.py:790] {line}")
    assert (*expected, line) == (found.code, found.message, found.evidence)


def test_a_line_of_code_is_no_cause() -> None:
    """A traceback shows where it was raised before it says why."""
    said = "huggingface_hub.errors.LocalEntryNotFoundError: no connection to huggingface.co"
    found = cause_of(["(APIServer pid=7)     raise LocalEntryNotFoundError(", said])
    assert found == Cause(DOWNLOAD[0], *DOWNLOAD[1].split(": ", 1), said)


def test_with_ray_a_line_names_two_processes() -> None:
    replica = "(ServeReplica:step3vl:LLMServer:a pid=1) (EngineCore pid=2)"
    found = cause_of(
        [
            f"{replica} INFO 11-22 18:09:40 [core.py:1] not this: torch.OutOfMemoryError",
            f"{replica} ERROR 11-22 18:09:40 [a.py:1] E: Unknown engine argument: max_seqs",
        ]
    )
    assert found is not None
    assert (found.code, found.what) == (OPTIONS, "vLLM does not know max_seqs")
    assert found.evidence == "E: Unknown engine argument: max_seqs"


def device_line(free: str, total: str, share: str, wanted: str) -> str:
    """What vLLM says of a card that is not free enough."""
    return (
        f"ValueError: Free memory on device cuda:0 ({free}/{total} GiB) on startup is less than"
        f" desired GPU memory utilization ({share}, {wanted} GiB). Decrease GPU memory utilization"
        " or reduce GPU memory used by other processes."
    )


def node_line(free: str, total: str, share: str, wanted: str) -> str:
    """What vLLM for the CPU says of memory that is not free enough."""
    return (
        f"ValueError: Available memory on node 0 ({free}/{total} GiB) on startup is less than"
        f" desired CPU memory utilization ({share}, {wanted} GiB). On the CPU backend, the"
        " `--gpu-memory-utilization` flag controls the fraction of CPU memory reserved (despite its"
        " name). To resolve: decrease `--gpu-memory-utilization` (e.g."
        " `--gpu-memory-utilization 0.5`) or reduce CPU memory used by other processes."
    )


def cache_line(free: str, total: str, wanted: str) -> str:
    """What vLLM for the CPU says of a KV cache that does not fit."""
    return (
        f"ValueError: Available memory on node 0 ({free}/{total} GiB) on kv cache allocation is"
        f" less than requested memory for kv ({wanted} GiB). Decrease --kv-cache-memory-bytes,"
        " VLLM_CPU_KVCACHE_SPACE, or reduce CPU memory used by other processes."
    )


def length_line(length: int, needed: str, free: str, fits: int) -> str:
    """What vLLM says of a context that does not fit."""
    return (
        "ValueError: To serve at least one request with the model's max seq len"
        f" ({length}), ({needed} GiB KV cache is needed, which is larger than the available KV"
        f" cache memory ({free} GiB). Based on the available memory, the estimated maximum model"
        f" length is {fits}. Try increasing `gpu_memory_utilization`"
    )


def allocation_line(tried: str, total: str) -> str:
    """What PyTorch says of a card that is full."""
    return (
        f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {tried}. GPU 0 has a total"
        f" capacity of {total} GiB of which 18.06 MiB is free. Process 41 has 79.07 GiB memory in"
        " use. Of the allocated memory 77.90 GiB is allocated by PyTorch"
    )


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        (
            device_line("40.25", "79.1", "0.92", "72.77"),
            "write gpu-memory-utilization: 0.5 or less in engine.options (40.25 of 79.1 GiB are"
            " free, 72.77 were asked for), or end what else uses the memory",
        ),
        (
            node_line("4.02", "15.62", "0.92", "14.37"),
            "write gpu-memory-utilization: 0.22 or less in engine.options (4.02 of 15.62 GiB are"
            " free, 14.37 were asked for), or end what else uses the memory",
        ),
        (
            cache_line("5.91", "15.62", "8.0"),
            "write VLLM_CPU_KVCACHE_SPACE: '5' or less under engine.environment (5.91 GiB are free,"
            " 8.0 were asked for)",
        ),
        (
            cache_line("5.91", "15.62", "8.3/9.1"),
            "write VLLM_CPU_KVCACHE_SPACE: '5' or less under engine.environment (5.91 GiB are free,"
            " 8.3 were asked for)",
        ),
        (
            length_line(65536, "9.0", "2.31", 16816),
            "write max-model-len: 16816 in engine.options (9.0 GiB are needed, 2.31 are there)",
        ),
        (
            allocation_line("2.00 GiB", "79.10"),
            "lower gpu-memory-utilization in engine.options by 0.04, or max-num-seqs, or end what"
            " else uses the card (nvidia-smi)",
        ),
        (
            allocation_line("64.00 MiB", "23.65"),
            "lower gpu-memory-utilization in engine.options by 0.03, or max-num-seqs, or end what"
            " else uses the card (nvidia-smi)",
        ),
    ],
)
def test_too_little_memory_names_the_option_and_a_number(line: str, fix: str) -> None:
    """With vLLM's own figures, so that the next start fits."""
    found = cause_in(f"(EngineCore pid=1) ERROR 11-22 18:09:40 [core.py:790] {line}")
    assert (OUT_OF_MEMORY, fix) == (found.code, found.fix)
    assert found.evidence == line[:500]


def test_where_no_share_would_fit_none_is_suggested() -> None:
    """vLLM takes no share of 0; what holds the memory has to go."""
    for free in ("0.0", "0.31", "0.5", "0.6"):
        found = cause_in(device_line(free, "79.1", "0.92", "72.77"))
        assert "gpu-memory-utilization: 0 " not in found.fix
        assert found.fix.startswith("end what else uses the memory")


def test_where_no_cache_would_fit_none_is_suggested() -> None:
    """VLLM_CPU_KVCACHE_SPACE is in whole GiB, and there is not even one."""
    fix = cause_in(cache_line("0.9", "15.62", "1.0")).fix
    assert "VLLM_CPU_KVCACHE_SPACE: " not in fix
    assert "0.9" in fix


def test_a_share_that_leaves_nothing_for_the_cache_is_named() -> None:
    """Weights alone are larger than the share, so less than nothing is asked for."""
    found = cause_in(cache_line("9.5", "15.62", "-0.7/1.56"))
    assert found.code == OUT_OF_MEMORY
    assert "gpu-memory-utilization leaves nothing" in found.message


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_suggested_share_fits_and_is_less_than_what_was_asked_for(data: st.DataObject) -> None:
    """Whatever the sizes, vLLM would not refuse what is suggested, and it changes something."""
    total = data.draw(st.integers(GIB // 2, 2000 * GIB))
    asked = data.draw(st.floats(0.01, 1.0))
    wanted = round(total * asked)
    free = data.draw(st.integers(0, max(0, wanted - 1)))
    sizes = [f"{round(size / GIB, 2)}" for size in (free, total, wanted)]
    line = data.draw(st.sampled_from([device_line, node_line]))
    fix = cause_in(line(sizes[0], sizes[1], str(asked), sizes[2])).fix
    if match := re.search(r"utilization: (\S+) or less", fix):
        share = float(match[1])
        assert 0 < share < 1
        assert share < asked
        assert share * total <= free


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 200_000), st.integers(1, 200_000))
def test_a_share_to_leave_is_a_share(tried_mib: int, total_mib: int) -> None:
    """More than the whole card cannot be given up."""
    unit = f"{tried_mib / 1024:.2f} GiB" if tried_mib >= 1024 else f"{tried_mib:.2f} MiB"
    found = cause_in(allocation_line(unit, f"{total_mib / 1024:.2f}"))
    assert found.code == OUT_OF_MEMORY
    if match := re.search(r"by (\S+),", found.fix):
        assert 0 < float(match[1]) < 1


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 400), st.integers(1, 400))
def test_a_suggested_cache_fits_and_is_less_than_what_was_asked_for(free: int, more: int) -> None:
    """In tenths of GiB; vLLM takes whole ones only."""
    found = cause_in(cache_line(f"{free / 10:.1f}", "64.0", f"{(free + more) / 10:.1f}"))
    if match := re.search(r"SPACE: '(\d+)'", found.fix):
        assert 0 < int(match[1]) * 10 <= free


def test_the_first_known_cause_counts() -> None:
    """What follows a cause is its consequence."""
    found = cause_of(["torch.OutOfMemoryError: CUDA out of memory.", "OSError: [Errno 98] in use"])
    assert found is not None
    assert (found.code, found.message) == OUT_OF_GPU_MEMORY


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["ValueError: first", "KeyError: 'last'", "bye"], "KeyError: 'last'"),
        (
            ["(Worker pid=3) ERROR 11-22 18:09:40 [x.py:1] RuntimeError: no kernel"],
            "RuntimeError: no kernel",
        ),
        (["pydantic_core._pydantic_core.ValidationError: 1 validation error"], None),
        (["python: error: something odd"], None),
        (["TypeError: x", "Traceback of an ERROR: not this"], "TypeError: x"),
    ],
)
def test_an_unknown_failure_is_the_last_line_that_looks_like_one(
    lines: list[str], expected: str | None
) -> None:
    """Without a known cause the log speaks for itself, bare of process and time."""
    words = expected or lines[-1]
    assert Cause(UNKNOWN, words, "", words) == cause_of(lines)


def test_an_endless_line_is_cut() -> None:
    """An error that prints a whole tensor does not flood the terminal."""
    assert len(cause_in(f"ValueError: {'x' * 10_000}").message) == 500


# Words that the patterns look for, and numbers that no machine would print.
SCRAPS = [
    "CUDA out of memory. ",
    "Tried to allocate ",
    "GiB",
    "MiB",
    " total capacity of ",
    "Free memory on device cuda:0 (",
    "Available memory on node 0 (",
    " GiB) on startup is less than desired GPU memory utilization (",
    " GiB) on kv cache allocation is less than requested memory for kv (",
    " GiB KV cache is needed, larger than the available KV cache memory (",
    " the estimated maximum model length is ",
    "error: argument -",
    "unrecognized arguments: {x} {0} {} %s",
    "/",
    "1.2.3",
    "...",
    "-",
    "0",
    "9" * 400,
    "٣",
    ", ",
    "\x00",
]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.lists(st.sampled_from(SCRAPS) | st.text(max_size=9), max_size=9), max_size=4))
def test_no_line_is_too_odd_to_be_read(scraps: list[list[str]]) -> None:
    """Nothing raises, and a cause is one of the lines that were read."""
    lines = ["".join(line) for line in scraps]
    cause = cause_of(lines)
    assert cause is None or any(cause.evidence in line for line in lines)


@pytest.mark.parametrize(
    "line",
    [
        allocation_line("1.2.3 GiB", "79.10"),
        allocation_line("... MiB", "79.10"),
        device_line("9" * 400, "9" * 400, "0.9", "1"),
        cache_line("9" * 400, "1", "1"),
    ],
)
def test_numbers_that_are_none_are_no_error(line: str) -> None:
    """It is still known what went wrong."""
    assert cause_of([line]) is not None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (line, "unrecognized arguments" in line or "error: argument" in line)
        for line, _ in [*CAUSES, ("KeyError: 'last'", "")]
    ],
)
def test_only_a_refused_option_is_permanent(line: str, expected: bool) -> None:
    """Every other cause may be gone at the next start."""
    assert expected == cause_in(line).permanent


@pytest.mark.parametrize("process", ["", "(APIServer pid=27202) ", "(EngineCore pid=2)"])
@pytest.mark.parametrize("level", ["DEBUG ", "INFO ", "WARNING ", "INFO:     ", "WARNING:  "])
@pytest.mark.parametrize("words", [line for line, _ in CAUSES[::4]])
def test_a_routine_line_is_never_a_cause(process: str, level: str, words: str) -> None:
    """Routine lines hold the words of requests too, so none of them explains an end."""
    line = f"{process}{level}11-22 18:46:00 [logger.py:1] {words}"
    assert cause_of([line]) is None
    expected = Cause(UNKNOWN, "KeyError: 'last'", "", "KeyError: 'last'")
    assert expected == cause_of([line, "KeyError: 'last'"])


@pytest.mark.parametrize("start", ["ERROR ", "(EngineCore pid=2) ERROR ", "INFORMATION "])
def test_other_levels_are_read(start: str) -> None:
    """Only the routine levels are passed over."""
    found = cause_in(f"{start}MemoryError")
    assert (found.code, found.message) == MEMORY
