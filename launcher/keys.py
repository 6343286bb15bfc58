"""The file of the API's keys: names, hashes and limits; a key itself is shown once and not kept."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from launcher.errors import LauncherError
from launcher.render import RenderedFile, write_if_changed

PREFIX = "sk-step3vl-"
LIMITS = ("requests_per_minute", "tokens_per_minute")


class KeyFile:
    """``run/api-keys.json``, which the WebUI reads while it runs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[dict[str, Any]]:
        """What it holds, without the keys themselves.

        Raises:
            LauncherError: it is there and cannot be read.
        """
        try:
            entries: list[dict[str, Any]] = json.loads(self.path.read_text())["keys"]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise LauncherError(f"{self.path} cannot be read: {error}") from None
        return entries

    def add(self, name: str, limits: dict[str, int | None], *, admin: bool = False) -> str:
        """Make a key.

        Args:
            limits: by the names in :data:`LIMITS`; None for no limit.
            admin: whether who has it may see the logs and restart things, on the page.

        Returns:
            The key, which cannot be had again.

        Raises:
            LauncherError: the name is taken or cannot be used.
        """
        if not re.fullmatch(r"[A-Za-z0-9._@-]{1,64}", name):
            raise LauncherError(f"a key's name has letters, digits and . _ @ - only, not {name!r}")
        entries = self.entries()
        if any(entry["name"] == name for entry in entries):
            raise LauncherError(f"there is a key {name!r} already; `launch keys revoke {name}`")
        key = PREFIX + secrets.token_urlsafe(32)
        entry = {
            "name": name,
            # The key is long and random: nobody finds it by trying, so a plain hash will do.
            "sha256": hashlib.sha256(key.encode()).hexdigest(),
            "added": datetime.now(UTC).isoformat(timespec="seconds"),
            **{limit: value for limit, value in limits.items() if value is not None},
            **({"admin": True} if admin else {}),
        }
        self._write([*entries, entry])
        return key

    def revoke(self, name: str) -> int:
        """Take a key out; how many are left.

        Raises:
            LauncherError: there is none of this name.
        """
        entries = self.entries()
        left = [entry for entry in entries if entry["name"] != name]
        if len(left) == len(entries):
            raise LauncherError(f"there is no key {name!r}; `launch keys list` shows them")
        self._write(left)
        return len(left)

    def _write(self, entries: list[dict[str, Any]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = json.dumps({"keys": entries}, indent=2) + "\n"
        write_if_changed(RenderedFile(self.path, text, 0o600))
