"""launcher.paths: where the files of an installation lie."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from launcher.paths import MAX_SOCKET_PATH, ROOT, Paths
from webui.private_socket import API, PAGE


def test_without_a_home_files_lie_in_environment_and_checkout() -> None:
    """supervisorctl looks for <environment>/etc/supervisord.conf by itself."""
    found = Paths.from_environ({})
    assert Path(sys.prefix) / "etc" / "supervisord.conf" == found.supervisord_conf
    assert found.run == ROOT / "run"


def test_a_home_moves_everything(tmp_path: Path) -> None:
    """No file of such an installation lies elsewhere, but for sockets with a short path."""
    found = Paths.from_environ({"STEP3VL_HOME": str(tmp_path)})
    properties = [name for name, kind in vars(Paths).items() if isinstance(kind, property)]
    assert {"supervisord_conf", "socket", "logs"} <= set(properties)
    elsewhere = [n for n in properties if not getattr(found, n).is_relative_to(tmp_path)]
    assert elsewhere in ([], ["ray"])


def test_a_relative_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """supervisord changes its folder; the paths must not change with it."""
    monkeypatch.chdir(tmp_path)
    assert tmp_path / "home" / "run" == Paths.from_environ({"STEP3VL_HOME": "home"}).run


@pytest.mark.parametrize("letter", ["x", "演"])
def test_a_socket_never_has_a_path_too_long_for_one(letter: str) -> None:
    """Up to the limit, counted in bytes, it lies in the run folder, and beyond it in /tmp."""
    for length in range(1, 120):
        paths = Paths(etc=Path("/etc"), run=Path("/") / (letter * length))
        beside = paths.run / "supervisor.sock"
        fits = len(os.fsencode(beside)) <= MAX_SOCKET_PATH
        assert fits == (beside == paths.socket)
        assert len(os.fsencode(paths.socket)) <= MAX_SOCKET_PATH


def test_the_webuis_sockets_fit_where_supervisords_does() -> None:
    """In a folder that is made for this user only; a socket's path has 107 bytes at most."""
    for length in (1, 200):
        paths = Paths(etc=Path("/etc"), run=Path("/") / ("x" * length))
        assert paths.sockets == paths.socket.parent
        for name in (API, PAGE):
            assert len(os.fsencode(paths.sockets / name)) <= MAX_SOCKET_PATH


def test_rays_sockets_never_have_too_long_a_path() -> None:
    """Its sessions lie in the run folder where the path of a socket in them allows it."""
    session = "session_2026-11-28_20-28-06_123456_4194304/sockets/plasma_store"
    for length in range(1, 120):
        paths = Paths(etc=Path("/etc"), run=Path("/") / ("x" * length))
        assert (paths.ray.parent == paths.run) == (length <= 34)
        assert len(os.fsencode(paths.ray / session)) <= 107


def test_two_installations_never_share_a_socket_in_tmp() -> None:
    """The folder in /tmp is made from the whole path, and is the same each time."""
    one, two, same = (Paths(Path("/etc"), Path("/") / (c * 120)) for c in "aba")
    assert Path(tempfile.gettempdir()) == one.socket.parents[1]
    assert one.socket == same.socket
    assert one.socket != two.socket


def test_folders_are_made_for_this_user_only(tmp_path: Path) -> None:
    """Logs and uploads of a shared machine are private, also where the folder was open before."""
    paths = Paths(tmp_path / "etc", tmp_path / "run")
    paths.run.mkdir(mode=0o755)
    paths.make_private_folders()
    for folder in (paths.run, paths.logs, paths.socket.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
    assert paths.etc.is_dir()
