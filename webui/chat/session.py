"""What happens when somebody sends, stops or clears; the layout is page.py's business."""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import openai

from webui.chat.conversation import Conversation, Turn, api_messages
from webui.chat.engine import EngineError, stream_answer
from webui.engine_status import EngineProbe
from webui.pictures import PictureError, media_type

# A browser cannot show more than this many changes a second, and each costs a message.
REDRAW_S = 0.04


@dataclass(frozen=True)
class Update:
    """What the page shows next. With ``problem`` the question was not answered: keep the draft."""

    conversation: Conversation
    problem: str | None = None
    unanswered: bool = False


class ChatSession:
    """Stateless between calls: each visitor's conversation comes in and goes out."""

    def __init__(self, client: openai.AsyncOpenAI, model: str, probe: EngineProbe) -> None:
        self._client = client
        self._model = model
        self._probe = probe

    async def send(
        self, conversation: Conversation, question: str, pictures: Sequence[Path]
    ) -> AsyncIterator[Update]:
        """Ask, and yield the growing answer."""
        try:
            for path in pictures:
                media_type(path)
        except PictureError as error:
            yield Update(conversation, problem=str(error), unanswered=True)
            return
        asked = conversation.with_turn(Turn(question.strip(), tuple(pictures)))
        yield Update(asked)
        async for update in self._answer(asked):
            yield update

    async def _answer(self, asked: Conversation) -> AsyncIterator[Update]:
        current, drawn = asked, 0.0
        try:
            # Megabytes of pictures are read and encoded; other visitors' streams go on meanwhile.
            messages = await asyncio.to_thread(api_messages, asked)
        except PictureError as error:
            yield Update(asked.without_last(), str(error), unanswered=True)
            return
        try:
            async for delta in stream_answer(self._client, self._model, messages):
                turn = current.turns[-1].with_more(delta.reasoning, delta.answer)
                current = current.with_last(turn)
                if time.monotonic() - drawn >= REDRAW_S:
                    drawn = time.monotonic()
                    yield Update(current)
        except EngineError as error:
            problem = await self._explain(error)
            if current == asked:
                yield Update(asked.without_last(), problem, unanswered=True)
                return
            yield Update(finished(current), f"{problem} What had come is kept.")
            return
        yield Update(finished(current))

    async def _explain(self, error: EngineError) -> str:
        """The engine's state says more than a refused connection."""
        status = await self._probe.status()
        return str(error) if status.ready else f"The model is not ready: {status.message}."

    async def banner(self) -> str:
        """A line on the engine's state, as HTML: a coloured dot and words."""
        status = await self._probe.status()
        if status.ready:
            return _dot("good") + f"<b>{html.escape(self._model)}</b> is ready"
        seconds = f" ({status.seconds:.0f} s)" if status.seconds is not None else ""
        colour = (
            "bad"
            if status.phase in {"failed", "down", "stopped", "stalled", "other model"}
            else "waiting"
        )
        words = html.escape(status.message)
        return _dot(colour) + f"The model is not ready yet: <b>{words}</b>{seconds}"


def _dot(colour: str) -> str:
    return f'<span class="dot {colour}"></span>'


def finished(conversation: Conversation) -> Conversation:
    """The same talk with nothing more to come in its last turn."""
    if not conversation.turns:
        return conversation
    return conversation.with_last(replace(conversation.turns[-1], done=True))
