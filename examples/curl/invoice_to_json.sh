#!/usr/bin/env bash
# Fields of an invoice as JSON: ./invoice_to_json.sh [FILE]
# The answer's `content` is a JSON document of the schema's form.
set -euo pipefail
url=${STEP3VL_URL:-http://localhost:7860/api/v1}
picture=${1:-$(dirname "$0")/../pictures/invoice.png}
text='{"type": "string", "maxLength": 300}'

curl --silent --show-error --fail-with-body "$url/chat/completions" \
  -H "Authorization: Bearer ${STEP3VL_API_KEY:-none}" \
  -H 'Content-Type: application/json' \
  -d @- <<END
{
  "model": "Step3-VL-10B",
  "messages": [{
    "role": "user",
    "content": [
      {"type": "image_url",
       "image_url": {"url": "data:image/jpeg;base64,$(base64 -w0 "$picture")"}},
      {"type": "text", "text": "Read this invoice. Copy every value as it is printed; where there is none, write \"not found\". Answer with JSON only."}
    ]
  }],
  "max_tokens": 1024,
  "temperature": 0.1,
  "response_format": {
    "type": "json_schema",
    "json_schema": {
      "name": "invoice",
      "strict": true,
      "schema": {
        "type": "object",
        "properties": {
          "number": $text, "date": $text, "seller": $text, "buyer": $text,
          "items": {"type": "array", "items": $text, "maxItems": 100},
          "amount_with_tax": $text, "tax_rate": $text, "tax": $text
        },
        "required": ["number", "date", "seller", "buyer", "items", "amount_with_tax", "tax_rate",
                     "tax"],
        "additionalProperties": false
      }
    }
  }
}
END
