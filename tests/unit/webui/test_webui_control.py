"""webui.chat.control: a real supervisord restarts a program for its page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from deployments import supervised_program
from support import wait_for

from webui.chat.control import LOG_BYTES, Control, ControlError


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Control]:
    """As a process would have it that this supervisord has started."""
    with supervised_program(tmp_path) as address:
        yield Control({"SUPERVISOR_SERVER_URL": address})


def test_a_program_comes_back(control: Control) -> None:
    """As another process; its log goes on."""
    assert control.is_there
    before = control.log("vllm")
    control.restart("vllm")
    wait_for(lambda: control.log("vllm").count("begun") == 2, 20, "it runs again")
    assert control.log("vllm").startswith(before)


def test_what_is_not_there_is_told(control: Control) -> None:
    """In supervisord's words."""
    with pytest.raises(ControlError, match="no program other"):
        control.restart("other")


def test_a_long_log_begins_with_a_whole_line(control: Control, tmp_path: Path) -> None:
    """And has its end, without colours."""
    lines = [f"line {number} 图" for number in range(LOG_BYTES // 8)]
    coloured = "".join(f"\x1b[36m{line}\x1b[0;0m\n" for line in lines)
    (tmp_path / "vllm.log").write_text(coloured)
    shown = control.log("vllm").splitlines()
    assert shown == lines[-len(shown) :]
    assert len(shown) > 500


@pytest.mark.parametrize("url", ["", "http://localhost:9001", "unix:///nowhere/s.sock"])
def test_without_a_supervisord_nothing_is_done(url: str) -> None:
    """Also where it listens on a network, which needs a password that nobody has given."""
    control = Control({"SUPERVISOR_SERVER_URL": url})
    with pytest.raises(ControlError):
        control.restart("vllm")
    assert control.is_there == url.startswith("unix")
