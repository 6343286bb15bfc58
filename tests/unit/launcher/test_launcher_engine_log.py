"""launcher.engine_log: vLLM's own lines, read as progress and as causes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.engine_log import (
    LOADING,
    SERVING,
    STARTING,
    WARMING,
    Cause,
    EngineLog,
    Phase,
    cause_of,
    phase_of,
)

WORKER = "(Worker pid=27233) INFO 11-22 18:45:53"
CORE = "(EngineCore pid=27222) INFO 11-22 18:45:56"
SERVER = "(APIServer pid=27202) INFO 11-22 18:45:57"

# A start of vLLM 0.32 on the CPU, shortened, with the phase after each line.
START = [
    ("Triton is installed, but doesn't include CPU backend. Disabling Triton.", STARTING),
    (f"{SERVER} [api_utils.py:347]  ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.32.0", STARTING),
    (f"{WORKER} [cpu_model_runner.py:68] Starting to load model /srv/step3-vl-demo...", LOADING),
    (f"{WORKER} [base_loader.py:82] Initializing model took 0.211757 seconds", LOADING),
    ("Loading safetensors checkpoint shards:   0% Completed | 0/2 [00:00<?, ?it/s]", LOADING),
    ("Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:00<00:00, 45it/s]", LOADING),
    ("Loading safetensors checkpoint shards: 100% Completed | 2/2 [00:00<00:00, 45it/s]", LOADING),
    ("", LOADING),
    (f"{WORKER} [default_loader.py:501] Loading weights took 0.01 seconds", WARMING),
    (f"{WORKER} [monitor.py:34] torch.compile took 20.39 s in total", WARMING),
    ("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  40%|████| 2/5 [00:00]", WARMING),
    (
        f"{CORE} [core.py:402] init engine (profile, create kv cache, warmup model) took 1.68 s",
        SERVING,
    ),
    (f"{SERVER} [entry.py:140] Starting vLLM server on http://127.0.0.1:8000", SERVING),
    ("(APIServer pid=27202) INFO:     Started server process [27202]", SERVING),
    ("(APIServer pid=27202) INFO:     Application startup complete.", SERVING),
]
NOISE = [
    '(APIServer pid=1) INFO:     127.0.0.1:5000 - "POST /v1/chat/completions HTTP/1.1" 200 OK',
    "(APIServer pid=1) INFO 11-22 18:46:00 [loggers.py:1] Avg prompt throughput: 1.0 tokens/s",
    "  warnings.warn(",
    "Traceback (most recent call last):",
    "loading weights took a while",
    "\x00\ufffd",
]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (START[2][0], Phase(LOADING, "loading the model")),
        (START[4][0], Phase(LOADING, "loading the model: part 0 of 2")),
        (START[5][0], Phase(LOADING, "loading the model: part 1 of 2")),
        (
            "Loading pt checkpoint shards:  50% Completed | 12/24 [00:00<?, ?it/s]",
            Phase(LOADING, "loading the model: part 12 of 24"),
        ),
        (START[8][0], Phase(WARMING, "warming up")),
        (START[9][0], Phase(WARMING, "warming up: compiled")),
        (START[10][0], Phase(WARMING, "warming up: capturing CUDA graphs")),
        (START[11][0], Phase(SERVING, "opening the port")),
        (START[14][0], Phase(SERVING, "opening the port")),
    ],
)
def test_a_line_of_vllm_announces_a_phase(line: str, expected: Phase) -> None:
    """Each milestone of a start is known by vLLM's own words."""
    assert expected == phase_of(line)


def test_a_whole_start_goes_through_the_phases_in_order() -> None:
    """Fed line by line, the phase is right after every line of a real start."""
    log = EngineLog()
    found = []
    for line, _ in START:
        log.feed(f"{line}\n")
        found.append(log.phase.name)
    assert [phase for _, phase in START] == found


def test_feeding_tells_whether_the_phase_changed() -> None:
    """The same announcement twice is one change."""
    log = EngineLog()
    half, whole = START[5][0], START[6][0]
    assert [log.feed(line) for line in (half, half, whole, "x")] == [True, False, True, False]


@pytest.mark.parametrize("line", NOISE)
def test_other_lines_change_nothing(line: str) -> None:
    """Requests, warnings and garbage leave the phase as it was."""
    log = EngineLog()
    log.feed(START[2][0])
    before = log.phase
    assert log.feed(line) is False
    assert before == log.phase


def test_before_any_line_vllm_is_starting() -> None:
    """The first phase needs no line of the log."""
    assert Phase(STARTING, "starting vLLM") == EngineLog().phase


GPU_MEMORY = (
    "out of GPU memory: lower gpu-memory-utilization or max-model-len in engine.options,"
    " or end what else uses the card (nvidia-smi)"
)
KV_CACHE = "no memory left for the KV cache: lower max-model-len in engine.options"
PORT = "its port is taken: write another engine.port, or end the program that holds it"
DOWNLOAD = (
    "the model could not be downloaded: check the network, or set HF_ENDPOINT to a mirror"
    " under engine.environment"
)
HUB = "the hub does not have this model: check model.hub_id"
WEIGHTS = "a weights file is damaged: fetch it again"
MEMORY = "out of memory: lower VLLM_CPU_KVCACHE_SPACE"

