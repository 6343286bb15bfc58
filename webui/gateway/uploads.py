"""Pictures in files of this machine, named in requests of our own page and in nobody else's."""

from __future__ import annotations

import secrets
from pathlib import Path


def new_secret() -> str:
    """For a gateway and its page."""
    return secrets.token_urlsafe(32)


class Uploads:
    """Addresses of files. They begin with a secret that the gateway shares with its page alone, so
    that no other client can name a file, and mean nothing to anybody else."""

    def __init__(self, secret: str) -> None:
        self._start = f"upload-{secret}:"

    def address_of(self, path: Path) -> str:
        """What stands where another client's request has a URL."""
        return f"{self._start}{path}"

    def path_of(self, address: str) -> Path | None:
        """None for what is no address of ours."""
        start, path = address[: len(self._start)], address[len(self._start) :]
        return Path(path) if secrets.compare_digest(start.encode(), self._start.encode()) else None
