"""The caches of one replica."""

from __future__ import annotations

from collections import OrderedDict


class KvCache:
    """Room for the requests that run; what is left keeps the prompts of those that ended.

    As in vLLM, what was used longest ago goes first, and of that the end before the beginning.
    Conversations share nothing with each other.
    """

    def __init__(self, tokens: int) -> None:
        self._room = tokens
        self._held = 0
        # Of each conversation: all tokens that are left, and how many of them were its prompt.
        self._kept: OrderedDict[int, tuple[int, int]] = OrderedDict()
        self._kept_tokens = 0

    def fits(self, tokens: int) -> bool:
        """Beside what runs; a request that is alone always runs."""
        return not self._held or self._held + tokens <= self._room

    def take(self, conversation: int) -> int:
        """What is still there of its last prompt here. With the thoughts after it a later prompt
        has nothing in common; all of it is no longer only kept."""
        tokens, prompt_tokens = self._kept.pop(conversation, (0, 0))
        self._kept_tokens -= tokens
        return min(tokens, prompt_tokens)

    def hold(self, tokens: int) -> None:
        """While a request runs. What must go for it, goes."""
        self._held += tokens
        self._evict()

    def keep(self, conversation: int, tokens: int, prompt_tokens: int) -> None:
        """What a request held, after its end; the prompt is its beginning."""
        self._held -= tokens
        self._kept[conversation] = tokens, prompt_tokens
        self._kept_tokens += tokens
        self._evict()

    def _evict(self) -> None:
        excess = self._held + self._kept_tokens - self._room
        while excess > 0 and self._kept:
            conversation, (tokens, prompt_tokens) = self._kept.popitem(last=False)
            left = max(0, tokens - excess)
            if left:
                self._kept[conversation] = left, prompt_tokens
                self._kept.move_to_end(conversation, last=False)
            self._kept_tokens -= tokens - left
            excess -= tokens - left


class ImageCache:
    """Processed images by their names."""

    def __init__(self, size: float) -> None:
        self._size = size
        self._used = 0
        self._images: OrderedDict[tuple[int, int], int] = OrderedDict()

    def has(self, name: tuple[int, int], size: int) -> bool:
        """Whether it was there; now it is, and what was used longest ago has gone."""
        if name in self._images:
            self._images.move_to_end(name)
            return True
        self._images[name] = size
        self._used += size
        while self._used > self._size:
            self._used -= self._images.popitem(last=False)[1]
        return False
