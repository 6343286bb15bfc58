"""launcher.render: files that supervisord reads back as exactly what was meant."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from supervisor.datatypes import RestartWhenExitUnexpected
from supervisor.options import ClientOptions, ServerOptions

from launcher.config import DeployConfig, LogsConfig
from launcher.engine import EX_CONFIG
from launcher.errors import ConfigError, LauncherError
from launcher.paths import ROOT, Paths
from launcher.programs import ENGINE, WEBUI, Program, programs_for
from launcher.render import (
    RenderedFile,
    ini_command,
    ini_path,
    render_programs,
    render_supervisord,
    write_if_changed,
)

MIB = 1024 * 1024


def config_of(**sections: Any) -> DeployConfig:
    return DeployConfig.model_validate({"model": {"folder": "checkpoint"}, **sections})


def programs_of(config: DeployConfig, paths: Paths) -> list[Program]:
    return programs_for(config, Path("/srv/deploy.yaml"), paths)


def rendered(config: DeployConfig, paths: Paths) -> RenderedFile:
    [file] = render_supervisord(programs_of(config, paths), paths, config.logs)
    return file


def read_by_supervisord(file: RenderedFile) -> ServerOptions:
    """Write the file and let supervisord's own parser read it; fails where supervisord would."""
    write_if_changed(file)
    options = ServerOptions()
    options.realize(args=["-c", str(file.path)])
    return options


def processes_of(options: ServerOptions) -> dict[str, Any]:
    """Each program as supervisord would run it."""
    return {group.name: group.process_configs[0] for group in options.process_group_configs}


def test_supervisord_reads_back_the_programs(paths: Paths) -> None:
    """Command, times and priority of each program arrive as they were meant."""
    config = config_of(engine={"stop_timeout_s": 42}, webui={"stop_timeout_s": 7})
    found = processes_of(read_by_supervisord(rendered(config, paths)))
    expected = {p.name: p for p in programs_of(config, paths)}
    assert set(expected) == set(found)
    for name, program in expected.items():
        process = found[name]
        assert program.command == tuple(shlex.split(process.command))
        assert program.priority == process.priority
        assert program.startsecs == process.startsecs
        assert program.startretries == process.startretries
        assert program.stopwaitsecs == process.stopwaitsecs
        assert {"STEP3VL_FINGERPRINT": program.fingerprint} == process.environment


@pytest.mark.parametrize("name", [ENGINE, WEBUI])
def test_supervisord_keeps_and_ends_a_program_as_meant(name: str, paths: Paths) -> None:
    """Started at once, restarted where that can help, ended by SIGTERM and with all its group."""
    process = processes_of(read_by_supervisord(rendered(config_of(), paths)))[name]
    assert process.autostart is True
    assert RestartWhenExitUnexpected is process.autorestart
    # An exit of 0 that supervisord has not asked for is somebody's kill.
    assert process.exitcodes == [ConfigError.exit_code, EX_CONFIG]
    assert process.stopsignal == signal.SIGTERM
    assert (process.killasgroup, process.stopasgroup) == (True, False)


def test_a_programs_output_goes_to_one_rotated_log(paths: Paths) -> None:
    """Standard error joins standard output; size and number come from the YAML."""
    config = config_of(logs={"max_mb": 3, "backups": 0})
    for name, process in processes_of(read_by_supervisord(rendered(config, paths))).items():
        assert process.redirect_stderr is True
        assert str(paths.log_of(name)) == process.stdout_logfile
        assert process.stdout_logfile_maxbytes == 3 * MIB
        assert process.stdout_logfile_backups == 0


