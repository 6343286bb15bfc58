"""The table of faults: what a run leaves in it."""

from __future__ import annotations

import re

import pytest
from fault_report import CASES

TESTS = """
    import pytest

    pytestmark = pytest.mark.fault(22, "nothing | at all")

    @pytest.fixture
    def broken():
        raise OSError("no such thing")

    @pytest.fixture
    def untidy():
        yield
        raise OSError("left over")

    @pytest.mark.fault(9, "400")
    @pytest.mark.parametrize("n", [1, 2])
    def test_says_what_it_saw(n, saw):
        saw(f"400 after {n} ms")

    @pytest.mark.fault(9, "a short answer")
    def test_says_nothing():
        pass

    @pytest.mark.fault(2, "400")
    def test_fails():
        assert 400 == 200, "it was let in"

    @pytest.mark.fault(3, "400")
    def test_cannot_begin(broken):
        pass

    @pytest.mark.fault(4, "400")
    def test_cannot_end(untidy):
        pass

    @pytest.mark.fault(5, "400")
    @pytest.mark.skip
    def test_is_left_out():
        pass
"""


def run(pytester: pytest.Pytester, tests: str, *arguments: str) -> pytest.RunResult:
    """Of some tests, with the plugin and nothing else."""
    pytester.makepyfile(tests)
    return pytester.runpytest("-p", "fault_report", "-p", "no:cacheprovider", *arguments)


def rows(report: str) -> dict[int, list[str]]:
    """Cells by the number of the case, in the order of the table, without the seconds."""
    found = re.findall(r"^\| (\d+) \| (.*) \| [\d.]+ \|$", report, re.MULTILINE)
    return {int(number): re.split(r" (?<!\\)\| ", cells) for number, cells in found}


def test_a_run_leaves_a_row_for_each_case(pytester: pytest.Pytester) -> None:
    """In order; with what was expected, how it went, and what the tests said of it."""
    run(pytester, TESTS, "--fault-report", "report.md")
    found = rows((pytester.path / "report.md").read_text())
    assert [*found] == [2, 3, 4, 9, 22]
    assert found[9] == [
        CASES[9],
        "400; a short answer",
        "passed (3 tests); 400 after 1 ms; 400 after 2 ms",
        "3",
    ]
    assert found[2][2].startswith("**FAILED** (1 of 1): AssertionError: it was let in")
    assert found[3][2] == "**FAILED** (1 of 1): OSError: no such thing"
    assert found[4][1:] == ["400", "**FAILED** (1 of 1): OSError: left over", "1"]
    assert found[22][1] == r"nothing \| at all"
    assert found[22][2].startswith("**FAILED** (3 of 6): ")


def test_cases_without_a_test_are_listed(pytester: pytest.Pytester) -> None:
    """Those that were left out in this run too."""
    run(pytester, TESTS, "--fault-report", "report.md")
    _, _, rest = (pytester.path / "report.md").read_text().partition("Without a test:\n\n")
    listed = [int(number) for number in re.findall(r"^- (\d+): ", rest, re.MULTILINE)]
    assert listed == [number for number in CASES if number not in {2, 3, 4, 9, 22}]


def test_two_runs_differ_only_in_their_times(pytester: pytest.Pytester) -> None:
    """So that a change of the file means something."""
    texts = []
    for name in ("one.md", "two.md"):
        run(pytester, TESTS, "--fault-report", name)
        texts.append(re.sub(r"[\d.]+ \|$", "", (pytester.path / name).read_text(), flags=re.M))
    assert texts[0] == texts[1]


def test_without_the_option_nothing_is_written(pytester: pytest.Pytester) -> None:
    """A run of a few tests does not overwrite what a full one saw."""
    run(pytester, TESTS).assert_outcomes(passed=4, failed=1, errors=2, skipped=1)
    assert [path.name for path in pytester.path.glob("*.md")] == []


@pytest.mark.parametrize("more", [[], ["--collect-only"], ["-x"], ["nothing.py"]])
def test_half_a_run_leaves_the_table_as_it_was(pytester: pytest.Pytester, more: list[str]) -> None:
    """Neither a list of the tests nor a run that was broken off is what a full one saw."""
    (pytester.path / "report.md").write_text("before")
    tests = TESTS + "\n    def test_stops():\n        pytest.exit('enough')\n"
    run(pytester, tests, "--fault-report", "report.md", *more)
    assert (pytester.path / "report.md").read_text() == "before"


@pytest.mark.parametrize("mark", ["fault(12, 'x')", "fault(9)", "fault('9', 'x')", "fault()"])
def test_a_mark_that_says_too_little_stops_the_run(pytester: pytest.Pytester, mark: str) -> None:
    """Also in a run that writes no report; the message names the test."""
    result = run(pytester, f"import pytest\n@pytest.mark.{mark}\ndef test_it(): pass")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "test_it: write @pytest.mark.fault(CASE, WHAT_IS_EXPECTED)" in str(result.stderr)
