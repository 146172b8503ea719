"""The launch runner with real processes: signals, required and respawned processes, output, and no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vla_ros.embedded.launch import Launcher, OutputLine, parse
from vla_ros.embedded.launch.launcher import ProcessResult

READY = "print('ready', flush=True)"
FOR_EVER = "import time\nwhile True: time.sleep(0.1)\n"
STUBBORN = (
    f"import signal\nfor number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)\n{READY}\n{FOR_EVER}"
)
COUNTS_SIGINTS = f"""
import signal, sys, time
seen = []
signal.signal(signal.SIGINT, lambda *_: seen.append(1))
{READY}
while not seen: time.sleep(0.01)
time.sleep(0.4)
print('sigints', len(seen), flush=True)
"""


def wait_for(condition: Callable[[], bool], what: str, patience: float = 10.0) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"waited {patience} s for: {what}"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


class Lines:
    """Collects what a launcher emits."""

    def __init__(self) -> None:
        self.all: list[OutputLine] = []
        self._lock = threading.Lock()

    def __call__(self, line: OutputLine) -> None:
        with self._lock:
            self.all.append(line)

    def of(self, process: str) -> list[str]:
        with self._lock:
            return [line.line for line in self.all if line.process == process]

    def count(self, text: str) -> int:
        with self._lock:
            return sum(line.line == text for line in self.all)


def launch_file(folder: Path, **scripts: tuple[str, str]) -> Path:
    """A launch file with one Python process per keyword: its source and further YAML keys."""
    text = "launch:\n"
    for name, (source, keys) in scripts.items():
        script = folder / f"{name}.py"
        script.write_text(textwrap.dedent(source))
        text += f'- executable: {{cmd: \'"{sys.executable}" "{script}"\', name: {name}, output: screen{keys}}}\n'
    file = folder / "x.launch.yaml"
    file.write_text(text)
    return file


def results(launcher: Launcher) -> dict[str, ProcessResult]:
    return {result.name: result for result in launcher.poll()}


def test_everybody_gets_one_sigint_and_ends_cleanly(tmp_path: Path) -> None:
    lines = Lines()
    file = launch_file(tmp_path, a=(COUNTS_SIGINTS, ""), b=(f"{READY}\n{FOR_EVER}", ""))
    with Launcher(parse(file), lines) as launcher:
        wait_for(lambda: lines.count("ready") == 2, "both processes")
        pids = launcher.pids()
        assert set(pids) == {"a-1", "b-2"}
        assert all(alive(pid) for pid in pids.values())
    assert lines.of("a-1") == ["ready", "sigints 1"]
    assert not any(alive(pid) for pid in pids.values())
    ended = results(launcher)
    assert (ended["a-1"].exit_code, ended["b-2"].exit_code) == (0, -signal.SIGINT)
    assert all(result.asked and not result.failed for result in ended.values())
    assert not launcher.failed


def test_stubborn_process_is_killed_and_counts_as_failed(tmp_path: Path) -> None:
    lines = Lines()
    with Launcher(parse(launch_file(tmp_path, s=(STUBBORN, ""))), lines, grace=0.3) as launcher:
        wait_for(lambda: lines.count("ready") == 1, "the process")
        begin = time.monotonic()
        launcher.shutdown("test")
        took = time.monotonic() - begin
    result = results(launcher)["s-1"]
    assert result.exit_code == -signal.SIGKILL
    assert result.killed
    assert launcher.failed
    assert 0.6 <= took < 2.0
    assert [line.split("sending ")[1] for line in lines.of("launch") if "sending" in line] == ["SIGTERM", "SIGKILL"]


def test_second_request_goes_on_without_waiting(tmp_path: Path) -> None:
    lines = Lines()
    with Launcher(parse(launch_file(tmp_path, s=(STUBBORN, ""))), lines, grace=60.0) as launcher:
        wait_for(lambda: lines.count("ready") == 1, "the process")
        for _ in range(3):
            launcher.request_shutdown("test")
        assert launcher.wait(timeout=5.0)
    assert results(launcher)["s-1"].exit_code == -signal.SIGKILL


def test_death_of_a_required_process_ends_the_launch(tmp_path: Path) -> None:
    dies = "import sys, time\ntime.sleep(0.3)\nsys.exit(3)\n"
    file = launch_file(tmp_path, core=(dies, ", on_exit: shutdown"), other=(FOR_EVER, ""))
    launcher = Launcher(parse(file))
    launcher.start()
    assert launcher.wait(timeout=10.0)
    ended = results(launcher)
    assert (ended["core-1"].exit_code, ended["core-1"].failed) == (3, True)
    assert (ended["other-2"].exit_code, ended["other-2"].failed) == (-signal.SIGINT, False)
    assert launcher.reason == "required process core-1 ended with exit code 3"


def test_other_deaths_leave_the_rest_running(tmp_path: Path) -> None:
    file = launch_file(tmp_path, dies=("raise SystemExit(4)\n", ""), lives=(FOR_EVER, ""))
    with Launcher(parse(file)) as launcher:
        wait_for(lambda: results(launcher)["dies-1"].exit_code is not None, "the death")
        time.sleep(0.2)
        assert launcher.running()
        assert set(launcher.pids()) == {"lives-2"}
    assert results(launcher)["dies-1"].exit_code == 4
    assert launcher.failed


def test_ends_by_itself_when_all_have_ended(tmp_path: Path) -> None:
    launcher = Launcher(parse(launch_file(tmp_path, a=("print('x')\n", ""), b=("print('y')\n", ""))))
    launcher.start()
    assert launcher.wait(timeout=10.0)
    assert [result.exit_code for result in launcher.poll()] == [0, 0]
    assert not launcher.failed


def test_respawn_after_its_delay(tmp_path: Path) -> None:
    lines = Lines()
    file = launch_file(tmp_path, r=(f"{READY}\n", ", respawn: true, respawn_delay: 0.3"))
    begin = time.monotonic()
    with Launcher(parse(file), lines) as launcher:
        wait_for(lambda: lines.count("ready") >= 3, "three runs")
        assert time.monotonic() - begin >= 0.6
    assert results(launcher)["r-1"].restarts >= 2
    assert not launcher.failed


def test_lines_stay_whole_and_none_is_lost(tmp_path: Path) -> None:
    source = """
    import sys, threading
    def write(stream, letter):
        for i in range(2000):
            stream.write(letter * 70 + str(i) + chr(10))
    threads = [threading.Thread(target=write, args=pair) for pair in ((sys.stdout, 'o'), (sys.stderr, 'e'))]
    [t.start() for t in threads]
    [t.join() for t in threads]
    sys.stdout.write('no newline at the end')
    """
    lines = Lines()
    launcher = Launcher(parse(launch_file(tmp_path, a=(source, ""), b=(source, ""))), lines)
    launcher.start()
    assert launcher.wait(timeout=20.0)
    for process in ("a-1", "b-2"):
        written = [line for line in lines.all if line.process == process]
        assert [line.line for line in written if line.stream == "stderr"] == ["e" * 70 + str(i) for i in range(2000)]
        expected = [*("o" * 70 + str(i) for i in range(2000)), "no newline at the end"]
        assert [line.line for line in written if line.stream == "stdout"] == expected


def test_output_log_hides_stdout_only(tmp_path: Path) -> None:
    script = tmp_path / "s.py"
    script.write_text("import sys\nprint('to stdout')\nprint('to stderr', file=sys.stderr)\n")
    file = tmp_path / "x.launch.yaml"
    file.write_text(f'launch:\n- executable: {{cmd: \'"{sys.executable}" "{script}"\', name: s}}\n')
    lines = Lines()
    with Launcher(parse(file), lines) as launcher:
        launcher.wait(timeout=10.0)
    shown = {line.line: line.shown for line in lines.all if line.process == "s-1"}
    assert shown == {"to stdout": False, "to stderr": True}


def test_program_that_cannot_be_started(tmp_path: Path) -> None:
    file = tmp_path / "x.launch.yaml"
    file.write_text(f"launch:\n- executable: {{cmd: sleep 60}}\n- executable: {{cmd: {tmp_path}/none, on_exit: shutdown}}\n")
    lines = Lines()
    launcher = Launcher(parse(file), lines)
    launcher.start()
    assert launcher.wait(timeout=10.0)
    assert results(launcher)["none-2"].failed
    assert any("cannot be started" in line and f"{file}:3" in line for line in lines.of("launch"))


def test_workers_of_a_node_end_with_it(tmp_path: Path) -> None:
    source = f"""
    import subprocess, sys
    worker = subprocess.Popen([sys.executable, '-c', {STUBBORN!r}], start_new_session=True, stdout=-1, text=True)
    print(worker.pid, worker.stdout.readline(), flush=True)
    """
    lines = Lines()
    launcher = Launcher(parse(launch_file(tmp_path, a=(source, ""))), lines, grace=0.3)
    launcher.start()
    assert launcher.wait(timeout=20.0)
    worker = int(lines.of("a-1")[0].removesuffix(" ready"))
    assert not alive(worker), "a worker that detached itself and ignores SIGINT and SIGTERM must not survive"


def test_killed_launcher_leaves_no_children(tmp_path: Path) -> None:
    file = launch_file(tmp_path, a=(f"{READY}\n{FOR_EVER}", ""), b=(STUBBORN, ""))
    code = (
        "import sys, time\nfrom vla_ros.embedded.launch import Launcher, parse\n"
        f"launcher = Launcher(parse({str(file)!r}), grace=0.5)\nlauncher.start()\n"
        "print(*launcher.pids().values(), flush=True)\ntime.sleep(60)\n"
    )
    runner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert runner.stdout is not None
    pids = [int(word) for word in runner.stdout.readline().split()]
    assert len(pids) == 2
    time.sleep(0.5)
    runner.kill()
    runner.wait()
    runner.stdout.close()
    wait_for(lambda: not alive(pids[0]), "the process that honours SIGINT", 5.0)
    wait_for(lambda: not alive(pids[1]), "the stubborn process", 15.0)


def test_command_line_passes_ctrl_c_on_and_reports(tmp_path: Path) -> None:
    file = launch_file(tmp_path, a=(COUNTS_SIGINTS, ""), dies=("import sys\nsys.exit(7)\n", ""))
    runner = subprocess.Popen(
        [sys.executable, "-m", "vla_ros.cli", "launch", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ROS_LOG_DIR": str(tmp_path / "log")},
        start_new_session=True,
    )
    assert runner.stdout is not None
    assert runner.stdout.readline() == "[a-1] ready\n"
    time.sleep(0.3)
    os.killpg(runner.pid, signal.SIGINT)  # as a terminal does: the whole foreground group
    os.kill(runner.pid, signal.SIGINT)  # and as a wrapper that passes it on: no reason to hurry
    out, err = runner.communicate(timeout=15)
    assert out == "[a-1] sigints 1\n"
    assert runner.returncode == 1, "dies-2 failed by itself"
    table = err[err.index("process ") :].splitlines()
    assert [line.split()[0] for line in table] == ["process", "a-1", "dies-2"]
    assert table[1].endswith("exit code 0 when asked")
    assert table[2].endswith("FAILED: exit code 7")
    (log,) = (tmp_path / "log").glob("*/launch.log")
    assert "[a-1] sigints 1" in log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_command_line_ends_cleanly_on_other_signals(tmp_path: Path, number: signal.Signals) -> None:
    file = launch_file(tmp_path, a=(f"{READY}\n{FOR_EVER}", ""))
    runner = subprocess.Popen(
        [sys.executable, "-m", "vla_ros.cli", "launch", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "ROS_LOG_DIR": str(tmp_path / "log")},
    )
    assert runner.stdout is not None
    assert runner.stdout.readline() == "[a-1] ready\n"
    runner.send_signal(number)
    assert runner.wait(timeout=10) == 0
    runner.stdout.close()
