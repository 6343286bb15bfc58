"""The page's layout: the talk, and beside it (on a phone: below) what it can be about and how it is
asked. What happens is in handlers.py, what it looks like in look.py."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio import processing_utils

from webui.chat.desk import Desk
from webui.chat.file_handlers import FileHandlers
from webui.chat.handlers import IDLE, NO_KEY, Handlers
from webui.chat.history_handlers import HistoryHandlers
from webui.chat.look import CSS, SAVE, SCRIPT, build_theme
from webui.chat.options import MAX_ANSWER_TOKENS, Options
from webui.chat.pdf_handlers import PdfHandlers
from webui.chat.session import ChatSession
from webui.chat.words import translations
from webui.gateway.thinking import MODES
from webui.settings import Settings

BANNER_SECONDS = 2
CONCURRENT_ANSWERS = 32
WAITING_ANSWERS = 128
PDFS_AT_ONCE = 2
QUEUE_SLEEP_S = 0.03
UPLOADS_LIVE_S = 24 * 3600

# Of what takes no time.
QUIET: Mapping[str, Any] = {"show_progress": "hidden", "queue": False}

# As people write them; the first is TeX's own.
LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
    {"left": "$", "right": "$", "display": False},
]


@dataclass(frozen=True)
class Controls:
    """How to ask; ``options`` in the order of :class:`Options`."""

    task: gr.Dropdown
    options: list[Any]
    reset: gr.Button


@dataclass(frozen=True)
class Pictures:
    """For the next question."""

    gallery: gr.Gallery
    order: gr.Row
    earlier: gr.Button
    later: gr.Button
    cost: gr.Markdown
    add: gr.UploadButton
    pages: gr.Textbox

    @property
    def outputs(self) -> list[Any]:
        """What changes together."""
        return [self.gallery, self.order, self.cost]


@dataclass(frozen=True)
class Result:
    """A JSON answer as a table, and for a spreadsheet; hidden where there is none."""

    panel: gr.Accordion
    table: gr.Dataframe
    csv: gr.DownloadButton
    json: gr.DownloadButton

    @property
    def outputs(self) -> list[Any]:
        return [self.panel, self.table, self.csv, self.json]


@dataclass(frozen=True)
class Code:
    """The talk as code, in a field for each language."""

    panel: gr.Accordion
    fields: list[Any]


@dataclass(frozen=True)
class Shelf:
    """The visitor's conversations."""

    listing: gr.Radio
    search: gr.Textbox
    rename: gr.Textbox
    delete: gr.Button


@dataclass(frozen=True)
class Files:
    """A talk as a file, and back. ``file`` is never seen: the browser saves what comes to it."""

    save_json: gr.Button
    save_markdown: gr.Button
    open: gr.UploadButton
    file: gr.DownloadButton


@dataclass(frozen=True)
class Talk:
    """What is said, and where the next question is written. ``key`` is the open conversation's; the
    browser keeps it over a reload."""

    desk: gr.State
    key: gr.BrowserState
    chatbot: gr.Chatbot
    question: gr.MultimodalTextbox
    result: Result
    code: Code
    new: gr.Button

    @property
    def shown(self) -> list[Any]:
        """What changes together."""
        return [self.chatbot, self.key]


def _pictures(say: gr.I18n) -> Pictures:
    gallery = gr.Gallery(
        label=say("pictures"),
        file_types=["image"],
        sources=["upload", "webcam", "clipboard"],
        columns=2,
        height=300,
        object_fit="contain",
        interactive=True,
        elem_id="pictures",
    )
    with gr.Row(visible=False, elem_id="order") as order:
        earlier = gr.Button(say("earlier"), size="sm", elem_id="earlier")
        later = gr.Button(say("later"), size="sm", elem_id="later")
    cost = gr.Markdown(elem_id="cost")
    with gr.Row(elem_id="more"):
        add = gr.UploadButton(
            say("add"),
            size="sm",
            file_count="multiple",
            file_types=["image", ".pdf"],
            elem_id="add",
        )
        pages = gr.Textbox(
            label=say("pages"),
            placeholder=say("pages"),
            show_label=False,
            max_length=200,
            elem_id="pages",
        )
    return Pictures(gallery, order, earlier, later, cost, add, pages)


