"""Write what is generated into the documents: samples in deploy/, tables, and help in the README.

    python -m launcher.docs

The tests fail when a document and the program say different things; this makes them agree again.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from launcher.paths import ROOT
from launcher.planning import cards_table
from launcher.profiles import PROFILES
from launcher.sample import options_table, sample_yaml
from launcher.targets import table as targets
from launcher.targets.presets import PRESETS, providers_table


def help_text() -> str:
    """The command line's help, 80 columns wide."""
    os.environ["COLUMNS"] = "80"
    from launcher.cli import build_parser

    return build_parser().format_help()


def with_block(text: str, name: str, content: str) -> str:
    """``text`` with the lines between ``<!-- name -->`` and ``<!-- /name -->`` replaced."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return pattern.sub(lambda found: f"{found[1]}{content}{found[2]}", text)


def generated() -> dict[Path, str]:
    """Each document with its generated parts as they should be."""
    readme = ROOT / "README.md"
    text = with_block(readme.read_text(), "options", options_table())
    text = with_block(text, "help", f"```text\n{help_text()}```\n")
    cards = ROOT / "docs" / "cards.md"
    table = with_block(cards.read_text(), "cards", f"{cards_table()}\n")
    guide = ROOT / "docs" / "providers.md"
    providers = with_block(guide.read_text(), "providers", providers_table())
    profiles = [*PROFILES.values(), *(preset.profile for preset in PRESETS.values())]
    samples = {Path(profile.path): sample_yaml(profile) for profile in profiles}
    return {readme: text, cards: table, guide: providers} | samples | targets.samples()


def main() -> int:
    for path, content in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
