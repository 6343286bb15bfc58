"""``launch selftest``: ask a running box one question of each kind, as its users will.

It speaks plain HTTP with what comes with Python, so that it tests the box and no client's habits.
"""

from __future__ import annotations

import base64
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from PIL import Image, ImageDraw

from launcher.errors import LauncherError
from launcher.paths import Paths
from launcher.readiness import read_webui_address
from launcher.terminal import say

MODEL = "Step3-VL-10B"
DEMO = "Step3-VL-demo"
"""Of this one it is known what it says to the pictures here."""
PREFIXES = ("/api/v1", "/v1")
TIMEOUT_S = 120.0
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "color": {"type": "string", "maxLength": 20},
        "shape": {"type": "string", "maxLength": 20},
        "count": {"type": "integer"},
    },
    "required": ["color", "shape", "count"],
    "additionalProperties": False,
}


class FailedError(Exception):
    """A check did not pass; the message is the reason, for the person who runs it."""


class ShutOutError(FailedError):
    """Nobody answers there, or not to this key, so no other check would fare better."""


@dataclass(frozen=True)
class Reply:
    """An answer of the box."""

    status: int
    body: bytes

    def document(self) -> dict[str, Any]:
        """The answer to a request that must succeed.

        Raises:
            FailedError: it is an error, or no JSON object.
        """
        if self.status != 200:
            raise FailedError(f"status {self.status}: {self.message()}")
        try:
            found = json.loads(self.body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise FailedError(f"the answer is not a JSON object: {_shown(self.body)}")
        return found

    def message(self) -> str:
        """Of an error, whichever shape it has."""
        try:
            found = json.loads(self.body)
            inner = found.get("error", found)
            return str(inner["message"] if isinstance(inner, dict) else inner)
        except (ValueError, AttributeError, KeyError):
            return _shown(self.body)


def _shown(body: bytes) -> str:
    return repr(body[:120].decode(errors="replace"))


@dataclass
class Box:
    """A running box: ``root`` is its address, ``api`` that of its OpenAI API."""

    root: str
    api: str
    key: str | None = None
    timeout: float = TIMEOUT_S
    is_demo: bool = False
    """Known once the models were listed."""
    _opener: urllib.request.OpenerDirector = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # A proxy of the environment's must not come between us and this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @classmethod
    def at(cls, url: str, key: str | None = None) -> Box:
        """The box at an address, with ``/api/v1`` or without.

        Raises:
            LauncherError: it is not an http(s) address, or the key cannot be sent.
        """
        address = url.rstrip("/")
        if not _is_web_address(address):
            raise LauncherError(f"--url: write it as http://HOST:PORT, not {url!r}")
        if key and not (key.isascii() and key.isprintable()):
            raise LauncherError("STEP3VL_API_KEY holds signs that no key has; set it again")
        for prefix in PREFIXES:
            if address.endswith(prefix):
                return cls(address.removesuffix(prefix), address, key)
        return cls(address, address + PREFIXES[0], key)

    def send(self, url: str, document: Any = None) -> Reply:
        """One exchange: GET, or POST where there is a document.

        Raises:
            ShutOutError: nobody answers, or the key is missing or wrong.
            FailedError: the answer takes too long or breaks off.
        """
        headers = {"content-type": "application/json"}
        if self.key:
            headers["authorization"] = f"Bearer {self.key}"
        body = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(url, body, headers)
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                return Reply(response.status, response.read())
        except urllib.error.HTTPError as error:
            with error:
                reply = Reply(error.code, error.read())
            if reply.status == 401:
                words = f"{reply.message()} Set STEP3VL_API_KEY to a key of that box."
                raise ShutOutError(f"status 401: {words}") from None
            return reply
        except TimeoutError:
            raise FailedError(f"no answer within {self.timeout:.0f} s") from None
        except urllib.error.URLError as error:
            words = "`launch up` starts this machine's, --url names another one"
            raise ShutOutError(f"{self.root} cannot be reached: {error.reason}; {words}") from None
        except (OSError, HTTPException) as error:
            raise FailedError(f"the answer broke off: {type(error).__name__}") from None

    def ask(self, messages: Any, **more: Any) -> Reply:
        """A chat request; ``messages`` may be the content of a single one."""
        if isinstance(messages, str) or (messages and "role" not in messages[0]):
            messages = [{"role": "user", "content": messages}]
        document = {
            "model": MODEL,
            "messages": messages,
            "max_tokens": 200,
            "temperature": 0,
            "thinking": "low",  # a check should take seconds, on a large model too
        }
        return self.send(f"{self.api}/chat/completions", document | more)

    def answer(self, messages: Any, **more: Any) -> str:
        """The words of the answer.

        Raises:
            FailedError: there is no answer, or none with words.
        """
        return content_of(self.ask(messages, **more).document())


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port that is no number
        return False


def message_of(document: dict[str, Any]) -> dict[str, Any]:
    """The one message of an answer that has the shape of OpenAI's."""
    try:
        [choice] = document["choices"]
        message, reason = choice["message"], choice["finish_reason"]
        counted = document["usage"]["completion_tokens"]
    except (KeyError, TypeError, ValueError):
        raise FailedError(f"the answer has not OpenAI's shape: {str(document)[:200]}") from None
    if reason not in {"stop", "length"}:
        raise FailedError(f"finish_reason is {reason!r}")
    if not isinstance(message, dict) or not isinstance(counted, int):
        raise FailedError(f"the answer has not OpenAI's shape: {str(document)[:200]}")
    return message


def content_of(document: dict[str, Any]) -> str:
    """The words of an answer; none at all is a failure."""
    content = message_of(document).get("content")
    if not isinstance(content, str) or not content.strip():
        raise FailedError(f"`content` is empty: {content!r}")
    return content


def picture(shape: str, colour: str) -> bytes:
    """A PNG of one circle or square on white, 320x240 pixels."""
    image = Image.new("RGB", (320, 240), "white")
    draw = ImageDraw.Draw(image)
    paint = draw.ellipse if shape == "circle" else draw.rectangle
    paint((100, 60, 220, 180), fill=colour)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


RED_CIRCLE = picture("circle", "red")
BLUE_SQUARE = picture("square", "blue")


def image(data: bytes, prefix: str = "data:image/png;base64,") -> dict[str, Any]:
    """A content part with this picture."""
    url = prefix + base64.b64encode(data).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def text(words: str) -> dict[str, Any]:
    """A content part with these words."""
    return {"type": "text", "text": words}


def expect(box: Box, answer: str, word: str) -> None:
    """The word is in the answer, where it is known what the model can see."""
    if box.is_demo and word not in answer.lower():
        raise FailedError(f"{word!r} is not in the answer: {answer[:120]!r}")


def check_ready(box: Box) -> None:
    reply = box.send(f"{box.root}/readyz")
    if reply.status != 200:
        raise FailedError(f"/readyz answers {reply.status}: {reply.message()}")


def check_models(box: Box) -> None:
    models = box.send(f"{box.api}/models").document().get("data")
    names = [m.get("id") for m in models or [] if isinstance(m, dict)]
    box.is_demo = names[:1] == [DEMO]
    if MODEL not in names:
        raise FailedError(f"{MODEL} is not in the list: {', '.join(map(str, names)) or 'empty'}")


def check_text(box: Box) -> None:
    box.answer("Hello, who are you?")


def check_image(box: Box) -> None:
    expect(box, box.answer([image(RED_CIRCLE), text("What is in this picture?")]), "red")


def check_base64(box: Box) -> None:
    bare = image(RED_CIRCLE, prefix="")
    expect(box, box.answer([text("What is in this picture?"), bare]), "red")


def check_order(box: Box) -> None:
    """Each order of the same two pictures: one of them would come right by chance."""
    question = text("What is in the first picture?")
    red, blue = image(RED_CIRCLE), image(BLUE_SQUARE)
    expect(box, box.answer([red, blue, question]), "red")
    expect(box, box.answer([blue, red, question]), "blue")


def check_turns(box: Box) -> None:
    first = {"role": "user", "content": [image(RED_CIRCLE), text("What is in this picture?")]}
    said = {"role": "assistant", "content": box.answer([first])}
    second = {"role": "user", "content": "What colour is it?"}
    expect(box, box.answer([first, said, second]), "red")


def check_small_limit(box: Box) -> None:
    """A thought of any length must not use up what the answer may have."""
    box.answer("Hello, who are you?", max_tokens=200, thinking="auto")


def check_json(box: Box) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": SCHEMA}}
    asked = text("Answer as JSON with color, shape and count.")
    answer = box.answer([image(RED_CIRCLE), asked], response_format=form)
    try:
        found = json.loads(answer)
    except ValueError:
        raise FailedError(f"the answer is not JSON: {answer[:120]!r}") from None
    if not fits_schema(found):
        raise FailedError(f"the answer does not fit the schema: {answer[:120]!r}")
    expect(box, str(found["color"]), "red")


def fits_schema(found: Any) -> bool:
    """Whether a document is of the form that :data:`SCHEMA` describes."""
    if not isinstance(found, dict) or found.keys() != SCHEMA["properties"].keys():
        return False
    words = isinstance(found["color"], str) and isinstance(found["shape"], str)
    return words and type(found["count"]) is int


def check_stream(box: Box) -> None:
    """Short and without a thought, so that even a large model says the same twice."""
    asked: dict[str, Any] = {"max_tokens": 16, "thinking": "off", "seed": 1}
    question = "Count from one to ten."
    whole = box.answer(question, **asked)
    reply = box.ask(question, stream=True, **asked)
    if reply.status != 200:
        raise FailedError(f"status {reply.status}: {reply.message()}")
    streamed = "".join(streamed_words(reply.body))
    if streamed != whole:
        raise FailedError(f"streamed {streamed[:80]!r}, whole {whole[:80]!r}")


def streamed_words(body: bytes) -> Iterator[str]:
    """The pieces of an answer in the events of a stream.

    Raises:
        FailedError: an event is an error or cannot be read, or the stream has no end.
    """
    events = body.decode(errors="replace")
    lines = [
        line.removeprefix("data: ") for line in events.split("\n") if line.startswith("data: ")
    ]
    if not lines or lines[-1] != "[DONE]":
        raise FailedError("the stream does not end with [DONE]")
    reason = None
    for line in lines[:-1]:
        try:
            event = json.loads(line)
            if "error" in event:
                raise FailedError(f"an error in the stream: {event['error'].get('message')}")
            for choice in event["choices"]:
                reason = choice.get("finish_reason") or reason
                yield choice["delta"].get("content") or ""
        except (ValueError, KeyError, TypeError, AttributeError):
            raise FailedError(f"an event of the stream cannot be read: {line[:80]!r}") from None
    if reason is None:
        raise FailedError("the stream ends without a finish_reason")


def check_reasoning(box: Box) -> None:
    asked = [image(BLUE_SQUARE), text("What is in this picture?")]
    message = message_of(box.ask(asked).document())
    thoughts = [message.get(name) for name in ("reasoning", "reasoning_content")]
    if not thoughts[0] or thoughts[0] != thoughts[1]:
        raise FailedError(
            f"reasoning is {str(thoughts[0])[:60]!r}, reasoning_content {str(thoughts[1])[:60]!r}"
        )


def check_bad_image(box: Box) -> None:
    reply = box.ask([image(b"This is no picture."), text("What is in this picture?")])
    if reply.status != 400:
        raise FailedError(f"expected status 400 for a damaged picture, not {reply.status}")
    if "Image 1" not in reply.message():
        raise FailedError(f"the message does not name Image 1: {reply.message()[:120]!r}")


Check = Callable[[Box], None]
CHECKS: tuple[tuple[str, Check], ...] = (
    ("/readyz says ready", check_ready),
    (f"models list {MODEL}", check_models),
    ("a text is answered", check_text),
    ("a picture as data: URL", check_image),
    ("a picture as plain base64, after the words", check_base64),
    ("two pictures in their order", check_order),
    ("a second turn about the first one's picture", check_turns),
    ("max_tokens of 200 leaves an answer", check_small_limit),
    ("JSON that parses and fits its schema", check_json),
    ("a stream says what a whole answer says", check_stream),
    ("reasoning under both of its names", check_reasoning),
    ("a damaged picture is refused by its number", check_bad_image),
)


@dataclass(frozen=True)
class Outcome:
    """Of one check; ``reason`` is empty where it passed."""

    name: str
    passed: bool
    seconds: float
    reason: str = ""

    def line(self) -> str:
        verdict = "pass" if self.passed else "FAIL"
        reason = f": {self.reason}" if self.reason else ""
        return f"{verdict}  {self.seconds:6.2f} s  {self.name}{reason}"


def run_checks(
    box: Box,
    checks: Sequence[tuple[str, Check]] = CHECKS,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Outcome]:
    """Every check in its order. Once nobody answers, the others are not tried."""
    gone = False
    for name, check in checks:
        if gone:
            yield Outcome(name, passed=False, seconds=0.0, reason="not tried")
            continue
        begun = clock()
        reason = ""
        try:
            check(box)
        except FailedError as failed:
            reason = " ".join(str(failed).split())
            gone = isinstance(failed, ShutOutError)
        yield Outcome(name, not reason, round(clock() - begun, 3), reason)


def default_url(paths: Paths) -> str:
    """The WebUI that runs here, or else where one would."""
    address = read_webui_address(paths)
    return "http://localhost:7860" if address is None else address.url


def selftest(url: str, *, key: str | None, as_json: bool) -> int:
    """Check a running box, and print one line a check.

    Args:
        url: of the box, with ``/api/v1`` or without. Proxies that the environment names are not
            used.
        key: for boxes that ask for one.
        as_json: print one JSON document at the end instead.

    Returns:
        0 if all passed, else 1.

    Raises:
        LauncherError: the address or the key cannot be one.
    """
    box = Box.at(url, key)
    outcomes = []
    for outcome in run_checks(box):
        outcomes.append(outcome)
        if not as_json:
            say(outcome.line())
    passed = sum(outcome.passed for outcome in outcomes)
    everything = passed == len(outcomes)
    if as_json:
        checks = [asdict(outcome) for outcome in outcomes]
        say(json.dumps({"url": box.root, "passed": everything, "checks": checks}, indent=2))
    else:
        kind = " (the demo: its words were checked too)" if box.is_demo else ""
        say(f"{passed} of {len(outcomes)} passed at {box.root}{kind}")
    return 0 if everything else 1
