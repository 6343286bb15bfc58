"""The current talk as code that asks the same: for curl, Python and JavaScript."""

from __future__ import annotations

import json
import re
import secrets
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webui.chat.conversation import Conversation, Turn, api_messages
from webui.pictures import PictureError, media_type

WIDTH = 88
INDENT = 2
NEW_LINE = "\n"
COMMA = ",\n"  # after the last, JSON allows none
KEY = "OPENAI_API_KEY"
HELLO = Turn("Hello")

_HOST = re.compile(r"[A-Za-z0-9.-]{1,255}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]{1,100})*")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}\.[A-Za-z0-9]{1,5}")
_SURROGATE = re.compile("[\ud800-\udfff]")


def public_address(headers: Mapping[str, str], scheme: str, prefix: str = "") -> str:
    """Where this API is for whoever sent a request with these headers: ``https://host/api/v1``.

    A proxy in front tells in X-Forwarded-Proto and X-Forwarded-Host; nonsense is passed over.
    """
    told = headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    scheme = told if told in {"http", "https"} else scheme
    names = [headers.get("x-forwarded-host", "").partition(",")[0].strip(), headers.get("host", "")]
    host = next((name for name in names if _HOST.fullmatch(name)), "localhost:7860")
    prefix = prefix.rstrip("/")
    return f"{scheme}://{host}{prefix if _PREFIX.fullmatch(prefix) else ''}/api/v1"


@dataclass(frozen=True)
class Example:
    """A request to be written down.

    ``fields`` are those of a chat request; ``needs_key`` says whether the API wants one, which is
    then taken from the environment and never stands in the code.
    """

    address: str
    model: str
    talk: Conversation
    system: str
    fields: Mapping[str, Any]
    needs_key: bool

    def curl(self) -> str:
        """For bash and other shells, with ``base64`` of GNU or macOS."""
        shown, files = self._with_marks({**self._request(), "stream": False})
        parts = re.split("|".join(map(re.escape, files)) or "(?!)", _json(shown))
        lines = [f"printf %s {shlex.quote(parts[0])}"]
        for (kind, name), rest in zip(files.values(), parts[1:], strict=True):
            lines[-1] = lines[-1].removesuffix("'") + f"data:{kind};base64,'"
            lines += [f"base64 < {shlex.quote(name)} | tr -d '\\n'"]
            lines += [f"printf %s {shlex.quote(rest)}"]
        key = f' \\\n  -H "Authorization: Bearer ${KEY}"' if self.needs_key else ""
        body = "\n  ".join(lines)
        return (
            f"{{ {body}\n}} | curl {shlex.quote(self.address + '/chat/completions')} \\\n"
            f"  -H 'Content-Type: application/json'{key} \\\n  --data-binary @-\n"
        )

    def python(self) -> str:
        """With the package ``openai``."""
        request = self._request()
        own = {"thinking": request.pop("thinking")} if "thinking" in request else {}
        shown, files = self._with_marks(request)
        arguments = {**shown, "stream": True, **({"extra_body": own} if own else {})}
        body = "".join(f"    {name}={_python(value, 4)},\n" for name, value in arguments.items())
        for mark, (kind, name) in files.items():
            body = body.replace(_python(mark), f"picture({_python(name)}, {_python(kind)})")
        key = f'os.environ["{KEY}"]' if self.needs_key else '"none"'
        needed = [n for n, yes in (("base64", files), ("os", self.needs_key)) if yes]
        imports = "".join(f"import {name}\n" for name in needed) + ("\n" if needed else "")
        return (
            f"{imports}from openai import OpenAI\n\n"
            f"client = OpenAI(base_url={_python(self.address)}, api_key={key})\n"
            f"{PYTHON_PICTURE if files else NEW_LINE}"
            f"stream = client.chat.completions.create(\n{body})\n"
            "for chunk in stream:\n"
            "    if chunk.choices:\n"
            '        print(chunk.choices[0].delta.content or "", end="", flush=True)\n'
            "print()\n"
        )

    def javascript(self) -> str:
        """With the npm package ``openai``, as a module for Node."""
        shown, files = self._with_marks({**self._request(), "stream": True})
        body = _json(shown)
        for mark, (kind, name) in files.items():
            body = body.replace(_json(mark), f"picture({_json(name)}, {_json(kind)})")
        key = f"process.env.{KEY}" if self.needs_key else '"none"'
        reading = 'import { readFileSync } from "node:fs";\n' if files else ""
        return (
            f'{reading}import OpenAI from "openai";\n\n'
            f"const client = new OpenAI({{ baseURL: {_json(self.address)}, apiKey: {key} }});\n"
            f"{JAVASCRIPT_PICTURE if files else ''}"
            f"\nconst stream = await client.chat.completions.create({body});\n"
            "for await (const chunk of stream) {\n"
            '  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");\n'
            "}\n"
            "console.log();\n"
        )

    def _request(self) -> dict[str, Any]:
        """With pictures by their paths. The last answer is what is asked for."""
        *before, last = self.talk.turns or (HELLO,)
        asked = Conversation((*before, last.asked_again()))
        messages = api_messages(asked, str, self.system)
        return {"model": self.model, "messages": messages, **self.fields}

    def _with_marks(
        self, request: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, tuple[str, str]]]:
        """The request with an unmistakable mark for each picture, and what each mark stands for:
        a media type and a file's name."""
        files: dict[str, tuple[str, str]] = {}
        pictures = [path for turn in self.talk.turns for path in turn.pictures]
        names = _names_of(pictures)
        messages = []
        for message in request["messages"]:
            content = message["content"]
            if isinstance(content, list):
                parts = []
                for part in content:
                    shown = part
                    if part["type"] == "image_url":
                        mark = f"picture-{secrets.token_hex(16)}"
                        files[mark] = names[len(files)]
                        shown = {"type": "image_url", "image_url": {"url": mark}}
                    parts.append(shown)
                content = parts
            messages.append({**message, "content": content})
        return {**request, "messages": messages}, files


