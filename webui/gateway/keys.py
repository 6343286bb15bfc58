"""Who may use the API: named keys from a file that only its owner can read, as hashes.

The file is the launcher's (``launch keys``). It is read again when it changes, so that a key can be
added or revoked while requests run.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from webui.gateway.errors import ApiError
from webui.gateway.limits import Rate

logger = logging.getLogger(__name__)

LOOK_AGAIN_S = 1.0
MAX_KEY_LENGTH = 256
WRONG_PER_MINUTE = 20
# Addresses whose wrong keys are counted; the one longest without any is forgotten first.
MAX_ADDRESSES = 10_000


@dataclass
class Caller:
    """A key, and what may still be used with it."""

    name: str
    digest: bytes
    requests: Rate | None
    tokens: Rate | None
    is_admin: bool = False
    """May see the logs and restart things."""

    def admit(self) -> None:
        """Count a request.

        Raises:
            ApiError: there were too many, or too many tokens, within a minute.
        """
        for rate, what in ((self.tokens, "tokens"), (self.requests, "requests")):
            wait = rate.wait_s() if rate else 0.0
            if wait > 0:
                raise _too_many(f"The key {self.name!r} has used up its {what} of a minute.", wait)
        if self.requests:
            self.requests.take(1)

    def used(self, tokens: int) -> None:
        """Count what a request has cost, when it is over."""
        if self.tokens:
            self.tokens.take(tokens)


@dataclass
class _Wrong:
    """Keys that an address has tried in vain."""

    rate: Rate
    tried: deque[bytes] = field(default_factory=lambda: deque(maxlen=WRONG_PER_MINUTE))
    """The last twenty different ones, as hashes."""


class KeysError(Exception):
    """The file cannot be used; the message says why."""


class Keys:
    """The callers that there are.

    Without a file everyone is let in; with one, also an empty one, only who has a key of it.

    Args:
        file: see :mod:`launcher.keys`; None where keys are not in use.
        required: refuse to begin without at least one key.

    Raises:
        KeysError: the file is broken, or a key is required and there is none.
    """

    def __init__(self, file: Path | None, *, required: bool) -> None:
        self._file = file
        self._required = required
        self._callers: list[Caller] | None = None
        self._stamp: tuple[int, int] | None = None
        self._looked_at = float("-inf")
        self._wrong: OrderedDict[str, _Wrong] = OrderedDict()
        self._read()
        if required and not self._callers:
            raise KeysError("webui.require_keys is set and there is no key: launch keys add NAME")

    @property
    def in_use(self) -> bool:
        """Whether a key is needed."""
        self._refresh()
        return self._callers is not None

    def caller(self, headers: Iterable[tuple[bytes, bytes]], address: str) -> Caller | None:
        """Who asks; None where no key is needed.

        Raises:
            ApiError: a key is needed and this is none, or this address has tried too often.
        """
        if not self.in_use:
            return None
        return self._found(key_of(headers), address)

    def visitor(
        self, headers: Iterable[tuple[bytes, bytes]], address: str, *, ask: bool = True
    ) -> None:
        """Let a browser in, whose user gives a key as password.

        Args:
            ask: have the browser ask its user, where it has no key or one that is not known. Of
                what a page asks for by itself every few seconds it must not.

        Raises:
            ApiError: as :meth:`caller`.
        """
        if self.in_use:
            try:
                self._found(password_of(headers), address)
            except ApiError as error:
                if error.status == 401:
                    basic = {"www-authenticate": 'Basic realm="STEP3-VL: a key"'}
                    error.headers = basic if ask else {}
                raise

    def is_admin(self, key: str) -> bool:
        """Whether this is an admin's key. Whoever asks has been let in before."""
        digest = hashlib.sha256(key.encode("latin-1", "replace")).digest()
        self._refresh()
        return any(
            caller.is_admin and hmac.compare_digest(caller.digest, digest)
            for caller in self._callers or ()
        )

    def _found(self, key: bytes, address: str) -> Caller:
        wrong = self._wrong.get(address)
        if wrong and (wait := wrong.rate.wait_s()) > 0:
            raise _too_many("Too many wrong keys from this address.", wait)
        digest = hashlib.sha256(key).digest()
        found = None
        for caller in self._callers or ():  # every one, so that time tells nothing
            if hmac.compare_digest(caller.digest, digest):
                found = caller
        if found is None or not key:
            if key:
                self._count_wrong(address, digest)
            raise _no_key(given=bool(key))
        return found

    def _count_wrong(self, address: str, digest: bytes) -> None:
        wrong = self._wrong.setdefault(address, _Wrong(Rate(WRONG_PER_MINUTE)))
        self._wrong.move_to_end(address)
        # The same one again is no guess: an open page, or a program, has a key that was revoked.
        if digest not in wrong.tried:
            wrong.tried.append(digest)
            wrong.rate.take(1)
        if len(self._wrong) > MAX_ADDRESSES:
            self._wrong.popitem(last=False)

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < LOOK_AGAIN_S:
            return
        self._looked_at = now
        try:
            self._read()
        except KeysError as error:
            # Whoever was let in before still is; nobody else.
            logger.warning("%s", error)
            self._callers = self._callers or []

    def _read(self) -> None:
        if self._file is None:
            return
        try:
            status = self._file.stat()
        except FileNotFoundError:
            self._callers, self._stamp = [] if self._required else None, None
            return
        except OSError as error:
            raise KeysError(f"{self._file}: {error.strerror}") from None
        stamp = (status.st_mtime_ns, status.st_ino)
        if stamp == self._stamp:
            return
        self._stamp = stamp  # also of a broken one: it is complained of once
        if status.st_mode & 0o077:
            raise KeysError(f"{self._file} can be read by others: chmod 600 it")
        self._callers = self._same_rates(_parsed(self._file))

    def _same_rates(self, callers: list[Caller]) -> list[Caller]:
        """A key that stays keeps what it has used, unless its limits have changed."""
        old = {caller.digest: caller for caller in self._callers or ()}
        for caller in callers:
            before = old.get(caller.digest)
            if before and before.requests == caller.requests:
                caller.requests = before.requests
            if before and before.tokens == caller.tokens:
                caller.tokens = before.tokens
        return callers


