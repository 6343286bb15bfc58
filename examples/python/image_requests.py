"""A question about a picture of yours, with the requests package.

python image_requests.py [FILE] ["QUESTION"] [--url URL]
"""

import argparse
import base64
import os
from pathlib import Path

import requests

PICTURES = Path(__file__).parents[1] / "pictures"

parser = argparse.ArgumentParser()
parser.add_argument("picture", nargs="?", type=Path, default=PICTURES / "first.png")
parser.add_argument("question", nargs="?", default="What is in this picture?")
parser.add_argument("--url", default=os.environ.get("STEP3VL_URL", "http://localhost:7860/api/v1"))
arguments = parser.parse_args()

# The server looks at the content, not at what the URL says of it.
encoded = base64.b64encode(arguments.picture.read_bytes()).decode()
content = [
    {"type": "text", "text": arguments.question},
    {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{encoded}"}},
]
response = requests.post(
    f"{arguments.url}/chat/completions",
    headers={"Authorization": f"Bearer {os.environ.get('STEP3VL_API_KEY', 'none')}"},
    json={
        "model": "Step3-VL-10B",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 1024,
        "temperature": 0.3,
    },
    timeout=300,
)
if response.status_code != 200:
    raise SystemExit(f"{response.status_code}: {response.json()['error']['message']}")
print(response.json()["choices"][0]["message"]["content"])
