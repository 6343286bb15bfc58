"""launcher.profiles: the two configurations that come with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.checkpoint import problems_of
from launcher.config import load_config
from launcher.paths import ROOT
from launcher.profiles import DEMO, GPU, PROFILES, Profile
from launcher.programs import model_location
from launcher.sample import sample_yaml

every_profile = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)


@every_profile
def test_a_profile_stands_in_deploy(profile: Profile) -> None:
    """Every profile is one file of deploy/, and deploy/ has no others."""
    assert ROOT / "deploy" / profile.file_name == Path(profile.path)
    files = {path.name for path in (ROOT / "deploy").glob("*.yaml")}
    assert files == {profile.file_name for profile in PROFILES.values()}


@every_profile
def test_the_file_of_a_profile_says_what_the_profile_says(profile: Profile) -> None:
    """Loading deploy/*.yaml gives each value of the profile, and defaults elsewhere."""
    config = load_config(Path(profile.path))
    expected = {(name, key) for name, section in profile.values.items() for key in section}
    set_keys = {
        (name, key)
        for name in config.model_fields_set
        for key in getattr(config, name).model_fields_set
    }
    assert expected == set_keys
    said = config.model_dump()
    for name, key in expected:
        assert profile.values[name][key] == said[name][key]


def test_the_demo_serves_the_checkpoint_beside_it() -> None:
    """The demo needs nothing from the network: its folder is complete."""
    config = load_config(Path(DEMO.path))
    folder = Path(model_location(config, Path(DEMO.path)))
    assert folder == ROOT / "deploy" / "models" / "step3-vl-demo"
    assert problems_of(folder) == []


def test_the_demo_answers_for_the_real_model_too() -> None:
    """A client written for the 10 B model works with the demo unchanged."""
    demo, real = load_config(Path(DEMO.path)), load_config(Path(GPU.path))
    assert real.model.names[0] in demo.model.names


def test_only_the_demo_is_not_reached_from_outside() -> None:
    """The demo stays on this machine."""
    hosts = {name: load_config(Path(p.path)).webui.host for name, p in PROFILES.items()}
    assert hosts == {"demo": "127.0.0.1", "gpu": "0.0.0.0", "cluster": "0.0.0.0"}


@every_profile
def test_a_profile_can_be_kept_anywhere(profile: Profile, tmp_path: Path) -> None:
    """What `sample-config` prints serves the same model from whatever folder it is saved in."""
    elsewhere = tmp_path / "mine.yaml"
    elsewhere.write_text(sample_yaml(profile.for_anywhere()))
    found = model_location(load_config(elsewhere), elsewhere)
    assert model_location(load_config(Path(profile.path)), Path(profile.path)) == found