def key_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """From ``Authorization: Bearer ...`` or ``x-api-key``; empty without one."""
    for name, value in headers:
        if name == b"x-api-key":
            key = value
        elif name == b"authorization" and value[:7].lower() == b"bearer ":
            key = value[7:]
        else:
            continue
        if key.strip():
            return key.strip()[: MAX_KEY_LENGTH + 1]
    return b""


def password_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """From ``Authorization: Basic ...``; empty without one."""
    for name, value in headers:
        if name == b"authorization" and value[:6].lower() == b"basic ":
            with contextlib.suppress(binascii.Error, ValueError):
                decoded = base64.b64decode(value[6 : 6 + 4 * MAX_KEY_LENGTH])
                return decoded.partition(b":")[2].strip()
    return b""


def _parsed(file: Path) -> list[Caller]:
    try:
        return [_caller(entry) for entry in json.loads(file.read_text())["keys"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise KeysError(f"{file} is no file of keys ({type(error).__name__})") from None


def _caller(entry: dict[str, Any]) -> Caller:
    def rate(name: str) -> Rate | None:
        return Rate(int(entry[name])) if entry.get(name) else None

    return Caller(
        str(entry["name"]),
        bytes.fromhex(entry["sha256"]),
        rate("requests_per_minute"),
        rate("tokens_per_minute"),
        is_admin=entry.get("admin") is True,
    )


def _no_key(*, given: bool) -> ApiError:
    what = "This key is not known here." if given else "A key is needed here."
    message = f"{what} Send it as `Authorization: Bearer KEY`."
    headers = {"www-authenticate": "Bearer"}
    return ApiError(401, message, "invalid_api_key", "authentication_error", headers=headers)


def _too_many(message: str, wait_s: float) -> ApiError:
    seconds = max(1, round(wait_s + 0.5))
    return ApiError(
        429,
        f"{message} Try again in {seconds} seconds.",
        "rate_limit_exceeded",
        "rate_limit_error",
        headers={"retry-after": str(seconds)},
    )
