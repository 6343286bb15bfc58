#!/usr/bin/env bash
# Try again after 1, 2 and 4 s where the server fails, 30 s for each try: ./retry.sh
# curl also waits as long as the server's Retry-After says.
set -euo pipefail
url=${STEP3VL_URL:-http://localhost:7860/api/v1}

curl --silent --show-error --fail --retry 3 --retry-connrefused --max-time 30 \
  "$url/chat/completions" \
  -H "Authorization: Bearer ${STEP3VL_API_KEY:-none}" \
  -H 'Content-Type: application/json' \
  -d '{
    "model": "Step3-VL-10B",
    "messages": [{"role": "user", "content": "Name three uses of a paper clip."}],
    "max_tokens": 1024
  }'
