"""Image URLs through the WebUI: what is fetched, what is refused, and what is said."""

from __future__ import annotations

import base64
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest
from deployments import Webui
from support import free_port, png

# Of a size that no other test has: what the WebUI has sent once it only names.
RED = png(41, 29, "red")
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


def refusal(webui: Webui, *parts: dict[str, Any], code: str = "image_not_available") -> str:
    """The message of a 400; nothing of it has reached the engine."""
    with pytest.raises(openai.BadRequestError) as caught:
        ask(webui, *parts)
    assert webui.engine.seen() == []
    assert caught.value.code == code
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


@pytest.mark.fault(1, "400 that names the image; nobody private is called")
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
        "ok\\@127.0.0.1",
        "ok@127.0.0.1",
    ],
)
def test_private_addresses_are_not_opened(webui: Webui, site: Site, host: str) -> None:
    """However they are written; nothing is connected to."""
    message = refusal(webui, image(site.url("/red.png", host)), code="media_url_refused")
    assert message.startswith("Image 1: ")
    assert "is not an address on the public web" in message or "cannot be read" in message
    assert site.asked == []


@pytest.mark.fault(1, "400 that names the image; nobody private is called")
def test_a_redirect_into_the_private_network_is_not_followed(webui: Webui, site: Site) -> None:
    """Each hop is checked anew."""
    target = site.url("/red.png", "127.0.0.1")
    message = refusal(webui, image(site.url(f"/to?{target}")), code="media_url_refused")
    assert "is not an address on the public web" in message
    assert [path.partition("?")[0] for path in site.asked] == ["/to"]


@pytest.mark.fault(2, "400 that names the image")
def test_a_redirect_to_a_file_is_not_followed(webui: Webui, site: Site) -> None:
    """Only http and https."""
    address = site.url("/to?file:///etc/passwd")
    message = refusal(webui, image(address), code="media_url_refused")
    assert "is not an address on the public web" in message


@pytest.mark.parametrize(
    ("path", "reason", "code"),
    [
        ("/missing", "localhost answered 404", "image_not_available"),
        ("/text", "what localhost sent is a HTML file; use one of AVIF", "image_format"),
        ("/to?/to?/to?/to?/to?/to", "localhost redirects too often", "image_not_available"),
        ("/thin.png", "what localhost sent is 16000x2, too large", "image_dimensions"),
        ("/endless", "larger than 1 MB", "image_not_available"),
    ],
)
def test_the_message_says_which_and_why(
    webui: Webui, site: Site, path: str, reason: str, code: str
) -> None:
    """The image's number, the host, the reason."""
    good = image(site.url("/red.png"))
    message = refusal(webui, good, image(site.url(path)), code=code)
    assert message.startswith(f"Image 2: {reason}")


def test_a_host_that_does_not_answer(webui: Webui) -> None:
    """No connection, and a name that does not exist."""
    nobody = f"http://localhost:{free_port()}/x.png"
    assert refusal(webui, image(nobody)) == "Image 1: localhost cannot be reached."
    address = "http://no-such-host.invalid/x.png"
    unknown = refusal(webui, image(address), code="media_url_refused")
    assert unknown == "Image 1: no-such-host.invalid is not an address on the public web."


@pytest.mark.fault(2, "400 that names the image")
@pytest.mark.parametrize(
    "url", ["http://", "http:///x", "http://[::1/x", "https://:80", "http://a b/"]
)
def test_urls_that_are_none(webui: Webui, url: str) -> None:
    """An answer, never a failure of ours."""
    assert refusal(webui, image(url), code="media_url_refused").startswith("Image 1: ")


@pytest.mark.fault(8, "400 for images")
def test_too_many(webui: Webui, site: Site) -> None:
    """A request cannot make us open hundreds of connections."""
    parts = [image(site.url(f"/red.png?{n}")) for n in range(65)]
    message = refusal(webui, *parts, code="too_many_images")
    assert message == "A request may have at most 64 images."
    assert site.asked == []


@pytest.mark.fault(8, "413 for bytes")
def test_images_have_a_common_limit(webui: Webui, site: Site) -> None:
    """A few bytes of URLs cannot become hundreds of megabytes: 3 x 0.6 MB, limit 2."""
    parts = [image(site.url("/big.png"))] * 3
    assert refusal(webui, *parts) == "The images are together larger than 2 MB."
    ask(webui, parts[0])


def test_the_query_is_sent_as_written(webui: Webui, site: Site) -> None:
    """A signature over the very bytes stays valid."""
    ask(webui, image(site.url("/red.png?sig=a%2Fb%7E&x=%20")))
    assert site.asked == ["/red.png?sig=a%2Fb%7E&x=%20"]
