"""NVIDIA's usual cards: their memory, as the driver reports it, and what they can compute."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.errors import ConfigError


@dataclass(frozen=True)
class Card:
    """``gib`` is the memory that the driver reports; ``capability`` CUDA's number for what the card
    can compute: 8.0 has bf16, 8.9 FP8."""

    name: str
    gib: float
    capability: float
    is_guessed: bool = False
    """The card is not in :data:`CARDS`, and so the capability is assumed."""


# Memory in MiB from nvidia-smi's listings of such cards, capabilities from NVIDIA's table of them.
CARDS: tuple[Card, ...] = (
    Card("T4", 15_360 / 1024, 7.5),
    Card("RTX 4080", 16_376 / 1024, 8.9),
    Card("RTX 5080", 16_303 / 1024, 12.0),
    Card("A10", 23_028 / 1024, 8.6),
    Card("L4", 23_034 / 1024, 8.9),
    Card("RTX 3090", 24_576 / 1024, 8.6),
    Card("RTX 4090", 24_564 / 1024, 8.9),
    Card("RTX 5090", 32_607 / 1024, 12.0),
    Card("A100-40GB", 40_960 / 1024, 8.0),
    Card("A40", 46_068 / 1024, 8.6),
    Card("L40S", 46_068 / 1024, 8.9),
    Card("L20", 46_068 / 1024, 8.9),
    Card("RTX A6000", 49_140 / 1024, 8.6),
    Card("RTX 6000 Ada", 49_140 / 1024, 8.9),
    Card("A100-80GB", 81_920 / 1024, 8.0),
    Card("A800-80GB", 81_920 / 1024, 8.0),
    Card("H100", 81_559 / 1024, 9.0),
    Card("H800", 81_559 / 1024, 9.0),
    Card("H20", 97_871 / 1024, 9.0),
    Card("RTX PRO 6000", 97_887 / 1024, 12.0),
    Card("H200", 143_771 / 1024, 9.0),
    Card("B200", 183_359 / 1024, 10.0),
)
# What is sold as so many GB, in GiB: the least that such a card reports.
CARD_SIZES: Mapping[int, float] = {
    16: 15.9,
    24: 22.4,
    32: 31.8,
    40: 39.4,
    48: 44.9,
    80: 79.2,
    96: 95.5,
    141: 140.4,
    180: 179.0,
}
USUAL_CAPABILITY = 8.0


def card_named(name: str, gib: float | None = None) -> Card:
    """A card by a name as people or the driver write it, such as ``NVIDIA GeForce RTX 4090``.

    Args:
        gib: the memory that the driver reports; without it, that of the list.

    Raises:
        ConfigError: it is not in the list, and its memory is not known either.
    """
    words = _words(name)
    # All of a card's own words are in what the driver says; of several such, the most exact one.
    found = sorted(
        (card for card in CARDS if _words(card.name) <= words),
        key=lambda card: -len(_words(card.name)),
    )
    found += [card for card in CARDS if words and words < _words(card.name)]
    if gib is not None:
        alike = [card for card in found if abs(card.gib - gib) < 0.1 * gib] or found
        capability = alike[0].capability if alike else USUAL_CAPABILITY
        return Card(name, gib, capability, is_guessed=not alike)
    if not found:
        known = ", ".join(card.name for card in CARDS)
        raise ConfigError(
            f"no card {name!r} in our list; give its memory with --vram GIB. Known: {known}"
        )
    exact = _words(found[0].name) <= words
    if not exact and len({(card.gib, card.capability) for card in found}) > 1:
        raise ConfigError(f"{name!r} may be {', '.join(card.name for card in found)}; write one")
    return found[0]


def card_of_size(gib: float) -> Card:
    """A card of which only the memory is known."""
    return Card(f"a card of {gib:g} GiB", gib, USUAL_CAPABILITY, is_guessed=True)


def _words(name: str) -> set[str]:
    """Letters and numbers apart: ``rtx4090`` and ``RTX 4090`` are the same, ``A100`` is no A10."""
    return set(re.findall(r"[a-z]+|\d+", name.lower())) - {"nvidia", "geforce", "tesla"}
