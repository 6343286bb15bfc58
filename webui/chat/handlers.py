"""Between gradio's values and the session's: one method for each thing that a visitor does.

gradio gives a request and an event where a parameter has their type, and values after them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import gradio as gr

from webui.chat.conversation import Conversation, Turn
from webui.chat.desk import Desk, Wish
from webui.chat.options import Options
from webui.chat.session import ChatSession, Update, Visitor
from webui.chat.show_code import Example, public_address
from webui.chat.tables import table_of
from webui.chat.tasks import blanks_of, refilled
from webui.chat.words import language_of, text
from webui.client.tasks import Language, Task
from webui.gateway.keys import password_of
from webui.pictures import PictureError, cost_of, read_header

Picture = tuple[str, str | None]
Gallery = list[Picture] | None
Draft = dict[str, Any]
Keep = Callable[[gr.Request, Conversation], Awaitable[None]]

# Of no conversation. gradio would not store an empty one.
NO_KEY = "-"
IDLE = {"submit_btn": True, "stop_btn": False, "interactive": True}
BUSY = {"submit_btn": False, "stop_btn": True, "interactive": True}
KEPT_AFTER_S = 0.3
NOBODY_COMES_S = 3.0
"""An answer begins much sooner, unless hundreds of others are being given."""


def _question_box(**changes: Any) -> Any:
    """An update of the question field."""
    return gr.MultimodalTextbox(**changes)


def visitor_of(request: gr.Request) -> Visitor:
    """Who sent it. Where keys are in use, the browser sends one as a password."""
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in request.headers.items()
    ]
    language = language_of(request.headers.get("accept-language") or "")
    return Visitor(language, password_of(headers).decode("latin-1"))


def shown_of(
    request: gr.Request, desk: Desk, talk: Conversation | None = None
) -> tuple[Any, Any, str]:
    """What lies on the desk, or will in a moment. Outputs: chatbot, the button for turns that are
    not shown, key."""
    language = visitor_of(request).language
    messages, key = desk.messages(language, talk), (talk or desk.talk).key
    words = text("earlier_turns", language, count=desk.hidden)
    return messages, gr.Button(words, visible=desk.hidden > 0), key or NO_KEY


class Handlers:
    """What is yielded or returned goes to components, in the order that page.py names.

    Args:
        folder: for files to be downloaded. What lies there is deleted in time: see guarded_page.
        keep: called with a talk that is about to be closed.
        root_path: the prefix of all addresses.
    """

    def __init__(
        self, session: ChatSession, folder: Path, keep: Keep | None, root_path: str = ""
    ) -> None:
        self._root_path = root_path
        self._keep = keep
        self._session = session
        self._folder = folder
        self._at_work: set[asyncio.Task[None]] = set()

    def send(
        self, request: gr.Request, draft: Draft, gallery: Gallery, desk: Desk, task: str
    ) -> tuple[Any, ...]:
        """Take a question; :meth:`answer` is next. Outputs of this and the next three: question
        field, gallery with its order and cost, chatbot with its button and key, task."""
        pictures = [Path(path) for path, _ in gallery or []] + [Path(p) for p in draft["files"]]
        question = _clean(draft["text"])
        if desk.is_answering or not (question or pictures):
            return (gr.skip(),) * 8
        turn, before = Turn(question, tuple(pictures), task=task or ""), desk.talk.with_key()
        asked = before.with_turn(turn)
        desk.wish = Wish(before, turn, (draft, gallery, task), shown=asked)
        shown = shown_of(request, desk, asked)
        field = _question_box(value=None, **BUSY)
        return field, None, *self.cost(request, None), *shown, ""

    def again(self, event: gr.RetryData, desk: Desk) -> tuple[Any, ...]:
        """Ask a question anew."""
        return self._from(desk, event.index, None)

    def edited(self, event: gr.EditData, desk: Desk) -> tuple[Any, ...]:
        """Ask it in other words, about the same pictures; what came after it is dropped."""
        return self._from(desk, event.index, _clean(event.value))

    def _from(self, desk: Desk, index: Any, question: str | None) -> tuple[Any, ...]:
        talk = desk.talk
        number = desk.turn_at(_number(index))
        if number is None:
            desk.wish = Wish(talk, None, problem="gone")
        else:
            desk.wish = Wish(talk.before(number), talk.turns[number].asked_again(question))
        return (_question_box(**BUSY), *[gr.skip()] * 7)

    def go_on(self, desk: Desk) -> tuple[Any, ...]:
        """Ask for the rest of an answer that was cut."""
        can = bool(desk.talk.turns) and desk.talk.turns[-1].is_cut
        desk.wish = Wish(desk.talk, None, problem="" if can else "gone")
        return (_question_box(**BUSY), *[gr.skip()] * 7)

    async def answer(self, request: gr.Request, desk: Desk, *options: Any) -> AsyncIterator[Any]:
        """What was asked for. Outputs: chatbot, and nothing else: gradio makes a component anew for
        each output that is skipped, many times a second."""
        wish, language = desk.take_wish(), visitor_of(request).language
        if wish is None or wish.problem:
            if wish is not None:
                gr.Warning(text(wish.problem, language))
            yield desk.messages(language)
            return
        answered = self._answered(request, desk, wish, Options(*options))
        with self._session.open():
            async with contextlib.aclosing(answered):
                async for shown in answered:
                    yield shown

    async def _answered(
        self, request: gr.Request, desk: Desk, wish: Wish, options: Options
    ) -> AsyncGenerator[Any, None]:
        """What is shown while an answer comes. It is kept, however it ends."""
        visitor = visitor_of(request)
        updates = self._updates(wish, options, visitor)
        otherwise, is_kept = desk.talk, False
        try:
            with desk.answering(wish.before) as is_wanted:
                async with contextlib.aclosing(updates):
                    async for update in updates:
                        if not is_wanted():
                            return
                        desk.talk = otherwise if update.unanswered else update.conversation
                        if update.problem:
                            gr.Warning(update.problem)
                        if update.unanswered:
                            desk.given_back = wish.draft
                        if desk.talk != wish.shown:  # drawing a long talk takes a while
                            yield desk.messages(visitor.language)
                        if not is_kept and not update.unanswered:
                            # A restart of this process must not lose the question; the answer
                            # need not wait for that.
                            is_kept = True
                            self._begin(self._put_away_soon(request, desk))
            if is_kept:
                await self._put_away(request, desk.talk)
        except (GeneratorExit, asyncio.CancelledError):
            # The browser has gone away, or stopped it: nothing else may come that keeps it.
            await self._put_away(request, desk.talk)
            raise

    def _updates(
        self, wish: Wish, options: Options, visitor: Visitor
    ) -> AsyncGenerator[Update, None]:
        if wish.turn is None:
            return self._session.go_on(wish.before, options, visitor)
        return self._session.send(wish.before, wish.turn, options, visitor)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """And hold on to it: an event loop does not."""
        task = asyncio.create_task(work)
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)

    async def _put_away_soon(self, request: gr.Request, desk: Desk) -> None:
        """What is being answered; once the first word has had time to come."""
        await asyncio.sleep(KEPT_AFTER_S)
        if desk.is_answering:
            await self._put_away(request, desk.talk)

    async def _put_away(self, request: gr.Request, talk: Conversation) -> None:
        if self._keep is not None:
            await self._keep(request, talk)

    def settle(
        self, request: gr.Request, draft: Draft, gallery: Gallery, desk: Desk
    ) -> tuple[Any, ...]:
        """After an answer, however it ended: nothing more is coming, unless another is. Only here
        does the field take questions again: one that comes before gradio has ended an answer would
        be ended with it. A question that nobody answered is a draft again, before what has been
        typed since."""
        if desk.is_answering:
            return (gr.skip(),) * 8
        given_back, desk.given_back = desk.given_back, None
        if given_back is None:
            shown = shown_of(request, desk)
            return (_question_box(**IDLE), *[gr.skip()] * 3, *shown, gr.skip())
        old, pictures, task = given_back
        words = "\n".join(filter(None, (old["text"], draft["text"])))
        value = {"text": words, "files": [*old["files"], *draft["files"]]}
        pictures = [*(pictures or []), *(gallery or [])]
        field, shown = _question_box(value=value, **IDLE), shown_of(request, desk)
        return field, pictures, *self.cost(request, pictures), *shown, task

    async def failed(
        self, request: gr.Request, draft: Draft, gallery: Gallery, desk: Desk
    ) -> tuple[Any, ...]:
        """An answer's event failed: too many wait, the connection was lost, or it broke. So gradio
        calls it too when an answer was stopped, and by then the next question may have been asked:
        only one that nobody comes to answer is a draft again."""
        if desk.wish is not None:
            if await desk.wish_is_taken(NOBODY_COMES_S):
                return (gr.skip(),) * 8
            wish = desk.take_wish()
            desk.given_back = wish.draft if wish is not None else None
        return self.settle(request, draft, gallery, desk)

    def stop(self, desk: Desk) -> None:
        """What has come stays; :meth:`settle` is next."""
        desk.put(desk.talk)

    def take_back(self, request: gr.Request, desk: Desk, gallery: Gallery) -> tuple[Any, ...]:
        """Delete the last turn, and give back its question and pictures to be changed. Outputs: as
        of :meth:`send`."""
        if not desk.talk.turns:
            return (*[gr.skip()] * 4, *shown_of(request, desk), gr.skip())
        turn = desk.talk.turns[-1]
        desk.put(desk.talk.without_last())
        pictures = [*(gallery or []), *((str(path), None) for path in turn.pictures)]
        field = _question_box(value={"text": turn.question, "files": []})
        shown = shown_of(request, desk)
        return field, pictures, *self.cost(request, pictures), *shown, turn.task

    async def clear(self, request: gr.Request, desk: Desk) -> tuple[Any, ...]:
        """A new talk. Outputs: as of :meth:`send`."""
        before = desk.put(Conversation())
        await self._put_away(request, before)
        field = _question_box(value=None)
        return field, None, *self.cost(request, None), *shown_of(request, desk), ""

    def take_task(
        self, request: gr.Request, name: str, draft: Draft, *rest: Any
    ) -> tuple[Any, ...]:
        """Put a task's question into the field, to be changed there, and what suits it into the
        settings. ``rest`` is what stands in its blanks, and the settings. Outputs: question field,
        what stands in its blanks, settings."""
        count = len(blanks_of(self._session.tasks))
        given, options = rest[:count], rest[count:]
        task, system = self._session.tasks.get(name), options[-1]
        suited = Options.of_task(task)
        if task is None:
            return gr.skip(), {}, *_values(suited)[:-1], system
        filled = self._filled(task, given)
        words = task.text(visitor_of(request).language, **filled)
        field = _question_box(value={"text": words, "files": draft["files"]})
        return field, filled, *_values(suited)[:-1], system

    def fill_in(
        self, request: gr.Request, name: str, draft: Draft, old: dict[str, str], *given: str
    ) -> tuple[Any, Any]:
        """Put what stands in the blanks into the question, whatever else was changed in it.
        Outputs: question field, what stands there."""
        task = self._session.tasks.get(name)
        if task is None:
            return gr.skip(), gr.skip()
        new = self._filled(task, given)
        words = refilled(draft["text"], task, visitor_of(request).language, old, new)
        return _question_box(value={"text": words, "files": draft["files"]}), new

    def _filled(self, task: Task, given: Iterable[str]) -> dict[str, str]:
        """Of a task's blanks, those that are not empty."""
        pairs = zip(blanks_of(self._session.tasks), map(_clean, given), strict=True)
        return {blank: words for blank, words in pairs if words and blank in task.blanks}

    def standard(self) -> tuple[Any, ...]:
        """The settings as they were at first."""
        return _values(Options())

    def offers(self, desk: Desk) -> tuple[Any, Any]:
        """Outputs: the button for the rest of an answer, and that for a turn that was picked, of
        which there is none in a talk that has just changed."""
        turns, desk.picked = desk.talk.turns, None
        return gr.Button(visible=bool(turns) and turns[-1].is_cut), gr.Button(visible=False)

    def show_all(self, request: gr.Request, desk: Desk) -> tuple[Any, ...]:
        """Of a long talk, its first turns too. Outputs: chatbot with its button and key."""
        desk.shows_all = True
        return shown_of(request, desk)

    def pick(self, request: gr.Request, event: gr.SelectData, desk: Desk) -> Any:
        """A message was clicked. Outputs: the button that deletes its turn."""
        number = desk.turn_at(_number(event.index))
        if number is None or desk.is_answering:
            return gr.Button(visible=False)
        desk.picked = desk.talk.turns[number]
        words = text("delete_turn", visitor_of(request).language, number=number + 1)
        return gr.Button(words, visible=True)

    def delete_turn(self, request: gr.Request, desk: Desk) -> tuple[Any, ...]:
        """Take out the turn that was picked; what came before and after it stays, and an answer to
        another question ends. Outputs: chatbot with its button and key."""
        talk = desk.talk if desk.picked is None else desk.talk.without(desk.picked)
        desk.put(talk)
        return shown_of(request, desk)

    def result(self, desk: Desk) -> tuple[Any, ...]:
        """Outputs: panel, table, CSV and JSON to be downloaded."""
        turn = desk.talk.turns[-1] if desk.talk.turns else Turn("")
        task = self._session.tasks.get(turn.task)
        wants_json = task is not None and task.schema is not None
        if not wants_json or (table := table_of(turn.answer)) is None:
            return gr.Accordion(visible=False), gr.skip(), gr.skip(), gr.skip()
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{turn.task}-{secrets.token_hex(16)}"
        as_csv, as_json = self._folder / f"{name}.csv", self._folder / f"{name}.json"
        as_csv.write_text(table.csv(), encoding="utf-8", newline="")
        document = json.loads(turn.answer)
        as_json.write_text(json.dumps(document, ensure_ascii=False, indent=2), encoding="utf-8")
        shown = {"headers": [*table.columns], "data": table.cells}
        return gr.Accordion(visible=True, open=True), shown, str(as_csv), str(as_json)

    def code(self, request: gr.Request, desk: Desk, *options: Any) -> tuple[str, str, str]:
        """The talk for curl, Python and JavaScript, at this page's address."""
        asked, talk = Options(*options), desk.talk
        task = talk.turns[-1].task if talk.turns else ""
        example = Example(
            public_address(request.headers, request.request.url.scheme, self._root_path),
            self._session.model,
            talk,
            _clean(asked.system),
            asked.fields(self._session.tasks.get(task)),
            needs_key=bool(visitor_of(request).key),
        )
        return example.curl(), example.python(), example.javascript()

    def cost(
        self, request: gr.Request, gallery: Gallery, draft: Draft | None = None
    ) -> tuple[Any, str]:
        """Of the gallery's pictures and those in the question field. Outputs: gallery's order and
        cost."""
        attached = draft["files"] if draft else []
        return order_and_cost(gallery, visitor_of(request).language, attached)

    def take_pdfs(self, draft: Draft) -> tuple[Any, list[str]]:
        """PDFs that were dropped on the question field. Outputs: question field without them, and
        they."""
        pdfs = [path for path in draft["files"] if path.lower().endswith(".pdf")]
        rest = [path for path in draft["files"] if path not in pdfs]
        return _question_box(value={"text": draft["text"], "files": rest}), pdfs

    def chosen(self, event: gr.SelectData) -> int:
        """The place of the picture that was clicked."""
        return _number(event.index)

    def earlier(self, gallery: Gallery, place: int) -> tuple[Any, int]:
        """Outputs: gallery, place of the chosen picture."""
        return _moved(gallery, place, -1)

    def later(self, gallery: Gallery, place: int) -> tuple[Any, int]:
        """Outputs: gallery, place of the chosen picture."""
        return _moved(gallery, place, 1)

    async def banner(self, request: gr.Request) -> str:
        """The engine's state."""
        return await self._session.banner(visitor_of(request).language)