CAUSES = [
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", GPU_MEMORY),
    ("RuntimeError: CUDA error: OutOfMemoryError", GPU_MEMORY),
    (
        "ValueError: Free memory on device cuda:0 (3.1/79.1 GiB) on startup is less than desired"
        " GPU memory utilization (0.9, 71.2 GiB). Decrease GPU memory utilization",
        GPU_MEMORY,
    ),
    ("ValueError: No available memory for the cache blocks. Try increasing it", KV_CACHE),
    (
        "ValueError: The model's max seq len (32768) is larger than the maximum number of tokens"
        " that can be stored in KV cache (1024).",
        KV_CACHE,
    ),
    (
        "ValueError: To serve at least one request with the models's max seq len (32768), (4.50 GiB"
        " KV cache is needed, which is larger than the available KV cache memory (1.20 GiB).",
        KV_CACHE,
    ),
    ("OSError: [Errno 98] Address already in use", PORT),
    ("OSError: [Errno 98] error while attempting to bind on address ('127.0.0.1', 8000)", PORT),
    (
        "api_server.py: error: unrecognized arguments: --max-modellen=3 --x",
        "vLLM does not know --max-modellen=3 --x; correct engine.options",
    ),
    (
        "api_server.py: error: argument --max-model-len: invalid value: '{x}'",
        "vLLM refused an option, --max-model-len: invalid value: '{x}'; correct engine.options",
    ),
    ("OSError: [Errno 28] No space left on device", "the disk is full: free some space"),
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


@pytest.mark.parametrize(("line", "expected"), CAUSES)
def test_a_known_cause_is_named_with_its_fix(line: str, expected: str) -> None:
    """The words for people come with the log's own line, without process and time."""
    log = EngineLog()
    for before in ("Traceback (most recent call last):", *NOISE):
        log.feed(before)
    log.feed(f"(EngineCore pid=1) ERROR 11-22 18:09:40 [core.py:790] {line}\n")
    log.feed("RuntimeError: Engine core initialization failed. See root cause above.\n")
    assert Cause(expected, line, known=True) == log.cause()


def test_the_first_known_cause_counts() -> None:
    """What follows a cause is its consequence."""
    lines = ["torch.OutOfMemoryError: CUDA out of memory.", "OSError: [Errno 98] in use"]
    found = cause_of(lines)
    assert found is not None
    assert found.message == GPU_MEMORY


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
    assert Cause(words, words, known=False) == cause_of(lines)


def test_a_start_that_went_well_shows_no_cause() -> None:
    """No line of a start or of serving is taken for an error."""
    assert cause_of([*(line for line, _ in START), *NOISE]) is None


def test_an_endless_line_is_cut() -> None:
    """An error that prints a whole tensor does not flood the terminal."""
    found = cause_of([f"ValueError: {'x' * 10_000}"])
    assert found is not None
    assert len(found.message) == 500


def test_only_the_end_of_the_log_is_remembered() -> None:
    """A cause that lies further back than what is kept is forgotten, with its memory."""
    log = EngineLog(keep=3)
    log.feed("MemoryError")
    for _ in range(3):
        log.feed("fine")
    assert log.cause() is None


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=80), max_size=6))
def test_no_line_is_too_odd_to_be_read(lines: list[str]) -> None:
    """A cause, where one is found, is one of the lines that were fed."""
    log = EngineLog()
    for line in lines:
        log.feed(line)
    cause = log.cause()
    assert cause is None or any(cause.evidence in line for line in lines)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (line, "unrecognized arguments" in line or "error: argument" in line)
        for line, _ in [*CAUSES, ("KeyError: 'last'", "")]
    ],
)
def test_only_a_refused_option_is_permanent(line: str, expected: bool) -> None:
    """Every other cause may be gone at the next start."""
    found = cause_of([line])
    assert found is not None
    assert expected == found.permanent


@pytest.mark.parametrize("process", ["", "(APIServer pid=27202) ", "(EngineCore pid=2)"])
@pytest.mark.parametrize("level", ["DEBUG ", "INFO ", "WARNING ", "INFO:     ", "WARNING:  "])
@pytest.mark.parametrize("words", [line for line, _ in CAUSES[::4]])
def test_a_routine_line_is_never_a_cause(process: str, level: str, words: str) -> None:
    """Routine lines hold the words of requests too, so none of them explains an end."""
    line = f"{process}{level}11-22 18:46:00 [logger.py:1] {words}"
    assert cause_of([line]) is None
    assert cause_of([line, "KeyError: 'last'"]) == Cause("KeyError: 'last'", "KeyError: 'last'")


@pytest.mark.parametrize("start", ["ERROR ", "(EngineCore pid=2) ERROR ", "INFORMATION "])
def test_other_levels_are_read(start: str) -> None:
    """Only the routine levels are passed over."""
    found = cause_of([f"{start}MemoryError"])
    assert found is not None
    assert found.known


def test_what_was_forgotten_is_no_cause() -> None:
    """Lines before forget() explain nothing, lines after it do, and the phase stays."""
    log = EngineLog()
    log.feed(START[2][0])
    log.feed("MemoryError")
    log.forget()
    assert (log.cause(), log.phase.name) == (None, LOADING)
    log.feed("KeyError: 'x'")
    assert log.cause() == Cause("KeyError: 'x'", "KeyError: 'x'")
