#!/usr/bin/env bash
# The second turn of a conversation: ./turns.sh [FILE]
# The server keeps no conversation. What was said so far is sent again, the picture too.
set -euo pipefail
url=${STEP3VL_URL:-http://localhost:7860/api/v1}
picture=${1:-$(dirname "$0")/../pictures/chart.png}

curl --silent --show-error --fail-with-body "$url/chat/completions" \
  -H "Authorization: Bearer ${STEP3VL_API_KEY:-none}" \
  -H 'Content-Type: application/json' \
  -d @- <<END
{
  "model": "Step3-VL-10B",
  "messages": [
    {"role": "user",
     "content": [
       {"type": "image_url",
        "image_url": {"url": "data:image/jpeg;base64,$(base64 -w0 "$picture")"}},
       {"type": "text", "text": "What data does this chart show?"}
     ]},
    {"role": "assistant", "content": "The sales of four months, in thousands."},
    {"role": "user", "content": "Where does the trend point for the next month?"}
  ],
  "max_tokens": 512
}
END
