#!/usr/bin/env bash
# The answer in pieces, as they are made: ./stream.sh
set -euo pipefail
url=${STEP3VL_URL:-http://localhost:7860/api/v1}

curl --silent --show-error --fail-with-body --no-buffer "$url/chat/completions" \
  -H "Authorization: Bearer ${STEP3VL_API_KEY:-none}" \
  -H 'Content-Type: application/json' \
  -d '{
    "model": "Step3-VL-10B",
    "messages": [{"role": "user", "content": "Explain in three sentences what a lens does."}],
    "max_tokens": 512,
    "stream": true,
    "thinking": "low"
  }'
