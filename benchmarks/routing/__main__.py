"""``python -m benchmarks.routing``: simulated days with many replicas, as docs/routing.md.

    python -m benchmarks.routing [--seed N] [--out FILE]   # under ten minutes
    python -m benchmarks.routing --quick                   # half a minute; prints

The file says what is modelled.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.routing.experiments import FULL, QUICK, Laboratory
from benchmarks.routing.report import report

PAGE = Path(__file__).parents[2] / "docs" / "routing.md"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routing", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short days; prints its page")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn (1)")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"instead of {PAGE.name}")
    given = parser.parse_args(arguments)
    gc.disable()  # nothing here has cycles, and looking for them among millions of turns takes time
    began = time.monotonic()
    laboratory = Laboratory(QUICK if given.quick else FULL, given.seed)
    command = f"python -m benchmarks.routing{' --quick' * given.quick} --seed {given.seed}"
    text = report(laboratory, laboratory.findings(), command)
    print(f"{time.monotonic() - began:.0f} s in all", file=sys.stderr)
    if given.quick and not given.out:
        print(text)
    else:
        (given.out or PAGE).write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
