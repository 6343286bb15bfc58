"""The smallest test: does the box see a picture?

python smallest_test.py [FILE or http(s) address] [--url URL]
"""

import argparse
import base64
import os
import sys
from pathlib import Path

import requests

parser = argparse.ArgumentParser()
parser.add_argument("picture", nargs="?", default=f"{Path(__file__).parents[1]}/pictures/first.png")
parser.add_argument("--url", default=os.environ.get("STEP3VL_URL", "http://localhost:7860/api/v1"))
arguments = parser.parse_args()

picture = arguments.picture
if not picture.startswith("http"):
    picture = base64.b64encode(Path(picture).read_bytes()).decode()
content = [
    {"type": "image_url", "image_url": {"url": picture}},
    {"type": "text", "text": "What is in this picture?"},
]
response = requests.post(
    f"{arguments.url}/chat/completions",
    headers={"Authorization": f"Bearer {os.environ.get('STEP3VL_API_KEY', 'none')}"},
    json={
        "model": "Step3-VL-10B",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 200,
    },
    timeout=120,
)
if response.status_code != 200:
    print("It does not work:", response.status_code, response.text)
    sys.exit(1)
print("It works:", response.json()["choices"][0]["message"]["content"])
