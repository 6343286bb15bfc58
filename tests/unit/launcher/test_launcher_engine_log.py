"""launcher.engine_log: vLLM's own lines, read as progress; those that explain an end are kept."""

from __future__ import annotations

import pytest

from launcher.engine_causes import UNKNOWN, Cause, cause_of
from launcher.engine_log import LOADING, SERVING, WARMING, EngineLog, Phase, phase_of
from launcher.engine_state import STARTING

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
        (START[4][0], Phase(LOADING, "loading the model: part 0 of 2", (0, 2))),
        (START[5][0], Phase(LOADING, "loading the model: part 1 of 2", (1, 2))),
        (
            "Loading pt checkpoint shards:  50% Completed | 12/24 [00:00<?, ?it/s]",
            Phase(LOADING, "loading the model: part 12 of 24", (12, 24)),
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


def test_a_start_that_went_well_shows_no_cause() -> None:
    """No line of a start or of serving is taken for an error."""
    assert cause_of([*(line for line, _ in START), *NOISE]) is None


def test_the_cause_is_found_among_the_lines_of_a_start() -> None:
    """What vLLM prints before and after it does not hide it."""
    log = EngineLog()
    for line in (*(line for line, _ in START), "Traceback (most recent call last):", *NOISE):
        log.feed(line)
    log.feed("(EngineCore pid=1) ERROR 11-22 18:09:40 [core.py:790] MemoryError\n")
    log.feed("RuntimeError: Engine core initialization failed. See root cause above.\n")
    found = log.cause()
    assert found is not None
    assert (found.what, found.evidence) == ("out of memory", "MemoryError")


def test_only_the_end_of_the_log_is_remembered() -> None:
    """A cause that lies further back than what is kept is forgotten, with its memory."""
    log = EngineLog(keep=3)
    log.feed("MemoryError")
    for _ in range(3):
        log.feed("fine")
    assert log.cause() is None


def test_what_was_said_before_it_served_is_no_cause() -> None:
    """Lines after it are, but for the API server's: it quotes requests. The phase stays."""
    log = EngineLog()
    log.feed(START[2][0])
    log.feed("MemoryError")
    log.serve()
    log.feed("(APIServer pid=1) ERROR Error with model: error: unrecognized arguments: --x")
    assert (log.cause(), log.phase.name) == (None, LOADING)
    log.feed("KeyError: 'x'")
    assert log.cause() == Cause(UNKNOWN, "KeyError: 'x'", "", "KeyError: 'x'")
