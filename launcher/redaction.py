"""What a report must not tell: secrets, names and addresses are masked, wherever they stand."""

from __future__ import annotations

import ipaddress
import json
import os
import platform
import pwd
import re
import socket
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launcher.preflight import is_secret_name

MASK = "***"
CONFIG_BYTES = 1_000_000
CONFIG_DEPTH = 200
"""PyYAML takes minutes for brackets within thousands of brackets."""
LEAST_SECRET = len(MASK) + 1
"""Shorter ones cannot be told from other text; and to mask one must make the text shorter."""
_NO_SECRET = re.compile(
    r"\d{0,5}|true|false|none|null|auto|default|enabled|disabled", re.IGNORECASE
)

_NAMES = "token|key|secret|passw(?:or)?d|passphrase|credentials?"
# What stands between a name and its value in JSON, in Python, in YAML and in a shell; a value, in
# brackets, in quotes, those within quotes too, or bare; and what ends a bare one.
_IS = r"[\\\"']{0,4}\s{0,5}[:=]\s{0,5}"
_VALUE = (
    r"(?:\[[^\]\n]{0,2000}+\]?|\\?\"(?:[^\"\\\n]|\\.){0,2000}+\"?"
    r"|\\?'(?:[^'\\\n]|\\.){0,2000}+'?|[^\s,;&\"')}\]]{1,2000})"
)
_END = r"(?:[\s,;)}\]]|$)"
# What a secret looks like where nobody knows it: all that matches, or what is in the brackets.
# Those only look ahead, since a value may hold a name with a value of its own. Each repetition has
# a limit or cannot backtrack, so that no log is slow to read.
_SHAPES = tuple(
    re.compile(pattern, flags)
    for pattern, flags in (
        (r"-----BEGIN [^-\n]{1,50}-----.{0,8000}?-----END [^-\n]{1,50}-----", re.DOTALL),
        (r"data:[^,\s\"']{0,100};base64,([A-Za-z0-9+/=_%\\-]*+)", re.IGNORECASE),
        (r"eyJ[A-Za-z0-9_-]{8,2000}+\.[A-Za-z0-9_-]{1,8000}+(?:\.[A-Za-z0-9_-]{0,2000}+)?", 0),
        # A line of a key that is written in several, or a picture without "data:".
        (r"^[A-Za-z0-9+/=]{60,}+$", re.MULTILINE),
        (r"[A-Za-z0-9+/=_-]{100,}+", 0),
        # user:password of a URL, as far as the last @ that may belong to it.
        (r"://([^\s\"'<>]{1,512})(?=@)", 0),
        (
            r"[?&#](?:code|[^=&\s\"'<>]{0,60}?(?:token|key|secret|passw|sig|auth|cred|session|jwt))"
            r"[^=&\s\"'<>]{0,60}=(?=([^&\s\"'<>]{1,4000}))",
            re.IGNORECASE,
        ),
        (
            r"(?:authorization|cookie|x-api-key)[\\\"']{0,4}\s{0,5}[:=,]\s{0,5}(?:b?[\\\"']{1,4})?"
            r"(?=([^\"'\r\n]{1,4000}))",
            re.IGNORECASE,
        ),
        (r"bearer[\s:=\\\"']{1,4}(?=([^\s\"'<>]{1,4000}))", re.IGNORECASE),
        (r"[Bb]asic\s{1,5}(?=[a-z+/]{0,80}[A-Z0-9=])(?=([A-Za-z0-9+/=]{6,4000}))", 0),
        (rf"-(?:{_NAMES})\s{{1,5}}(?!-)(?=(\S{{1,4000}}))", re.IGNORECASE),
        # Not numbers of tokens, and not that there is none.
        (
            rf"(?:{_NAMES})(?!s{_IS}\d{{1,7}}{_END})s?{_IS}(?!(?:None|null|true|false){_END})"
            rf"(?=({_VALUE}))",
            re.IGNORECASE,
        ),
        (r"sk-step3vl-[A-Za-z0-9_-]*|(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{3,}", 0),
        (r"sk-[A-Za-z0-9_-]{20,}", 0),
        (r"hf_(?=[a-z]{0,60}[A-Z0-9]|[a-z]{16})[A-Za-z0-9]{6,}", 0),
        (r"(?:gh[pousr]_|github_pat_|glpat-|xox[abp]-|AKIA|AIza)[A-Za-z0-9_-]{12,}", 0),
    )
)
_EMAIL = re.compile(r"[\w.%+'-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,63}")
_IPV4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3,}")
_IPV6 = re.compile(r"(?<![0-9A-Fa-f:])[0-9A-Fa-f]*+(?::[0-9A-Fa-f]*+){2,}+")
_OTHER_HOMES = re.compile(r"(/(?:home|Users)/)[^/\s\"':,;<>()\[\]{}]+")

