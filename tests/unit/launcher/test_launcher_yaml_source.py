"""launcher.yaml_source: reading a file, and remembering where everything stands."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.errors import ConfigError
from launcher.yaml_source import MAX_BYTES, YamlSource


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        YamlSource.parse(text, "deploy.yaml")
    return str(caught.value)


def read_refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        YamlSource.read(path)
    return str(caught.value)


def test_each_key_and_item_has_its_line() -> None:
    """Lines count from 1 and are kept for sections, keys and list items."""
    source = YamlSource.parse("a:\n  b: 1\n\n  c:\n    - x\n    - y\n", "deploy.yaml")
    expected = {
        (): 1,
        ("a",): 1,
        ("a", "b"): 2,
        ("a", "c"): 4,
        ("a", "c", 0): 5,
        ("a", "c", 1): 6,
    }
    assert expected == source.lines


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text("abcdef", min_size=3), unique=True, min_size=1, max_size=8), st.data())
def test_a_key_is_found_on_its_line_wherever_it_stands(
    keys: list[str], data: st.DataObject
) -> None:
    """Blank lines and comments before a key do not shift its line."""
    gaps = [data.draw(st.integers(0, 3)) for _ in keys]
    text = "".join("# note\n" * gap + f"{key}: 1\n" for key, gap in zip(keys, gaps, strict=True))
    written = {line.split(":")[0]: number for number, line in enumerate(text.splitlines(), 1)}
    found = YamlSource.parse(text, "deploy.yaml").lines
    assert {key: written[key] for key in keys} == {key: found[(key,)] for key in keys}


def test_an_empty_file_is_an_empty_mapping() -> None:
    """Nothing but comments is read as no keys at all, so that the missing ones are named."""
    assert YamlSource.parse("# nothing yet\n", "deploy.yaml").data == {}


def test_a_byte_order_mark_is_let_pass(tmp_path: Path) -> None:
    """Windows editors put one in front of UTF-8; the first key is still found."""
    path = tmp_path / "deploy.yaml"
    path.write_bytes(b"\xef\xbb\xbfmodel: 1\n")
    assert YamlSource.read(path).data == {"model": 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2\n", "line 2: a: written twice (first on line 1); keep one"),
        (
            "engine:\n  port: 1\n  # again\n  port: 2\n",
            "line 4: engine.port: written twice (first on line 2); keep one",
        ),
        ("a:\n  - {b: 1, b: 2}\n", "line 2: a.0.b: written twice (first on line 2); keep one"),
    ],
)
def test_a_key_written_twice_is_refused(text: str, expected: str) -> None:
    """YAML would silently keep the last one."""
    assert f"deploy.yaml:\n  {expected}" == refusal(text)


def test_the_same_key_in_two_sections_is_fine() -> None:
    """Only one section may not repeat a key."""
    text = "engine: {port: 1}\nwebui: {port: 2}\n"
    assert YamlSource.parse(text, "x").data == {"engine": {"port": 1}, "webui": {"port": 2}}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("a: [1\n", "line 2, column 1"),
        ("a:\n\t- b\n", "line 2, column 1"),
        ("a: 'b\n", "line 2, column 1"),
        ("a: b: c\n", "line 1, column 5"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1"),
        ("a: !!python/object/apply:os.getcwd []\n", "line 1, column 4"),
    ],
)
def test_broken_yaml_is_reported_with_line_and_column(text: str, where: str) -> None:
    """The message points at the place, and says what to look at."""
    message = refusal(text)
    assert message.startswith(f"deploy.yaml:\n  {where}: not YAML: ")
    assert message.endswith("; check the indentation and quotes there")


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: 2024-13-45\n", "a: \x01\n"])
def test_yaml_that_cannot_be_used_is_a_configuration_error(text: str) -> None:
    """Endless, impossible and unprintable values are refused in one line."""
    message = refusal(text)
    assert message.startswith("deploy.yaml: not")
    assert len(message.splitlines()) == 1


@settings(deadline=None, max_examples=100)
@given(st.text("ab:-[]{}&*!#|>'\"%@ \n\t", max_size=40))
def test_no_text_whatever_is_met_with_another_error(text: str) -> None:
    """Every text is either read like PyYAML reads it, or refused as a configuration error."""
    with contextlib.suppress(ConfigError):
        data = YamlSource.parse(text, "deploy.yaml").data
        assert data == yaml.safe_load(text) or data == {}


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """Latin-1 is named as the problem, not shown as garbage."""
    path = tmp_path / "deploy.yaml"
    path.write_bytes("notice: caf\u00e9\n".encode("latin-1"))
    assert f"{path}: not UTF-8 text; save it as UTF-8" == read_refusal(path)


def test_a_missing_file_names_the_command_that_writes_one(tmp_path: Path) -> None:
    """The fix has the name of the file that was asked for."""
    path = tmp_path / "mine.yaml"
    expected = f"{path}: no such file; `launch sample-config > mine.yaml` writes one"
    assert expected == read_refusal(path)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    """Naming a folder is said to be that."""
    assert f"{tmp_path}: a folder, not a YAML file" == read_refusal(tmp_path)


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    """Other errors of the system come with its own words."""
    path = tmp_path / "file" / "deploy.yaml"
    path.parent.write_text("")
    assert f"{path}: Not a directory; check its permissions" == read_refusal(path)


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    """A weights file named by mistake is refused by its size."""
    path = tmp_path / "deploy.yaml"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    expected = f"{path}: larger than {MAX_BYTES} bytes; is this the right file?"
    assert expected == read_refusal(path)
