"""Image URLs through the WebUI: what is fetched, what is refused, and what is said."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest
from deployments import Webui
from support import free_port, png

RED = png(40, 30, "red")
# The engine would pad it to a square: under 200 bytes here, a gigabyte there.
THIN = png(16000, 2, "red")


@dataclass
class Site:
    """A web server on loopback; the WebUI may go there as ``localhost``, not as 127.0.0.1."""

    port: int
    asked: list[str] = field(default_factory=list)

    def url(self, path: str, host: str = "localhost") -> str:
        return f"http://{host}:{self.port}{path}"


class Handler(BaseHTTPRequestHandler):
    """A picture, a text, redirects, and a file without an end."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        name, _, argument = self.path.partition("?")
        if name == "/endless":
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(bytes(1_000_000))
            return
        answers = {
            "/red.png": (200, RED, {}),
            "/thin.png": (200, THIN, {}),
            "/big.png": (200, RED + bytes(600_000), {}),
            "/text": (200, b"<html>no picture</html>", {}),
            "/to": (302, b"", {"location": argument}),
        }
        status, body, headers = answers.get(name, (404, b"", {}))
        self.send_response(status)
        for key, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site(0)
    handler = type("Handler", (Handler,), {"asked": found.asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    found.port = server.server_port
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def ask(webui: Webui, *parts: dict[str, Any]) -> None:
    client = openai.OpenAI(base_url=f"{webui.url}/v1", api_key="none", max_retries=0)
    text = {"type": "text", "text": "What is it?"}
    messages: Any = [{"role": "user", "content": [*parts, text]}]
    client.chat.completions.create(model="one", messages=messages, temperature=0.5)


def refusal(webui: Webui, *parts: dict[str, Any]) -> str:
    """The message of a 400; nothing of it has reached the engine."""
    with pytest.raises(openai.BadRequestError) as caught:
        ask(webui, *parts)
    assert webui.engine.seen() == []
    assert caught.value.code == "image_not_available"
    return str(caught.value.body["message"])


def test_the_engine_gets_the_picture_as_data(webui: Webui, site: Site) -> None:
    """Byte for byte, once for two uses, and the rest of the request is as it was."""
    data = f"data:image/png;base64,{base64.b64encode(RED).decode()}"
    ask(webui, image(site.url("/red.png")), image(data), image(site.url("/red.png")))
    [seen] = webui.engine.seen()
    content = seen["body"]["messages"][0]["content"]
    assert [part["image_url"]["url"] for part in content[:3]] == [data] * 3
    assert content[3] == {"type": "text", "text": "What is it?"}
    assert seen["body"]["temperature"] == 0.5
    assert site.asked == ["/red.png"]


def test_redirects_are_followed(webui: Webui, site: Site) -> None:
    """From one allowed address to another."""
    ask(webui, image(site.url(f"/to?{site.url('/red.png')}")))
    assert len(webui.engine.seen()) == 1


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "[::1]",
        "2130706433",
        "0177.0.0.1",
        "127.1",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "0",
    ],
)
def test_private_addresses_are_not_opened(webui: Webui, site: Site, host: str) -> None:
    """However they are written; nothing is connected to."""
    message = refusal(webui, image(site.url("/red.png", host)))
    assert message.startswith("Image 1: ")
    assert "is not an address on the public web" in message or "cannot be read" in message
    assert site.asked == []


def test_a_redirect_into_the_private_network_is_not_followed(webui: Webui, site: Site) -> None:
    """Each hop is checked anew."""
    target = site.url("/red.png", "127.0.0.1")
    message = refusal(webui, image(site.url(f"/to?{target}")))
    assert "is not an address on the public web" in message
    assert [path.partition("?")[0] for path in site.asked] == ["/to"]


def test_a_redirect_to_a_file_is_not_followed(webui: Webui, site: Site) -> None:
    """Only http and https."""
    message = refusal(webui, image(site.url("/to?file:///etc/passwd")))
    assert "is not an address on the public web" in message


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/missing", "localhost answered 404"),
        ("/text", "what localhost sent is not a picture that can be read"),
        ("/to?/to?/to?/to?/to?/to", "localhost redirects too often"),
        ("/thin.png", "what localhost sent is 16000x2, too large; shrink it first"),
        ("/endless", "larger than 1 MB"),
    ],
)
def test_the_message_says_which_and_why(webui: Webui, site: Site, path: str, reason: str) -> None:
    """The image's number, the host, the reason."""
    good = image(site.url("/red.png"))
    assert refusal(webui, good, image(site.url(path))) == f"Image 2: {reason}."


def test_a_host_that_does_not_answer(webui: Webui) -> None:
    """No connection, and a name that does not exist."""
    nobody = f"http://localhost:{free_port()}/x.png"
    assert refusal(webui, image(nobody)) == "Image 1: localhost cannot be reached."
    unknown = refusal(webui, image("http://no-such-host.invalid/x.png"))
    assert unknown == "Image 1: no-such-host.invalid is not an address on the public web."


@pytest.mark.parametrize(
    "url", ["http://", "http:///x", "http://[::1/x", "https://:80", "http://a b/"]
)
def test_urls_that_are_none(webui: Webui, url: str) -> None:
    """An answer, never a failure of ours."""
    assert refusal(webui, image(url)).startswith("Image 1: ")


def test_too_many(webui: Webui, site: Site) -> None:
    """A request cannot make us open hundreds of connections."""
    parts = [image(site.url(f"/red.png?{n}")) for n in range(65)]
    assert refusal(webui, *parts) == "A request may have at most 64 image URLs."
    assert site.asked == []


def post(webui: Webui, body: bytes) -> tuple[int, str]:
    """Status and text of the answer to any bytes."""
    request = urllib.request.Request(f"{webui.url}/v1/chat/completions", body)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_half_an_emoji_beside_a_url(webui: Webui, site: Site) -> None:
    """JavaScript can cut a text inside a sign; the request goes through all the same."""
    text = '{"type": "text", "text": "\\ud83d"}'
    part = json.dumps(image(site.url("/red.png")))
    body = f'{{"model": "one", "messages": [{{"role": "user", "content": [{part}, {text}]}}]}}'
    assert post(webui, body.encode())[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b'{"image_url": "http://localhost/x"',
        b'{"image_url": "http://x", "a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_a_body_that_cannot_be_parsed_goes_on_as_it_is(webui: Webui, body: bytes) -> None:
    """The engine says what is wrong with it, the stand-in in words of its own."""
    status, text = post(webui, body)
    assert (status, "Server got itself in trouble" in text) == (500, True)


def test_images_have_a_common_limit(webui: Webui, site: Site) -> None:
    """A few bytes of URLs cannot become hundreds of megabytes: 3 x 0.6 MB, limit 2."""
    parts = [image(site.url("/big.png"))] * 3
    assert refusal(webui, *parts) == "The images are together larger than 2 MB."
    ask(webui, parts[0])


def test_the_query_is_sent_as_written(webui: Webui, site: Site) -> None:
    """A signature over the very bytes stays valid."""
    ask(webui, image(site.url("/red.png?sig=a%2Fb%7E&x=%20")))
    assert site.asked == ["/red.png?sig=a%2Fb%7E&x=%20"]
