"""A question in words, with the requests package.

python text_requests.py ["QUESTION"] [--url URL]
"""

import argparse
import os

import requests

parser = argparse.ArgumentParser()
parser.add_argument("question", nargs="?", default="Write a few lines about spring.")
parser.add_argument("--url", default=os.environ.get("STEP3VL_URL", "http://localhost:7860/api/v1"))
arguments = parser.parse_args()

response = requests.post(
    f"{arguments.url}/chat/completions",
    headers={"Authorization": f"Bearer {os.environ.get('STEP3VL_API_KEY', 'none')}"},
    json={
        "model": "Step3-VL-10B",
        "messages": [{"role": "user", "content": arguments.question}],
        "max_tokens": 1024,
        "temperature": 0.7,
    },
    timeout=300,
)
response.raise_for_status()
print(response.json()["choices"][0]["message"]["content"])
