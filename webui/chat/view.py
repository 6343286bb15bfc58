"""A talk as the page's Chatbot shows it, and back from what is clicked there to the talk."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

from webui.chat.conversation import Figures, Turn
from webui.chat.words import PHASES, text
from webui.client.tasks import Language
from webui.engine_status import EngineStatus

Message = dict[str, Any]

# In which waiting is of no use.
BAD_PHASES = {"failed", "down", "stopped", "stalled", "other model"}


# The page draws every turn that it shows anew with each word that comes.
SHOWN_TURNS = 10

# How far a start is in each of its phases.
STEPS = {
    "waiting": (0.02, 0.02),
    "starting": (0.05, 0.05),
    "loading": (0.2, 0.7),
    "warming up": (0.75, 0.75),
    "opening the port": (0.95, 0.95),
}


def chatbot_messages(turns: Sequence[Turn], language: Language = "en") -> list[Message]:
    """Messages for the Chatbot; thinking is a fold of its own, and so is what the answer took."""
    return [message for _, message in _numbered(turns, language)]


def first_shown(count: int) -> int:
    """From which of so many turns on a talk is shown. Ten to nineteen are: were it always the last
    ten, each question would change all that is there."""
    return max(0, (count // SHOWN_TURNS - 1) * SHOWN_TURNS)


def turn_at(turns: Sequence[Turn], index: int) -> int | None:
    """Which turn the message of this index belongs to; None where there is no such message."""
    numbers = [number for number, _ in _numbered(turns, "en")]
    return numbers[index] if 0 <= index < len(numbers) else None


def _numbered(turns: Sequence[Turn], language: Language) -> Iterator[tuple[int, Message]]:
    for number, turn in enumerate(turns):
        for message in _messages_of(turn, language):
            yield number, message


def _messages_of(turn: Turn, language: Language) -> Iterator[Message]:
    for path in turn.pictures:
        yield {"role": "user", "content": {"path": str(path)}}
    if turn.question:
        yield {"role": "user", "content": turn.question}
    if turn.reasoning:
        yield _thought(turn, language)
    if turn.answer or not turn.done:
        yield {"role": "assistant", "content": turn.answer or "…"}
    if turn.done and (words := figures_line(turn.figures, language)):
        yield {"role": "assistant", "content": "", "metadata": {"title": words, "status": "done"}}


def _thought(turn: Turn, language: Language) -> Message:
    is_over = bool(turn.answer) or turn.done
    title = text("thought", language)
    if is_over and turn.figures.thought_s is not None:
        title = text("thought_for", language, seconds=turn.figures.thought_s)
    metadata = {"title": title, "status": "done" if is_over else "pending"}
    return {"role": "assistant", "content": turn.reasoning, "metadata": metadata}


def figures_line(figures: Figures, language: Language) -> str:
    """What an answer took, as far as it is known; empty where nothing is."""
    parts = []
    if figures.first_token_s is not None:
        parts.append(text("first_token", language, seconds=figures.first_token_s))
    if (speed := figures.tokens_per_s) is not None:
        parts.append(text("speed", language, speed=speed))
    if figures.prompt_tokens is not None:
        prompt, completion = figures.prompt_tokens, figures.completion_tokens or 0
        parts.append(text("tokens", language, prompt=prompt, completion=completion))
    return " · ".join(parts)


def banner(status: EngineStatus, model: str, language: Language) -> str:
    """A line on the engine's state, as HTML: a coloured dot and words; while it starts, how far it
    is, and where it failed, what to do."""
    if status.ready:
        words = text("ready", language, model=f"<b>{html.escape(model)}</b>")
        return _dot("good") + words
    why = html.escape(state_words(status, language))
    seconds = f" ({status.seconds:.0f} s)" if status.seconds is not None else ""
    colour = "bad" if status.phase in BAD_PHASES else "waiting"
    line = _dot(colour) + text("not_ready", language, why=f"<b>{why}</b>") + seconds
    if (share := progress(status)) is not None:
        line += f'<br><progress value="{share:.2f}" aria-label="{why}"></progress>'
    if status.cause is not None and status.cause.fix:
        line += "<br>" + text("fix", language, fix=html.escape(status.cause.fix))
    return line


def progress(status: EngineStatus) -> float | None:
    """How far a start is, 0 to 1, by its phase and the weights that are loaded; None where nothing
    starts."""
    if status.phase not in STEPS:
        return None
    done, total = status.shards or (0, 1)
    share = done / total if status.phase == "loading" and total else 0.0
    begin, end = STEPS[status.phase]
    return begin + (end - begin) * share


def state_words(status: EngineStatus, language: Language) -> str:
    """Why it is not ready."""
    phase = PHASES.get(status.phase)
    return f"{phase} ({status.message})" if language == "zh" and phase else status.message


def _dot(colour: str) -> str:
    return f'<span class="dot {colour}"></span>'