def test_supervisord_reads_back_its_own_settings(paths: Paths) -> None:
    """Its files are ours, and what it writes is for this user only."""
    options = read_by_supervisord(rendered(config_of(logs={"max_mb": 3, "backups": 2}), paths))
    section = options.configroot.supervisord
    assert (str(paths.pidfile), 0o077) == (options.pidfile, section.umask)
    assert str(paths.log_of("supervisord")) == options.logfile
    assert (section.logfile_maxbytes, section.logfile_backups) == (3 * MIB, 2)
    assert section.identifier == "step3vl"
    assert options.parse_warnings == []


def test_supervisord_is_controlled_through_a_private_socket_only(paths: Paths) -> None:
    """There is one server, a socket file with mode 0700, and nothing on the network."""
    options = read_by_supervisord(rendered(config_of(), paths))
    [server] = options.configroot.supervisord.server_configs
    assert (str(paths.socket), 0o700) == (server["file"], server["chmod"])


def test_supervisorctl_finds_the_same_socket(paths: Paths) -> None:
    """The client's section of the file names the server's socket."""
    file = rendered(config_of(), paths)
    write_if_changed(file)
    options = ClientOptions()
    options.realize(args=["-c", str(file.path)])
    assert f"unix://{paths.socket}" == options.serverurl


def test_a_plain_ini_parser_reads_the_file_too(paths: Paths) -> None:
    """No section and no key is written twice, and there are no others than these."""
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.read_string(rendered(config_of(), paths).content)
    expected = {
        "unix_http_server",
        "supervisord",
        "rpcinterface:supervisor",
        "supervisorctl",
        f"program:{WEBUI}",
        f"program:{ENGINE}",
    }
    assert expected == set(parser.sections())
    assert {"program:webui", "program:vllm"} == {
        name for name in parser.sections() if parser.has_option(name, "command")
    }


