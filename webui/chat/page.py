"""The page's layout: pictures on the left, the talk on the right. What happens is session.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio import processing_utils

from webui.chat.conversation import Conversation, chatbot_messages
from webui.chat.session import ChatSession, finished
from webui.settings import Settings

BANNER_SECONDS = 2
CONCURRENT_ANSWERS = 32
WAITING_ANSWERS = 128
QUEUE_SLEEP_S = 0.03
UPLOADS_LIVE_S = 24 * 3600

# No font of the theme is fetched from elsewhere: the page must work without the internet.
FONTS = ["system-ui", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "sans-serif"]
MONO_FONTS = ["ui-monospace", "Menlo", "Consolas", "monospace"]


# Share would post a picture to another site; "New conversation" clears.
CSS = """
#banner .dot { display: inline-block; width: .7em; height: .7em; border-radius: 50%;
               margin-right: .5em; background: #d97706; }
#banner .dot.good { background: #059669; }
#banner .dot.bad { background: #dc2626; }
#talk .message img { max-height: 260px; width: auto; }
#talk button[aria-label="Share"], #talk button[title="Share"],
#talk button[aria-label="Clear"], #talk button[title="Clear"] { display: none; }
"""


def build_theme() -> gr.themes.Base:
    return gr.themes.Soft(primary_hue="teal", font=FONTS, font_mono=MONO_FONTS)


def _question_box(**changes: Any) -> Any:
    """The question field: as it is at first, or an update of it."""
    return gr.MultimodalTextbox(**changes)


IDLE = {"submit_btn": True, "stop_btn": False, "interactive": True}
BUSY = {"submit_btn": False, "stop_btn": True, "interactive": True}


class Handlers:
    """Between gradio's values and the session's."""

    def __init__(self, session: ChatSession) -> None:
        self._session = session

    async def send(
        self,
        draft: dict[str, Any],
        gallery: list[tuple[str, str | None]] | None,
        talk: Conversation,
    ) -> AsyncIterator[tuple[Any, ...]]:
        """Outputs: question field, gallery, chatbot, conversation."""
        pictures = [Path(path) for path, _ in gallery or []] + [Path(p) for p in draft["files"]]
        question = draft["text"].strip()
        if not question and not pictures:
            yield gr.skip(), gr.skip(), gr.skip(), talk
            return
        field, box = _question_box(value=None, **BUSY), None
        async for update in self._session.send(talk, question, pictures):
            shown = chatbot_messages(update.conversation.turns)
            if update.problem:
                gr.Warning(update.problem)
            if update.unanswered:
                yield _question_box(value=draft, **IDLE), gallery, shown, update.conversation
            else:
                yield field, box, shown, update.conversation
                # Cleared once; what the visitor types or adds meanwhile is the next question's.
                field, box = gr.skip(), gr.skip()

    def settle(self, talk: Conversation) -> tuple[Any, ...]:
        """After an answer or a stop: nothing more is coming. Outputs: field, chatbot, talk."""
        talk = finished(talk)
        return _question_box(**IDLE), chatbot_messages(talk.turns), talk

    def clear(self) -> tuple[Any, ...]:
        """A new talk. Outputs: question field, gallery, chatbot, conversation."""
        return _question_box(value=None, **IDLE), None, [], Conversation()

    async def banner(self) -> str:
        return await self._session.banner()


def build_page(session: ChatSession, settings: Settings) -> gr.Blocks:
    """Components and which event goes to which handler."""
    handlers = Handlers(session)
    with gr.Blocks(title="STEP3-VL", fill_width=True, delete_cache=(3600, UPLOADS_LIVE_S)) as page:
        gr.Markdown("# STEP3-VL")
        banner = gr.HTML("Asking the engine …", elem_id="banner")
        if settings.notice:
            gr.Markdown(settings.notice, elem_id="notice")
        talk = gr.State(Conversation())
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                gallery = gr.Gallery(
                    label="Pictures for the next question",
                    file_types=["image"],
                    sources=["upload", "clipboard"],
                    columns=2,
                    height=420,
                    object_fit="contain",
                    interactive=True,
                    elem_id="pictures",
                )
                new_talk = gr.Button("New conversation", variant="secondary")
            with gr.Column(scale=2, min_width=320):
                chatbot = gr.Chatbot(
                    show_label=False,
                    height="65vh",
                    buttons=["copy"],
                    allow_tags=False,
                    placeholder="Add pictures and ask about them.",
                    elem_id="talk",
                )
                question = gr.MultimodalTextbox(
                    show_label=False,
                    placeholder="Ask about the pictures …",
                    file_count="multiple",
                    file_types=["image"],
                    sources=["upload"],
                    elem_id="question",
                    **IDLE,
                )
        outputs = [question, gallery, chatbot, talk]
        asked = question.submit(
            handlers.send,
            [question, gallery, talk],
            outputs,
            concurrency_limit=CONCURRENT_ANSWERS,
            show_progress="hidden",
        )
        settled = {
            "fn": handlers.settle,
            "inputs": [talk],
            "outputs": [question, chatbot, talk],
            "show_progress": "hidden",
            "queue": False,
        }
        asked.then(**settled)
        question.stop(**settled, cancels=[asked])
        new_talk.click(handlers.clear, None, outputs, cancels=[asked], queue=False)
        for trigger in (page.load, gr.Timer(BANNER_SECONDS).tick):
            trigger(handlers.banner, None, banner, show_progress="hidden", queue=False)
    page.queue(max_size=WAITING_ANSWERS, api_open=False)
    # An idle queue would look for work a thousand times a second, in the API's own thread.
    page._queue.sleep_when_free = QUEUE_SLEEP_S
    _take_only_uploads(page)
    return page


def _take_only_uploads(page: Any) -> None:
    """A visitor's question may name a file or an address where the page would name an upload."""
    # gradio checks where a file lies only if it believes that it was started, not mounted.
    page.has_launched = True
    processing_utils.async_ssrf_protected_download = _fetch_nothing


async def _fetch_nothing(_url: str, **_: Any) -> str:
    raise gr.Error("Attach the picture itself, not its address.")


def build_app(session: ChatSession, settings: Settings) -> FastAPI:
    """The page as an ASGI application; its lifespan must be run by whoever serves it."""
    app: FastAPI = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        build_page(session, settings),
        path="/",
        theme=build_theme(),
        css=CSS,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        show_error=False,
        max_file_size=f"{settings.max_upload_mb}mb",
        allowed_paths=[],
    )
    return app