def _controls(say: gr.I18n, tasks: Iterable[str]) -> Controls:
    standard = Options()
    task = gr.Dropdown(
        [(say("task_none"), ""), *((say(f"task_{name}"), name) for name in tasks)],
        value="",
        label=say("task"),
        info=say("task_info"),
        elem_id="task",
    )
    with gr.Accordion(say("settings"), open=False, elem_id="settings"):
        modes = [(say(f"thinking_{mode}"), mode) for mode in MODES]
        thinking = gr.Radio(modes, value=standard.thinking, label=say("thinking"), elem_id="mode")
        own = gr.Checkbox(standard.own_sampling, label=say("own_sampling"), elem_id="own-sampling")
        temperature = gr.Slider(
            0, 2, standard.temperature, step=0.05, label=say("temperature"), elem_id="temperature"
        )
        top_p = gr.Slider(0.05, 1, standard.top_p, step=0.05, label=say("top_p"), elem_id="top-p")
        tokens = gr.Slider(
            16,
            MAX_ANSWER_TOKENS,
            standard.answer_tokens,
            step=16,
            label=say("answer_tokens"),
            elem_id="answer-tokens",
        )
        system = gr.Textbox(
            label=say("system"), lines=2, max_length=8000, elem_id="system", value=""
        )
        reset = gr.Button(say("reset"), size="sm", elem_id="reset")
    return Controls(task, [thinking, own, temperature, top_p, tokens, system], reset)


def _shelf(say: gr.I18n) -> Shelf:
    with gr.Accordion(say("history"), elem_id="history"):
        search = gr.Textbox(
            label=say("search"),
            placeholder=say("search"),
            show_label=False,
            max_length=200,
            elem_id="search",
        )
        listing = gr.Radio(
            [], label=say("history"), show_label=False, container=False, elem_id="conversations"
        )
        rename = gr.Textbox(
            label=say("rename"),
            placeholder=say("rename"),
            show_label=False,
            max_length=200,
            elem_id="rename",
        )
        delete = gr.Button(say("delete"), size="sm", elem_id="delete")
    return Shelf(listing, search, rename, delete)


def _files(say: gr.I18n) -> Files:
    with gr.Row(elem_id="files"):
        save_json = gr.Button(say("save_json"), size="sm", elem_id="save-json")
        save_markdown = gr.Button(say("save_markdown"), size="sm", elem_id="save-markdown")
        opened = gr.UploadButton(
            say("open_file"), size="sm", file_types=[".json"], elem_id="open-file"
        )
    return Files(save_json, save_markdown, opened, gr.DownloadButton(visible="hidden"))


def _chatbot(say: gr.I18n) -> gr.Chatbot:
    return gr.Chatbot(
        show_label=False,
        height="65vh",
        buttons=["copy"],
        allow_tags=False,
        editable="user",
        # In a group, gradio 6.31 takes the first message for the one that is edited.
        group_consecutive_messages=False,
        latex_delimiters=LATEX,
        placeholder=say("placeholder"),
        elem_id="talk",
    )


def _result(say: gr.I18n) -> Result:
    with gr.Accordion(say("result"), visible=False, elem_id="result") as panel:
        table = gr.Dataframe(show_label=False, interactive=False, wrap=True, elem_id="table")
        with gr.Row():
            csv = gr.DownloadButton(say("csv"), size="sm", elem_id="csv")
            json = gr.DownloadButton(say("json"), size="sm", elem_id="json")
    return Result(panel, table, csv, json)


