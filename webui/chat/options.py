"""How a question is asked: what the page's controls say, as fields of a chat request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from webui.client.tasks import Task
from webui.gateway.thinking import Mode

ANSWER_TOKENS = 2048
MAX_ANSWER_TOKENS = 8192


@dataclass(frozen=True)
class Options:
    """``own_sampling`` leaves ``temperature`` and ``top_p``, which are as OpenAI has them, to the
    model's maker. ``answer_tokens`` bounds the answer; thinking comes on top. ``system`` stands
    before the talk."""

    thinking: Mode = "auto"
    own_sampling: bool = True
    temperature: float = 0.7
    top_p: float = 1.0
    answer_tokens: int = ANSWER_TOKENS
    system: str = ""

    def fields(self, task: Task | None) -> dict[str, Any]:
        """Of a chat request, without model and messages. A task that wants JSON says of which
        shape."""
        fields: dict[str, Any] = {"thinking": self.thinking, "max_tokens": self.answer_tokens}
        if not self.own_sampling:
            fields |= {"temperature": self.temperature, "top_p": self.top_p}
        if task is not None and task.response_format is not None:
            fields["response_format"] = task.response_format
        return fields

    @classmethod
    def of_task(cls, task: Task | None) -> Options:
        """What suits it; the standard for a question of one's own."""
        if task is None:
            return cls()
        return cls(own_sampling=False, temperature=task.temperature, answer_tokens=task.max_tokens)
