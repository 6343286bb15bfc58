"""launcher.checkpoint: a folder that cannot be loaded is recognised without loading it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from launcher.checkpoint import ARCHITECTURE, INDEX, problems_of
from launcher.paths import ROOT

DEMO = ROOT / "deploy" / "models" / "step3-vl-demo"
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A complete checkpoint to be broken: the demo's."""
    return Path(shutil.copytree(DEMO, tmp_path / "checkpoint"))


def shard(header: Any, data: bytes = b"") -> bytes:
    """A safetensors file as the format lays it out."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(start: int, end: int) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def split_weights(folder: Path) -> list[Path]:
    """Replace the single file by two shards and an index that names them."""
    (folder / WEIGHTS).unlink()
    shards = [folder / f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for number, path in enumerate(shards):
        path.write_bytes(shard({f"t{number}": tensor(0, 4)}, b"1234"))
    weight_map = {f"t{number}": path.name for number, path in enumerate(shards)}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return shards


def test_the_demo_checkpoint_is_complete() -> None:
    """What comes with the package can be loaded."""
    assert problems_of(DEMO) == []


def test_a_checkpoint_in_shards_is_complete(folder: Path) -> None:
    """Shards and index are as good as one file."""
    split_weights(folder)
    assert problems_of(folder) == []


def test_a_missing_folder_is_the_only_problem(tmp_path: Path) -> None:
    """Without a folder there is nothing else to say."""
    assert [f"{tmp_path / 'no'}: no such folder"] == problems_of(tmp_path / "no")


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    """A weights file named in place of its folder is refused."""
    file = tmp_path / WEIGHTS
    file.write_bytes(b"")
    assert [f"{file}: no such folder"] == problems_of(file)


def test_an_empty_folder_lacks_everything(tmp_path: Path) -> None:
    """All missing files are named at once."""
    expected = [f"{tmp_path / n}: missing" for n in ("config.json", "tokenizer.json", WEIGHTS)]
    assert expected == problems_of(tmp_path)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "configuration_step_vl.py", WEIGHTS]
)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    """Each file the engine needs is missed, the configuration class included."""
    (folder / name).unlink()
    assert [f"{folder / name}: missing"] == problems_of(folder)


@pytest.mark.parametrize("name", ["generation_config.json", "chat_template.jinja"])
def test_a_file_the_engine_can_do_without_is_not_missed(folder: Path, name: str) -> None:
    """Only what stops a load is a problem."""
    (folder / name).unlink()
    assert problems_of(folder) == []


def test_a_shard_the_index_names_is_missed(folder: Path) -> None:
    """The other shards do not make up for it."""
    lost = split_weights(folder)[1]
    lost.unlink()
    assert [f"{lost}: missing"] == problems_of(folder)


@pytest.mark.parametrize("lost", [1, 1000, 2_000_000])
def test_a_truncated_shard_is_reported_with_both_sizes(folder: Path, lost: int) -> None:
    """A copy cut short is found by its size alone, however little is missing."""
    path = folder / WEIGHTS
    whole = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(whole - lost)
    expected = f"{path}: {whole - lost} bytes where {whole} are promised; copy it again"
    assert [expected] == problems_of(folder)


def test_a_shard_with_bytes_too_many_is_reported(folder: Path) -> None:
    """A file longer than its header promises is no whole copy either."""
    path = folder / WEIGHTS
    whole = path.stat().st_size
    with path.open("ab") as file:
        file.write(b"x")
    expected = f"{path}: {whole + 1} bytes where {whole} are promised; copy it again"
    assert [expected] == problems_of(folder)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not a safetensors file, or cut short in its header"),
        (b"1234567", "not a safetensors file, or cut short in its header"),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            "not a safetensors file, or cut short in its header",
        ),
        (shard({"t": tensor(0, 4)})[:-1], "not a safetensors file, or cut short in its header"),
        (b"\xff" * 8, "not a safetensors file, or cut short in its header"),
        (shard({"t": tensor(0, 4)}).replace(b"{", b"["), "its header cannot be read"),
        (shard(["t"]), "its header cannot be read"),
        (shard(None), "its header cannot be read"),
        (shard({"t": {}}), "its header cannot be read"),
        (shard({"t": {"data_offsets": [0]}}), "its header cannot be read"),
        (shard({"t": {"data_offsets": None}}), "its header cannot be read"),
        (shard({"t": tensor(0, 4)}, b"12"), "bytes where"),
        (shard({"t": tensor(0, 10**15)}, b"1234"), "bytes where"),
    ],
)
def test_a_header_that_lies_is_reported(folder: Path, content: bytes, expected: str) -> None:
    """Whatever a weights file holds, it is one line about that file."""
    (folder / WEIGHTS).write_bytes(content)
    [problem] = problems_of(folder)
    assert problem.startswith(f"{folder / WEIGHTS}: ")
    assert expected in problem


def test_the_metadata_of_a_header_is_no_tensor(folder: Path) -> None:
    """`__metadata__` holds words and is left out of the sum."""
    header = {"__metadata__": {"format": "pt"}, "b": tensor(4, 6), "a": tensor(0, 4)}
    (folder / WEIGHTS).write_bytes(shard(header, b"123456"))
    assert problems_of(folder) == []


def test_a_file_without_tensors_is_whole(folder: Path) -> None:
    """An empty shard promises nothing beyond its header."""
    (folder / WEIGHTS).write_bytes(shard({}))
    assert problems_of(folder) == []


def test_the_rest_of_an_interrupted_download_is_reported(folder: Path) -> None:
    """An .incomplete file says that the download was not finished."""
    rest = folder / "model-00002.safetensors.incomplete"
    rest.write_bytes(b"")
    assert [f"{rest}: the rest of an interrupted download"] == problems_of(folder)


@pytest.mark.parametrize("architectures", [["Qwen3ForCausalLM"], [], None, ARCHITECTURE])
def test_another_architecture_is_refused(folder: Path, architectures: Any) -> None:
    """A checkpoint of another model is named for what it is."""
    edit_config(folder, architectures=architectures)
    expected = f"a checkpoint of {architectures}, and this package serves {ARCHITECTURE}"
    assert [f"{folder / 'config.json'}: {expected}"] == problems_of(folder)


@pytest.mark.parametrize("content", ["{", "[]", "null", "\xff"])
def test_a_configuration_that_is_no_object_is_refused(folder: Path, content: str) -> None:
    """Broken JSON in config.json is one line."""
    (folder / "config.json").write_bytes(content.encode("latin-1"))
    assert [f"{folder / 'config.json'}: not a JSON object"] == problems_of(folder)


@pytest.mark.parametrize("auto_map", [None, {}])
def test_a_checkpoint_without_code_of_its_own_is_complete(folder: Path, auto_map: Any) -> None:
    """Only the modules that auto_map names are needed."""
    edit_config(folder, auto_map=auto_map)
    (folder / "configuration_step_vl.py").unlink()
    assert problems_of(folder) == []


def test_each_module_of_auto_map_is_needed_once(folder: Path) -> None:
    """Two classes of one missing module are one problem."""
    edit_config(folder, auto_map={"AutoConfig": "other.A", "AutoModel": "other.B"})
    assert [f"{folder / 'other.py'}: missing"] == problems_of(folder)


def test_all_problems_are_reported_together(folder: Path) -> None:
    """Missing, foreign and broken files of one folder come in one answer."""
    (folder / "tokenizer.json").unlink()
    edit_config(folder, architectures=["Other"])
    (folder / WEIGHTS).write_bytes(b"")
    named = [problem.split(": ")[0] for problem in problems_of(folder)]
    assert [str(folder / n) for n in ("tokenizer.json", "config.json", WEIGHTS)] == named
