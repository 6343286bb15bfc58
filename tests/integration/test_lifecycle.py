"""The launcher's commands, with a real supervisord, real sockets and the stand-in engine."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from deployments import (
    LAUNCH,
    Deployment,
    answers,
    engine_child,
    get,
    get_quietly,
    own_processes,
    pids,
    states,
    status,
)
from support import ROOT, free_port, wait_for

from launcher.host_checks import gpus
from launcher.selection import default_for


def test_up_ends_with_both_urls_and_everything_running(deployment: Deployment) -> None:
    """One command; then page and API answer and supervisorctl needs no -c."""
    result = deployment.up()
    assert (result.returncode, result.stderr) == (0, "")
    url = f"http://localhost:{deployment.webui_port}"
    assert f"Page:       {url}\n" in result.stdout
    assert f"OpenAI API: {url}/api/v1\n" in result.stdout
    wait_for(lambda: states(deployment) == {"vllm": "RUNNING", "webui": "RUNNING"}, 10, "RUNNING")
    assert get(f"{deployment.url}/api/v1/models")[2]["data"][0]["id"] == "one"


def test_second_up_changes_nothing(running: Deployment) -> None:
    """``up`` on a running service restarts nothing and says where it is."""
    before = pids(running)
    result = running.up()
    assert result.returncode == 0
    assert "Page:" in result.stdout
    assert pids(running) == before


def test_up_without_config_keeps_the_one_in_use(running: Deployment) -> None:
    """The YAML that was named once stays in use, whatever fits this machine."""
    result = running.launch("up")
    assert result.returncode == 0
    assert f"Configuration: {running.config} (in use" in result.stdout


def test_down_leaves_nothing(running: Deployment) -> None:
    """No process, no socket and no port is left, and a second down says so."""
    result = running.launch("down")
    assert (result.returncode, result.stdout) == (0, "Stopped.\n")
    assert own_processes(running) == []
    assert not (running.home / "run" / "supervisor.sock").exists()
    assert not answers(f"{running.url}/livez")
    assert running.launch("down").stdout == "Nothing is running.\n"


def test_the_articles_commands(running: Deployment) -> None:
    """stop, start and restart of webui, typed as the article types them."""
    assert running.ctl("stop", "webui").stdout == "webui: stopped\n"
    assert not answers(f"{running.url}/livez")
    assert running.ctl("start", "webui").stdout == "webui: started\n"
    assert get(f"{running.url}/readyz")[0] == 200
    assert "webui: started\n" in running.ctl("restart", "webui").stdout
    assert get(f"{running.url}/readyz")[0] == 200


@pytest.mark.fault(28, "nothing of the old engine is left when the new one starts")
def test_restart_of_the_engine_brings_another_one(running: Deployment) -> None:
    """``supervisorctl restart vllm`` ends the old engine before the new one starts."""
    old = engine_child(running)
    assert "vllm: started\n" in running.ctl("restart", "vllm").stdout
    assert not old.is_running()
    wait_for(lambda: get(f"{running.url}/readyz")[0] == 200, 10, "ready again")


def test_launch_restart_waits_until_it_serves(running: Deployment) -> None:
    """``launch restart`` returns when the service answers again."""
    old = pids(running)
    result = running.launch("restart", "vllm")
    assert result.returncode == 0, result.stderr
    assert get(f"{running.url}/readyz")[0] == 200
    new = pids(running)
    assert new["vllm"] != old["vllm"]
    assert new["webui"] == old["webui"]


@pytest.mark.fault(37, "503 with Retry-After while it loads")
def test_page_and_api_answer_while_the_engine_loads(deployment: Deployment) -> None:
    """From the first seconds on: who asks is told how far the load is, in the same words."""
    deployment.script(load_s=12)
    assert deployment.up("--detach").returncode == 0
    wait_for(lambda: answers(f"{deployment.url}/livez"), 10, "the WebUI answers")
    assert get(f"{deployment.url}/readyz")[0] == 503

    def part_one_of_two() -> bool:
        return "part 1 of 2" in get(f"{deployment.url}/readyz")[2].get("message", "")

    wait_for(part_one_of_two, 12, "the load is seen")
    code, headers, body = get(f"{deployment.url}/api/v1/models")
    assert (code, int(headers["retry-after"]) > 0) == (503, True)
    assert body["error"]["code"] == "engine_unavailable"
    assert "loading the model: part 1 of 2" in body["error"]["message"]
    assert status(deployment)["programs"]["vllm"]["message"] == "loading the model: part 1 of 2"
    assert deployment.launch("status").returncode == 1
    wait_for(lambda: get(f"{deployment.url}/readyz")[0] == 200, 20, "ready in the end")
    wait_for(lambda: deployment.launch("status").returncode == 0, 5, "status says so too")


@pytest.mark.fault(30, "three starts at most, then FATAL with the last cause")
def test_failed_start_prints_cause_and_log_line(deployment: Deployment) -> None:
    """A known failure becomes its cause with the fix, at once, without a traceback."""
    line = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB"
    deployment.script(exit_code=1, last_words=["Traceback (most recent call last):", line])
    result = deployment.up()
    assert result.returncode == 1
    assert "vllm failed: out of GPU memory: lower gpu-memory-utilization" in result.stderr
    assert line in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    # The YAML that failed stays in use, so the way back to another is told.
    fits = default_for(gpus()).path
    assert f"`launch down` and `launch up --config {fits}`" in result.stderr
    wait_for(lambda: states(deployment)["vllm"] == "FATAL", 90, "FATAL")


def test_up_after_a_failed_start_works(deployment: Deployment) -> None:
    """Nothing of a failed start stands in the way of the next one."""
    deployment.script(exit_code=1)
    assert deployment.up().returncode == 1
    deployment.script()
    result = deployment.up()
    assert result.returncode == 0, result.stderr


@pytest.mark.fault(27, "an exit code 0 is no stop: started again")
def test_engine_that_ends_with_0_is_restarted(running: Deployment) -> None:
    """vLLM's exit code 0 after a crash does not count as a stop."""
    deployment, old = running, pids(running)["vllm"]
    deployment.script(exit_after_s=7, exit_code=0)
    assert deployment.up().returncode == 0
    first = pids(deployment)["vllm"]
    assert first != old
    wait_for(lambda: pids(deployment)["vllm"] not in {first, None}, 20, "restarted by supervisord")


