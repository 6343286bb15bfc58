"""Draw the learning curve of a run.

python -m deploy.models.training.curve RUN_FOLDER/curve.jsonl PICTURE.png
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path


def points(file: Path) -> list[dict[str, float]]:
    """The lines of a curve by step; where a run was resumed, what came later counts."""
    lines = map(json.loads, file.read_text().splitlines())
    by_step = {line["step"]: line for line in lines}
    return [by_step[step] for step in sorted(by_step)]


def draw(curve: list[dict[str, float]], target: Path) -> None:
    """Loss and share of tokens predicted right, over the steps."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, left = plt.subplots(figsize=(8, 4), dpi=110)
    steps = [point["step"] for point in curve]
    left.semilogy(steps, [point["loss"] for point in curve], color="tab:red")
    left.set_xlabel("step")
    left.set_ylabel("loss, cross-entropy (red)")
    right = left.twinx()
    right.plot(steps, [100 * point["right"] for point in curve], color="tab:blue")
    right.set_ylabel("tokens predicted right, % (blue)")
    right.set_ylim(50, 100)
    for before, after in pairwise(curve):
        if before["view"] != after["view"]:
            left.axvline(after["step"], color="grey", linestyle=":")
            left.text(after["step"], 2, f" {after['view']:.0f} px", color="grey")
    hours = curve[-1]["seconds"] / 3600
    left.set_title(f"{steps[-1]:.0f} steps in {hours:.1f} hours on 2 CPU cores")
    figure.tight_layout()
    figure.savefig(target)


def main() -> int:
    draw(points(Path(sys.argv[1])), Path(sys.argv[2]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
