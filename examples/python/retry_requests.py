"""The same as retry.py with the requests package: urllib3 does the retries.

python retry_requests.py ["QUESTION"] [--url URL]
"""

import argparse
import os

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

parser = argparse.ArgumentParser()
parser.add_argument("question", nargs="?", default="Name three uses of a paper clip.")
parser.add_argument("--url", default=os.environ.get("STEP3VL_URL", "http://localhost:7860/api/v1"))
arguments = parser.parse_args()

again = Retry(
    total=3,
    backoff_factor=1,  # pauses of 0, 2 and 4 s, or as long as Retry-After says
    status_forcelist=[429, 502, 503, 504],
    allowed_methods=["POST"],
)
session = requests.Session()
session.mount("http://", HTTPAdapter(max_retries=again))
session.mount("https://", HTTPAdapter(max_retries=again))
try:
    response = session.post(
        f"{arguments.url}/chat/completions",
        headers={"Authorization": f"Bearer {os.environ.get('STEP3VL_API_KEY', 'none')}"},
        json={
            "model": "Step3-VL-10B",
            "messages": [{"role": "user", "content": arguments.question}],
            "max_tokens": 1024,
        },
        timeout=30,  # seconds for each try
    )
    response.raise_for_status()
except requests.RequestException as error:
    raise SystemExit(f"Still failing after all tries: {error}") from None
print(response.json()["choices"][0]["message"]["content"])
