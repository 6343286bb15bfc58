"""The page: the talk, and beside it (on a phone: below) what it can be about and how it is asked;
and which event goes to which handler. What it looks like is in look.py."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio import processing_utils
from starlette.requests import Request
from starlette.responses import Response

from webui.chat.batch_handlers import BatchHandlers
from webui.chat.desk import Desk
from webui.chat.file_handlers import FileHandlers
from webui.chat.handlers import NO_KEY, Handlers
from webui.chat.history_handlers import HistoryHandlers
from webui.chat.look import CSS, FOCUS_TALK, NOTE_TASK, SAVE, SCRIPT, blanks_css, build_theme
from webui.chat.parts import (
    Batch,
    Controls,
    Files,
    Pictures,
    Shelf,
    Status,
    Talk,
    batch_part,
    chatbot_part,
    code_part,
    controls_part,
    files_part,
    pictures_part,
    question_part,
    result_part,
    shelf_part,
    status_part,
)
from webui.chat.pdf_handlers import PdfHandlers
from webui.chat.session import ChatSession
from webui.chat.status_handlers import StatusHandlers
from webui.chat.words import translations
from webui.client.tasks import Words
from webui.settings import Settings

BANNER_SECONDS = 2
CONCURRENT_ANSWERS = 256
WAITING_ANSWERS = 512
PDFS_AT_ONCE = 2
QUEUE_SLEEP_S = 0.02
UPLOADS_LIVE_S = 24 * 3600

# Of what takes no time.
QUIET: Mapping[str, Any] = {"show_progress": "hidden", "queue": False}


@dataclass(frozen=True)
class Service:
    """What the page has beside the talk. Without a folder for them there are no batches."""

    status: StatusHandlers
    batch: BatchHandlers | None


def build_page(
    session: ChatSession, service: Service, settings: Settings, say: gr.I18n
) -> gr.Blocks:
    """Components and which event goes to which handler."""
    history = HistoryHandlers(session.history) if session.history is not None else None
    folder = settings.uploads or Path(tempfile.gettempdir())
    keep = history.put_away if history else None
    handlers = Handlers(session, folder, keep, settings.root_path)
    with gr.Blocks(title="STEP3-VL", fill_width=True, delete_cache=(3600, UPLOADS_LIVE_S)) as page:
        gr.HTML(say("logged_out"), elem_id="logged-out")
        with gr.Row(elem_id="head"):
            gr.Markdown("# STEP3-VL")
            banner = gr.HTML(say("asking"), elem_id="banner")
        if settings.notice:
            gr.Markdown(say("notice"), elem_id="notice")
        with gr.Tabs():
            with gr.Tab(say("tab_chat"), elem_id="tab-chat") as chat_tab:
                parts = _chat_tab(say, session)
            batch_tab = gr.Tab(
                say("tab_batch"), elem_id="tab-batch", visible=service.batch is not None
            )
            with batch_tab:
                batch = batch_part(say, session.tasks)
            with gr.Tab(say("tab_status"), elem_id="tab-status") as status_tab:
                status = status_part(say)
        answers, answered, changed = _connect_talk(handlers, parts)
        opened = _connect_files(FileHandlers(session.model, folder, history), parts, answers)
        others = [opened]
        if parts.shelf is not None and history is not None:
            others += _connect_shelf(
                history, page, parts.talk, parts.shelf, answers, answered, [*changed, opened]
            )
        for event in (*answered, *changed, *others):
            event.then(handlers.offers, parts.talk.desk, parts.talk.offers, **QUIET)
        _connect_pictures(handlers, PdfHandlers(session, folder), parts.pictures, parts.talk)
        _connect_controls(handlers, parts.controls, parts.talk.question)
        _connect_status(service.status, status, status_tab, [chat_tab, batch_tab])
        if service.batch is not None:
            _connect_batch(service.batch, batch, batch_tab, [chat_tab, status_tab])
        for trigger in (page.load, gr.Timer(BANNER_SECONDS).tick):
            trigger(handlers.banner, None, banner, show_progress="hidden", queue=False)
    page.queue(max_size=WAITING_ANSWERS, api_open=False)
    # An idle queue would look for work a thousand times a second.
    page._queue.sleep_when_free = QUEUE_SLEEP_S
    _take_only_uploads(page)
    return page


@dataclass(frozen=True)
class _Parts:
    talk: Talk
    pictures: Pictures
    controls: Controls
    shelf: Shelf | None
    files: Files


def _chat_tab(say: gr.I18n, session: ChatSession) -> _Parts:
    """The talk, and beside it everything else."""
    desk = gr.State(Desk())
    # It need not be secret: a cookie tells who may open what.
    key = gr.BrowserState(NO_KEY, storage_key="step3vl-conversation", secret="step3vl")  # noqa: S106
    with gr.Row():
        with gr.Column(scale=2, min_width=320):
            earlier = gr.Button(size="sm", visible=False, elem_id="earlier-turns")
            chatbot = chatbot_part(say)
            with gr.Row():
                go_on = gr.Button(say("go_on"), size="sm", visible=False, elem_id="go-on")
                delete_turn = gr.Button(size="sm", visible=False, elem_id="delete-turn")
            result = result_part(say)
            question, code = question_part(say), code_part(say)
        with gr.Column(scale=1, min_width=280):
            pictures = pictures_part(say)
            controls = controls_part(say, session.tasks)
            new = gr.Button(say("new"), variant="secondary", elem_id="new")
            shelf = shelf_part(say) if session.history is not None else None
            files = files_part(say)
    settle = gr.Button(visible="hidden", elem_id="settle")
    talk = Talk(
        desk, key, chatbot, question, result, code, new, earlier, go_on, delete_turn, settle
    )
    return _Parts(talk, pictures, controls, shelf, files)


def _connect_pictures(
    handlers: Handlers, more: PdfHandlers, pictures: Pictures, talk: Talk
) -> None:
    chosen, dropped = gr.State(-1), gr.State([])
    for changed in (pictures.gallery.change, pictures.attached.click):
        all_pictures = [pictures.gallery, talk.question]
        changed(handlers.cost, all_pictures, pictures.outputs[1:], **QUIET)
    pictures.gallery.select(handlers.chosen, None, chosen, **QUIET)
    both = [pictures.gallery, chosen]
    pictures.earlier.click(handlers.earlier, both, both, **QUIET)
    pictures.later.click(handlers.later, both, both, **QUIET)
    # The question field first: what is typed while pages are made must not be lost.
    taken = pictures.attached_pdf.click(
        handlers.take_pdfs, talk.question, [talk.question, dropped], **QUIET
    )
    for came, files in ((pictures.add.upload, pictures.add), (taken.then, dropped)):
        came(
            more.add,
            [files, pictures.pages, pictures.gallery, talk.question],
            [pictures.pages, *pictures.outputs],
            concurrency_limit=PDFS_AT_ONCE,
            concurrency_id="pdfs",
        )


def _connect_controls(handlers: Handlers, controls: Controls, question: Any) -> None:
    blanks, filled = controls.blanks, controls.filled
    # Not "input": that comes too when the field is only left, by the tabulator key.
    controls.task.select(
        handlers.take_task,
        [controls.task, question, *blanks, *controls.options],
        [question, filled, *controls.options],
        **QUIET,
    )
    # By rules of style, not by updates: what stands in the fields stays.
    controls.task.change(None, controls.task, None, js=NOTE_TASK, **QUIET)
    for blank in blanks:
        blank.change(
            handlers.fill_in,
            [controls.task, question, filled, *blanks],
            [question, filled],
            trigger_mode="always_last",
            **QUIET,
        )
    controls.reset.click(handlers.standard, None, controls.options, **QUIET)


def _connect_talk(handlers: Handlers, parts: _Parts) -> tuple[list[Any], list[Any], list[Any]]:
    """The events that are answers, those after them, and others after which a talk has changed."""
    talk, pictures, controls = parts.talk, parts.pictures, parts.controls
    outputs = [talk.question, *pictures.outputs, *talk.shown, controls.task]
    drafts = [talk.question, pictures.gallery, talk.desk]
    asked_of = [talk.desk, *controls.options]
    answers: list[Any] = []
    for asking, handler, inputs in (
        (talk.question.submit, handlers.send, [*drafts, controls.task]),
        (talk.chatbot.retry, handlers.again, talk.desk),
        (talk.chatbot.edit, handlers.edited, talk.desk),
        (talk.go_on.click, handlers.go_on, talk.desk),
    ):
        # A new question waits for the answer before it; the others end it.
        ended = answers[:] if answers else None
        asked = asking(handler, inputs, outputs, cancels=ended, **QUIET)
        answer = asked.then(
            handlers.answer,
            asked_of,
            talk.chatbot,
            concurrency_limit=CONCURRENT_ANSWERS,
            concurrency_id="answers",
            show_progress="hidden",
            trigger_mode="multiple",  # the later one ends the earlier: see Desk
        )
        answer.failure(handlers.failed, drafts, outputs, **QUIET)
        answers.append(answer)
    taken_back = talk.chatbot.undo(
        handlers.take_back, [talk.desk, pictures.gallery], outputs, cancels=answers, **QUIET
    )
    cleared = talk.new.click(handlers.clear, talk.desk, outputs, cancels=answers, **QUIET)
    stopped = talk.question.stop(handlers.stop, talk.desk, None, cancels=answers, **QUIET)
    shown_all = talk.earlier.click(handlers.show_all, talk.desk, talk.shown, **QUIET)
    shown_all.then(None, None, None, js=FOCUS_TALK, **QUIET)
    talk.chatbot.select(handlers.pick, talk.desk, talk.delete_turn, **QUIET)
    deleted = talk.delete_turn.click(
        handlers.delete_turn, talk.desk, talk.shown, cancels=answers, **QUIET
    )
    # Also after what ends an answer: the event of that may be lost, and the field would never take
    # a question again.
    answered, changed = (
        [event.then(handlers.settle, drafts, outputs, **QUIET) for event in events]
        for events in ([*answers, stopped], [taken_back, cleared, deleted])
    )
    answered.append(talk.settle.click(handlers.settle, drafts, outputs, **QUIET))
    for event in (*answered, *changed):
        shown = event.then(handlers.result, talk.desk, talk.result.outputs, **QUIET)
        shown.then(handlers.code, asked_of, talk.code.fields, **QUIET)
    talk.code.panel.expand(handlers.code, asked_of, talk.code.fields, **QUIET)
    return answers, answered, changed


def _connect_shelf(
    handlers: HistoryHandlers,
    page: gr.Blocks,
    talk: Talk,
    shelf: Shelf,
    answers: list[Any],
    answered: list[Any],
    changed: list[Any],
) -> list[Any]:
    """The events after which another talk lies on the desk."""
    shown = [shelf.listing, *talk.shown]
    for event in answered:  # what was answered is kept already
        event.then(handlers.search, [shelf.search, talk.desk], shelf.listing, **QUIET)
    for event in changed:
        event.then(handlers.keep, [talk.desk, shelf.search], shelf.listing, **QUIET)
    loaded = page.load(handlers.opened, [talk.key, talk.desk], shown, **QUIET)
    chosen = shelf.listing.input(
        handlers.chosen, [shelf.listing, talk.desk], shown, cancels=answers, **QUIET
    )
    shelf.search.change(handlers.search, [shelf.search, talk.desk], shelf.listing, **QUIET)
    titled = [shelf.listing, shelf.rename]
    shelf.rename.submit(handlers.rename, [shelf.rename, talk.desk, shelf.search], titled, **QUIET)
    deleting = [talk.desk, shelf.search]
    deleted = shelf.delete.click(handlers.delete, deleting, shown, cancels=answers, **QUIET)
    return [loaded, chosen, deleted]


def _connect_files(handlers: FileHandlers, parts: _Parts, answers: list[Any]) -> Any:
    """The event after which another talk lies on the desk."""
    talk, files = parts.talk, parts.files
    for button, handler in (
        (files.save_json, handlers.save_json),
        (files.save_markdown, handlers.save_markdown),
    ):
        ready = button.click(handler, talk.desk, files.file, show_progress="hidden")
        ready.then(None, files.file, None, js=SAVE, **QUIET)
    return files.open.upload(
        handlers.open,
        [files.open, talk.desk],
        talk.shown,
        cancels=answers,
        show_progress="hidden",
    )


def _connect_status(
    handlers: StatusHandlers, status: Status, tab: gr.Tab, others: list[gr.Tab]
) -> None:
    opened = [status.timer, status.charts, status.admin, status.notice]
    tab.select(handlers.opened, None, opened, **QUIET)
    for other in others:
        other.select(handlers.closed, None, status.timer, **QUIET)
    status.timer.tick(handlers.charts, None, status.charts, **QUIET)
    # What they say goes through the queue.
    status.which_log.input(handlers.log, status.which_log, status.log, show_progress="hidden")
    status.restart_engine.click(handlers.restart_engine, show_progress="hidden")
    status.restart_page.click(handlers.restart_page, show_progress="hidden")


def _connect_batch(
    handlers: BatchHandlers, batch: Batch, tab: gr.Tab, others: list[gr.Tab]
) -> None:
    tab.select(handlers.opened, None, [batch.timer, batch.folder, *batch.shown], **QUIET)
    for other in others:
        other.select(handlers.closed, None, batch.timer, **QUIET)
    batch.timer.tick(handlers.look, None, batch.shown, **QUIET)
    words = batch.asked[2]
    batch.task.select(handlers.take_task, batch.task, words, **QUIET)
    # What they say goes through the queue.
    batch.start.click(handlers.start, batch.asked, [batch.files, *batch.shown])
    batch.stop.click(handlers.stop, None, batch.shown, show_progress="hidden")
    batch.go_on.click(handlers.go_on, None, batch.shown, show_progress="hidden")
    for button, handler in ((batch.csv, handlers.csv), (batch.jsonl, handlers.jsonl)):
        ready = button.click(handler, None, batch.file, show_progress="hidden")
        ready.then(None, batch.file, None, js=SAVE, **QUIET)


def _take_only_uploads(page: Any) -> None:
    """A visitor's question may name a file or an address where the page would name an upload."""
    # gradio checks where a file lies only if it believes that it was started, not mounted.
    page.has_launched = True
    processing_utils.async_ssrf_protected_download = _fetch_nothing


async def _fetch_nothing(_url: str, **_: Any) -> str:
    raise gr.Error("Attach the picture itself, not its address.")


async def _live(_request: Request) -> Response:
    """For whoever watches over this process."""
    return Response()


def build_app(session: ChatSession, service: Service, settings: Settings) -> FastAPI:
    """The page as an ASGI application; its lifespan must be run by whoever serves it."""
    notice = Words(settings.notice, settings.notice_zh or settings.notice)
    say = gr.I18n(**translations(session.tasks, notice))
    outer = FastAPI(openapi_url=None)
    outer.add_route("/livez", _live)
    app: FastAPI = gr.mount_gradio_app(
        outer,
        build_page(session, service, settings, say),
        path="/",
        root_path=settings.root_path or None,
        theme=build_theme(),
        css=CSS + blanks_css(session.tasks),
        js=SCRIPT,
        i18n=say,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        show_error=False,
        max_file_size=f"{settings.max_upload_mb}mb",
        allowed_paths=[],
    )
    return app
