"""A complex picture in three steps: the whole, the things in it, how they belong together.

Each step is a turn of one conversation, so the last one builds on the answers before it.

python three_steps.py [FILE] [--language en|zh] [--url URL]
"""

import argparse
import os
from pathlib import Path

from openai import OpenAI

from webui.client import image_part, task

PICTURES = Path(__file__).parents[1] / "pictures"

parser = argparse.ArgumentParser()
parser.add_argument("picture", nargs="?", type=Path, default=PICTURES / "first.png")
parser.add_argument("--language", choices=["en", "zh"], default="en")
parser.add_argument("--url", default=os.environ.get("STEP3VL_URL", "http://localhost:7860/api/v1"))
arguments = parser.parse_args()

client = OpenAI(base_url=arguments.url, api_key=os.environ.get("STEP3VL_API_KEY", "none"))
steps = task("steps")
request = steps.request([image_part(arguments.picture)], language=arguments.language)
questions = [words.of(arguments.language) for words in steps.then]
while True:
    answer = client.chat.completions.create(model="Step3-VL-10B", **request)
    said = answer.choices[0].message.content
    print(f"{said}\n")
    if not questions:
        break
    request["messages"] += [
        {"role": "assistant", "content": said},
        {"role": "user", "content": questions.pop(0)},
    ]
