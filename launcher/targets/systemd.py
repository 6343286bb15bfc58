"""One unit that runs the whole service: supervisord in the foreground, which starts the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launcher.render import RenderedFile
from launcher.targets.deployment import Deployment
from launcher.targets.templates import mark, template

UNIT = "step3vl.service"
# What `up` does before it becomes supervisord, with a card that is slow to answer.
START_S = 120


def unit_word(text: str) -> str:
    """A word in quotes: systemd expands %, and splits at blanks."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("%", "%%") + '"'


def unit_path(path: Path) -> str:
    """A path that is a setting of its own: taken as it is, but for %."""
    return str(path).replace("%", "%%")


def _command(deployment: Deployment, arguments: Sequence[str]) -> str:
    """Our program with arguments, in which alone systemd expands $ too."""
    program = str(deployment.site.root / ".venv/bin/step3vl")
    if set("'\"\\") & set(program):
        raise deployment.refuse(
            "systemd", f"it runs no program with quotes or \\ in its path, as in {program}"
        )
    return " ".join([unit_word(program), *(unit_word(a.replace("$", "$$")) for a in arguments)])


def systemd(deployment: Deployment) -> list[RenderedFile]:
    """The unit, for the checkout and the user of the deployment's site.

    Raises:
        ConfigError: systemd cannot run the checkout's program.
    """
    site, config = deployment.site, deployment.config
    arguments = ["up", "--foreground", "--config", str(deployment.config_path)]
    home = [f"Environment={unit_word(f'STEP3VL_HOME={site.home}')}"] if site.home else []
    content = template(UNIT).substitute(
        mark=mark("systemd"),
        unit=UNIT,
        user=site.user,
        root=unit_path(site.root),
        environment="\n".join(home),
        command=_command(deployment, arguments),
        start=START_S,
        stop=config.stop_grace_s,
    )
    return [RenderedFile(deployment.out / UNIT, content, 0o644)]
