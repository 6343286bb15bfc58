#!/usr/bin/env bash
# A question in words: ./text.sh
set -euo pipefail
url=${STEP3VL_URL:-http://localhost:7860/api/v1}

curl --silent --show-error --fail-with-body "$url/chat/completions" \
  -H "Authorization: Bearer ${STEP3VL_API_KEY:-none}" \
  -H 'Content-Type: application/json' \
  -d '{
    "model": "Step3-VL-10B",
    "messages": [{"role": "user", "content": "Hello, introduce yourself."}],
    "max_tokens": 1024
  }'
