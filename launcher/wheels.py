"""Check that the torch wheels of this environment fit each other, and mend what does not.

From PyTorch's CPU index all of them match and nothing is done. Where pip only reached PyPI,
torchvision, torchaudio and torchcodec are CUDA builds beside a CPU torch and cannot be imported:
the last two are optional for the engine and are removed, torchvision gets the two declarations it
lacks (:mod:`launcher.torchvision_schemas`). Each repair is printed.

    python -m launcher.wheels
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

OPTIONAL = ("torchaudio", "torchcodec")
PTH_NAME = "step3vl_torchvision_schemas.pth"
PTH_CONTENT = "import launcher.torchvision_schemas as s; s.install()\n"


def import_error(package: str) -> str | None:
    """The last line of what ``import package`` prints in a fresh interpreter; None if it works."""
    result = subprocess.run(
        [sys.executable, "-c", f"import {package}"], capture_output=True, text=True, check=False
    )
    lines = result.stderr.strip().splitlines()
    return None if result.returncode == 0 else (lines[-1] if lines else f"exit {result.returncode}")


def repair_optional(package: str) -> str | None:
    """Remove ``package`` if it is installed and cannot be imported; say so."""
    if find_spec(package) is None or import_error(package) is None:
        return None
    subprocess.run(
        [sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes", package], check=True
    )
    return f"removed {package}, which nothing here needs: it is built for another torch"


def repair_torchvision(site_packages: Path) -> str | None:
    """Declare torchvision's operators at start-up, where and only where it fails without."""
    pth = site_packages / PTH_NAME
    pth.unlink(missing_ok=True)  # a matching torchvision may have come since
    if find_spec("torchvision") is None or import_error("torchvision") is None:
        return None
    pth.write_text(PTH_CONTENT)
    if (still := import_error("torchvision")) is None:
        return "repaired torchvision, which is built for another torch"
    pth.unlink()
    return f"torchvision cannot be imported and images will fail: {still}"


def repair(site_packages: Path) -> list[str]:
    """Mend what is broken; a sentence for each thing done."""
    done = [repair_optional(package) for package in OPTIONAL]
    done.append(repair_torchvision(site_packages))
    return [sentence for sentence in done if sentence]


def main() -> int:
    for sentence in repair(Path(sysconfig.get_path("purelib"))):
        print(f"  {sentence}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
