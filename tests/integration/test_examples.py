"""The examples run as they stand, through the real gateway, and so does the self-test."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from deployments import answers, end
from fakes import fake_vllm
from support import ROOT, free_port, wait_for

from launcher.selftest import CHECKS, selftest
from webui.chat.conversation import Conversation, Turn
from webui.chat.options import Options
from webui.chat.show_code import Example

EXAMPLES = ROOT / "examples"
PYTHON = sorted((EXAMPLES / "python").glob("*.py"))
CURL = sorted((EXAMPLES / "curl").glob("*.sh"))
JAVASCRIPT = sorted(p for p in (EXAMPLES / "javascript").glob("*.js") if p.name != "common.js")
ONE_PICTURE = "1 messages, 1 images, last: "
# What the stand-in says to each: it repeats what it got.
SAID = {
    "text": "1 messages, 0 images, last: ",
    "text_requests": "1 messages, 0 images, last: ",
    "stream": "1 messages, 0 images, last: ",
    "retry": "1 messages, 0 images, last: Name three uses of a paper clip.",
    "retry_requests": "1 messages, 0 images, last: Name three uses of a paper clip.",
    "several_images": "1 messages, 2 images, last: What changed",
    "turns": "3 messages, 1 images, last: What data",
    "three_steps": "5 messages, 1 images, last: First step",
    "product_copy": "1 messages, 1 images, last: The picture shows a set of building blocks",
    "maths": "1 messages, 1 images, last: 图片中是一道初中二年级学生的数学题",
    "prompt_strategies": "[Invent, temperature 0.9]\n1 messages, 1 images",
    "prepare_picture": "'tokens': ",
    "smallest_test": "1 messages, 1 images",
    "invoice_to_json": "amount_with_tax",
    "safety_check": '"is_safe": true',
}


def sample_of(schema: dict[str, Any]) -> Any:
    """A document that fits a schema."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema["type"] == "object":
        return {name: sample_of(inner) for name, inner in schema["properties"].items()}
    if schema["type"] == "array":
        return [sample_of(schema["items"])]
    return {"string": "not found", "boolean": True, "integer": 1}[schema["type"]]


class Engine(fake_vllm.FakeVllm):
    """The stand-in, which also keeps to a schema, counts requests, and can fail the next few."""

    def __init__(self) -> None:
        super().__init__(fake_vllm.Script(), ["stand-in", "Step3-VL-10B"])
        self.failures = self.now = self.most = 0

    async def chat(self, request: web.Request) -> web.StreamResponse:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if self.failures:
                self.failures -= 1
                await self._note(request)
                error = {"message": "out of order", "type": "FakeError", "code": 503}
                return web.json_response({"error": error}, status=503)
            return await super().chat(request)
        finally:
            self.now -= 1

    @property
    def questions(self) -> list[fake_vllm.Seen]:
        """What was asked of the model, without the WebUI's own look at the list of models."""
        return [seen for seen in self.seen if seen.method == "POST"]

    def behave(self, **script: Any) -> None:
        self.script = fake_vllm.Script(**script)
        self.seen.clear()
        self.failures = self.most = 0


def words_or_json(body: dict[str, Any], count: int) -> list[str]:
    form = body.get("response_format")
    if form is None:
        return WORDS(body, count)
    return [json.dumps(sample_of(form["json_schema"]["schema"]))]


WORDS = fake_vllm.answer_words


