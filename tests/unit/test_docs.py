"""What the documents show is what the program says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import ROOT

from launcher.cli import build_parser
from launcher.docs import generated
from launcher.sample import options_table
from webui.gateway.fields import FIELDS

READMES = [ROOT / "README.md", ROOT / "README.zh.md"]


@pytest.mark.parametrize("path", generated(), ids=lambda path: path.name)
def test_generated_parts_are_up_to_date(path: Path) -> None:
    """Samples, table of keys and help text are the program's own (python -m launcher.docs)."""
    assert path.read_text() == generated()[path]


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_readme_names_every_command(readme: Path) -> None:
    """If it is not documented, it does not exist."""
    text = readme.read_text()
    [actions] = [a for a in build_parser()._actions if a.choices and a.dest != "help"]
    assert [name for name in actions.choices if name not in text] == []


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_readme_links_to_what_is_there(readme: Path) -> None:
    """Every relative link and picture exists."""
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", readme.read_text())
    assert [t for t in targets if not (ROOT / t).exists()] == []
    assert {"docs/screenshot.png", "docs/screenshot.zh.png"} & {*targets}


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_readme_names_every_key(readme: Path) -> None:
    """Both languages explain every key of the configuration."""
    keys = re.findall(r"^\| `([a-z_.]+)`", options_table(), re.MULTILINE)
    text = readme.read_text()
    assert [key for key in keys if f"`{key}`" not in text] == []


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_readme_names_every_field_of_a_request(readme: Path) -> None:
    """Those that are passed on, and those without effect."""
    fields = {field for path in FIELDS.values() for field in path.known}
    text = readme.read_text()
    assert [field for field in sorted(fields) if f"`{field}`" not in text] == []
