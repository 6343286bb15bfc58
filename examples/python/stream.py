"""The answer word by word, as it is made; the model's thoughts come before it.

python stream.py ["QUESTION"] [--thinking off|low|auto|high] [--url URL]
"""

import argparse
import os

from openai import OpenAI

parser = argparse.ArgumentParser()
parser.add_argument("question", nargs="?", default="Explain in three sentences what a lens does.")
parser.add_argument("--thinking", choices=["off", "low", "auto", "high"], default="low")
parser.add_argument("--url", default=os.environ.get("STEP3VL_URL", "http://localhost:7860/api/v1"))
arguments = parser.parse_args()

client = OpenAI(base_url=arguments.url, api_key=os.environ.get("STEP3VL_API_KEY", "none"))
stream = client.chat.completions.create(
    model="Step3-VL-10B",
    messages=[{"role": "user", "content": arguments.question}],
    max_tokens=512,
    stream=True,
    extra_body={"thinking": arguments.thinking},
)
answering = False
for event in stream:
    if not event.choices:
        continue
    delta = event.choices[0].delta
    thought = getattr(delta, "reasoning", None)
    if thought:
        print(thought, end="", flush=True)
    if delta.content:
        if not answering:
            print("\n---")
            answering = True
        print(delta.content, end="", flush=True)
print()
