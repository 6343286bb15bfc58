"""What only a machine with an NVIDIA GPU can show."""

from __future__ import annotations

import pytest

from launcher.host_checks import gpus
from launcher.profiles import DEMO, GPU, GPU_PROFILE_NEEDS_GIB
from launcher.selection import default_for

pytestmark = pytest.mark.gpu


def test_the_real_card_decides_the_default() -> None:
    """The 10 B file where the first card is large enough, else the demo."""
    expected = GPU if gpus()[0].memory_gib >= GPU_PROFILE_NEEDS_GIB else DEMO
    assert str(default_for(gpus()).path) == expected.path
