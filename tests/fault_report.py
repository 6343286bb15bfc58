"""A pytest plugin: what was tested against each fault and attack, and what a run saw.

A test says which case it is about, and what is expected there, with a mark, and may say what it
saw with the fixture ``saw``; otherwise that is how it ended::

    @pytest.mark.fault(37, "503 and when to try again")
    def test_a_loading_engine(saw: Saw) -> None:
        ...
        saw(f"503 after {seconds:.1f} s")

With ``--fault-report FILE`` a run writes a table with a row for each case.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CASES = {
    1: "an image's address leads into a private network: as it is, by its name, by a redirect",
    2: "an image's address is a file, or a data: URL of something else",
    3: "pictures a few pixels wide, which would be padded to squares of gigabytes",
    4: "small files that claim billions of pixels",
    5: "pictures of one pixel, of none, or too thin to be cut into crops",
    6: "kinds of files that few expect, or with thousands of pages",
    7: "damaged pictures",
    8: "too many images, or too many bytes of them",
    9: "bodies that are no JSON, or JSON that parsers understand differently",
    10: "answers, prompts, messages or tools by the thousand",
    11: "probabilities of the whole vocabulary",
    13: "templates, and fields that nobody knows",
    14: "tensors in place of text, and the engine's own switches",
    15: "schemas and expressions that take for ever",
    17: "paths written so that they may mean another one",
    18: "no key, a wrong one, or one tried after the other",
    19: "requests that two servers would read differently",
    20: "heads of megabytes",
    22: "pages of other sites",
    23: "the page's library asked for files and addresses",
    24: "uploads and questions on the page, by the hundred",
    25: "the model writes HTML, scripts and pictures from elsewhere",
    26: "what others on the machine or the network can see",
    27: "the engine's core is killed while it streams",
    28: "the engine's server is killed",
    29: "the engine hangs",
    30: "the engine crashes again and again",
    31: "a port is taken",
    32: "files of the model are damaged, or the YAML is wrong",
    34: "everything is stopped during answers",
    35: "supervisord is killed",
    36: "the client leaves: while it sends, waits or reads",
    37: "the engine is loading, breaks off, sends garbage or falls silent",
    39: "slow clients, by the hundred",
    40: "more requests than can be answered at once, and long silence",
    41: "the page's process is killed, hangs or cannot start",
}
"""By their numbers; those that are left out are not used."""

HEAD = """\
# Faults and attacks

What the tests do to this package, and what came of it in the last full run.
`./launcher/launch test` writes this file.

| case | attack or fault | expected | seen | tests | seconds |
| ---: | --- | --- | --- | ---: | ---: |
"""

Saw = Callable[[str], None]
SAID: pytest.StashKey[list[str]] = pytest.StashKey()


@dataclass
class Case:
    """What is known of one number."""

    expected: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    tests: set[str] = field(default_factory=set)
    failures: dict[str, str] = field(default_factory=dict)
    """By the tests' names: the first line of each."""
    seconds: float = 0.0

    def row(self, number: int) -> str:
        cells = [CASES[number], _list(self.expected), self._seen(), str(len(self.tests))]
        line = " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells)
        return f"| {number} | {line} | {self.seconds:.1f} |"

    def _seen(self) -> str:
        count = len(self.tests)
        if self.failures:
            first = next(iter(self.failures.values()))
            return f"**FAILED** ({len(self.failures)} of {count}): {first}"
        words = f"; {_list(self.said)}" if self.said else ""
        return f"passed ({count} {'test' if count == 1 else 'tests'}){words}"


def _list(words: list[str]) -> str:
    """Each once, in their order."""
    return "; ".join(dict.fromkeys(words))


class FaultReport:
    """Collects in the order of the tests, which is always the same."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._cases: dict[int, Case] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        for number, expected in properties.get("faults", []):
            case = self._cases.setdefault(number, Case())
            case.seconds += report.duration
            if report.when == "setup":
                case.expected.append(expected)
            if report.when == "call" and not report.skipped:
                case.tests.add(report.nodeid)
                case.said += properties["said"]
            if report.failed:
                case.tests.add(report.nodeid)
                case.failures.setdefault(report.nodeid, _first_line(report))

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        broken_off = session.shouldfail or session.shouldstop
        if exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED} and not broken_off:
            self._file.write_text(self._text())

    def _text(self) -> str:
        tested = {n: case for n, case in self._cases.items() if case.tests}
        rows = [tested[number].row(number) for number in sorted(tested)]
        untested = [f"- {number}: {CASES[number]}" for number in CASES if number not in tested]
        end = ["", "Without a test:", "", *untested] if untested else []
        return HEAD + "\n".join([*rows, *end]) + "\n"


def _first_line(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longreprtext).strip().split("\n")[0][:200]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault-report", type=Path, metavar="FILE", help="write what was seen of each fault"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(case, expected): about this case of fault_report.py")
    file = config.getoption("--fault-report")
    if file and not config.option.collectonly:
        config.pluginmanager.register(FaultReport(config.rootpath / file))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Check the marks, also in a run that writes no report."""
    for item in items:
        for mark in item.iter_markers("fault"):
            match mark.args:
                case (int(number), str()) if number in CASES:
                    continue
            form = "@pytest.mark.fault(CASE, WHAT_IS_EXPECTED) with a case of fault_report.py"
            raise pytest.UsageError(f"{item.nodeid}: write {form}")


def _marks_of(item: pytest.Item) -> list[tuple[int, str]]:
    """Case and what is expected there."""
    return [(mark.args[0], mark.args[1]) for mark in item.iter_markers("fault")]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if marks := _marks_of(item):
        said = item.stash.setdefault(SAID, [])
        item.user_properties += [("faults", marks), ("said", said)]


@pytest.fixture
def saw(request: pytest.FixtureRequest) -> Saw:
    """Say, for the report, what was seen: a few words, with figures."""
    said: list[str] = request.node.stash.setdefault(SAID, [])
    return said.append
