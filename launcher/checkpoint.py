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
    needed = [folder / "config.json", folder / "tokenizer.json"]
    problems = [f"{path}: missing" for path in needed if not path.is_file()]
    problems += [
        f"{path}: the rest of an interrupted download"
        for path in sorted(folder.glob("*.incomplete"))
    ]
    if (folder / "config.json").is_file():
        problems += _config_problems(folder / "config.json")
    return problems + _weight_problems(folder)


def _config_problems(path: Path) -> list[str]:
    config = _read_json(path)
    if not isinstance(config, dict):
        return [f"{path}: not a JSON object"]
    found = config.get("architectures")
    if found != [ARCHITECTURE]:
        return [f"{path}: a checkpoint of {found}, and this package serves {ARCHITECTURE}"]
    files = sorted(path.parent / name for name in _code_files(config.get("auto_map")))
    return [f"{file}: missing" for file in files if not file.is_file()]


def _code_files(auto_map: Any) -> set[str]:
    """The modules beside the weights: from ``module.Class``, or a list of those and nulls.

    ``other/repository--module.Class`` is somewhere else and not looked at.
    """
    values = auto_map.values() if isinstance(auto_map, dict) else []
    references = [r for v in values for r in (v if isinstance(v, list) else [v])]
    return {
        f"{reference.rsplit('.', 1)[0]}.py"
        for reference in references
        if isinstance(reference, str) and "--" not in reference
    }


def _weight_problems(folder: Path) -> list[str]:
    """Every shard that the index names, or that is there, must be whole; and there must be one."""
    shards = set(folder.glob("*.safetensors"))
    if (folder / INDEX).exists():
        index = _read_json(folder / INDEX)
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        names = list(weight_map.values()) if isinstance(weight_map, dict) else []
        if not names or not all(isinstance(name, str) for name in names):
            return [f"{folder / INDEX}: does not say which file holds which weight"]
        shards |= {folder / name for name in names}
    elif not shards:
        return [f"{folder / 'model.safetensors'}: missing"]
    return [f"{path}: {problem}" for path in sorted(shards) if (problem := _shard_problem(path))]


def _shard_problem(path: Path) -> str | None:
    """Compare a shard's size with what its own header promises."""
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or header_bytes > min(size - 8, MAX_HEADER_BYTES):
            return "not a safetensors file, or cut short in its header"
        try:
            header = json.loads(file.read(header_bytes))
            ends = [t["data_offsets"][1] for n, t in header.items() if n != "__metadata__"]
            expected = 8 + header_bytes + max(ends, default=0)
        except (ValueError, LookupError, TypeError, AttributeError):
            return "its header cannot be read"
    return (
        None if size == expected else f"{size} bytes where {expected} are promised; copy it again"
    )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
