"""Make ``.venv`` on first use, bring it up to date when ``setup.cfg`` changed, run the launcher.

Runs on a bare Python, so it uses the standard library only. A stamp file, written last, holds what
was installed: no stamp or another one means that the work is done again, and pip skips what is
already there. So an interrupted run is simply repeated.
"""

from __future__ import annotations

import configparser
import fcntl
import hashlib
import http.client
import os
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
STAMP = VENV / "installed.txt"
LOG = VENV / "install.log"

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CPU_INDEX_TIMEOUT_S = 3.0
# Sizes of a finished environment, with room for pip's unpacking: about 4 GB and 9 GB.
NEEDED_DISK_GB = {"cpu": 6, "gpu": 14}


class BootstrapError(Exception):
    """Something the person at the keyboard must change; the message says what."""


# Without an environment these make one: a fresh machine is asked what fits it, and what is missing.
MAY_BEGIN = {
    *("exec", "check", "render", "install", "sample-config"),
    *("plan", "download", "doctor"),
}


def gpu_answers() -> bool:
    """Whether an NVIDIA driver with at least one card answers on this machine."""
    if (nvidia_smi := shutil.which("nvidia-smi")) is None:
        return False
    try:
        listed = subprocess.run(
            [nvidia_smi, "-L"], capture_output=True, text=True, timeout=15, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU " in listed.stdout


def wanted_extras(command: str) -> list[str]:
    """``cpu`` or ``gpu`` by what answers, and ``test`` for ``launch test``.

    What an earlier run installed stays: ``up`` after ``test`` must not look like a change, and a
    finished environment is not doubted (asking the driver takes a second on some machines).
    """
    extras = set(installed_extras()) or {"gpu" if gpu_answers() else "cpu"}
    if command == "test":
        extras.add("test")
    return sorted(extras)


def installed_extras() -> list[str]:
    """The extras that the stamp file names, none before the first installation."""
    try:
        return STAMP.read_text().splitlines()[1].split(",")
    except (OSError, IndexError):
        return []


def fingerprint(extras: list[str]) -> str:
    """Content of the stamp file: a hash of what decides the packages, and the extras."""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    # The tools' settings in the same file decide nothing about packages.
    deciding = [name for name in settings.sections() if name.startswith("options")]
    content = [(name, sorted(settings[name].items())) for name in deciding]
    repairs = (ROOT / "launcher" / "wheels.py").read_text(encoding="utf-8")
    digest = hashlib.sha256(repr((str(ROOT), content, repairs)).encode())
    return f"{digest.hexdigest()}\n{','.join(extras)}\n"


def is_current(extras: list[str]) -> bool:
    """Whether nothing needs installing."""
    python = VENV / "bin" / "python"
    return python.exists() and STAMP.is_file() and STAMP.read_text() == fingerprint(extras)


def is_usable() -> bool:
    """Whether the launcher can run: pip writes the console script last."""
    return (VENV / "bin" / "step3vl").exists() and (VENV / "bin" / "python").exists()


def may_install(command: str) -> bool:
    """Only commands that begin something change an environment.

    ``status`` and ``down`` must work without a network, and so must a restart by supervisord.

    Raises:
        BootstrapError: there is no environment, and this command has no use for a new one.
    """
    if command in {"up", "test"}:
        return True
    if is_usable():
        return False
    if command in MAY_BEGIN:
        return True
    raise BootstrapError(
        "nothing is installed here yet; `./launcher/launch up` installs and starts everything"
    )


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@contextmanager
def only_one() -> Iterator[int]:
    """Wait while another bootstrap of this checkout works; the lock goes with its processes."""
    with (ROOT / "setup.cfg").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("launch: another installation of this checkout is running; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def require_disk(extras: list[str]) -> None:
    """Refuse early what would fail late with a half-written environment."""
    needed = NEEDED_DISK_GB["gpu" if "gpu" in extras else "cpu"]
    free = shutil.disk_usage(ROOT).free / 1e9
    if not is_usable() and free < needed:
        raise BootstrapError(
            f"{ROOT} has {free:.1f} GB free and the packages need {needed} GB;"
            " free some space or clone onto a larger disk"
        )


def python_works() -> bool:
    """Whether .venv holds an interpreter with pip, and was made here.

    An interrupted ``venv`` leaves less; in a checkout that was moved every script is broken.
    """
    python, made_by = VENV / "bin" / "python", VENV / "pyvenv.cfg"
    if not python.exists() or not made_by.exists() or str(VENV) not in made_by.read_text():
        return False
    pip = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False)
    return pip.returncode == 0


def make_venv() -> None:
    """Create .venv afresh."""
    made = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", VENV], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        output = (made.stdout + made.stderr).strip()
        if "ensurepip" in output:
            version = f"{sys.version_info[0]}.{sys.version_info[1]}"
            raise BootstrapError(
                f"this Python cannot make a virtual environment; on Debian and Ubuntu:"
                f" apt-get install python{version}-venv"
            )
        last = output.splitlines()[-1] if output else f"exit {made.returncode}"
        raise BootstrapError(f"python -m venv failed: {last}")


def index_arguments(extras: list[str]) -> list[str]:
    """pip's arguments for PyTorch's CPU builds, where that index can be reached.

    Asked once with a short limit, because pip itself would retry an unreachable index for minutes.
    """
    if "cpu" not in extras:
        return []
    try:
        with urllib.request.urlopen(f"{CPU_INDEX}/torch/", timeout=CPU_INDEX_TIMEOUT_S):
            return ["--extra-index-url", CPU_INDEX]
    except (OSError, http.client.HTTPException, ValueError):
        say("  PyTorch's CPU index does not answer; using the configured package index alone")
        return []


def shortened(line: str) -> str | None:
    """What of a line of pip's output is worth a line of ours."""
    words = line.split()
    if line.startswith("Collecting ") and len(words) > 1:
        return f"looking up {words[1]}"
    if line.startswith("Downloading ") and len(words) > 1:
        return f"downloading {' '.join(words[1:]).rsplit('/', 1)[-1]}"
    if line.startswith(("Installing collected", "Building ")):
        return "unpacking; this takes a minute"
    return None


def pip_install(extras: list[str], lock: int) -> None:
    """Install this checkout and what it needs, with one moving line of progress.

    pip holds the lock too: where only this process is killed, no second pip may begin.
    """
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["--no-input", "--progress-bar=off", *index_arguments(extras)]
    command += ["--editable", f"{ROOT}[{','.join(extras)}]"]
    progress, tail = InstallProgress(), deque[str](maxlen=200)
    with (
        LOG.open("w") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            pass_fds=(lock,),
        ) as pip,
    ):
        assert pip.stdout is not None  # noqa: S101  (a pipe was asked for)
        with progress:
            for raw in pip.stdout:
                log.write(raw)
                tail.append(raw.strip())
                progress.take(raw.strip())
    if pip.returncode != 0:
        errors = [line for line in tail if line.startswith(("ERROR", "error:"))]
        reason = errors[-1] if errors else f"pip ended with status {pip.returncode}"
        raise BootstrapError(
            f"the packages could not be installed: {reason} (all of it: {LOG});"
            " run the same command again to continue"
        )


