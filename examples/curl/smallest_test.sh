#!/usr/bin/env bash
# The smallest test: does the box see a picture? ./smallest_test.sh [FILE]
set -euo pipefail
url=${STEP3VL_URL:-http://localhost:7860/api/v1}
picture=${1:-$(dirname "$0")/../pictures/first.png}

curl --silent --show-error --fail-with-body --write-out '\nstatus %{http_code}\n' \
  "$url/chat/completions" \
  -H "Authorization: Bearer ${STEP3VL_API_KEY:-none}" \
  -H 'Content-Type: application/json' \
  -d @- <<END
{
  "model": "Step3-VL-10B",
  "messages": [{
    "role": "user",
    "content": [
      {"type": "image_url", "image_url": {"url": "$(base64 -w0 "$picture")"}},
      {"type": "text", "text": "What is in this picture?"}
    ]
  }],
  "max_tokens": 200
}
END
