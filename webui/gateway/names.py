"""The names that requests may use for the model, where the engine knows the first alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class Names:
    """
    Args:
        model: the name that the engine knows.
        others: that stand for it; empty where the engine knows them all.
    """

    def __init__(self, model: str, others: Iterable[str]) -> None:
        self._model = model
        self._others = tuple(others)

    def put_in(self, document: dict[str, Any]) -> None:
        """Name the model as the engine does."""
        if document.get("model") in self._others:
            document["model"] = self._model

    def listed(self, models: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The engine's list, with every name."""
        own = next((model for model in models if model["id"] == self._model), None)
        return [*models, *({**own, "id": name} for name in self._others)] if own else models
