#!/usr/bin/env bash
# Two pictures compared: ./several_images.sh [FILE FILE]
set -euo pipefail
url=${STEP3VL_URL:-http://localhost:7860/api/v1}
pictures=$(dirname "$0")/../pictures
first=${1:-$pictures/first.png}
second=${2:-$pictures/second.png}

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
       "image_url": {"url": "data:image/jpeg;base64,$(base64 -w0 "$first")"}},
      {"type": "image_url",
       "image_url": {"url": "data:image/jpeg;base64,$(base64 -w0 "$second")"}},
      {"type": "text", "text": "What changed from the first picture to the second?"}
    ]
  }],
  "max_tokens": 1024,
  "temperature": 0.3
}
END
