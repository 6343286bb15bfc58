"""What a visitor has open in one tab of the browser."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from webui.chat.conversation import Conversation, Turn
from webui.chat.session import finished
from webui.chat.view import Message, chatbot_messages, first_shown, turn_at
from webui.client.tasks import Language

POLL_S = 0.05


@dataclass(frozen=True)
class Wish:
    """A question that is to be asked after a talk; without a turn, its last answer is to go on.

    ``draft`` is what the page gets back where nobody answers, ``shown`` the talk as it stands there
    already; ``problem`` is why nothing can be asked.
    """

    before: Conversation
    turn: Turn | None
    draft: Any = None
    shown: Conversation | None = None
    problem: str = ""


class Desk:
    """One conversation at a time, which an answer may be changing.

    gradio runs events side by side, and lets the one that cancels another run before it does so.
    Here an answer ends by itself when something else has been put on the desk.
    """

    def __init__(self) -> None:
        self.talk = Conversation()
        self.wish: Wish | None = None
        self.given_back: Any = None
        """The draft of a question that nobody answered."""
        self.picked: Turn | None = None
        """The one that was clicked, to be deleted perhaps."""
        self.shows_all = False
        """Where the talk is long, its first turns are not shown until somebody wants them."""
        self.hidden = 0
        """How many turns were left out when it was shown last."""
        self._version = 0
        self._answering: int | None = None

    @property
    def is_answering(self) -> bool:
        """Whether an answer is coming for what lies here."""
        return self.wish is not None or self._answering == self._version

    @property
    def is_untouched(self) -> bool:
        """Whether nothing was asked yet, and nothing opened."""
        return not self.talk.turns and not self.is_answering

    def messages(self, language: Language, talk: Conversation | None = None) -> list[Message]:
        """For the Chatbot: what lies here, or will in a moment."""
        turns = (self.talk if talk is None else talk).turns
        self.hidden = 0 if self.shows_all else first_shown(len(turns))
        return chatbot_messages(turns[self.hidden :], language)

    def turn_at(self, index: int) -> int | None:
        """To which turn the message of this index belongs; None where there is no such message."""
        number = turn_at(self.talk.turns[self.hidden :], index)
        return None if number is None else self.hidden + number

    def take_wish(self) -> Wish | None:
        """What is to be asked now, once."""
        wish, self.wish = self.wish, None
        return wish

    async def wish_is_taken(self, within_s: float) -> bool:
        """Whether somebody comes in this time for what is to be asked now."""
        wish, deadline = self.wish, time.monotonic() + within_s
        while self.wish is wish and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)
        return self.wish is not wish

    def put(self, talk: Conversation) -> Conversation:
        """Have this here instead, with nothing more to come; what was here, as far as it had
        come."""
        self.shows_all &= talk.key == self.talk.key
        before, self.talk = finished(self.talk), finished(talk)
        self.wish = self.given_back = None
        self._version += 1
        return before

    @contextlib.contextmanager
    def answering(self, talk: Conversation) -> Iterator[Callable[[], bool]]:
        """While the block runs an answer comes for this talk; yields whether it is still wanted."""
        self._version += 1
        self.talk, self._answering, mine = talk, self._version, self._version
        try:
            yield lambda: self._version == mine
        finally:
            if self._version == mine:
                self.talk, self._answering = finished(self.talk), None
