"""Print the configuration model as a commented YAML file, and as the table of the README."""

from __future__ import annotations

import textwrap
from typing import Any, get_args

import yaml
from pydantic.fields import FieldInfo

from launcher.config import DeployConfig
from launcher.profiles import Profile

WIDTH = 98


def _yaml_lines(key: str, value: Any, *, one_line: bool = False) -> list[str]:
    """``key: value`` as YAML, a line each for what does not fit on one."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [f"{key}:", *(f"  - {_flow(item)}" for item in value)]
    flow = one_line or isinstance(value, list) or value == {}
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    dumped = yaml.safe_dump(
        {key: value}, allow_unicode=True, sort_keys=False, default_flow_style=flow, width=1000
    ).strip()
    if flow:
        dumped = dumped.removeprefix("{").removesuffix("}")
    return dumped.splitlines()


def _comment(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _field_lines(key: str, field: FieldInfo, values: dict[str, Any]) -> list[str]:
    lines = _comment(field.description or "", "  ")
    if key in values:
        return [*lines, *(f"  {line}" for line in _yaml_lines(key, values[key]))]
    return [*lines, *(f"  # {line}" for line in _yaml_lines(key, field.default, one_line=True))]


def sample_yaml(profile: Profile) -> str:
    """The whole file: what the profile sets as it is, every other key commented out."""
    lines = _comment(profile.headline)
    lines.append(
        "# A key behind a # has its default. `launch check` says what is wrong, line by line."
    )
    for name, section in DeployConfig.model_fields.items():
        model: Any = section.annotation
        lines += ["", *_comment(model.__doc__ or ""), f"{name}:"]
        values = dict(profile.values.get(name, {}))
        for key, field in model.model_fields.items():
            lines += _field_lines(key, field, values)
    return "\n".join(lines) + "\n"


def _type_name(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    schema = str(annotation) if get_args(annotation) else annotation.__name__
    names = {"str": "text", "int": "number", "float": "seconds", "bool": "true or false"}
    if schema in names:
        return names[schema]
    if "float" in schema:
        return "seconds"
    if "list" in schema:
        return "list"
    return "map" if "dict" in schema else "text"


def options_table() -> str:
    """A Markdown table of every key: name, kind, default, meaning."""
    rows = ["| key | kind | default | meaning |", "| --- | --- | --- | --- |"]
    for name, section in DeployConfig.model_fields.items():
        model: Any = section.annotation
        for key, field in model.model_fields.items():
            default = "none" if field.default in (None, "") else f"`{_flow(field.default)}`"
            rows.append(
                f"| `{name}.{key}` | {_type_name(field)} | {default} | {field.description} |"
            )
    return "\n".join(rows) + "\n"


def _flow(value: Any) -> str:
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    return (
        yaml.safe_dump(value, default_flow_style=True, sort_keys=False)
        .strip()
        .removesuffix("...")
        .strip()
    )
