"""launcher.system_install: two marked files for a machine's own supervisord, and away again."""

from __future__ import annotations

import configparser
import os
import pwd
import shlex
import subprocess
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from launcher import system_install
from launcher.errors import ConfigError, LauncherError
from launcher.paths import ROOT, Paths
from launcher.profiles import DEMO
from launcher.programs import ENGINE, WEBUI
from launcher.supervisord import Supervisord
from launcher.system_install import CONF, MARK, SCRIPT, install, uninstall

OWNER = pwd.getpwuid(ROOT.stat().st_uid)
INCLUDING = "[supervisord]\n[include]\nfiles = {conf}\n"


@pytest.fixture
def root(tmp_path: Path, home: Path) -> Path:
    """The file system of another machine; our own files go to ``home``."""
    folder = tmp_path / "machine"
    folder.mkdir()
    return folder


@pytest.fixture
def installed(root: Path) -> Path:
    """The same, with the demo installed."""
    install(DEMO.path, root, dry_run=False)
    return root


def sections_of(root: Path) -> list[configparser.SectionProxy]:
    """What is written for each program."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(root / CONF)
    return [parser[name] for name in (f"program:{WEBUI}", f"program:{ENGINE}")]


def files_below(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()}


def test_installing_writes_two_files_and_the_pointer(root: Path, home: Path) -> None:
    """Nothing else of the machine is touched; `exec` finds the YAML through the pointer."""
    assert install(DEMO.path, root, dry_run=False) == 0
    assert {CONF, SCRIPT} == files_below(root)
    assert {Path("run/config-path")} == files_below(home)
    assert DEMO.path == Paths.from_environ().active_config.read_text()


def test_both_files_are_marked_and_readable_by_all(installed: Path) -> None:
    """The mark is how uninstall knows them; the script can be run."""
    modes = {file: (installed / file).stat().st_mode & 0o777 for file in (CONF, SCRIPT)}
    assert modes == {CONF: 0o644, SCRIPT: 0o755}
    assert all(MARK in (installed / file).read_text() for file in (CONF, SCRIPT))


def test_the_machines_supervisord_reads_the_programs(installed: Path, tmp_path: Path) -> None:
    """Included by another configuration, the file gives our two programs and no settings."""
    main = tmp_path / "supervisord.conf"
    main.write_text(INCLUDING.format(conf=installed / CONF))
    options = ServerOptions()
    options.realize(args=["-c", str(main)])
    assert {WEBUI, ENGINE} == {group.name for group in options.process_group_configs}
    assert options.configroot.supervisord.server_configs == []


def test_the_script_hands_everything_on_to_ours(installed: Path) -> None:
    """It is valid shell and becomes the checkout's own script, with all arguments."""
    script = installed / SCRIPT
    assert subprocess.run(["/bin/sh", "-n", script]).returncode == 0
    last = script.read_text().splitlines()[-1]
    assert ["exec", str(ROOT / "start-webui-service.sh"), "$OPTIONS", "$@"] == shlex.split(last)


