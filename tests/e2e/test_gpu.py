"""What only a machine with an NVIDIA GPU can show."""

from __future__ import annotations

import pytest

from launcher.cards import card_named
from launcher.host_checks import gpus
from launcher.plan import STEP3_VL_10B, DoesNotFitError, plan
from launcher.profiles import DEMO, GPU
from launcher.selection import default_for

pytestmark = pytest.mark.gpu


def test_the_real_card_decides_the_default() -> None:
    """The 10 B file where the cards can hold it, else the demo."""
    try:
        plan(STEP3_VL_10B, [card_named(gpu.name, gpu.memory_gib) for gpu in gpus()])
        expected = GPU
    except DoesNotFitError:
        expected = DEMO
    assert str(default_for(gpus()).path) == expected.path
