"""Sweeps on this machine: order, shares, failures, and what becomes of the processes when the launcher ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import launch_jobs
import pytest

from mlresearch.errors import UserError
from mlresearch.launch import Inline, Local, Slurm, share

LAUNCHERS = [Inline(), Local(workers=2)]


@pytest.fixture(autouse=True)
def _importable_jobs(monkeypatch):
    """Let other processes find this folder's modules."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)


def last(polls):
    """Return the last of what a launch yields."""
    *_, tasks = polls
    return tasks


def wait_for(condition, seconds=60.0):
    """Wait until `condition` holds; it must, in a minute at most, on a busy machine."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def intervals(path):
    """Return name, beginning and end of what `log_interval` noted."""
    rows = [line.split() for line in path.read_text().splitlines()]
    return [(name, float(began), float(ended)) for name, began, ended in rows]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_at_most_so_many_at_once_and_in_order(workers, tmp_path):
    work = {f"item{number}": (str(tmp_path / "log"), f"item{number}", 0.6) for number in range(5)}
    snapshots = list(Local(workers).launch(launch_jobs.log_interval, work, tmp_path / "logs"))
    assert [task.name for task in snapshots[0]] == list(work)
    assert [task.state for task in snapshots[0]] == ["running"] * workers + ["waiting"] * (5 - workers)
    assert [task.state for task in snapshots[-1]] == ["done"] * 5
    noted = intervals(tmp_path / "log")
    assert sorted(name for name, _, _ in noted) == list(work)
    at_once = [sum(began <= moment < ended for _, began, ended in noted) for _, moment, _ in noted]
    assert max(at_once) <= workers
    if workers == 1:
        assert [name for name, _, _ in noted] == list(work)


def test_inline_works_in_order_in_this_process(tmp_path):
    work = {name: (str(tmp_path / "log"), name, 0.0) for name in "cab"}
    snapshots = list(Inline().launch(launch_jobs.log_interval, work, tmp_path / "logs"))
    states = [[task.state for task in tasks] for tasks in snapshots]
    assert states == [
        ["running", "waiting", "waiting"],
        ["done", "running", "waiting"],
        ["done", "done", "running"],
        ["done", "done", "done"],
    ]
    assert [name for name, _, _ in intervals(tmp_path / "log")] == list("cab")


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=repr)
def test_no_work_is_done_at_once(launcher, tmp_path):
    assert list(launcher.launch(launch_jobs.fare, {}, tmp_path)) == [[]]


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=repr)
def test_a_failed_item_keeps_its_traceback_and_the_others_go_on(launcher, tmp_path):
    reasons = ["reason", "another\nreason: " + "-" * 60, ""]
    work = {str(number): (reason,) for number, reason in enumerate([*reasons, "work"])}
    tasks = last(launcher.launch(launch_jobs.fare, work, tmp_path))
    assert [task.state for task in tasks] == ["failed", "failed", "failed", "done"]
    for task, message in zip(tasks[:3], reasons, strict=True):
        assert task.error.startswith("Traceback (most recent call last):")
        assert task.error.rstrip().endswith(f"ArithmeticError: {message}".rstrip(": "))
        assert "raise ArithmeticError(fate)" in task.log.read_text()


def test_a_killed_process_has_failed_and_the_others_go_on(tmp_path):
    launcher = Local(workers=2)
    work = {"a": ("die",), "b": ("work",), "c": ("die",), "d": ("work",)}
    tasks = last(launcher.launch(launch_jobs.fare, work, tmp_path))
    assert [task.state for task in tasks] == ["failed", "done", "failed", "done"]
    for task in (tasks[0], tasks[2]):
        assert "killed" in task.error
        assert "about to die" in task.log.read_text()


@hypothesis.given(st.integers(0, 40), st.integers(1, 40))
def test_shares_deal_out_every_device_evenly(num_devices, number):
    devices = list(range(num_devices))
    shares = share(devices, number)
    assert len(shares) == number
    held = [sum(device in each for each in shares) for device in devices]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    if num_devices:
        assert min(map(len, shares)) == max(num_devices // number, 1)
        assert max(held) - min(held) <= 1
        assert sum(held) == max(num_devices, number)


def told(tmp_path, workers, items):
    """Return what `items` processes at once may use."""
    work = {str(number): (str(tmp_path / f"{number}.json"),) for number in range(items)}
    tasks = last(Local(workers).launch(launch_jobs.tell_devices, work, tmp_path / "logs"))
    assert {task.state for task in tasks} == {"done"}
    return [json.loads((tmp_path / f"{number}.json").read_text()) for number in range(items)]


def test_gpus_and_cores_are_shared_out(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,GPU-c")
    facts = told(tmp_path, workers=2, items=2)
    assert [fact["CUDA_VISIBLE_DEVICES"] for fact in facts] == ["GPU-a", "GPU-b,GPU-c"]
    assert [fact["XLA_CLIENT_MEM_FRACTION"] for fact in facts] == [None, None]
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) > 1:
        assert sorted(facts[0]["cores"] + facts[1]["cores"]) == mine
    assert all(fact["cores"] for fact in facts)


def test_processes_on_one_gpu_share_its_memory(tmp_path, monkeypatch):
    # A machine with one GPU, as far as its driver's tool says.
    (tmp_path / "nvidia-smi").write_text('#!/bin/sh\necho "GPU 0: A (UUID: GPU-1)"\necho "  MIG 1g: (UUID: MIG-2)"\n')
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("CUDA_VISIBLE_DEVICES", "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    facts = told(tmp_path, workers=3, items=3)
    assert [fact["CUDA_VISIBLE_DEVICES"] for fact in facts] == ["0", "0", "0"]
    assert [float(fact["XLA_CLIENT_MEM_FRACTION"]) for fact in facts] == [0.25, 0.25, 0.25]  # of the 3/4 JAX takes
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.1")  # chosen by the user
    assert [fact["XLA_CLIENT_MEM_FRACTION"] for fact in told(tmp_path, workers=3, items=2)] == ["0.1", "0.1"]


def test_one_item_has_the_whole_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    [fact] = told(tmp_path, workers=8, items=1)
    assert fact["CUDA_VISIBLE_DEVICES"] == "4,6"
    assert fact["cores"] == sorted(os.sched_getaffinity(0))


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=repr)
def test_asked_to_stop_the_items_keep_what_they_have(launcher, tmp_path):
    began = time.monotonic()
    folders = [tmp_path / "a", tmp_path / "b"]
    work = {folder.name: (str(folder), True) for folder in folders}
    started = folders[:1] if launcher == Inline() else folders

    def stop():
        return all((folder / "starts").exists() for folder in started) and time.monotonic() > began + 1

    with pytest.raises(KeyboardInterrupt):
        last(launcher.launch(launch_jobs.count, work, tmp_path / "logs", stop))
    for folder in started:
        assert int((folder / "count").read_text()) > 0
    assert launcher != Inline() or not folders[1].exists()


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_the_launcher_ends_and_the_next_one_goes_on(how, tmp_path):
    launcher = start_launcher(tmp_path, True, 30)
    counters = [tmp_path / "first", tmp_path / "second"]
    wait_for(lambda: all((folder / "starts").exists() for folder in counters))
    if how in ("Ctrl-C", "SIGHUP"):  # a terminal tells all of its processes
        os.killpg(launcher.pid, signal.SIGINT if how == "Ctrl-C" else signal.SIGHUP)
    else:
        launcher.send_signal(signal.Signals[how])
    status = launcher.wait(30)
    if how in ("Ctrl-C", "SIGTERM"):
        assert status == 130
        assert all((folder / "count").exists() for folder in counters)  # it has waited for them
    wait_for(lambda: not processes_in(launcher.pid))
    kept = [int((folder / "count").read_text()) for folder in counters]
    assert min(kept) > 0

    launcher = start_launcher(tmp_path, True, 30)
    for folder, number in zip(counters, kept, strict=True):
        wait_for(lambda folder=folder, number=number: (folder / "starts").read_text().split() == ["0", str(number)])
        (folder / "enough").touch()
    assert launcher.wait(60) == 0
    assert all(int((folder / "count").read_text()) >= number for folder, number in zip(counters, kept, strict=True))


def start_launcher(*arguments):
    """Start a launcher that a test may kill, the leader of a session of its own."""
    # Tests that are run by nohup have it hang up all the same.
    command = ["env", "--default-signal=HUP", sys.executable, launch_jobs.__file__, *map(str, arguments)]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)


def processes_in(session):
    """Return the numbers of the processes of a session that still run."""
    found = subprocess.run(["ps", "-o", "pid=,stat=", "-s", str(session)], capture_output=True, text=True, check=False)
    return [int(line.split()[0]) for line in found.stdout.splitlines() if not line.split()[1].startswith("Z")]


def test_two_launchers_do_not_work_on_one_item_at_once(tmp_path):
    launcher = start_launcher(tmp_path, True, 30)
    wait_for(lambda: all((tmp_path / name / "starts").exists() for name in ("first", "second")))
    work = {name: (str(tmp_path / name), True) for name in ("first", "second")}
    tasks = last(Local(workers=2).launch(launch_jobs.count, work, tmp_path / "logs"))
    assert [task.state for task in tasks] == ["failed", "failed"]
    assert all("BlockingIOError" in task.error for task in tasks)
    launcher.terminate()
    assert launcher.wait(60) == 130
    assert (tmp_path / "first" / "starts").read_text() == "0\n"


def test_a_process_that_does_not_stop_is_killed(tmp_path):
    launcher = start_launcher(tmp_path, False, 1)
    wait_for(lambda: all((tmp_path / name / "starts").exists() for name in ("first", "second")))
    launcher.kill()
    launcher.wait()
    wait_for(lambda: not processes_in(launcher.pid), seconds=20)


def test_mistakes_are_told(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="at least 1 worker, not 0"):
        Local(workers=0)
    with pytest.raises(UserError, match="leaves a Slurm job no time"):
        Slurm(timeout_min=2)
    with pytest.raises(ValueError, match="cannot be imported"):
        last(Local().launch(lambda *, stop: None, {"a": ()}, tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no sbatch on this machine"):
        last(Slurm().launch(launch_jobs.fare, {"a": ("x",)}, tmp_path))
    monkeypatch.setitem(sys.modules, "submitit", None)
    for launcher in (Local(), Slurm()):
        with pytest.raises(UserError, match=r"pip install '\.\[cluster\]'"):
            last(launcher.launch(launch_jobs.fare, {"a": ("x",)}, tmp_path))