@pytest.mark.fault(30, "three starts at most, then FATAL with the last cause")
def test_engine_that_keeps_crashing_becomes_fatal(deployment: Deployment) -> None:
    """After three crashes supervisord shows FATAL and the page says the last cause."""
    deployment.script(
        exit_after_s=5.5, exit_code=1, last_words=["OSError: No space left on device"]
    )
    assert deployment.up().returncode == 0
    wait_for(lambda: states(deployment)["vllm"] == "FATAL", 60, "FATAL")
    message = get(f"{deployment.url}/readyz")[2]["message"]
    assert message.startswith("crashed 3 times, not starting again; the last time: the disk is")
    wait_for(lambda: deployment.ctl("start", "vllm").returncode == 0, 60, "a fresh attempt by hand")


@pytest.mark.fault(28, "nothing of the old engine is left when the new one starts")
def test_stop_ends_an_engine_that_ignores_it_and_its_children(deployment: Deployment) -> None:
    """What does not go in time is killed, and so is what it started in a session of its own."""
    deployment.script(ignore_term=True, leave_child=True)
    deployment.edit("engine", stop_timeout_s=5)
    assert deployment.up().returncode == 0
    below = psutil.Process(pids(deployment)["vllm"]).children(recursive=True)
    assert len(below) == 2
    assert deployment.ctl("stop", "vllm").stdout == "vllm: stopped\n"
    assert [process for process in below if process.is_running()] == []