def order_and_cost(
    gallery: Gallery, language: Language, attached: Iterable[str] = ()
) -> tuple[Any, str]:
    """Outputs: the buttons for the pictures' order, which one picture does not need, and what they
    and those ``attached`` to the question take of the prompt, in words."""
    pictures = [*(gallery or []), *((path, None) for path in attached)]
    count, tokens = len(pictures), f"{picture_tokens(pictures):,}"
    words = text("cost", language, count=count, tokens=tokens) if count else ""
    return gr.Row(visible=len(gallery or []) > 1), words


def picture_tokens(gallery: Gallery) -> int:
    """What the pictures take of the prompt, as far as they are pictures."""
    tokens = 0
    for path, _ in gallery or []:
        try:
            header = read_header(Path(path), Path(path).name)
        except PictureError:
            continue  # said when it is sent
        tokens += cost_of(header.width, header.height).tokens
    return tokens


def _clean(words: Any) -> str:
    """Without the halves of characters that no encoding can carry."""
    return str(words or "").strip().encode(errors="replace").decode()


def _values(options: Options) -> tuple[Any, ...]:
    return (
        options.thinking,
        options.own_sampling,
        options.temperature,
        options.top_p,
        options.answer_tokens,
        options.system,
    )


def _number(index: Any) -> int:
    """gradio gives a list where a component has rows."""
    first = index[0] if isinstance(index, list | tuple) and index else index
    return first if isinstance(first, int) else -1


def _moved(gallery: Gallery, place: int, by: int) -> tuple[Any, int]:
    pictures = [*(gallery or [])]
    if not (0 <= place < len(pictures) and 0 <= place + by < len(pictures)):
        return gr.skip(), place
    pictures.insert(place + by, pictures.pop(place))
    return gr.Gallery(value=pictures, selected_index=place + by), place + by
