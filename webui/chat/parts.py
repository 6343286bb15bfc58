"""What the page is put together from: groups of gradio's components, in the reader's language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from webui.chat.batches import MAX_AT_ONCE
from webui.chat.control import ENGINE
from webui.chat.handlers import IDLE
from webui.chat.options import MAX_ANSWER_TOKENS, Options
from webui.chat.tasks import blanks_of
from webui.client.tasks import Task
from webui.gateway.thinking import MODES

STATUS_SECONDS = 2
BATCH_SECONDS = 1
PAGE_LOG = "webui"

# As people write them; the first is TeX's own.
LATEX = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": "\\[", "right": "\\]", "display": True},
    {"left": "\\(", "right": "\\)", "display": False},
    {"left": "$", "right": "$", "display": False},
]


@dataclass(frozen=True)
class Controls:
    """How to ask; ``options`` in the order of :class:`Options`. ``blanks`` are what the task leaves
    open, and ``filled`` what stood there before."""

    task: gr.Dropdown
    blanks: list[gr.Textbox]
    filled: gr.State
    options: list[Any]
    reset: gr.Button


@dataclass(frozen=True)
class Pictures:
    """For the next question. Two buttons are never seen: a script presses them when files have come
    to the question field or gone, of which gradio 6.31 tells only with each key."""

    gallery: gr.Gallery
    order: gr.Row
    earlier: gr.Button
    later: gr.Button
    cost: gr.Markdown
    add: gr.UploadButton
    pages: gr.Textbox
    attached: gr.Button
    attached_pdf: gr.Button

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
class Batch:
    """One question about many pictures."""

    timer: gr.Timer
    files: gr.File
    folder: gr.Dropdown
    task: gr.Dropdown
    asked: list[Any]
    start: gr.Button
    stop: gr.Button
    go_on: gr.Button
    progress: gr.HTML
    results: gr.Dataframe
    csv: gr.Button
    jsonl: gr.Button
    file: gr.DownloadButton

    @property
    def shown(self) -> list[Any]:
        """What changes together."""
        return [self.progress, self.results, self.start, self.stop, self.go_on]


@dataclass(frozen=True)
class Status:
    """How the service does. ``admin`` is for some only; ``notice`` tells the others."""

    timer: gr.Timer
    charts: gr.HTML
    admin: gr.Column
    notice: gr.Markdown
    restart_engine: gr.Button
    restart_page: gr.Button
    which_log: gr.Radio
    log: gr.Textbox


@dataclass(frozen=True)
class Talk:
    """What is said, and where the next question is written. ``key`` is the open conversation's; the
    browser keeps it over a reload. ``settle`` is never seen: a script presses it when the visitor
    has logged in again, for the end of an answer may have been missed."""

    desk: gr.State
    key: gr.BrowserState
    chatbot: gr.Chatbot
    question: gr.MultimodalTextbox
    result: Result
    code: Code
    new: gr.Button
    earlier: gr.Button
    go_on: gr.Button
    delete_turn: gr.Button
    settle: gr.Button

    @property
    def shown(self) -> list[Any]:
        """What changes together."""
        return [self.chatbot, self.earlier, self.key]

    @property
    def offers(self) -> list[Any]:
        """What can be done with a part of the talk; hidden where it cannot."""
        return [self.go_on, self.delete_turn]


def pictures_part(say: gr.I18n) -> Pictures:
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
    attached = gr.Button(visible="hidden", elem_id="attached")
    attached_pdf = gr.Button(visible="hidden", elem_id="attached-pdf")
    return Pictures(gallery, order, earlier, later, cost, add, pages, attached, attached_pdf)


def controls_part(say: gr.I18n, tasks: Mapping[str, Task]) -> Controls:
    standard = Options()
    task = gr.Dropdown(
        [(say("task_none"), ""), *((say(f"task_{name}"), name) for name in tasks)],
        value="",
        label=say("task"),
        info=say("task_info"),
        elem_id="task",
    )
    blanks = [
        gr.Textbox(
            label=say(f"blank_{name}"),
            placeholder=say(f"usual_{name}"),
            max_length=200,
            elem_id=f"blank-{name}",
        )
        for name in blanks_of(tasks)
    ]
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
    options = [thinking, own, temperature, top_p, tokens, system]
    return Controls(task, blanks, gr.State({}), options, reset)


def shelf_part(say: gr.I18n) -> Shelf:
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


def files_part(say: gr.I18n) -> Files:
    with gr.Row(elem_id="files"):
        save_json = gr.Button(say("save_json"), size="sm", elem_id="save-json")
        save_markdown = gr.Button(say("save_markdown"), size="sm", elem_id="save-markdown")
        opened = gr.UploadButton(
            say("open_file"), size="sm", file_types=[".json"], elem_id="open-file"
        )
    return Files(save_json, save_markdown, opened, gr.DownloadButton(visible="hidden"))


def chatbot_part(say: gr.I18n) -> gr.Chatbot:
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


def result_part(say: gr.I18n) -> Result:
    with gr.Accordion(say("result"), visible=False, elem_id="result") as panel:
        table = gr.Dataframe(show_label=False, interactive=False, wrap=True, elem_id="table")
        with gr.Row():
            csv = gr.DownloadButton(say("csv"), size="sm", elem_id="csv")
            json = gr.DownloadButton(say("json"), size="sm", elem_id="json")
    return Result(panel, table, csv, json)


def code_part(say: gr.I18n) -> Code:
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


def question_part(say: gr.I18n) -> gr.MultimodalTextbox:
    return gr.MultimodalTextbox(
        label=say("ask"),
        show_label=False,
        placeholder=say("ask"),
        file_count="multiple",
        file_types=["image", ".pdf"],
        sources=["upload"],
        elem_id="question",
        **IDLE,
    )


def batch_part(say: gr.I18n, tasks: Mapping[str, Task]) -> Batch:
    timer = gr.Timer(BATCH_SECONDS, active=False)
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            files = gr.File(
                label=say("batch_files"),
                file_count="multiple",
                file_types=["image", ".zip"],
                elem_id="batch-files",
            )
            folder = gr.Dropdown(
                [("", "")],
                value="",
                label=say("batch_folder"),
                visible=False,
                elem_id="batch-folder",
            )
            task = gr.Dropdown(
                [
                    (say("task_none"), ""),
                    *((say(f"task_{name}"), name) for name, task in tasks.items() if not task.then),
                ],
                value="",
                label=say("task"),
                elem_id="batch-task",
            )
            words = gr.Textbox(
                label=say("batch_words"), lines=4, max_length=20_000, elem_id="batch-words"
            )
            modes = [(say(f"thinking_{mode}"), mode) for mode in MODES]
            thinking = gr.Radio(modes, value="auto", label=say("thinking"), elem_id="batch-mode")
            at_once = gr.Slider(
                1, MAX_AT_ONCE, 4, step=1, label=say("batch_at_once"), elem_id="batch-at-once"
            )
            with gr.Row():
                start = gr.Button(say("batch_start"), variant="primary", elem_id="batch-start")
                stop = gr.Button(say("batch_stop"), interactive=False, elem_id="batch-stop")
        with gr.Column(scale=2, min_width=320):
            progress = gr.HTML(elem_id="batch-progress")
            results = gr.Dataframe(
                label=say("batch_results"), interactive=False, wrap=True, elem_id="batch-results"
            )
            with gr.Row():
                go_on = gr.Button(
                    say("batch_go_on"), size="sm", interactive=False, elem_id="batch-go-on"
                )
                csv = gr.Button(say("batch_csv"), size="sm", elem_id="batch-csv")
                jsonl = gr.Button(say("batch_jsonl"), size="sm", elem_id="batch-jsonl")
    file = gr.DownloadButton(visible="hidden")
    asked = [files, task, words, thinking, at_once, folder]
    return Batch(
        timer,
        files,
        folder,
        task,
        asked,
        start,
        stop,
        go_on,
        progress,
        results,
        csv,
        jsonl,
        file,
    )


def status_part(say: gr.I18n) -> Status:
    figures = gr.HTML(elem_id="charts")
    notice = gr.Markdown(elem_id="admins-only")
    with gr.Column(visible=False, elem_id="admin") as admin:
        with gr.Row():
            engine = gr.Button(say("restart_engine"), size="sm", elem_id="restart-engine")
            page = gr.Button(say("restart_page"), size="sm", elem_id="restart-page")
        which = gr.Radio(
            [(say("log_engine"), ENGINE), (say("log_page"), PAGE_LOG)],
            label=say("log"),
            elem_id="which-log",
        )
        log = gr.Textbox(label=say("log"), show_label=False, lines=20, max_lines=20, elem_id="log")
    timer = gr.Timer(STATUS_SECONDS, active=False)
    return Status(timer, figures, admin, notice, engine, page, which, log)