_PAIR = re.compile(r"([A-Za-z_][\w.-]{0,60})[\"']?\s{0,5}:\s{1,5}(?=([^\n]*))")
_KEY_LINE = re.compile(
    r"^(\s*(?:- +)?)[\"']?([A-Za-z_][A-Za-z0-9_.-]{0,60})[\"']?\s*:(?:\s+(.*))?$"
)


class Redactor:
    """Masks secrets and names in text; an address has the same alias in all of it."""

    def __init__(
        self,
        secrets: Iterable[str],
        homes: Iterable[str] = (),
        users: Iterable[str] = (),
        hosts: Iterable[str] = (),
    ) -> None:
        spellings = {text for secret in secrets for text in _spellings(secret)}
        # Shorter in UTF-8 than as the system gave it.
        long_enough = (text for text in spellings if len(text) >= LEAST_SECRET)
        self._secrets = sorted(long_enough, key=len, reverse=True)
        self._aliases: dict[str, str] = {}
        self._names = [
            *((_home_pattern(home), "~") for home in sorted(homes, key=len, reverse=True)),
            (_OTHER_HOMES, r"\1USER"),
            *((re.compile(rf"(?<=/){re.escape(user)}(?![A-Za-z0-9_-])"), "USER") for user in users),
            *((_host_pattern(host), "HOST") for host in sorted(hosts, key=len, reverse=True)),
        ]

    def stricter(self, secrets: Iterable[str]) -> Redactor:
        """One that masks more, and gives addresses the same aliases."""
        other = Redactor(secrets)
        spellings = {*self._secrets, *other._secrets}
        other._secrets = sorted(spellings, key=len, reverse=True)
        other._aliases, other._names = self._aliases, self._names
        return other

    @classmethod
    def of(cls, environ: Mapping[str, str], secrets: Iterable[str]) -> Redactor:
        """For this host and this environment.

        Args:
            secrets: those that are known from elsewhere.
        """
        own = [value for name, value in environ.items() if is_secret_name(name)]
        return cls([*own, *secrets], _homes(environ), _users(environ), _hosts(environ))

    def text(self, text: str) -> str:
        """The text with all of that masked."""
        # What is known goes first, before a pattern takes a part of it; and last, since what was
        # put in its place may make up a secret again.
        text = self.erase(text)
        text = _EMAIL.sub("EMAIL", _masked(text, _spans_of_secrets(text)))
        text = _IPV4.sub(self._alias_of_ipv4, text)
        text = _IPV6.sub(self._alias_of_ipv6, text)
        for pattern, replacement in self._names:
            text = pattern.sub(replacement, text)
        return self.erase(text)

    def erase(self, text: str) -> str:
        """The text without the known secrets. Each round makes it shorter, so it ends."""
        while any(secret in text for secret in self._secrets):
            for secret in self._secrets:
                text = text.replace(secret, MASK)
        return text

    def tree(self, value: Any) -> Any:
        """A JSON document with all strings in it redacted."""
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.tree(item) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.tree(item) for item in value]
        if value is None or isinstance(value, (bool, int, float)):
            return value
        return self.text(str(value))

    def _alias(self, address: str) -> str:
        return self._aliases.setdefault(address, f"ADDR{len(self._aliases) + 1}")

    def _alias_of_ipv4(self, match: re.Match[str]) -> str:
        text = match[0]
        is_own = re.fullmatch(r"127(?:\.\d{1,3}){3}|0\.0\.0\.0", text)
        return text if is_own else self._alias(text)

    def _alias_of_ipv6(self, match: re.Match[str]) -> str:
        """Times and C++ names have colons too."""
        text = match[0]
        if text in {"::", "::1"}:
            return text
        if len(text.replace(":", " ").split()) >= 3:
            return self._alias(text) if "::" in text or text.count(":") >= 7 else text
        around = match.string[max(0, match.start() - 1) : match.end() + 1]
        in_a_word = re.search(r"[^\W0-9A-Fa-f]|_", around) is not None
        return text if in_a_word or not _is_ipv6(text) else self._alias(text)