def test_changed_yaml_restarts_only_what_it_changes(running: Deployment) -> None:
    """An engine option restarts the engine; the WebUI goes on."""
    old = pids(running)
    running.edit("engine", options={"max-num-seqs": 3})
    assert running.up().returncode == 0
    new = pids(running)
    assert new["vllm"] != old["vllm"]
    assert new["webui"] == old["webui"]
    assert "--max-num-seqs=3" in engine_child(running).cmdline()


@pytest.mark.fault(34, "streams end whole or with a typed event, then everything is gone")
def test_sigterm_of_supervisord_ends_everything(running: Deployment) -> None:
    """As when a container is stopped: nothing of ours outlives supervisord."""
    supervisord = psutil.Process(int((running.home / "run" / "supervisord.pid").read_text()))
    supervisord.terminate()
    supervisord.wait(30)
    assert own_processes(running) == []


def test_up_in_the_foreground_is_one_process_that_stops_all(deployment: Deployment) -> None:
    """As in a container or a unit: the process that was started keeps all, and SIGTERM ends it."""
    command = [*LAUNCH, "up", "--foreground", "--config", str(deployment.config)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=deployment.home)
    try:
        wait_for(lambda: get_quietly(f"{deployment.url}/readyz") == 200, 60, "ready")
        assert int((deployment.home / "run" / "supervisord.pid").read_text()) == process.pid
        again = deployment.up("--foreground")
        assert (again.returncode, again.stdout.count("\n")) == (1, 1)
        assert "supervisord runs already; `launch down` first" in again.stderr
    finally:
        process.terminate()
        assert process.wait(30) == 0
    assert own_processes(deployment) == []


def test_start_script_serves_alone_in_the_foreground(running: Deployment) -> None:
    """``start-webui-service.sh --host --port`` needs no supervisord and wins over the YAML."""
    port = free_port()
    command = [ROOT / "start-webui-service.sh", "--host", "127.0.0.1", "--port", str(port)]
    script = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd="/")
    try:
        wait_for(lambda: get_quietly(f"http://127.0.0.1:{port}/readyz") == 200, 15, "served")
    finally:
        script.terminate()
        assert script.wait(15) == 0


def test_port_written_into_the_start_script_wins(running: Deployment, tmp_path: Path) -> None:
    """The article's readers change the port in the script itself."""
    port = free_port()
    text = (ROOT / "start-webui-service.sh").read_text()
    edited = tmp_path / "start-webui-service.sh"
    edited.write_text(text.replace('OPTIONS=""', f'OPTIONS="--port {port}"'))
    edited.chmod(0o755)
    (tmp_path / "launcher").symlink_to(ROOT / "launcher")
    script = subprocess.Popen([edited], stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: get_quietly(f"http://127.0.0.1:{port}/readyz") == 200, 15, "served")
    finally:
        script.terminate()
        assert script.wait(15) == 0


