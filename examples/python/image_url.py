"""A question about a picture on the web. The server fetches it.

python image_url.py https://example.com/picture.jpg ["QUESTION"] [--url URL]
"""

import argparse
import os

from openai import BadRequestError, OpenAI

parser = argparse.ArgumentParser()
parser.add_argument("picture", help="its http(s) address")
parser.add_argument("question", nargs="?", default="What is in this picture?")
parser.add_argument("--url", default=os.environ.get("STEP3VL_URL", "http://localhost:7860/api/v1"))
arguments = parser.parse_args()

client = OpenAI(base_url=arguments.url, api_key=os.environ.get("STEP3VL_API_KEY", "none"))
try:
    answer = client.chat.completions.create(
        model="Step3-VL-10B",
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": arguments.picture}},
                    {"type": "text", "text": arguments.question},
                ],
            }
        ],
        max_tokens=1024,
        temperature=0.3,  # low for facts
    )
except BadRequestError as error:  # the message says which picture, and why
    raise SystemExit(f"{error.code}: {error.body['message']}") from None
print(answer.choices[0].message.content)