@pytest.mark.parametrize(("uid", "expected"), [(0, "root"), (1000, None)])
def test_root_is_named_only_where_root_runs_it(
    uid: int, expected: str | None, paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For root the file says so, which supervisord asks for; others leave it out."""
    monkeypatch.setattr(os, "getuid", lambda: uid)
    parser = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";", "#"))
    parser.read_string(rendered(config_of(), paths).content)
    assert expected == parser.get("supervisord", "user", fallback=None)


def test_programs_alone_have_no_settings_of_supervisord(paths: Paths) -> None:
    """For another supervisord's include folder only the programs are written."""
    config = config_of()
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_string(render_programs(programs_of(config, paths), paths, config.logs))
    assert {f"program:{WEBUI}", f"program:{ENGINE}"} == set(parser.sections())


@pytest.mark.parametrize(("user", "expected"), [(None, None), ("someone", "someone")])
def test_each_program_runs_as_the_user_who_is_named(
    user: str | None, expected: str | None, paths: Paths
) -> None:
    """Both programs have the line, or neither; nothing else of them changes."""
    config = config_of()
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.read_string(render_programs(programs_of(config, paths), paths, config.logs, user=user))
    sections = [dict(parser[f"program:{name}"]) for name in (WEBUI, ENGINE)]
    assert [expected] * 2 == [section.pop("user", None) for section in sections]
    plain = configparser.ConfigParser(interpolation=None)
    plain.read_string(render_programs(programs_of(config, paths), paths, config.logs))
    assert [dict(plain[f"program:{name}"]) for name in (WEBUI, ENGINE)] == sections


def test_supervisord_works_in_the_checkout(paths: Paths) -> None:
    """Not in the folder in which somebody happened to type `launch up`."""
    section = read_by_supervisord(rendered(config_of(), paths)).configroot.supervisord
    assert str(ROOT) == section.directory


# Names of folders as people have them and as nobody should; no control characters.
ODD_NAMES = st.text(
    st.sampled_from(" '\"\\$;#=~,:[](){}!&|<>*?%-_aé演示😀\u00a0\u2028\x85")
    | st.characters(codec="utf-8", exclude_characters="/", exclude_categories=["Cc", "Cs"]),
    min_size=1,
    max_size=12,
).filter(lambda name: name not in {".", ".."})


def rendered_or_rejected(programs: Sequence[Program], paths: Paths) -> RenderedFile:
    """The file; an example whose path is refused, in the words for that, ends here."""
    try:
        [file] = render_supervisord(programs, paths, LogsConfig())
    except LauncherError as error:
        assume("move the checkout to a plainer folder" not in str(error))
        raise
    return file


def with_checkout(programs: Sequence[Program], checkout: Path) -> list[Program]:
    """The programs of a checkout that lies elsewhere."""
    return [replace(p, command=(str(checkout / p.name), *p.command[1:])) for p in programs]


@settings(deadline=None, max_examples=60)
@given(name=ODD_NAMES)
def test_a_command_survives_any_checkout_path(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Spaces, quotes, %, $ and other scripts in a path: supervisord splits the same command."""
    base = tmp_path_factory.mktemp("plain")
    paths = Paths(base / "etc", base / "run")
    paths.make_private_folders()
    programs = with_checkout(programs_of(config_of(), paths), Path("/srv") / name)
    found = processes_of(read_by_supervisord(rendered_or_rejected(programs, paths)))
    expected = {p.name: p.command for p in programs}
    assert expected == {n: tuple(shlex.split(p.command)) for n, p in found.items()}


@settings(deadline=None, max_examples=60)
@given(name=ODD_NAMES.filter(lambda name: "%" not in name))
def test_our_files_are_found_below_any_path(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Logs, pid file and socket lie where they were meant, whatever the folder is called."""
    base = tmp_path_factory.mktemp("odd") / name
    paths = Paths(base / "etc", base / "run")
    file = rendered_or_rejected(programs_of(config_of(), paths), paths)
    paths.logs.mkdir(parents=True)
    options = read_by_supervisord(file)
    [server] = options.configroot.supervisord.server_configs
    logs = {n: p.stdout_logfile for n, p in processes_of(options).items()}
    assert {n: str(paths.log_of(n)) for n in (WEBUI, ENGINE)} == logs
    assert (str(paths.pidfile), str(paths.socket)) == (options.pidfile, server["file"])
    assert str(paths.log_of("supervisord")) == options.logfile


@pytest.mark.parametrize(
    "path", ["/a ;b", "/a #b", "/a\t;b", "/a\nb", "/a\rb", "/a\x00b", "/a\x1bb", "/a ", "/a\u2028"]
)
def test_a_path_that_supervisord_cannot_read_is_refused(path: str) -> None:
    """Comments, line ends and trailing blanks would be lost; the message says what to do."""
    with pytest.raises(LauncherError) as caught:
        ini_path(Path(path))
    assert str(caught.value).startswith(f"{path!r}: supervisord cannot read a path")
    assert str(caught.value).endswith("move the checkout to a plainer folder")


@pytest.mark.parametrize(
    "path", ["/a b", "/a;b", "/a#b", "/it's", '/a"b', "/演示", "/a=b", "/$HOME"]
)
def test_a_path_that_supervisord_can_read_is_left_as_it_is(path: str) -> None:
    """Only what ini files cannot hold is refused."""
    assert path == ini_path(Path(path))


def test_a_refused_path_is_refused_in_a_command_too() -> None:
    """Quoting does not help against comments."""
    with pytest.raises(LauncherError, match="plainer folder"):
        ini_command(["/srv/a #b/python", "-m", "launcher"])


MARK = "Zq7-"
ODD_VALUES = st.text(
    st.sampled_from("\n\r\t %;#[]=\"'$\\{}")
    | st.characters(exclude_characters="\0", exclude_categories=["Cs"]),
    max_size=20,
).map(lambda text: f"{MARK}{text}")


def without_fingerprints(text: str) -> str:
    return re.sub(r'STEP3VL_FINGERPRINT="[0-9a-f]{16}"', "", text)


@settings(deadline=None, max_examples=60)
@given(text=ODD_VALUES, names=st.lists(st.from_regex(r"Zq7-[\w.:/-]+", fullmatch=True), min_size=1))
def test_no_text_of_the_yaml_reaches_the_ini_file(text: str, names: list[str]) -> None:
    """Whatever words the YAML holds, the file differs in the fingerprints alone."""
    paths = Paths(Path("/srv/etc"), Path("/srv/run"))
    config = config_of(
        model={"folder": text, "names": names, "notice": text},
        engine={
            "options": {"x": text, "y": [text], "z": {text: text}},
            "environment": {"NAME": text},
            "command": [text],
        },
        webui={"host": text},
    )
    content = rendered(config, paths).content
    assert MARK not in content
    plain = rendered(config_of(), paths).content
    assert without_fingerprints(plain) == without_fingerprints(content)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_file_is_written_once(tmp_path: Path) -> None:
    """The second time there is nothing to do and the file is not touched."""
    file = RenderedFile(tmp_path / "deep" / "er" / "a.conf", "text é\n")
    assert write_if_changed(file) is True
    before = file.path.stat()
    assert write_if_changed(file) is False
    assert (before.st_ino, before.st_mtime_ns) == (
        file.path.stat().st_ino,
        file.path.stat().st_mtime_ns,
    )
    assert file.path.read_text(encoding="utf-8") == "text é\n"


def test_changed_content_is_written(tmp_path: Path) -> None:
    """A file that says something else is replaced whole."""
    path = tmp_path / "a.conf"
    path.write_text("an older and longer text\n")
    assert write_if_changed(RenderedFile(path, "new\n")) is True
    assert path.read_text() == "new\n"


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755])
def test_permissions_are_as_asked_for(mode: int, tmp_path: Path) -> None:
    """The umask does not change them."""
    file = RenderedFile(tmp_path / "a.conf", "x", mode)
    before = os.umask(0o077)
    try:
        write_if_changed(file)
    finally:
        os.umask(before)
    assert mode == mode_of(file.path)


