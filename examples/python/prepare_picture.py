"""Make a picture ready by yourself, and see what it costs.

The server does it too. It pays where the way to the server is slow: a photo of 12 megapixels
becomes several times smaller, and the model sees the same.

python prepare_picture.py [FILE] [--longest-side 3024] [--quality 95] [--url URL]
"""

import argparse
import os
from pathlib import Path

import requests

from webui.client import LONGEST_SIDE, PictureError, data_url

PICTURES = Path(__file__).parents[1] / "pictures"

parser = argparse.ArgumentParser()
parser.add_argument("picture", nargs="?", type=Path, default=PICTURES / "chart.png")
parser.add_argument("--longest-side", type=int, default=LONGEST_SIDE, help="pixels")
parser.add_argument("--quality", type=int, default=95, help="of the JPEG, 1 to 100")
parser.add_argument("--url", default=os.environ.get("STEP3VL_URL", "http://localhost:7860/api/v1"))
arguments = parser.parse_args()

try:
    ready = data_url(
        arguments.picture, longest_side=arguments.longest_side, quality=arguments.quality
    )
except (PictureError, ValueError) as error:
    raise SystemExit(str(error)) from None
print(f"{arguments.picture.stat().st_size} bytes before, {len(ready)} as base64 after")

response = requests.post(
    f"{arguments.url}/images/inspect",
    headers={"Authorization": f"Bearer {os.environ.get('STEP3VL_API_KEY', 'none')}"},
    json={"image": ready},
    timeout=30,
)
print(response.json())
raise SystemExit(0 if response.status_code == 200 else 1)
