"""launcher.torchvision_schemas: the hook that declares operators before torchvision comes."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from launcher import torchvision_schemas
from launcher.torchvision_schemas import SCHEMAS, _BeforeTorchvision, install


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A process that has not imported torchvision; what is declared in it is noted."""
    calls: list[str] = []
    others = [f for f in sys.meta_path if not isinstance(f, _BeforeTorchvision)]
    monkeypatch.setattr(sys, "meta_path", others)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(torchvision_schemas, "declare_schemas", lambda: calls.append("declared"))
    return calls


def hooks() -> list[_BeforeTorchvision]:
    return [finder for finder in sys.meta_path if isinstance(finder, _BeforeTorchvision)]


def test_the_hook_comes_before_every_other_finder(declared: list[str]) -> None:
    """Otherwise torchvision would be found, and die, before the operators are declared."""
    install()
    assert [sys.meta_path[0]] == hooks()
    assert declared == []


def test_installing_twice_is_installing_once(declared: list[str]) -> None:
    """A second .pth or a call by hand adds no second hook."""
    install()
    install()
    assert len(hooks()) == 1


def test_where_torchvision_is_already_imported_nothing_is_done(
    declared: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is too late to declare then, and not needed."""
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    install()
    assert hooks() == []


def test_other_imports_do_not_wake_the_hook(declared: list[str]) -> None:
    """Only torchvision itself does; torch is not loaded for a process that never needs it."""
    install()
    [hook] = hooks()
    found = [hook.find_spec(name, None) for name in ("json", "torch", "torchvision.ops")]
    assert found == [None, None, None]
    assert ([], [hook]) == (declared, hooks())


def test_torchvision_is_declared_for_once_and_then_found_by_others(declared: list[str]) -> None:
    """The hook finds nothing itself and is gone afterwards."""
    install()
    [hook] = hooks()
    assert hook.find_spec("torchvision", None) is None
    assert (declared, hooks()) == (["declared"], [])


@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_schema_is_one_that_torch_can_read(schema: str) -> None:
    """The declaration parses, and is of an operator without a namespace of its own."""
    import torch

    parsed = torch._C.parse_schema(f"torchvision::{schema}")
    assert f"torchvision::{schema.split('(')[0]}" == parsed.name
    assert [a.name for a in parsed.arguments] == ["dets", "scores", "iou_threshold"]
