"""Let a CUDA build of torchvision be imported beside a CPU build of torch.

Such a torchvision cannot load its compiled operators, and then dies while it registers shape
functions for two of them ("operator torchvision::nms does not exist"). Declaring those two
operators first is enough for everything that does not call them: image transforms, and with them
the engine's image processor, are plain torch.

The engine spawns its processes anew and some of them import torchvision before any plug-in could
run, so a ``.pth`` file in the environment imports this module at the start of each of them; see
:mod:`launcher.wheels`, which writes that file only where torchvision fails without it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_declared: list[object] = []  # torch forgets a declaration when its Library object goes


def declare_schemas() -> None:
    """Declare the operators that torchvision's shape functions name."""
    import torch

    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in SCHEMAS:
        library.define(schema)
    _declared.append(library)


class _BeforeTorchvision(MetaPathFinder):
    """Finds nothing; runs :func:`declare_schemas` when torchvision is first looked for."""

    def find_spec(
        self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            declare_schemas()
        return None


def install() -> None:
    """Make the next ``import torchvision`` of this process work."""
    waiting = any(isinstance(finder, _BeforeTorchvision) for finder in sys.meta_path)
    if "torchvision" not in sys.modules and not waiting:
        sys.meta_path.insert(0, _BeforeTorchvision())