@pytest.mark.fault(26, "only the page listens in public; sockets and files are private")
def test_files_and_sockets_are_private(running: Deployment) -> None:
    """The control socket and the files belong to this user, and only loopback is listened on."""
    run = running.home / "run"
    modes = {
        path: stat.S_IMODE(path.stat().st_mode)
        for path in (run, run / "supervisor.sock", running.home / "etc" / "supervisord.conf")
    }
    assert list(modes.values()) == [0o700, 0o700, 0o600]
    listening = {
        connection.laddr
        for process in own_processes(running)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    expected = {("127.0.0.1", running.webui_port), ("127.0.0.1", running.engine_port)}
    assert {(address.ip, address.port) for address in listening} == expected


def assert_nothing_happened(deployment: Deployment, result: Any, code: int) -> None:
    """A refusal: one message, the right code, no process, no file."""
    assert result.returncode == code, result.stderr
    assert result.stderr.startswith("step3vl: ")
    assert "Traceback" not in result.stderr
    assert own_processes(deployment) == []
    assert sorted(path.name for path in deployment.home.iterdir()) == ["bin", "deploy.yaml"]


@pytest.mark.fault(32, "refused before anything starts, with the file named")
def test_wrong_yaml_is_refused_with_every_mistake(deployment: Deployment) -> None:
    """Each mistake has its line and path; exit code 2."""
    deployment.edit("webui", prot=1, port="x")
    result = deployment.up()
    assert "webui.prot: unknown key; did you mean port?" in result.stderr
    assert "webui.port: write a whole number, not 'x'" in result.stderr
    assert_nothing_happened(deployment, result, 2)


@pytest.mark.fault(32, "refused before anything starts, with the file named")
@pytest.mark.parametrize("content", [None, "engine: [", "\xff"])
def test_unreadable_yaml_is_refused(deployment: Deployment, content: str | None) -> None:
    """A missing, broken or binary file is named; exit code 2."""
    if content is None:
        result = deployment.launch("up", "--config", str(deployment.home / "missing.yaml"))
        assert "missing.yaml: no such file" in result.stderr
    else:
        deployment.config.write_bytes(content.encode("latin-1"))
        result = deployment.up()
        assert str(deployment.config) in result.stderr
    assert_nothing_happened(deployment, result, 2)


@pytest.mark.fault(32, "refused before anything starts, with the file named")
def test_missing_model_folder_is_refused(deployment: Deployment) -> None:
    """A folder that is not there is named before anything starts; exit code 2."""
    deployment.edit("model", folder="/nonexistent/model")
    result = deployment.up()
    assert "/nonexistent/model: no such folder" in result.stderr
    assert_nothing_happened(deployment, result, 2)


@pytest.mark.fault(31, "ends within 5 s and names the holder; no other port is taken")
@pytest.mark.parametrize("which", ["webui", "engine"])
def test_taken_port_names_its_holder(deployment: Deployment, which: str) -> None:
    """Somebody else's port is refused with the process that holds it; exit code 1."""
    port = getattr(deployment, f"{which}_port")
    with socket.create_server(("127.0.0.1", port)):
        result = deployment.up()
    assert f"{which}.port: port {port} is taken by" in result.stderr
    assert f"(process {os.getpid()})" in result.stderr
    assert_nothing_happened(deployment, result, 1)


def test_other_config_while_running_is_refused(running: Deployment, tmp_path: Path) -> None:
    """A second YAML does not overwrite the one that runs; exit code 1."""
    other = tmp_path / "other.yaml"
    other.write_text(running.config.read_text())
    before = (pids(running), (running.home / "etc" / "supervisord.conf").read_text())
    result = running.launch("up", "--config", str(other))
    assert result.returncode == 1
    assert f"already runs with {running.config}; `launch down` first" in result.stderr
    assert (pids(running), (running.home / "etc" / "supervisord.conf").read_text()) == before


def test_check_touches_nothing(deployment: Deployment) -> None:
    """``check`` says that all is well and writes no file."""
    result = deployment.launch("check", "--config", str(deployment.config))
    assert result.returncode == 0, result.stderr
    assert "no mistakes" in result.stdout
    assert sorted(path.name for path in deployment.home.iterdir()) == ["bin", "deploy.yaml"]


def test_render_writes_once(deployment: Deployment, tmp_path: Path) -> None:
    """``render --out`` writes the files, and a second time finds them unchanged."""
    out = tmp_path / "out"
    command = ["render", "--config", str(deployment.config), "--out", str(out)]
    assert deployment.launch(*command).stdout == f"wrote: {out}/supervisord.conf\n"
    assert deployment.launch(*command).stdout == f"unchanged: {out}/supervisord.conf\n"


def test_logs_show_the_end_of_a_log(running: Deployment) -> None:
    """``logs NAME`` prints a program's last lines; an unknown name is refused with the known."""
    assert "Application startup complete." in running.launch("logs", "vllm").stdout
    result = running.launch("logs", "nginx")
    assert (result.returncode, result.stderr) == (
        1,
        "step3vl: no log of 'nginx'; there are: supervisord, vllm, webui\n",
    )


def test_interrupted_up_leaves_the_start_running(deployment: Deployment) -> None:
    """Ctrl-C while it loads: the start goes on, and the message says what to do."""
    deployment.script(load_s=5)
    command = [*LAUNCH, "up", "--config", str(deployment.config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as up:
        wait_for(lambda: answers(f"{deployment.url}/livez"), 30, "started")
        up.send_signal(signal.SIGINT)
        output, _ = up.communicate(timeout=10)
    assert up.returncode == 130
    assert "`launch status` shows it" in output
    wait_for(lambda: get(f"{deployment.url}/readyz")[0] == 200, 15, "ready all the same")


@pytest.mark.fault(32, "refused before anything starts, with the file named")
def test_refused_engine_says_why_everywhere(running: Deployment) -> None:
    """A checkpoint that is gone at a restart: it is told, the path to `status` only."""
    running.edit("model", folder="/nonexistent/model")
    assert "ERROR" in running.ctl("restart", "vllm").stdout
    wait_for(lambda: states(running)["vllm"] == "FATAL", 60, "FATAL")
    told = status(running)["programs"]["vllm"]["message"]
    assert "/nonexistent/model: no such folder" in told
    public = get(f"{running.url}/readyz")[2]["message"]
    assert public == "the engine cannot be started as it is configured; its log says why"
    assert told.startswith(public)


@pytest.mark.fault(34, "streams end whole or with a typed event, then everything is gone")
def test_second_down_waits_for_the_first(deployment: Deployment) -> None:
    """While the engine still drains, nothing is said to be over, and `up` waits its turn."""
    deployment.script(ignore_term=True)
    assert deployment.up().returncode == 0
    supervisord = psutil.Process(int((deployment.home / "run" / "supervisord.pid").read_text()))
    with subprocess.Popen([*LAUNCH, "down"], stdout=subprocess.PIPE, text=True) as first:
        wait_for(lambda: not answers(f"{deployment.url}/livez"), 20, "it has begun to stop")
        assert deployment.launch("status").stdout == "Stopping.\n"
        assert deployment.launch("down").stdout == "Stopped.\n"
        assert first.communicate(timeout=10)[0] == "Stopped.\n"
    assert not supervisord.is_running()
    assert own_processes(deployment) == []


def test_two_ups_at_once_start_one_service(deployment: Deployment) -> None:
    """Both end well, and there is one supervisord."""
    command = [*LAUNCH, "up", "--config", str(deployment.config)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    for process in both:
        process.communicate(timeout=60)
    assert [process.returncode for process in both] == [0, 0]
    found = [p for p in own_processes(deployment) if any("supervisord" in c for c in p.cmdline())]
    assert len(found) == 1


@pytest.mark.fault(26, "only the page listens in public; sockets and files are private")
def test_up_warns_of_a_public_address(deployment: Deployment) -> None:
    """Without keys on an address that others reach, one line says so."""
    deployment.edit("webui", host="0.0.0.0")
    result = deployment.up()
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("\n") == 1
    assert "everyone who reaches port" in result.stderr


@pytest.mark.fault(31, "ends within 5 s and names the holder; no other port is taken")
def test_webui_alone_says_which_program_holds_its_port(running: Deployment) -> None:
    """``exec webui`` on a taken port ends with 78 and names the holder; it does not move on."""
    command = [*LAUNCH, "exec", "webui", "--port", str(running.webui_port)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert result.returncode == 78
    assert f"port {running.webui_port} is taken by" in result.stderr
    assert sys.executable not in result.stderr
