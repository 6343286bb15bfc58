"""Try again when the network or the server fails, each time after a longer pause.

The openai package does it by itself. It also waits as long as the server's Retry-After says.
Requests that are wrong (status 400) are not sent again.

python retry.py ["QUESTION"] [--url URL]
"""

import argparse
import os

from openai import APIError, OpenAI

parser = argparse.ArgumentParser()
parser.add_argument("question", nargs="?", default="Name three uses of a paper clip.")
parser.add_argument("--url", default=os.environ.get("STEP3VL_URL", "http://localhost:7860/api/v1"))
arguments = parser.parse_args()

client = OpenAI(
    base_url=arguments.url,
    api_key=os.environ.get("STEP3VL_API_KEY", "none"),
    max_retries=3,
    timeout=30,  # seconds for each try
)
try:
    answer = client.chat.completions.create(
        model="Step3-VL-10B",
        messages=[{"role": "user", "content": arguments.question}],
        max_tokens=1024,
    )
except APIError as error:
    raise SystemExit(f"Still failing after all tries: {error}") from None
print(answer.choices[0].message.content)