def test_installing_again_changes_nothing(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second time no file is written."""
    before = {file: (installed / file).stat().st_mtime_ns for file in (CONF, SCRIPT)}
    capsys.readouterr()
    install(DEMO.path, installed, dry_run=False)
    assert "wrote" not in capsys.readouterr().out
    assert before == {file: (installed / file).stat().st_mtime_ns for file in (CONF, SCRIPT)}


def test_a_script_that_was_edited_is_kept(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever wrote a port into it does not lose it by installing again."""
    script = installed / SCRIPT
    edited = script.read_text().replace('OPTIONS=""', 'OPTIONS="--port 7861"')
    assert edited != script.read_text()
    script.write_text(edited)
    capsys.readouterr()
    install(DEMO.path, installed, dry_run=False)
    assert edited == script.read_text()
    assert f"unchanged: {script}" in capsys.readouterr().out.splitlines()


def test_the_webui_is_started_by_the_installed_script(installed: Path) -> None:
    """The script that the article's readers edit is the one that counts."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(installed / CONF)
    command = parser[f"program:{WEBUI}"]["command"]
    assert shlex.split(command)[-1] == str(installed / SCRIPT)


def test_a_home_of_its_own_goes_along(installed: Path, home: Path) -> None:
    """The machine's supervisord does not know our environment, so the commands carry the homes."""
    expected = ["/usr/bin/env", f"HOME={OWNER.pw_dir}", f"STEP3VL_HOME={home}"]
    for section in sections_of(installed):
        assert expected == shlex.split(section["command"])[:3]


def test_without_a_home_of_its_own_the_owners_goes_along(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """supervisord changes the user, but not HOME, and caches are kept there."""
    monkeypatch.delenv("STEP3VL_HOME")
    monkeypatch.setattr(Paths, "from_environ", lambda *_: Paths(tmp_path / "etc", tmp_path / "run"))
    install(DEMO.path, root, dry_run=False)
    for section in sections_of(root):
        env, home, program = shlex.split(section["command"])[:3]
        assert (env, home) == ("/usr/bin/env", f"HOME={OWNER.pw_dir}")
        assert "=" not in program


def test_the_programs_run_as_the_owner_of_the_checkout(installed: Path) -> None:
    """What another user may change must not run as root."""
    sections = sections_of(installed)
    assert [OWNER.pw_name] * 2 == [section["user"] for section in sections]


@pytest.mark.parametrize(("uid", "expected"), [(0, True), (1000, False)])
def test_what_root_made_is_handed_to_the_owner(
    uid: int, expected: bool, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The programs write there; who is not root made it for himself."""
    paths.active_config.write_text("x")
    given: set[tuple[Path, int, int]] = set()
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(
        os, "chown", lambda *call, follow_symlinks: follow_symlinks or given.add(call)
    )
    system_install._hand_over(paths)
    everything = (paths.run, paths.logs, paths.active_config, paths.etc)
    handed = {(path, OWNER.pw_uid, OWNER.pw_gid) for path in everything}
    assert (handed if expected else set()) == given


def test_a_dry_run_prints_and_writes_nothing(
    root: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each file is shown with its path, permissions and content."""
    assert install(DEMO.path, root, dry_run=True) == 0
    assert set() == files_below(root)
    assert not home.exists()
    printed = capsys.readouterr().out
    assert f"--- {root / CONF} (mode 644)\n; {MARK}\n[program:{WEBUI}]" in printed
    assert f"--- {root / SCRIPT} (mode 755)\n#!/bin/sh\n# {MARK}\n" in printed


def test_uninstalling_removes_exactly_the_two_files(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of others beside them stay."""
    others = {CONF.with_name("other.conf"), SCRIPT.with_name("other.sh")}
    for other in others:
        (installed / other).write_text("theirs")
    capsys.readouterr()
    assert uninstall(installed, dry_run=False) == 0
    assert others == files_below(installed)
    expected = [f"removed: {installed / CONF}", f"removed: {installed / SCRIPT}"]
    assert expected == capsys.readouterr().out.splitlines()[:2]


def test_uninstalling_twice_is_no_error(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second time both files are said to be absent."""
    uninstall(installed, dry_run=False)
    capsys.readouterr()
    assert uninstall(installed, dry_run=False) == 0
    expected = [f"absent: {installed / CONF}", f"absent: {installed / SCRIPT}"]
    assert expected == capsys.readouterr().out.splitlines()[:2]


def test_a_dry_uninstall_removes_nothing(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It only says what it would remove."""
    capsys.readouterr()
    assert uninstall(installed, dry_run=True) == 0
    assert {CONF, SCRIPT} == files_below(installed)
    expected = [f"would remove: {installed / CONF}", f"would remove: {installed / SCRIPT}"]
    assert expected == capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("file", [CONF, SCRIPT])
def test_a_file_of_somebody_else_is_not_overwritten(file: Path, root: Path, home: Path) -> None:
    """Installing stops before anything is written."""
    foreign = root / file
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b"theirs \xff")
    with pytest.raises(LauncherError) as caught:
        install(DEMO.path, root, dry_run=False)
    assert f"{foreign} exists and is not ours; move it away first" == str(caught.value)
    assert {file} == files_below(root)
    assert foreign.read_bytes() == b"theirs \xff"
    assert not home.exists()


@pytest.mark.parametrize("file", [CONF, SCRIPT])
def test_a_file_of_somebody_else_is_not_removed(
    file: Path, installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file whose mark is gone was made somebody's own; the other one is removed."""
    (installed / file).write_text("theirs")
    capsys.readouterr()
    uninstall(installed, dry_run=False)
    assert {file} == files_below(installed)
    assert f"kept, not ours: {installed / file}" in capsys.readouterr().out.splitlines()


def test_beside_our_own_running_supervisord_nothing_is_installed(
    root: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two supervisords would start everything twice."""
    monkeypatch.setattr(Supervisord, "is_running", lambda _: True)
    with pytest.raises(LauncherError, match="our own supervisord runs; `launch down` first"):
        install(DEMO.path, root, dry_run=False)
    monkeypatch.undo()
    assert set() == files_below(root)
    assert not home.exists()


def test_a_wrong_configuration_is_not_installed(root: Path, tmp_path: Path) -> None:
    """Mistakes are found now, not at the next boot."""
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("model: {folder: nowhere}\n")
    with pytest.raises(ConfigError, match="no such folder"):
        install(str(wrong), root, dry_run=False)
    assert set() == files_below(root)


@pytest.mark.parametrize(("folder", "refused"), [("/", True), ("/srv/image", False)])
def test_only_the_real_root_needs_root(
    folder: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into a folder anybody can install; /etc needs sudo, and the message says so."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = None
    try:
        system_install._require_root(Path(folder))
    except LauncherError as error:
        found = str(error)
    expected = "writing to /etc and /usr/local needs root: repeat it with sudo"
    assert (expected if refused else None) == found
