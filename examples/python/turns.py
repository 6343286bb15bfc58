"""A conversation: a picture first, then a question without one.

The server keeps no conversation. Send everything that was said so far, the picture too.

python turns.py [FILE] [--url URL]
"""

import argparse
import base64
import os
from pathlib import Path

from openai import OpenAI

PICTURES = Path(__file__).parents[1] / "pictures"

parser = argparse.ArgumentParser()
parser.add_argument("picture", nargs="?", type=Path, default=PICTURES / "chart.png")
parser.add_argument("--url", default=os.environ.get("STEP3VL_URL", "http://localhost:7860/api/v1"))
arguments = parser.parse_args()

client = OpenAI(base_url=arguments.url, api_key=os.environ.get("STEP3VL_API_KEY", "none"))
encoded = base64.b64encode(arguments.picture.read_bytes()).decode()
url = f"data:image/jpeg;base64,{encoded}"
turns = [
    [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "What data does this chart show?"},
    ],
    "Where does the trend point for the next month?",
]

messages = []
for content in turns:
    messages.append({"role": "user", "content": content})
    answer = client.chat.completions.create(model="Step3-VL-10B", messages=messages, max_tokens=512)
    said = answer.choices[0].message.content
    messages.append({"role": "assistant", "content": said})
    print(said)
