"""What `up` says before it starts anything."""

from __future__ import annotations

import pytest

from launcher import lifecycle
from launcher.host_checks import Gpu

CARD = Gpu("NVIDIA A100", 80.0)


@pytest.mark.parametrize(
    ("installed", "cards", "warned"),
    [(True, [CARD], True), (True, [], False), (False, [CARD], False)],
)
def test_a_card_that_is_not_used_is_mentioned(
    installed: bool,
    cards: list[Gpu],
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only where vLLM for the CPU is installed and a card answers; the line says what to do."""
    monkeypatch.setattr(lifecycle, "gpus", lambda: cards)
    monkeypatch.setattr(lifecycle, "distributions", lambda name: [name] if installed else [])
    lifecycle._warn_of_idle_gpu()
    said = capsys.readouterr().err
    assert ("delete .venv and run/config-path" in said) is warned
    assert said.count("\n") == warned
