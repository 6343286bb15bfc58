"""YAML that every parser reads alike: plain dictionaries, dumped below a comment."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

# Words that no parser takes for anything but text. Others are quoted: what is text for YAML 1.1
# (1e3, 0o7, 12:30) may be a number for 1.2, and the other way round.
_WORD = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]{2,}")


class _Dumper(yaml.SafeDumper):
    """Text of several lines as a block, and quotes wherever text may be taken for another type."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, indentless=False)  # lists stand below their key, further in

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    lines = "|" if "\n" in text else None
    style = lines or (None if _WORD.fullmatch(text) else '"')
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def yaml_text(header: Iterable[str], *documents: Any) -> str:
    """The documents one after the other, below a comment of these lines."""
    comment = "".join(f"# {line}".rstrip() + "\n" for line in header)
    comment += "\n" if comment else ""
    parts = (
        yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=98)
        for document in documents
    )
    return comment + "---\n".join(parts)


def without_variables(value: Any) -> Any:
    """The same, with every ``$`` doubled: compose and Kubernetes put variables where one stands."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, dict):
        return {key: without_variables(item) for key, item in value.items()}
    return [without_variables(item) for item in value] if isinstance(value, list) else value
