"""launcher.sample: the commented YAML and the table of options are made from the models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic.fields import FieldInfo

from launcher.config import DeployConfig, parse_config
from launcher.profiles import PROFILES, Profile
from launcher.sample import WIDTH, options_table, sample_yaml
from launcher.yaml_source import YamlSource

every_profile = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)


def fields() -> Iterator[tuple[str, str, FieldInfo]]:
    """Section, key and field of every option there is."""
    for name, section in DeployConfig.model_fields.items():
        model: Any = section.annotation
        for key, field in model.model_fields.items():
            yield name, key, field


EVERY_FIELD = [pytest.param(*field, id=f"{field[0]}.{field[1]}") for field in fields()]


def parse(text: str) -> DeployConfig:
    return parse_config(YamlSource.parse(text, "sample.yaml"))


def section_of(text: str, name: str) -> str:
    """The lines of a section, from its key to the next section's."""
    return re.split(r"^\w+:$", text.split(f"\n{name}:\n")[1], flags=re.MULTILINE)[0]


def uncommented(text: str) -> str:
    """Every ``# key: value`` turned into ``key: value``; the prose stays a comment."""
    return re.sub(r"^  # (\w+:( .*)?)$", r"  \1", text, flags=re.MULTILINE)


@every_profile
def test_deploy_holds_the_sample_byte_for_byte(profile: Profile) -> None:
    """deploy/*.yaml is what `launch sample-config` prints."""
    assert sample_yaml(profile).encode() == Path(profile.path).read_bytes()


@every_profile
def test_a_sample_says_exactly_what_its_profile_says(profile: Profile) -> None:
    """Read by plain PyYAML, the sample has the profile's values and empty sections else."""
    expected = {name: profile.values.get(name) for name in DeployConfig.model_fields}
    assert expected == yaml.safe_load(sample_yaml(profile))


@every_profile
def test_a_sample_is_a_valid_configuration(profile: Profile) -> None:
    """What is printed can be used at once."""
    names = profile.values["model"].get("names", ["Step3-VL-10B"])
    assert names == parse(sample_yaml(profile)).model.names


@every_profile
def test_uncommenting_every_default_changes_nothing(profile: Profile) -> None:
    """What stands behind a # is the default, and is valid YAML in its place."""
    text = uncommented(sample_yaml(profile))
    written = {(n, k) for n, section in yaml.safe_load(text).items() for k in section}
    assert written == {(name, key) for name, key, _ in fields()}
    assert parse(sample_yaml(profile)) == parse(text)


@every_profile
def test_no_line_of_a_sample_is_wider_than_a_screen(profile: Profile) -> None:
    """Comments are wrapped."""
    assert [line for line in sample_yaml(profile).splitlines() if len(line) > WIDTH] == []


@pytest.mark.parametrize(("section", "key", "field"), EVERY_FIELD)
def test_every_key_is_described(section: str, key: str, field: FieldInfo) -> None:
    """A key without a sentence of its own would be a riddle."""
    assert re.fullmatch(r"\S.*\S[.`]", field.description or ""), f"{section}.{key}"


@pytest.mark.parametrize(("section", "key", "field"), EVERY_FIELD)
@every_profile
def test_every_key_stands_in_the_sample_below_its_description(
    profile: Profile, section: str, key: str, field: FieldInfo
) -> None:
    """The comment above a key is its description, whole."""
    above = re.split(rf"^  (?:# )?{key}:", section_of(sample_yaml(profile), section), flags=re.M)[0]
    comment = " ".join(line.strip("# ") for line in above.splitlines())
    assert comment.endswith(field.description or "no description")


@pytest.mark.parametrize(("section", "key", "field"), EVERY_FIELD)
def test_every_key_has_one_row_in_the_table(section: str, key: str, field: FieldInfo) -> None:
    """The README's table has name, kind, default and meaning of each key."""
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in options_table().splitlines()]
    [(_, kind, default, meaning)] = [row for row in rows if row[0] == f"`{section}.{key}`"]
    assert field.description == meaning
    assert kind in {"text", "number", "seconds", "list", "map", "true or false"}
    if field.default in (None, ""):
        assert default == "none"
    else:
        assert yaml.safe_load(default.strip("`")) == field.default


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("model.folder", "text"),
        ("model.names", "list"),
        ("engine.port", "number"),
        ("engine.options", "map"),
        ("engine.command", "list"),
        ("engine.start_timeout_s", "seconds"),
        ("webui.max_request_mb", "number"),
    ],
)
def test_the_table_tells_the_kind_of_value(key: str, kind: str) -> None:
    """Kinds are words for people, not Python types."""
    assert f"| `{key}` | {kind} |" in options_table()