PYTHON_PICTURE = """
def picture(name, kind):
    with open(name, "rb") as file:
        return f"data:{kind};base64,{base64.b64encode(file.read()).decode()}"


""".lstrip("\n")

JAVASCRIPT_PICTURE = """
const picture = (name, kind) =>
  `data:${kind};base64,${readFileSync(name).toString("base64")}`;
"""


def _names_of(pictures: list[Path]) -> list[tuple[str, str]]:
    """Media type and name of each, as the visitor's own file should be called."""
    found = []
    names = [path.name for path in {*pictures}]  # every pasted picture is called image.png
    for number, path in enumerate(pictures, start=1):
        try:
            kind = media_type(path)
        except (PictureError, OSError):
            kind = "image/png"
        plain = f"picture-{number}.{kind.partition('/')[2]}"
        is_usable = _PLAIN_NAME.fullmatch(path.name) and names.count(path.name) == 1
        found.append((kind, path.name if is_usable else plain))
    return found


def _json(value: Any, indent: int = 0) -> str:
    """What fits stands on one line; also for JavaScript."""
    return _laid_out(value, indent, lambda plain: json.dumps(plain, ensure_ascii=False))


def _python(value: Any, indent: int = 0) -> str:
    """The same in Python. A text in JSON is one in Python, too."""

    def plain(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)

    return _laid_out(value, indent, plain)


def _laid_out(value: Any, indent: int, plain: Callable[[Any], str]) -> str:
    inner = indent + INDENT
    if isinstance(value, dict):
        items = [f"{plain(key)}: {_laid_out(item, inner, plain)}" for key, item in value.items()]
        start, end = "{", "}"
    elif isinstance(value, list | tuple):
        items, start, end = [_laid_out(item, inner, plain) for item in value], "[", "]"
    else:
        # Half a character, as broken clients paste them, cannot be written in UTF-8.
        return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", plain(value))
    line = f"{start}{', '.join(items)}{end}"
    if "\n" not in line and indent + len(line) <= WIDTH:
        return line
    body = "".join(f"{' ' * inner}{item},\n" for item in items)
    return f"{start}\n{body.removesuffix(COMMA)}\n{' ' * indent}{end}"
