"""Several pictures in one message. The first one sent is "the first picture".

python several_images.py [FILE FILE ...] [--question "QUESTION"] [--url URL]
"""

import argparse
import base64
import os
from pathlib import Path

from openai import OpenAI

PICTURES = Path(__file__).parents[1] / "pictures"

parser = argparse.ArgumentParser()
parser.add_argument(
    "pictures", nargs="*", type=Path, default=[PICTURES / "first.png", PICTURES / "second.png"]
)
parser.add_argument("--question", default="What changed from the first picture to the second?")
parser.add_argument("--url", default=os.environ.get("STEP3VL_URL", "http://localhost:7860/api/v1"))
arguments = parser.parse_args()

content = []
for picture in arguments.pictures:
    encoded = base64.b64encode(picture.read_bytes()).decode()
    url = f"data:image/jpeg;base64,{encoded}"
    content.append({"type": "image_url", "image_url": {"url": url}})
content.append({"type": "text", "text": arguments.question})

client = OpenAI(base_url=arguments.url, api_key=os.environ.get("STEP3VL_API_KEY", "none"))
answer = client.chat.completions.create(
    model="Step3-VL-10B",
    messages=[{"role": "user", "content": content}],
    max_tokens=1024,
    temperature=0.3,
)
print(answer.choices[0].message.content)
