"""Inside a network of its own, where a canary answers on every address: a WebUI that is asked to
go there. Prints, as JSON, what each request got and who was called.

    unshare --user --map-root-user --net --mount python sealed_network.py FOLDER
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from deployments import Engine, Webui, answers, end, running_webui
from support import FAKE_VLLM, free_port, png, wait_for

# All of them are this machine's here; the first belongs to the public web.
PUBLIC = "93.184.216.34"
PRIVATE = [
    "169.254.169.254",
    "168.63.129.16",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
]
NAMES = {"public.example": PUBLIC, "inside.example": "10.1.2.3", "both.example": PUBLIC}
HOSTS = (
    "".join(f"{address} {name}\n" for name, address in NAMES.items()) + "10.1.2.3 both.example\n"
)
PAGE_PATHS = ["/gradio_api/file=http://{}/x", "/gradio_api/proxy=http://{}/x", "/proxy=http://{}/x"]


class Canary(BaseHTTPRequestHandler):
    """A picture, or a redirect; notes each address at which it is called."""

    called: list[str] = []  # noqa: RUF012  (of all connections)

    def do_GET(self) -> None:
        self.called.append(self.connection.getsockname()[0])
        path, _, target = self.path.partition("?")
        self.send_response(302 if path == "/to" else 200)
        self.send_header("location", target)
        self.end_headers()
        if path != "/to":
            self.wfile.write(png(40, 30, "red"))

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def main(folder: Path) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in (PUBLIC, *PRIVATE):
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    (folder / "hosts").write_text(HOSTS + "127.0.0.1 localhost\n")
    subprocess.run(["mount", "--bind", str(folder / "hosts"), "/etc/hosts"], check=True)
    canary = ThreadingHTTPServer(("", 80), Canary)
    threading.Thread(target=canary.serve_forever, daemon=True).start()
    port = free_port()
    fake = [sys.executable, str(FAKE_VLLM), "--port", str(port), "--served-model-name", "one"]
    engine = Engine(f"http://127.0.0.1:{port}", subprocess.Popen(fake, stdout=sys.stderr))
    try:
        with running_webui(folder, engine, WEBUI_IMAGE_HOSTS="") as webui:
            wait_for(lambda: answers(f"{webui.url}/config"), 90, "the page is there")
            told = {url: ask(webui, url) for url in urls()}
            told |= {path: get(webui, path) for path in page_paths()}
    finally:
        end(engine.process)
    print(json.dumps({"told": told, "called": Canary.called}))


def urls() -> list[str]:
    """Public ones first."""
    public = [f"http://{PUBLIC}/x.png", "http://public.example/x.png"]
    private = [f"http://{address}/x.png" for address in PRIVATE]
    named = ["http://inside.example/x.png", "http://both.example/x.png"]
    sent = [f"http://{PUBLIC}/to?http://{host}/x.png" for host in (PRIVATE[0], "inside.example")]
    return [*public, *private, *named, *sent]


def page_paths() -> list[str]:
    return [path.format(host) for path in PAGE_PATHS for host in (PUBLIC, PRIVATE[0])]


def ask(webui: Webui, url: str) -> str:
    """The code of the refusal, or ``ok``."""
    content = [{"type": "image_url", "image_url": {"url": url}}]
    document = {"model": "one", "messages": [{"role": "user", "content": content}]}
    answer = json.loads(exchange(webui, "POST", "/api/v1/chat/completions", document)[1])
    return str(answer["error"]["code"]) if "error" in answer else "ok"


def get(webui: Webui, path: str) -> str:
    return str(exchange(webui, "GET", path)[0])


def exchange(webui: Webui, method: str, path: str, document: Any = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(webui.url.removeprefix("http://"), timeout=30)
    body = None if document is None else json.dumps(document)
    connection.request(method, path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
