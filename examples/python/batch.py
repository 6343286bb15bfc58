"""The same question about many pictures, a few of them at a time.

One that fails does not stop the others. Ends with status 1 where one has failed.

python batch.py [FILE ...] [--question "QUESTION"] [--at-once 5] [--url URL]
"""

import argparse
import asyncio
import base64
import os
import sys
from pathlib import Path

from openai import APIError, AsyncOpenAI

PICTURES = Path(__file__).parents[1] / "pictures"

parser = argparse.ArgumentParser()
parser.add_argument("pictures", nargs="*", type=Path, default=sorted(PICTURES.glob("*.png")))
parser.add_argument("--question", default="What is in this picture?")
parser.add_argument("--at-once", type=int, default=5)
parser.add_argument("--url", default=os.environ.get("STEP3VL_URL", "http://localhost:7860/api/v1"))
arguments = parser.parse_args()

client = AsyncOpenAI(base_url=arguments.url, api_key=os.environ.get("STEP3VL_API_KEY", "none"))


async def ask(picture: Path, gate: asyncio.Semaphore) -> str:
    async with gate:
        encoded = base64.b64encode(picture.read_bytes()).decode()
        url = f"data:image/jpeg;base64,{encoded}"
        answer = await client.chat.completions.create(
            model="Step3-VL-10B",
            messages=[
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": url}},
                        {"type": "text", "text": arguments.question},
                    ],
                }
            ],
            max_tokens=512,
        )
        return answer.choices[0].message.content or ""


async def main() -> int:
    gate = asyncio.Semaphore(arguments.at_once)
    answers = await asyncio.gather(
        *(ask(picture, gate) for picture in arguments.pictures), return_exceptions=True
    )
    failed = 0
    for picture, answer in zip(arguments.pictures, answers, strict=True):
        if isinstance(answer, APIError | OSError):
            failed += 1
        elif isinstance(answer, BaseException):
            raise answer
        print(f"{picture}: {answer}")
    return 1 if failed else 0


sys.exit(asyncio.run(main()))
