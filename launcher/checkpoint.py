"""Is a folder a complete checkpoint? Answered from file names, sizes and headers alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ARCHITECTURE = "StepVLForConditionalGeneration"
INDEX = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format


def problems_of(folder: Path) -> list[str]:
    """What is missing or broken in a checkpoint's folder; empty when it can be loaded."""
    if not folder.is_dir():
        return [f"{folder}: no such folder"]
    problems = [
        f"{folder / f}: missing" for f in _needed_files(folder) if not (folder / f).exists()
    ]
    problems += [
        f"{path}: the rest of an interrupted download"
        for path in sorted(folder.glob("*.incomplete"))
    ]
    problems += _config_problems(folder / "config.json")
    for shard in sorted(folder.glob("*.safetensors")):
        if (problem := _shard_problem(shard)) is not None:
            problems.append(f"{shard}: {problem}")
    return problems


def _needed_files(folder: Path) -> list[str]:
    return ["config.json", "tokenizer.json", *_weight_files(folder)]


def _weight_files(folder: Path) -> list[str]:
    """The shards that the index names; without an index, the single file."""
    if not (folder / INDEX).exists():
        return [] if any(folder.glob("*.safetensors")) else ["model.safetensors"]
    index = _read_json(folder / INDEX)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    return sorted(set(weight_map.values())) if isinstance(weight_map, dict) else []


def _config_problems(path: Path) -> list[str]:
    if not path.exists():
        return []
    config = _read_json(path)
    if not isinstance(config, dict):
        return [f"{path}: not a JSON object"]
    found = config.get("architectures")
    if found != [ARCHITECTURE]:
        return [f"{path}: a checkpoint of {found}, and this package serves {ARCHITECTURE}"]
    modules = [str(v).rsplit(".", 1)[0] for v in (config.get("auto_map") or {}).values()]
    files = {path.parent / f"{module.split('--')[-1]}.py" for module in modules}
    return [f"{file}: missing" for file in sorted(files) if not file.exists()]


def _shard_problem(path: Path) -> str | None:
    """Compare a shard's size with what its own header promises."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or header_bytes > min(size - 8, MAX_HEADER_BYTES):
            return "not a safetensors file, or cut short in its header"
        try:
            header = json.loads(file.read(header_bytes))
            end = max(
                (t["data_offsets"][1] for n, t in header.items() if n != "__metadata__"), default=0
            )
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return "its header cannot be read"
    expected = 8 + header_bytes + end
    return (
        None if size == expected else f"{size} bytes where {expected} are promised; copy it again"
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None
