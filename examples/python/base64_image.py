"""A question about a picture of yours, sent as base64.

python base64_image.py [FILE] ["QUESTION"] [--url URL]
"""

import argparse
import base64
import os
from pathlib import Path

from openai import OpenAI

PICTURES = Path(__file__).parents[1] / "pictures"

parser = argparse.ArgumentParser()
parser.add_argument("picture", nargs="?", type=Path, default=PICTURES / "first.png")
parser.add_argument("question", nargs="?", default="What is in this picture?")
parser.add_argument("--url", default=os.environ.get("STEP3VL_URL", "http://localhost:7860/api/v1"))
arguments = parser.parse_args()

encoded = base64.b64encode(arguments.picture.read_bytes()).decode()
client = OpenAI(base_url=arguments.url, api_key=os.environ.get("STEP3VL_API_KEY", "none"))
answer = client.chat.completions.create(
    model="Step3-VL-10B",
    messages=[
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{encoded}"}},
                {"type": "text", "text": arguments.question},
            ],
        }
    ],
    max_tokens=1024,
    temperature=0.3,
)
print(answer.choices[0].message.content)
