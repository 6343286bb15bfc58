"""Draw the learning curve of runs that follow each other.

python -m deploy.models.training.curve RUN_FOLDER ... TARGET_FOLDER

Writes ``learning-curve.jsonl``, the joined lines, and ``learning-curve.png`` into the target.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

Point = dict[str, Any]


def points(file: Path) -> list[Point]:
    """The lines of a curve by step; where a run was resumed, what came later counts."""
    lines = map(json.loads, file.read_text().splitlines())
    by_step = {line["step"]: line for line in lines}
    return [by_step[step] for step in sorted(by_step)]


def joined(curves: list[list[Point]]) -> list[Point]:
    """Curves one after the other: steps and seconds go on where the one before ended."""
    result: list[Point] = []
    for curve in curves:
        before = result[-1] if result else {"step": 0, "seconds": 0}
        for point in curve:
            further = {name: before[name] + point[name] for name in ("step", "seconds")}
            result.append({**point, **further})
    return result


def device_of(point: Point) -> str:
    """Where that step was made; on a CPU unless the line says otherwise."""
    return str(point.get("device", "cpu"))


def title(curve: list[Point]) -> str:
    """How many steps, and how long they took where."""
    seconds = {"cpu": 0.0, "cuda": 0.0}
    for before, after in pairwise([{"seconds": 0}, *curve]):
        seconds[device_of(after)] += after["seconds"] - before["seconds"]
    parts = [f"{seconds['cpu'] / 3600:.1f} hours on 2 CPU cores"] if seconds["cpu"] else []
    parts += [f"{seconds['cuda'] / 60:.0f} minutes on a GPU"] if seconds["cuda"] else []
    return f"{curve[-1]['step']:.0f} steps: {' and '.join(parts)}"


def draw(curve: list[Point], target: Path) -> None:
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
        if device_of(before) != device_of(after):
            left.axvline(after["step"], color="grey", linestyle="--")
            left.text(after["step"], 2, "GPU ", color="grey", horizontalalignment="right")
    left.set_title(title(curve))
    figure.tight_layout()
    figure.savefig(target)


def main() -> int:
    *runs, target = map(Path, sys.argv[1:])
    files = [run / "curve.jsonl" if run.is_dir() else run for run in runs]
    curve = joined([points(file) for file in files])
    lines = "".join(f"{json.dumps(point)}\n" for point in curve)
    (target / "learning-curve.jsonl").write_text(lines)
    draw(curve, target / "learning-curve.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
