"""Draw docs/demo-answers.png: what the demo says to six pictures. Needs a running demo.

.venv/bin/python -m docs.demo_answers [http://localhost:7860]
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from typing import Any

import openai
from PIL import Image, ImageDraw, ImageFont

from deploy.models.training.drawing import render
from deploy.models.training.evaluate import picture_part
from deploy.models.training.scenes import Scene, Thing, at
from deploy.models.training.unseen import photo_files

SIZE = (440, 330)
MARGIN = 20
TEXT = 120
COLUMNS = 3


def scenes() -> list[tuple[Scene | None, str]]:
    """Pictures and questions; None stands for a photo."""
    pair = Scene((at("left", "circle", "red"), at("right", "star", "blue")))
    three = [Thing("triangle", "green", None, x, y, 0.12) for x, y in ((0.2, 0.3), (0.5, 0.7))]
    three.append(Thing("triangle", "green", None, 0.8, 0.35, 0.12))
    four = [at("left", "cross", "purple"), at("right", "square", "orange")]
    four += [at("top", "star", "pink"), at("bottom", "circle", "black")]
    return [
        (pair, "What is in this picture?"),
        (Scene(tuple(three)), "How many objects are there?"),
        (Scene(code="K42"), "What does it say?"),
        (Scene(tuple(four)), "Where is the black circle?"),
        (
            Scene((Thing("square", "brown", size=0.25),)),
            "Answer as JSON with color, shape and count.",
        ),
        (None, "What is this?"),
    ]


def photo() -> Image.Image:
    """One that comes with a package."""
    return Image.open(photo_files()[0]).convert("RGB").resize(SIZE)


def answer(client: openai.OpenAI, image: Image.Image, question: str) -> str:
    content: Any = [picture_part(image), {"type": "text", "text": question}]
    reply = client.chat.completions.create(
        model="Step3-VL-demo", messages=[{"role": "user", "content": content}]
    )
    return reply.choices[0].message.content or ""


def wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Lines that fit below a picture."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > SIZE[0]:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def main() -> int:
    url = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:7860"
    client = openai.OpenAI(base_url=f"{url}/api/v1", api_key="none")
    shown = scenes()
    rows = -(-len(shown) // COLUMNS)
    cell = (SIZE[0] + MARGIN, SIZE[1] + TEXT)
    sheet = Image.new("RGB", (COLUMNS * cell[0] + MARGIN, rows * cell[1] + MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(20)
    for number, (scene, question) in enumerate(shown):
        rng = Random(number + 3)  # noqa: S311  (a seed names a picture)
        image = render(scene, rng, SIZE, bright=True) if scene else photo()
        x, y = MARGIN + number % COLUMNS * cell[0], MARGIN + number // COLUMNS * cell[1]
        sheet.paste(image, (x, y))
        draw.rectangle((x, y, x + SIZE[0] - 1, y + SIZE[1] - 1), outline="lightgrey")
        draw.text((x, y + SIZE[1] + 8), question, font=font, fill="grey")
        said = wrapped(answer(client, image, question), font)
        draw.multiline_text((x, y + SIZE[1] + 38), said, font=font, fill="black")
    sheet.save(Path(__file__).with_name("demo-answers.png"), optimize=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