def _code(say: gr.I18n) -> Code:
    with gr.Accordion(say("show_code"), open=False, elem_id="code") as panel, gr.Tabs():
        fields: list[Any] = []
        for name, language in (
            ("curl", "shell"),
            ("Python", "python"),
            ("JavaScript", "javascript"),
        ):
            with gr.Tab(name, elem_id=f"code-{language}"):
                fields.append(
                    gr.Code(
                        language=language,
                        show_label=False,
                        interactive=False,
                        max_lines=20,
                    )
                )
    return Code(panel, fields)


def _question(say: gr.I18n) -> gr.MultimodalTextbox:
    return gr.MultimodalTextbox(
        label=say("ask"),
        show_label=False,
        placeholder=say("ask"),
        file_count="multiple",
        file_types=["image"],
        sources=["upload"],
        elem_id="question",
        **IDLE,
    )


def build_page(session: ChatSession, settings: Settings, say: gr.I18n) -> gr.Blocks:
    """Components and which event goes to which handler."""
    history = HistoryHandlers(session.history) if session.history is not None else None
    folder = settings.uploads or Path(tempfile.gettempdir())
    handlers = Handlers(session, folder, history.put_away if history else None)
    with gr.Blocks(title="STEP3-VL", fill_width=True, delete_cache=(3600, UPLOADS_LIVE_S)) as page:
        with gr.Row(elem_id="head"):
            gr.Markdown("# STEP3-VL")
            banner = gr.HTML(say("asking"), elem_id="banner")
        if settings.notice:
            gr.Markdown(settings.notice, elem_id="notice")
        desk = gr.State(Desk())
        # It need not be secret: a cookie tells who may open what.
        key = gr.BrowserState(NO_KEY, storage_key="step3vl-conversation", secret="step3vl")  # noqa: S106
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                chatbot, result = _chatbot(say), _result(say)
                question, code = _question(say), _code(say)
            with gr.Column(scale=1, min_width=280):
                pictures = _pictures(say)
                controls = _controls(say, session.tasks)
                new = gr.Button(say("new"), variant="secondary", elem_id="new")
                shelf = _shelf(say) if history is not None else None
                files = _files(say)
        talk = Talk(desk, key, chatbot, question, result, code, new)
        settled, answers = _connect_talk(handlers, talk, pictures, controls)
        opened = _connect_files(FileHandlers(session.model, folder, history), talk, files, answers)
        if shelf is not None and history is not None:
            _connect_shelf(history, page, talk, shelf, [*settled, opened], answers)
        _connect_pictures(handlers, PdfHandlers(session, folder), pictures)
        _connect_controls(handlers, controls, question)
        for trigger in (page.load, gr.Timer(BANNER_SECONDS).tick):
            trigger(handlers.banner, None, banner, show_progress="hidden", queue=False)
    page.queue(max_size=WAITING_ANSWERS, api_open=False)
    # An idle queue would look for work a thousand times a second, in the API's own thread.
    page._queue.sleep_when_free = QUEUE_SLEEP_S
    _take_only_uploads(page)
    return page


def _connect_pictures(handlers: Handlers, more: PdfHandlers, pictures: Pictures) -> None:
    chosen = gr.State(-1)
    pictures.gallery.change(handlers.cost, pictures.gallery, pictures.outputs[1:], **QUIET)
    pictures.gallery.select(handlers.chosen, None, chosen, **QUIET)
    both = [pictures.gallery, chosen]
    pictures.earlier.click(handlers.earlier, both, both, **QUIET)
    pictures.later.click(handlers.later, both, both, **QUIET)
    pictures.add.upload(
        more.add,
        [pictures.add, pictures.pages, pictures.gallery],
        [pictures.pages, *pictures.outputs],
        concurrency_limit=PDFS_AT_ONCE,
    )


def _connect_controls(handlers: Handlers, controls: Controls, question: Any) -> None:
    controls.task.input(
        handlers.take_task,
        [controls.task, question, *controls.options],
        [question, *controls.options],
        **QUIET,
    )
    controls.reset.click(handlers.standard, None, controls.options, **QUIET)