def _spans_of_secrets(text: str) -> Iterator[tuple[int, int]]:
    for pattern in _SHAPES:
        for match in pattern.finditer(text):
            yield match.span(pattern.groups)


def _masked(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with a mask in place of each span; one for those that overlap."""
    pieces: list[str] = []
    end = 0
    for first, last in sorted(spans):
        if first > end or not pieces:
            pieces += [text[end:first], MASK]
        end = max(end, last)
    return "".join([*pieces, text[end:]])


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _spellings(secret: str) -> Iterator[str]:
    """As it may be written: plain, its lines, in JSON, in Python and in a URL."""
    for plain in {secret, secret.strip(), *secret.splitlines()}:
        if len(plain) < LEAST_SECRET or _NO_SECRET.fullmatch(plain):
            continue
        if not any(character.isalnum() for character in plain):
            continue
        data = os.fsencode(plain) if _is_from_the_system(plain) else plain.encode(errors="replace")
        yield plain
        yield data.decode(errors="replace")
        yield from (json.dumps(plain)[1:-1], json.dumps(plain, ensure_ascii=False)[1:-1])
        yield repr(plain)[1:-1]
        yield from (urllib.parse.quote(data, safe=safe) for safe in ("", "/"))
        yield urllib.parse.quote_plus(data)


def _is_from_the_system(text: str) -> bool:
    """Whether it can be bytes of an environment, which need not be UTF-8."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def _home_pattern(home: str) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(home)}(?![A-Za-z0-9_-])")


def _host_pattern(host: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z0-9]){re.escape(host)}(?![A-Za-z0-9])", re.IGNORECASE)


def _account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(os.getuid())
    except KeyError:  # a container's user without a line in /etc/passwd
        return None


def _homes(environ: Mapping[str, str]) -> set[str]:
    account = _account()
    found = {environ.get("HOME", ""), account.pw_dir if account else ""}
    found |= {str(Path(home).resolve()) for home in found if home}
    # A home of "/" would turn every path into nonsense.
    return {home.rstrip("/") for home in found if len(Path(home).parts) > 1}


def _users(environ: Mapping[str, str]) -> set[str]:
    account = _account()
    found = {environ.get(name, "") for name in ("USER", "LOGNAME", "SUDO_USER")}
    return {name for name in {*found, account.pw_name if account else ""} if name}


def _hosts(environ: Mapping[str, str]) -> set[str]:
    found = {socket.gethostname(), environ.get("HOSTNAME", ""), platform.node()}
    found |= {host.partition(".")[0] for host in found}
    return {host for host in found if len(host) > 1} - {"localhost"}


# What PyYAML raises for texts that nobody meant as YAML, beside its own errors.
_UNPARSED = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, OSError)


@dataclass(frozen=True)
class Source:
    """A YAML as text; ``data`` is None where it is no mapping or cannot be parsed."""

    text: str
    data: dict[Any, Any] | None
    problem: str = ""