def repair_wheels() -> None:
    """Mend what pip could not know to be broken; see launcher/wheels.py."""
    command = [str(VENV / "bin" / "python"), "-P", "-m", "launcher.wheels"]
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        raise BootstrapError("the installed packages could not be checked; run the command again")


class InstallProgress:
    """One line with running seconds on a terminal; elsewhere a line now and then."""

    QUIET_LINES = 25
    QUIET_SECONDS = 20.0

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._news = "asking the package index"
        self._lines = 0
        self._shown = 0.0
        self._over = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> None:
        self._ticker.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._ticker.join()
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def take(self, line: str) -> None:
        """A line of pip's output."""
        if (news := shortened(line)) is not None:
            self._news = news
            self._lines += 1
            if not sys.stderr.isatty() and self._lines % self.QUIET_LINES == 1:
                self._show()

    def _tick(self) -> None:
        while not self._over.wait(1.0):
            quiet_for = time.monotonic() - self._shown
            if sys.stderr.isatty() or quiet_for > self.QUIET_SECONDS:
                self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        line = f"  {int(self._shown - self._started):4d} s  {self._news}"
        if sys.stderr.isatty():
            columns = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{line[:columns]}", end="", file=sys.stderr, flush=True)
        else:
            say(line)


def install(extras: list[str]) -> None:
    """Bring .venv to what ``extras`` ask for."""
    with only_one() as lock:
        if is_current(extras):  # the process we waited for has done it
            return
        require_disk(extras)
        say(f"launch: installing into {VENV} ({', '.join(extras)}); the first time takes minutes")
        if not python_works():
            make_venv()
        # Unfinished from here on, but which extras were wanted stays known.
        STAMP.write_text(f"unfinished\n{','.join(extras)}\n")
        pip_install(extras, lock)
        repair_wheels()
        STAMP.write_text(fingerprint(extras))
        say("launch: installed")


def main(arguments: list[str]) -> NoReturn:
    try:
        command = arguments[0] if arguments else ""
        extras = wanted_extras(command)
        if may_install(command) and not is_current(extras):
            install(extras)
    except (BootstrapError, OSError) as error:
        say(f"launch: {error}")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        say("\nlaunch: interrupted; the same command continues where this one stopped")
        raise SystemExit(130) from None
    python = str(VENV / "bin" / "python")
    os.execv(python, [python, "-P", "-m", "launcher", *arguments])  # noqa: S606  (same terminal)


if __name__ == "__main__":
    main(sys.argv[1:])
