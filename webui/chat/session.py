"""What happens when somebody sends, stops or clears; the layout is page.py's business."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import openai

from webui.chat import view
from webui.chat.conversation import Conversation, Figures, Turn, api_messages
from webui.chat.engine import Delta, EngineError, context_tokens, stream_answer
from webui.chat.history import History
from webui.chat.options import Options
from webui.chat.words import ERRORS, picture_problem, text
from webui.client.tasks import Language, Task
from webui.engine_status import EngineProbe
from webui.gateway.thinking import CLOSED
from webui.pictures import PictureError, media_type

# A browser cannot show more than this many changes a second, and each costs a message.
REDRAW_S = 0.04
# Of all visitors together: drawing takes most of the page's time.
CHANGES_A_SECOND = 60


@dataclass(frozen=True)
class Visitor:
    """Who asks: in which language, and with which key of the API, where one is needed."""

    language: Language = "en"
    key: str = ""


@dataclass(frozen=True)
class Update:
    """What the page shows next. With ``unanswered`` the question was not answered: keep the
    draft."""

    conversation: Conversation
    problem: str | None = None
    unanswered: bool = False


class ChatSession:
    """Stateless between calls: each visitor's conversation comes in and goes out.

    Args:
        url_of: how a request names a picture.
        tasks: by their names.
        history: where conversations are kept; None where they are not.
    """

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        model: str,
        probe: EngineProbe,
        url_of: Callable[[Path], str],
        tasks: Mapping[str, Task],
        history: History | None = None,
    ) -> None:
        self._client = client
        self.model = model
        self._probe = probe
        self._url_of = url_of
        self.tasks = tasks
        self.history = history
        self._answering = 0
        self._open = 0
        self._all_closed = asyncio.Event()
        self._all_closed.set()

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """For as long as what :meth:`send` or :meth:`go_on` gives is not put away."""
        self._open += 1
        self._all_closed.clear()
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._all_closed.set()

    async def close(self) -> None:
        """End every answer; what has come is put away."""
        await self._client.close()
        await self._all_closed.wait()

    async def send(
        self,
        conversation: Conversation,
        turn: Turn,
        options: Options,
        visitor: Visitor,
    ) -> AsyncGenerator[Update, None]:
        """Ask, and yield the growing answer; where the turn's task has further questions, those
        too, each once the one before is answered."""
        problem = await asyncio.to_thread(_problem_of, turn.pictures, visitor.language)
        if problem:
            yield Update(conversation, problem, unanswered=True)
            return
        task = self.tasks.get(turn.task)
        further = [words.of(visitor.language) for words in task.then] if task else []
        for number, words in enumerate([turn.question, *further]):
            asked = conversation.with_turn(turn if number == 0 else Turn(words))
            yield Update(asked)
            async with contextlib.aclosing(self._answer(asked, options, visitor)) as updates:
                async for update in updates:
                    yield update
                    conversation = update.conversation
                    if update.problem:
                        return

    async def go_on(
        self, conversation: Conversation, options: Options, visitor: Visitor
    ) -> AsyncGenerator[Update, None]:
        """Yield the rest of the last answer, which was cut."""
        turn = replace(conversation.turns[-1], done=False)
        asked = conversation.with_last(turn)
        async with contextlib.aclosing(self._answer(asked, options, visitor)) as updates:
            async for update in updates:
                # Without a word more it is as it was.
                yield replace(update, conversation=conversation) if update.unanswered else update

    async def _answer(
        self, asked: Conversation, options: Options, visitor: Visitor
    ) -> AsyncGenerator[Update, None]:
        """Where the last turn has the beginning of an answer, that goes on."""
        fields: dict[str, Any] = {
            "model": self.model,
            "messages": api_messages(asked, self._url_of, options.system),
            **options.fields(self.tasks.get(asked.turns[-1].task)),
        }
        if asked.turns[-1].answer:
            fields["messages"][-1]["content"] = CLOSED + asked.turns[-1].answer
            fields |= {"continue_final_message": True, "add_generation_prompt": False}
            fields["thinking"] = "off"
        current, drawn = asked, 0.0
        clock = Clock(thought_s=asked.turns[-1].figures.thought_s)
        stream = stream_answer(self._client, visitor.key, fields)
        self._answering += 1
        try:
            async with contextlib.aclosing(stream):
                async for delta in stream:
                    clock.note(delta)
                    turn = current.turns[-1].with_more(delta.reasoning, delta.answer)
                    current = current.with_last(replace(turn, figures=clock.figures))
                    pause = max(REDRAW_S, self._answering / CHANGES_A_SECOND)
                    if time.monotonic() - drawn >= pause:
                        drawn = time.monotonic()
                        yield Update(current)
        except EngineError as error:
            problem = await self._explain(error, visitor.language)
            if current == asked:
                yield Update(asked.without_last(), problem, unanswered=True)
            else:
                kept = text("kept", visitor.language)
                yield Update(finished(current), f"{problem} {kept}")
            return
        finally:
            self._answering -= 1
        yield Update(finished(current))

    async def _explain(self, error: EngineError, language: Language) -> str:
        """The engine's state says more than a refused connection."""
        status = await self._probe.status()
        if not status.ready:
            return text("not_ready", language, why=view.state_words(status, language))
        if error.code in ERRORS:
            return ERRORS[error.code].of(language)
        return text("refused", language, why=str(error))

    async def context_tokens(self, visitor: Visitor) -> int | None:
        """Of the model, for prompt and answer; None where the engine does not say just now."""
        return await context_tokens(self._client, visitor.key)

    async def banner(self, language: Language = "en") -> str:
        """A line on the engine's state, as HTML."""
        return view.banner(await self._probe.status(), self.model, language)


class Clock:
    """Times one answer, from the question on.

    Args:
        thought_s: how long was thought before, where an answer goes on.
    """

    def __init__(
        self, now: Callable[[], float] = time.monotonic, *, thought_s: float | None = None
    ) -> None:
        self._now = now
        self._asked = now()
        self.figures = Figures(thought_s=thought_s)

    def note(self, delta: Delta) -> None:
        """A piece came."""
        seconds = self._now() - self._asked
        figures = replace(self.figures, total_s=seconds)
        if figures.first_token_s is None and (delta.reasoning or delta.answer):
            figures = replace(figures, first_token_s=seconds)
        if figures.first_token_s is not None and figures.thought_s is None and delta.answer:
            figures = replace(figures, thought_s=seconds - figures.first_token_s)
        if delta.usage is not None:
            prompt, completion = delta.usage
            # What comes last came no later than the last token, but for a moment.
            figures = replace(figures, prompt_tokens=prompt, completion_tokens=completion)
        self.figures = figures


def _problem_of(pictures: Sequence[Path], language: Language) -> str | None:
    """Why one of them cannot be used, before anything is asked."""
    try:
        for path in pictures:
            media_type(path)
    except PictureError as error:
        return picture_problem(error, language)
    return None


def finished(conversation: Conversation) -> Conversation:
    """The same talk with nothing more to come in its last turn."""
    if not conversation.turns:
        return conversation
    return conversation.with_last(replace(conversation.turns[-1], done=True))