async def serve(engine: Engine, port: int, stop: threading.Event) -> None:
    runner = web.AppRunner(engine.application(), handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.to_thread(stop.wait)
    await runner.cleanup()


@dataclass
class Box:
    url: str
    engine: Engine
    site: str
    """A web server with the examples' pictures; the WebUI may go there."""

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, "STEP3VL_URL": f"{self.url}/api/v1"}

    def run(self, *command: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        environ = more.pop("env", self.environ)
        return subprocess.run(
            [*command], capture_output=True, text=True, timeout=120, env=environ, **more
        )

    def python(self, name: str, *arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, EXAMPLES / "python" / f"{name}.py", *arguments, **more)


@pytest.fixture(scope="module")
def running_box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    folder = tmp_path_factory.mktemp("examples")
    engine, engine_port, port, stop = Engine(), free_port(), free_port(), threading.Event()
    handler = partial(SimpleHTTPRequestHandler, directory=str(EXAMPLES / "pictures"))
    site = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threads = [
        threading.Thread(target=lambda: asyncio.run(serve(engine, engine_port, stop))),
        threading.Thread(target=site.serve_forever),
    ]
    environ = {
        **os.environ,
        "WEBUI_PORT": str(port),
        "WEBUI_UPSTREAM": f"http://127.0.0.1:{engine_port}",
        "WEBUI_IMAGE_HOSTS": "localhost",
        "GRADIO_TEMP_DIR": str(folder / "uploads"),
        "GRADIO_ANALYTICS_ENABLED": "False",
    }
    command = [sys.executable, "-P", "-m", "webui"]
    with pytest.MonkeyPatch.context() as patch, (folder / "webui.log").open("wb") as log:
        patch.setattr(fake_vllm, "answer_words", words_or_json)
        for thread in threads:
            thread.start()
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        url = f"http://127.0.0.1:{port}"
        try:
            wait_for(lambda: answers(f"{url}/readyz"), 60, "the WebUI is ready")
            yield Box(url, engine, f"http://localhost:{site.server_port}")
        finally:
            end(process)
            stop.set()
            site.shutdown()
            site.server_close()
            for thread in threads:
                thread.join()


@pytest.fixture
def box(running_box: Box) -> Box:
    """With an engine that behaves."""
    running_box.engine.behave()
    return running_box


def arguments_for(path: Path, box: Box) -> list[str]:
    return [f"{box.site}/first.png"] if path.stem == "image_url" else []


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: path.stem)
def test_python(box: Box, path: Path) -> None:
    """Every example ends well, and what it prints is what the engine said to it."""
    done = box.run(sys.executable, path, *arguments_for(path, box))
    assert done.returncode == 0, done.stderr
    assert SAID.get(path.stem, ONE_PICTURE) in done.stdout


@pytest.mark.parametrize("path", CURL, ids=lambda path: path.stem)
def test_curl(box: Box, path: Path) -> None:
    """Every script is a program of its own, and its JSON is right."""
    done = box.run(path, *arguments_for(path, box))
    assert done.returncode == 0, done.stdout + done.stderr
    if path.stem == "stream":
        assert done.stdout.rstrip().endswith("data: [DONE]")
        return
    body = done.stdout.removesuffix("\nstatus 200\n")
    content = json.loads(body)["choices"][0]["message"]["content"]
    assert SAID.get(path.stem, ONE_PICTURE) in content


