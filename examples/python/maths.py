"""A maths problem explained for a grade: the steps, without the final answer.

python maths.py [FILE] [--grade 初中二年级] [--language en|zh] [--url URL]
"""

import argparse
import os
from pathlib import Path

from openai import OpenAI

from webui.client import image_part, task

PICTURES = Path(__file__).parents[1] / "pictures"

parser = argparse.ArgumentParser()
parser.add_argument("picture", nargs="?", type=Path, default=PICTURES / "maths.png")
parser.add_argument("--grade", default="初中二年级")
parser.add_argument("--language", choices=["en", "zh"], default="zh")
parser.add_argument("--url", default=os.environ.get("STEP3VL_URL", "http://localhost:7860/api/v1"))
arguments = parser.parse_args()

client = OpenAI(base_url=arguments.url, api_key=os.environ.get("STEP3VL_API_KEY", "none"))
request = task("maths").request(
    [image_part(arguments.picture)], language=arguments.language, grade=arguments.grade
)
answer = client.chat.completions.create(model="Step3-VL-10B", **request)
print(answer.choices[0].message.content)
