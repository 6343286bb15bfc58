"""launcher.selection: which YAML is used, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher import selection
from launcher.errors import ConfigError
from launcher.host_checks import Gpu
from launcher.paths import Paths
from launcher.profiles import DEMO, GPU
from launcher.selection import Selection, active_config, default_for, select_config

H200 = Gpu("NVIDIA H200", 140.4)
T4 = Gpu("NVIDIA T4", 15.0)


def test_without_a_card_the_demo_is_chosen() -> None:
    """The reason says that no card answered."""
    expected = Selection(Path(DEMO.path), "no NVIDIA GPU answers on this machine")
    assert expected == default_for([])


@pytest.mark.parametrize(
    ("cards", "reason"),
    [
        ([H200], "found NVIDIA H200 with 140 GiB"),
        ([H200, T4], "found 2 x NVIDIA H200 with 140 GiB"),
        ([Gpu("NVIDIA GeForce RTX 4090", 23.99)], "found NVIDIA GeForce RTX 4090 with 24 GiB"),
        ([T4] * 4, "found 4 x NVIDIA T4 with 15 GiB"),
    ],
)
def test_cards_that_can_hold_it_get_the_real_model(cards: list[Gpu], reason: str) -> None:
    """One that is large enough, or several together."""
    assert Selection(Path(GPU.path), reason) == default_for(cards)


def test_too_small_a_card_gets_the_demo_and_the_sum() -> None:
    """The reason says what it would take."""
    found = default_for([T4])
    assert Path(DEMO.path) == found.path
    assert found.reason.startswith("found NVIDIA T4, too small for the 10 B model: ")
    assert "a card of 32 GB, or several" in found.reason


@pytest.fixture
def active(paths: Paths) -> Path:
    """A file that `up` applied."""
    file = paths.etc / "active.yaml"
    file.write_text("")
    paths.active_config.write_text(str(file))
    return file


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> list[Gpu]:
    """The cards that this machine is made to have."""
    found: list[Gpu] = []
    monkeypatch.setattr(selection, "gpus", lambda: found)
    return found


def test_a_file_named_on_the_command_line_comes_first(
    active: Path, paths: Paths, cards: list[Gpu]
) -> None:
    """Neither the file in use nor the cards matter then."""
    expected = Selection(Path("/srv/mine.yaml"), "named on the command line")
    assert expected == select_config("/srv/mine.yaml", paths)


def test_a_relative_name_is_made_absolute(
    paths: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs started later do not share the shell's folder."""
    monkeypatch.chdir(tmp_path)
    assert tmp_path / "mine.yaml" == select_config("mine.yaml", paths).path


def test_a_link_named_on_the_command_line_is_followed(paths: Paths, tmp_path: Path) -> None:
    """The checkpoint beside the real file is the one that is meant."""
    real = tmp_path / "real.yaml"
    real.write_text("")
    link = tmp_path / "link.yaml"
    link.symlink_to(real)
    assert real == select_config(str(link), paths).path


def test_the_file_in_use_comes_before_what_fits(
    active: Path, paths: Paths, cards: list[Gpu]
) -> None:
    """A second `up` applies the same file, even if a card has come since."""
    cards.append(H200)
    found = select_config(None, paths)
    assert active == found.path
    assert "in use since the last `launch up`" in found.reason


@pytest.mark.parametrize(("machine", "profile"), [([], DEMO), ([T4], DEMO), ([H200], GPU)])
def test_on_a_fresh_machine_the_cards_decide(
    machine: list[Gpu], profile: object, paths: Paths, cards: list[Gpu]
) -> None:
    """With nothing named and nothing in use, the machine's cards choose the profile."""
    cards.extend(machine)
    assert default_for(machine) == select_config(None, paths)
    assert Path(profile.path) == select_config(None, paths).path  # type: ignore[attr-defined]


def test_a_file_in_use_that_is_gone_is_an_error(active: Path, paths: Paths) -> None:
    """Silently taking another configuration would be worse."""
    active.unlink()
    with pytest.raises(ConfigError) as caught:
        select_config(None, paths)
    assert f"{active}: in use until now, but gone; name another with --config" == str(caught.value)


def test_nothing_was_applied_yet(paths: Paths) -> None:
    """Without the pointer, or with an empty one, no file is in use."""
    assert active_config(paths) is None
    paths.active_config.write_text("")
    assert active_config(paths) is None
