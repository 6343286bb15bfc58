"""May everyone see this picture? Ends with status 3 where it may not.

python safety_check.py [FILE] [--url URL]
"""

import argparse
import json
import os
import sys
from pathlib import Path

from openai import OpenAI

from webui.client import image_part, task

PICTURES = Path(__file__).parents[1] / "pictures"

parser = argparse.ArgumentParser()
parser.add_argument("picture", nargs="?", type=Path, default=PICTURES / "first.png")
parser.add_argument("--url", default=os.environ.get("STEP3VL_URL", "http://localhost:7860/api/v1"))
arguments = parser.parse_args()

client = OpenAI(base_url=arguments.url, api_key=os.environ.get("STEP3VL_API_KEY", "none"))
request = task("safety").request([image_part(arguments.picture)])
answer = client.chat.completions.create(model="Step3-VL-10B", **request)
verdict = json.loads(answer.choices[0].message.content)
print(json.dumps(verdict, indent=2, ensure_ascii=False))
sys.exit(0 if verdict["is_safe"] else 3)
