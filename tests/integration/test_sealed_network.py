"""A WebUI in a network where every address would answer: whom it calls, and whom not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from networks import seen_in_own_network

PROGRAM = Path(__file__).with_name("sealed_network.py")
PUBLIC = "93.184.216.34"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What requests were told, by their address, and the addresses that were called."""
    return seen_in_own_network(PROGRAM, tmp_path_factory.mktemp("sealed"), 200)


@pytest.mark.fault(1, "nobody private is called, in a network where all would answer")
def test_only_the_public_address_is_called(sealed: dict[str, Any]) -> None:
    """Twice for pictures, twice for redirects into the private network; nobody else ever."""
    assert sealed["called"] == [PUBLIC] * 4


@pytest.mark.fault(1, "nobody private is called, in a network where all would answer")
def test_public_pictures_are_answered_and_all_else_is_refused(sealed: dict[str, Any]) -> None:
    told = [answer for url, answer in sealed["told"].items() if url.startswith("http")]
    assert told == ["ok", "ok"] + ["media_url_refused"] * 10


@pytest.mark.fault(23, "nobody is called, in a network where all would answer")
def test_the_page_fetches_for_nobody(sealed: dict[str, Any]) -> None:
    told = {answer for url, answer in sealed["told"].items() if url.startswith("/")}
    assert told <= {"403", "404"}
    assert len(told) > 0