@pytest.fixture(scope="module")
def javascript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the JavaScript examples with the package that it names."""
    assert shutil.which("npm"), "the JavaScript examples need Node.js 20 or newer, with npm"
    examples = tmp_path_factory.mktemp("examples")
    for name in ("javascript", "pictures"):
        shutil.copytree(
            EXAMPLES / name, examples / name, ignore=shutil.ignore_patterns("node_modules")
        )
    folder = examples / "javascript"
    install = ["npm", "install", "--no-audit", "--no-fund"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("path", JAVASCRIPT, ids=lambda path: path.stem)
def test_javascript(box: Box, javascript: Path, path: Path) -> None:
    """With the openai package of npm."""
    done = box.run("node", javascript / path.name)
    assert done.returncode == 0, done.stderr
    assert SAID.get(path.stem, ONE_PICTURE) in done.stdout


def test_javascript_with_an_address(box: Box, javascript: Path) -> None:
    """A picture on the web goes as its address."""
    done = box.run("node", javascript / "image.js", f"{box.site}/first.png", "What is it?")
    assert done.stdout.startswith(f"{ONE_PICTURE}What is it?")


def test_the_option_wins_over_the_variable(box: Box, javascript: Path) -> None:
    """--url says where, whatever STEP3VL_URL says."""
    environ = {**os.environ, "STEP3VL_URL": f"http://127.0.0.1:{free_port()}/api/v1"}
    url = f"--url={box.url}/v1"
    assert box.python("smallest_test", url, env=environ).returncode == 0
    done = box.run("node", javascript / "smallest_test.js", url, env=environ)
    assert done.returncode == 0, done.stderr
    assert box.run("node", javascript / "smallest_test.js", env=environ).returncode == 1


@pytest.mark.parametrize("language", ["curl", "python", "javascript"])
def test_what_the_page_shows_as_code_runs_as_shown(
    box: Box, javascript: Path, language: str
) -> None:
    """Both turns with their pictures, byte for byte, and what nobody quotes by hand."""
    pictures = sorted((EXAMPLES / "pictures").glob("*.png"))[:2]
    first = Turn('it\'s $(x) `y` \\n "二"', (pictures[0],), answer="yes\n'no'")
    talk = Conversation((first, Turn("and now?", (pictures[1],), answer="last")))
    fields = Options("off", own_sampling=False, temperature=0.25).fields(None)
    example = Example(f"{box.url}/api/v1", "stand-in", talk, "Be brief.", fields, needs_key=False)
    program = {"curl": ["bash"], "python": [sys.executable], "javascript": ["node"]}[language]
    # The package is found beside the file.
    file = javascript / f"shown.{'mjs' if language == 'javascript' else 'txt'}"
    file.write_text(getattr(example, language)())
    for picture in pictures:
        shutil.copy(picture, javascript)
    done = box.run(*program, file, cwd=javascript)
    assert done.returncode == 0, done.stderr
    assert "4 messages, 2 images, last: and now?." in done.stdout
    body = box.engine.questions[-1].body
    assert [message["content"] for message in body["messages"][::2]] == ["Be brief.", "yes\n'no'"]
    assert body["messages"][1]["content"][-1]["text"] == first.question
    assert (body["temperature"], body["thinking_token_budget"]) == (0.25, 0)
    names = [body["messages"][number]["content"][0]["uuid"] for number in (1, 3)]
    assert len({*names}) == 2
    # What came with bytes the first time is named by them ever after.
    sent = [picture_in(seen.body, name) for seen in box.engine.questions for name in names]
    assert {*filter(None, sent)} <= {path.read_bytes() for path in pictures}


def picture_in(body: dict[str, Any], name: str) -> bytes | None:
    """The bytes that came with this name, if any did."""
    for part in fake_vllm.image_parts(body["messages"]):
        if part["uuid"] == name and part["image_url"] is not None:
            return base64.b64decode(part["image_url"]["url"].partition(",")[2])
    return None


@pytest.mark.parametrize("variable", ["STEP3VL_URL", "STEP3VL_API_KEY"])
def test_every_program_reads_both_variables(variable: str) -> None:
    """Where the box is, and the key for it."""
    programs = [*PYTHON, *CURL, EXAMPLES / "javascript" / "common.js"]
    assert [path.name for path in programs if variable not in path.read_text()] == []


@pytest.mark.parametrize("program", ["python", "javascript"])
def test_a_batch_has_five_in_flight(box: Box, javascript: Path, program: str) -> None:
    """Twelve pictures: never more than five at a time, and more than one."""
    box.engine.behave(delay_s=0.03)
    pictures = [str(EXAMPLES / "pictures" / "maths.png")] * 12
    if program == "python":
        done = box.python("batch", *pictures)
    else:
        done = box.run("node", javascript / "batch.js", *pictures)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(ONE_PICTURE) == len(box.engine.questions) == 12
    assert 1 < box.engine.most <= 5


def test_a_batch_goes_on_after_a_failure(box: Box, tmp_path: Path) -> None:
    """A damaged picture has its reason, the others their answers, and the status says it."""
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(b"no picture")
    good = str(EXAMPLES / "pictures" / "first.png")
    done = box.python("batch", good, str(damaged), str(tmp_path / "missing.png"), good)
    assert done.returncode == 1
    assert done.stdout.count(ONE_PICTURE) == 2
    assert "Image 1" in done.stdout
    assert "No such file" in done.stdout


@pytest.mark.parametrize("name", ["retry.py", "retry_requests.py", "retry.sh", "retry.js"])
def test_retries(box: Box, javascript: Path, name: str) -> None:
    """Two failures, then an answer: three requests, and nobody notices."""
    box.engine.failures = 2
    commands: dict[str, list[str | Path]] = {
        ".py": [sys.executable, EXAMPLES / "python" / name],
        ".sh": [EXAMPLES / "curl" / name],
        ".js": ["node", javascript / name],
    }
    done = box.run(*commands[Path(name).suffix])
    assert done.returncode == 0, done.stderr
    assert SAID["retry"] in done.stdout
    assert len(box.engine.questions) == 3


def test_retries_have_an_end(box: Box) -> None:
    """A first try and three more; then the reason."""
    box.engine.failures = 100
    done = box.python("retry")
    assert done.returncode == 1
    assert "Still failing after all tries" in done.stderr
    assert "out of order" in done.stderr
    assert len(box.engine.questions) == 4


def test_what_is_no_picture_has_a_reason(box: Box) -> None:
    """The address is reached, but there is nothing to see."""
    done = box.python("image_url", f"{box.site}/draw.py")
    assert done.returncode == 1
    assert done.stderr.startswith("image_unreadable: Image 1")
    done = box.python("image_url", f"{box.site}/nothing.png")
    assert "Image 1: localhost answered 404" in done.stderr


def test_steps_hold_what_was_said(box: Box) -> None:
    """The last step has the picture and both earlier answers."""
    assert box.python("three_steps").returncode == 0
    last = box.engine.questions[-1].body["messages"]
    assert [message["role"] for message in last] == ["user", "assistant"] * 2 + ["user"]
    assert last[3]["content"].startswith("3 messages, 1 images")
    assert last[4]["content"].startswith("Third step")


def test_json_tasks_send_their_schema(box: Box) -> None:
    """The engine gets the schema, and the answer is printed as JSON."""
    done = box.python("invoice_to_json")
    [seen] = box.engine.questions
    properties = seen.body["response_format"]["json_schema"]["schema"]["properties"]
    assert json.loads(done.stdout).keys() == properties.keys()


def test_a_strategy_with_a_hint(box: Box) -> None:
    """An unknown name is the description; the hint stands in the prompt."""
    done = box.python("prompt_strategies", "nonsense", "--hint", "drawn by code")
    assert done.stdout.startswith("[Describe, temperature 0.7]")
    [part] = [
        p for p in box.engine.questions[0].body["messages"][0]["content"] if p["type"] == "text"
    ]
    assert part["text"].endswith("What is known about the picture: drawn by code")


@pytest.mark.parametrize("readme", ["README.md", "README.zh.md"])
def test_readme_lists_every_example(readme: str) -> None:
    """Both languages name each program."""
    text = (EXAMPLES / readme).read_text()
    programs = [f"{path.parent.name}/{path.name}" for path in (*PYTHON, *CURL, *JAVASCRIPT)]
    assert [program for program in programs if f"({program})" not in text] == []


def test_pictures_are_small() -> None:
    """None is a burden to the repository."""
    pictures = list((EXAMPLES / "pictures").glob("*.png"))
    assert len(pictures) == 5
    assert all(path.stat().st_size < 50_000 for path in pictures)


def test_selftest_passes(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a check, each with its seconds."""
    assert selftest(box.url, key=None, as_json=False) == 0
    *lines, summary = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CHECKS)
    assert all(line.startswith("pass  ") and " s  " in line for line in lines)
    assert summary == f"{len(CHECKS)} of {len(CHECKS)} passed at {box.url}"


def test_selftest_finds_a_broken_engine(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    """What does not need the engine's answers passes, the rest has the engine's own reason."""
    box.engine.behave(status=500)
    assert selftest(f"{box.url}/v1", key=None, as_json=True) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["url"], found["passed"]) == (box.url, False)
    passed = [check["name"] for check in found["checks"] if check["passed"]]
    assert passed == [CHECKS[0][0], CHECKS[1][0], CHECKS[-1][0]]
    reasons = {check["reason"] for check in found["checks"] if not check["passed"]}
    assert reasons == {"status 500: as the script says"}
