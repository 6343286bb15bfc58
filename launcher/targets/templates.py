"""The files of deploy/templates, and the words that every rendered file begins with."""

from __future__ import annotations

from string import Template

from launcher.paths import ROOT

FOLDER = ROOT / "deploy" / "templates"


def template(name: str) -> Template:
    return Template((FOLDER / name).read_text())


def mark(target: str) -> str:
    """The first line: whoever edits a rendered file should know that the next one replaces it."""
    return f"Made by `launch render --target {target}`; it is overwritten by the next."
