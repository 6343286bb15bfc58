"""A ready-made task by its name; a name that there is not gives the description.

A hint says what is known about the picture. It helps most where the picture is from a special
field, or where an answer was wrong.

python prompt_strategies.py [NAME] [FILE ...] [--hint "..."] [--language en|zh] [--url URL]
"""

import argparse
import os
from pathlib import Path

from openai import OpenAI

from webui.client import TASKS, image_part, task

PICTURES = Path(__file__).parents[1] / "pictures"

parser = argparse.ArgumentParser()
parser.add_argument("name", nargs="?", default="creative", help=", ".join(TASKS))
parser.add_argument("pictures", nargs="*", type=Path, default=[PICTURES / "first.png"])
parser.add_argument("--hint", default="")
parser.add_argument("--language", choices=["en", "zh"], default="en")
parser.add_argument("--url", default=os.environ.get("STEP3VL_URL", "http://localhost:7860/api/v1"))
arguments = parser.parse_args()

client = OpenAI(base_url=arguments.url, api_key=os.environ.get("STEP3VL_API_KEY", "none"))
chosen = task(arguments.name)
request = chosen.request(
    [image_part(picture) for picture in arguments.pictures],
    language=arguments.language,
    hint=arguments.hint,
)
answer = client.chat.completions.create(model="Step3-VL-10B", **request)
print(f"[{chosen.title.of(arguments.language)}, temperature {chosen.temperature}]")
print(answer.choices[0].message.content)
