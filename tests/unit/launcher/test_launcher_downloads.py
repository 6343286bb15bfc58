"""launcher.downloads: a model that was fetched is what the engine gets, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from fakes.fake_hub import HUB_ID, FakeHub

from launcher.cli import main
from launcher.config import load_config
from launcher.downloads import folder_of, with_download
from launcher.errors import ConfigError
from launcher.paths import Paths

FILES = {"config.json": b'{"a": 1}', "modeling.py": b"x = 1\n", "model.safetensors": b"12345" * 99}


@pytest.fixture
def config_file(home: Path, tmp_path: Path) -> Path:
    file = tmp_path / "hub.yaml"
    file.write_text(yaml.safe_dump({"model": {"hub_id": HUB_ID, "source": "huggingface"}}))
    return file


@pytest.fixture
def fetched(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Path:
    """The folder, after ``launch download``."""
    with FakeHub(FILES) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        assert main(["download", "--config", str(config_file)]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[-1].startswith("Whole: 3 files, 0.0 GB, from huggingface, commit 0123")
    return folder_of(HUB_ID, Paths.from_environ())


def test_what_was_fetched_is_what_the_engine_gets(fetched: Path, config_file: Path) -> None:
    """From the folder, and offline."""
    assert {name: (fetched / name).read_bytes() for name in FILES} == FILES
    model = with_download(load_config(config_file), Paths.from_environ()).model
    assert (model.folder, model.hub_id) == (str(fetched), None)


def test_before_it_was_fetched_the_hub_is_named(config_file: Path) -> None:
    config = load_config(config_file)
    assert with_download(config, Paths.from_environ()) == config


@pytest.mark.parametrize("harm", ["cut", "gone", "changed code", "added code"])
def test_what_is_not_whole_any_more_is_refused(
    fetched: Path, config_file: Path, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """By `check` and `up` alike, with the file and what to do."""
    file = {"changed code": "modeling.py", "added code": "more.py"}.get(harm, "model.safetensors")
    if harm == "gone":
        (fetched / file).unlink()
    else:
        (fetched / file).write_bytes(b"y = 1\n")
    with pytest.raises(ConfigError, match="`launch download` fetches it again") as caught:
        with_download(load_config(config_file), Paths.from_environ())
    assert str(fetched / file) in str(caught.value)
    assert main(["check", "--config", str(config_file)]) == 2
    assert "fetches it again" in capsys.readouterr().err


def test_a_flipped_byte_is_found_when_asked_for(
    fetched: Path,
    config_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One that left the time of the file as it was."""
    file = fetched / "model.safetensors"
    before = file.stat()
    file.write_bytes(b"X" + FILES["model.safetensors"][1:])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with FakeHub(FILES) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        assert main(["download", "--config", str(config_file)]) == 0
        assert main(["download", "--config", str(config_file), "--verify"]) == 1
    assert "is damaged; delete these" in capsys.readouterr().err


def test_a_folder_needs_no_download(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "folder.yaml"
    file.write_text(yaml.safe_dump({"model": {"folder": "x"}}))
    assert main(["download", "--config", str(file)]) == 2
    assert "there is nothing to download" in capsys.readouterr().err
