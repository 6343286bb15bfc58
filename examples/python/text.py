"""A question in words, with the openai package.

python text.py ["QUESTION"] [--url URL]
"""

import argparse
import os

from openai import OpenAI

parser = argparse.ArgumentParser()
parser.add_argument("question", nargs="?", default="Write a few lines about spring.")
parser.add_argument("--url", default=os.environ.get("STEP3VL_URL", "http://localhost:7860/api/v1"))
arguments = parser.parse_args()

client = OpenAI(base_url=arguments.url, api_key=os.environ.get("STEP3VL_API_KEY", "none"))
answer = client.chat.completions.create(
    model="Step3-VL-10B",
    messages=[{"role": "user", "content": arguments.question}],
    max_tokens=1024,
    temperature=0.7,
)
print(answer.choices[0].message.content)