def test_a_file_is_private_unless_asked_otherwise(tmp_path: Path) -> None:
    """Without a mode nobody else can read it."""
    file = RenderedFile(tmp_path / "a.conf", "x")
    write_if_changed(file)
    assert mode_of(file.path) == 0o600


def test_changed_permissions_are_set_right(tmp_path: Path) -> None:
    """The same text with other permissions counts as changed."""
    file = RenderedFile(tmp_path / "a.conf", "x")
    write_if_changed(file)
    file.path.chmod(0o644)
    assert write_if_changed(file) is True
    assert mode_of(file.path) == 0o600


def test_nothing_temporary_is_left(tmp_path: Path) -> None:
    """After two writes the folder holds the file alone."""
    for content in ("one", "two"):
        write_if_changed(RenderedFile(tmp_path / "a.conf", content))
    assert [path.name for path in tmp_path.iterdir()] == ["a.conf"]


def test_a_write_that_fails_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is replaced in one step or not at all, and the attempt is cleaned up."""
    path = tmp_path / "a.conf"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_if_changed(RenderedFile(path, "new"))
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.conf": "old"}


def test_a_symbolic_link_is_replaced_not_followed(tmp_path: Path) -> None:
    """Writing never changes a file somewhere else."""
    other = tmp_path / "other"
    other.write_text("theirs")
    link = tmp_path / "a.conf"
    link.symlink_to(other)
    write_if_changed(RenderedFile(link, "ours"))
    assert (other.read_text(), link.read_text(), link.is_symlink()) == ("theirs", "ours", False)


def test_log_sizes_are_whole_numbers(paths: Paths) -> None:
    """The default sizes are those of the documentation."""
    section = read_by_supervisord(rendered(config_of(), paths)).configroot.supervisord
    expected = LogsConfig()
    assert (expected.max_mb * MIB, expected.backups) == (
        section.logfile_maxbytes,
        section.logfile_backups,
    )
