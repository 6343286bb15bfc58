"""The status tab as HTML: a small chart for each figure."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence

from webui.chat.vitals import KEPT, Vitals
from webui.chat.words import text
from webui.client.tasks import Language

WIDTH, HEIGHT = 150, 40

# By the names of Vitals; also the order on the page.
FORMATS: Mapping[str, Callable[[float], str]] = {
    "answering": "{:.0f}".format,
    "running": "{:.0f}".format,
    "waiting": "{:.0f}".format,
    "kv_used": "{:.0%}".format,
    "tokens_per_s": "{:.0f}".format,
    "first_token_s": "{:.2f} s".format,
    "gpu_used": "{:.0%}".format,
}
SHARES = {"kv_used", "gpu_used"}


def charts(points: Sequence[Vitals], language: Language) -> str:
    """One for each figure, with what it is now beside its name. (Of first tokens: what it was when
    the last one came.)"""
    cards = []
    for name, written in FORMATS.items():
        values = [getattr(point, name) for point in points]
        known = [value for value in values if value is not None]
        if not known and name == "gpu_used":
            continue
        latest = known if name == "first_token_s" else values
        now = written(latest[-1]) if latest and latest[-1] is not None else "–"
        title = html.escape(text(name, language))
        top = 1.0 if name in SHARES else max([*known, 1.0])
        cards.append(
            f"<figure><figcaption>{title} <b>{now}</b></figcaption>"
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img"'
            f' aria-label="{title}: {now}">{_lines(values, top)}</svg></figure>'
        )
    return f'<div class="charts">{"".join(cards)}</div>'


def _lines(values: Sequence[float | None], top: float) -> str:
    """From the right edge backwards; where nothing is known, no line."""
    step, begin = WIDTH / (KEPT - 1), KEPT - len(values)
    runs: list[list[str]] = [[]]
    for place, value in enumerate(values, start=begin):
        if value is None:
            runs.append([])
        else:
            y = HEIGHT - 1 - (HEIGHT - 2) * min(value / top, 1.0)
            runs[-1].append(f"{place * step:.1f},{y:.1f}")
    return "".join(f'<polyline points="{" ".join(run)}"/>' for run in runs if run)
