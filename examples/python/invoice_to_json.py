"""Fields of an invoice as JSON.

The schema goes with the request. The answer then has exactly these fields: there is no need to
search a text for brackets.

python invoice_to_json.py [FILE] [--url URL]
"""

import argparse
import base64
import json
import os
from pathlib import Path

from openai import OpenAI

PICTURES = Path(__file__).parents[1] / "pictures"
FIELDS = ["number", "date", "seller", "buyer", "amount_with_tax", "tax_rate", "tax"]
TEXT = {"type": "string", "maxLength": 300}
SCHEMA = {
    "type": "object",
    "properties": {
        **dict.fromkeys(FIELDS, TEXT),
        "items": {"type": "array", "items": TEXT, "maxItems": 100},
    },
    "required": [*FIELDS, "items"],
    "additionalProperties": False,
}
PROMPT = (
    "Read this invoice. Copy every value as it is printed. The items are the goods or services. "
    'Where the invoice does not have a value, write "not found". Answer with JSON only.'
)

parser = argparse.ArgumentParser()
parser.add_argument("picture", nargs="?", type=Path, default=PICTURES / "invoice.png")
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
                {"type": "text", "text": PROMPT},
            ],
        }
    ],
    max_tokens=1024,
    temperature=0.1,
    response_format={
        "type": "json_schema",
        "json_schema": {"name": "invoice", "strict": True, "schema": SCHEMA},
    },
)
choice = answer.choices[0]
if choice.finish_reason == "length":  # cut off, so it does not parse
    raise SystemExit("The answer was longer than max_tokens; raise it.")
invoice = json.loads(choice.message.content)
print(json.dumps(invoice, indent=2, ensure_ascii=False))