def parse_source(text: str) -> Source:
    """Parse as far as that is safe; the problem tells where, and nothing of what stands there."""
    if len(text) > CONFIG_BYTES:
        return Source(text[:CONFIG_BYTES], None, f"larger than {CONFIG_BYTES} bytes")
    if text.count("[") + text.count("{") - text.count("]") - text.count("}") > CONFIG_DEPTH:
        return Source(text, None, "brackets that nobody closes")
    try:
        # Followed, they may have no end.
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            return Source(text, None, "has aliases, which are not followed")
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        return Source(text, None, f"not YAML{where}")
    except (yaml.YAMLError, *_UNPARSED):
        return Source(text, None, "not YAML")
    is_mapping = isinstance(data, dict)
    return Source(text, data if is_mapping else None, "" if is_mapping else "no keys in it")


def redacted_source(source: Source, redactor: Redactor) -> str:
    """The YAML with what must not be seen masked and without comments; of one that is torn, the
    names of its keys, each on its line."""
    if source.data is not None:
        document = _masked_tree(source.data, redactor)
        return redactor.erase(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    return redactor.text("\n".join(map(_key_of, source.text.splitlines())) + "\n")


def _key_of(line: str) -> str:
    if not line.strip() or line.lstrip().startswith("#"):
        return ""
    match = _KEY_LINE.match(line)
    return f"{match[1]}{match[2]}: {MASK}" if match else MASK


def _masked_tree(
    value: Any, redactor: Redactor, *, hide: bool = False, counts: bool = False
) -> Any:
    """Args:
    hide: whether what a key above says is a secret.
    counts: whether it may be a number of tokens all the same.
    """
    if isinstance(value, dict):
        return {
            redactor.text(str(key)): _masked_tree(
                item,
                redactor,
                hide=hide or key == "environment" or is_secret_name(str(key)),
                counts=counts if hide else "tokens" in str(key).lower(),
            )
            for key, item in value.items()
        }
    if isinstance(value, list):
        # `--token` and then the token.
        before = [None, *value]
        return [
            _masked_tree(item, redactor, hide=hide or _is_secret_flag(flag), counts=counts)
            for flag, item in zip(before, value, strict=False)
        ]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)) and (not hide or (counts and _is_count(str(value)))):
        return value if redactor.text(str(value)) == str(value) else MASK
    return MASK if hide or isinstance(value, bytes) else redactor.text(str(value))


def _is_count(text: str) -> bool:
    """Whether it can be a number of tokens, and no secret made of digits."""
    return re.fullmatch(r"\d{1,7}", text) is not None


def _is_secret_flag(word: Any) -> bool:
    return isinstance(word, str) and word.startswith("-") and is_secret_name(word)


def secrets_of(source: Source) -> list[str]:
    """Values that the YAML calls secret, by their keys' names."""
    found = _pairs_in(source.text) if source.data is None else _scalars(source.data)
    return [
        text
        for name, text in found
        if is_secret_name(name) and not ("tokens" in name.lower() and _is_count(text))
    ]


def _pairs_in(text: str) -> Iterator[tuple[str, str]]:
    """What looks like names and values in a YAML that cannot be parsed: as far as the line goes,
    and the first word."""
    for match in _PAIR.finditer(text):
        value = match[2].strip().strip("\"'")
        yield match[1], value
        yield from ((match[1], word) for word in re.split(r"[\s\"',}\]]+", value)[:1])


def values_of(source: Source) -> list[str]:
    """All that is set under ``engine.environment``: errors may quote it."""
    engine = (source.data or {}).get("engine")
    environment = engine.get("environment") if isinstance(engine, dict) else None
    return [text for _, text in _scalars(environment)]


def _scalars(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text and number in a document, with the nearest name above it that says secret, or its
    own."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _scalars(item, name if is_secret_name(name) else str(key))
    elif isinstance(value, list):
        for flag, item in zip([None, *value], value, strict=False):
            yield from _scalars(item, str(flag) if _is_secret_flag(flag) else name)
    elif value is not None and not isinstance(value, (bool, bytes)):
        yield name, str(value)
