"""A YAML file that remembers on which line each key stands, to say where a mistake is."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from launcher.errors import ConfigError

MAX_BYTES = 1_000_000

# What PyYAML lets through for an explicit tag that does not fit its value, such as !!int "".
_CONSTRUCTION_ERRORS = (AttributeError, LookupError, RecursionError, TypeError, ValueError)

# What to write instead, by pydantic's name of the mistake.
ADVICE = {
    "bool_type": "write true or false",
    "int_type": "write a whole number",
    "float_type": "write a number",
    "string_type": 'write text; put "quotes" around numbers and yes/no',
    "list_type": "write a list: one '- item' a line",
    "dict_type": "write 'key: value' lines below it",
    "model_type": "write 'key: value' lines below it",
    "missing": "this key is required",
}


@dataclass(frozen=True)
class YamlSource:
    """``data`` as plain values; ``lines`` maps a path such as ("engine", "port") to its line."""

    name: str
    data: Any
    lines: Mapping[tuple[str | int, ...], int]

    @classmethod
    def read(cls, path: Path) -> YamlSource:
        """Read a file.

        Raises:
            ConfigError: it is missing, unreadable, too large or not YAML.
        """
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ConfigError(f"{path}: larger than {MAX_BYTES} bytes; is this the right file?")
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigError(
                f"{path}: no such file; `launch sample-config > {path.name}` writes one"
            ) from None
        except IsADirectoryError:
            raise ConfigError(f"{path}: a folder, not a YAML file") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{path}: not UTF-8 text; save it as UTF-8") from None
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; check its permissions") from None
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, name: str) -> YamlSource:
        """Parse text; ``name`` stands in messages."""
        lines: dict[tuple[str | int, ...], int] = {}
        try:
            loader = yaml.SafeLoader(text)
            node = loader.get_single_node()
            if node is not None:
                _collect_lines(node, (), lines, name)
            data = {} if node is None else loader.construct_document(node)
        except yaml.YAMLError as error:
            raise ConfigError(_yaml_problem(error, name)) from None
        except _CONSTRUCTION_ERRORS as error:
            raise ConfigError(f"{name}: not usable YAML: {type(error).__name__} {error}") from None
        return cls(name, data, lines)

    def locate(self, problem: ErrorDetails, model: type[BaseModel]) -> tuple[int, str, str]:
        """A mistake's line number, its YAML path, and what is wrong with what to write."""
        location = tuple(problem["loc"])
        # A union adds the member's name to the path; the YAML has no such key.
        while location and location not in self.lines and problem["type"] != "missing":
            location = location[:-1]
        return self.place(location, _explain(problem, model))

    def place(self, location: Sequence[str | int], text: str) -> tuple[int, str, str]:
        """The line of a YAML path, or of the nearest key above it; the path; and ``text``."""
        known = next((p for p in _prefixes(location) if p in self.lines), ())
        path = ".".join(map(str, location)) or "the file"
        return self.lines.get(known, 1), path, text


def _prefixes(location: Sequence[str | int]) -> list[tuple[str | int, ...]]:
    return [tuple(location[:end]) for end in range(len(location), 0, -1)]


def _explain(problem: ErrorDetails, model: type[BaseModel]) -> str:
    kind, value = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        return _unknown_key(problem["loc"], model)
    if kind == "missing":
        return ADVICE["missing"]
    if kind == "value_error":
        return str(problem["ctx"]["error"])
    said = f", not {value!r}" if isinstance(value, (str, int, float, bool, type(None))) else ""
    if kind in ADVICE:
        return f"{ADVICE[kind]}{said}"
    return f"{problem['msg'][0].lower()}{problem['msg'][1:]}{said}"


def _unknown_key(location: Sequence[str | int], model: type[BaseModel]) -> str:
    """Name the nearest known key, or all of them."""
    section: Any = model
    for key in location[:-1]:
        if str(key) not in section.model_fields:
            continue  # the number of an item in a list
        annotation = section.model_fields[str(key)].annotation
        section = next(
            (c for c in (annotation, *typing.get_args(annotation)) if hasattr(c, "model_fields")),
            section,
        )
    known = list(section.model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    return (
        f"unknown key; did you mean {near[0]}?"
        if near
        else f"unknown key; known: {', '.join(known)}"
    )


def _collect_lines(
    node: yaml.Node,
    path: tuple[str | int, ...],
    lines: dict[tuple[str | int, ...], int],
    name: str,
) -> None:
    """Note the line of every key and item; refuse a key written twice, which YAML lets pass."""
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            child = (*path, str(key_node.value))
            if child in lines:
                where = ".".join(map(str, child))
                raise ConfigError(
                    f"{name}:\n  line {key_node.start_mark.line + 1}: {where}: written twice"
                    f" (first on line {lines[child]}); keep one"
                )
            lines[child] = key_node.start_mark.line + 1
            _collect_lines(value_node, child, lines, name)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _collect_lines(item, (*path, index), lines, name)


def _yaml_problem(error: yaml.YAMLError, name: str) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    if mark is None:
        return f"{name}: not YAML: {problem}"
    return (
        f"{name}:\n  line {mark.line + 1}, column {mark.column + 1}: not YAML: {problem};"
        " check the indentation and quotes there"
    )
