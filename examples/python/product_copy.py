"""Text for a shop from a picture: description, selling points, tags.

python product_copy.py [FILE] [--product NAME] [--category NAME] [--language en|zh] [--url URL]
"""

import argparse
import os
from pathlib import Path

from openai import OpenAI

from webui.client import image_part, task

PICTURES = Path(__file__).parents[1] / "pictures"

parser = argparse.ArgumentParser()
parser.add_argument("picture", nargs="?", type=Path, default=PICTURES / "first.png")
parser.add_argument("--product", default="a set of building blocks")
parser.add_argument("--category", default="toys")
parser.add_argument("--language", choices=["en", "zh"], default="en")
parser.add_argument("--url", default=os.environ.get("STEP3VL_URL", "http://localhost:7860/api/v1"))
arguments = parser.parse_args()

client = OpenAI(base_url=arguments.url, api_key=os.environ.get("STEP3VL_API_KEY", "none"))
request = task("product").request(
    [image_part(arguments.picture)],
    language=arguments.language,
    product=arguments.product,
    category=arguments.category,
)
answer = client.chat.completions.create(model="Step3-VL-10B", **request)
print(answer.choices[0].message.content)