def _connect_talk(
    handlers: Handlers, talk: Talk, pictures: Pictures, controls: Controls
) -> tuple[list[Any], list[Any]]:
    """The events after which a talk has changed, and those that are answers."""
    outputs = [talk.question, *pictures.outputs, *talk.shown, controls.task]
    running: dict[str, Any] = {
        "outputs": outputs,
        "concurrency_limit": CONCURRENT_ANSWERS,
        "concurrency_id": "answers",
        "show_progress": "hidden",
    }
    asked_of = [talk.desk, *controls.options]
    asked = talk.question.submit(
        handlers.send,
        [talk.question, pictures.gallery, talk.desk, controls.task, *controls.options],
        **running,
    )
    again = talk.chatbot.retry(handlers.again, asked_of, cancels=[asked], **running)
    edited = talk.chatbot.edit(handlers.edited, asked_of, cancels=[asked, again], **running)
    answers = [asked, again, edited]
    settling: dict[str, Any] = {
        "inputs": talk.desk,
        "outputs": [talk.question, talk.chatbot],
        **QUIET,
    }
    taken_back = talk.chatbot.undo(
        handlers.take_back, [talk.desk, pictures.gallery], outputs, cancels=answers, **QUIET
    )
    cleared = talk.new.click(handlers.clear, talk.desk, outputs, cancels=answers, **QUIET)
    stopped = talk.question.stop(handlers.stop, cancels=answers, **settling)
    settled = [
        *(answer.then(handlers.settle, **settling) for answer in answers),
        stopped,
        taken_back,
    ]
    for event in (*settled, cleared):
        shown = event.then(handlers.result, talk.desk, talk.result.outputs, **QUIET)
        shown.then(handlers.code, asked_of, talk.code.fields, **QUIET)
    talk.code.panel.expand(handlers.code, asked_of, talk.code.fields, **QUIET)
    return [*settled, cleared], answers


def _connect_shelf(
    handlers: HistoryHandlers,
    page: gr.Blocks,
    talk: Talk,
    shelf: Shelf,
    settled: list[Any],
    answers: list[Any],
) -> None:
    shown = [shelf.listing, *talk.shown]
    for event in settled:
        event.then(handlers.keep, [talk.desk, shelf.search], shelf.listing, **QUIET)
    page.load(handlers.opened, [talk.key, talk.desk], shown, **QUIET)
    shelf.listing.input(
        handlers.chosen, [shelf.listing, talk.desk], shown, cancels=answers, **QUIET
    )
    shelf.search.change(handlers.search, [shelf.search, talk.desk], shelf.listing, **QUIET)
    titled = [shelf.listing, shelf.rename]
    shelf.rename.submit(handlers.rename, [shelf.rename, talk.desk, shelf.search], titled, **QUIET)
    deleting = [talk.desk, shelf.search]
    shelf.delete.click(handlers.delete, deleting, shown, cancels=answers, **QUIET)


def _connect_files(handlers: FileHandlers, talk: Talk, files: Files, answers: list[Any]) -> Any:
    """The event after which another talk lies on the desk."""
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


def _take_only_uploads(page: Any) -> None:
    """A visitor's question may name a file or an address where the page would name an upload."""
    # gradio checks where a file lies only if it believes that it was started, not mounted.
    page.has_launched = True
    processing_utils.async_ssrf_protected_download = _fetch_nothing


async def _fetch_nothing(_url: str, **_: Any) -> str:
    raise gr.Error("Attach the picture itself, not its address.")


def build_app(session: ChatSession, settings: Settings) -> FastAPI:
    """The page as an ASGI application; its lifespan must be run by whoever serves it."""
    say = gr.I18n(**translations(session.tasks))
    app: FastAPI = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        build_page(session, settings, say),
        path="/",
        theme=build_theme(),
        css=CSS,
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
