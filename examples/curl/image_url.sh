#!/usr/bin/env bash
# A picture on the web: ./image_url.sh https://example.com/picture.jpg
set -euo pipefail
url=${STEP3VL_URL:-http://localhost:7860/api/v1}
picture=${1:?give the address of a picture}

curl --silent --show-error --fail-with-body "$url/chat/completions" \
  -H "Authorization: Bearer ${STEP3VL_API_KEY:-none}" \
  -H 'Content-Type: application/json' \
  -d @- <<END
{
  "model": "Step3-VL-10B",
  "messages": [{
    "role": "user",
    "content": [
      {"type": "image_url", "image_url": {"url": "$picture"}},
      {"type": "text", "text": "What is in this picture?"}
    ]
  }],
  "max_tokens": 1024,
  "temperature": 0.3
}
END
