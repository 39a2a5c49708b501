"""Sweeps on a Slurm cluster: a real one of a single node, started for these tests and shut down after them.

They run as root where Slurm is installed. Where it may be, ``MLRESEARCH_TEST_SLURM=1`` installs it with apt-get.
"""

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import launch_jobs
import pytest

from mlresearch.errors import UserError
from mlresearch.launch import Slurm

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")

# Two partitions of one node: a job in "urgent" takes the place of one in "patient" (which is told 60 s before) or in
# "hasty" (which is told as it is killed). What goes back to the queue waits for `cred_expire` seconds there.
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=15
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=patient Nodes={host} Default=YES PriorityTier=1 GraceTime=60
PartitionName=hasty Nodes={host} PriorityTier=1 GraceTime=0
PartitionName=urgent Nodes={host} PriorityTier=2 PreemptMode=OFF
"""


def find(program):
    """Return where a program is; those that run a system need not be on a user's path."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def install():
    """Install what is missing where that is asked for; else skip the test and say what is missing."""
    if os.geteuid() != 0:
        pytest.skip("needs to be root, to start Slurm")
    missing = [program for program in PROGRAMS if find(program) is None]
    if not missing:
        return
    if os.environ.get("MLRESEARCH_TEST_SLURM") != "1" or shutil.which("apt-get") is None:
        pytest.skip(f"needs Slurm: there is no {', '.join(missing)} (MLRESEARCH_TEST_SLURM=1 installs it with apt-get)")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", "--quiet", *words], env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()


def free_ports(number):
    """Return ports that nothing listens on."""
    with contextlib.ExitStack() as sockets:
        bound = [sockets.enter_context(socket.socket()) for _ in range(number)]
        for each in bound:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in bound]


@pytest.fixture(scope="module")
def cluster():
    """Start a cluster of this machine alone, whose commands `SLURM_CONF` leads to it, and shut it down."""
    install()
    daemons = []
    host = socket.gethostname().partition(".")[0]
    temporary = tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)
    with temporary as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        config = CONFIG.format(host=host, ports=free_ports(2), folder=folder)
        (folder / "slurm.conf").write_text(config)
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o600)
        for inner in ("state", "spool"):
            (folder / inner).mkdir()
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # where jobs find `launch_jobs`
        munge_files = [f"--{kind}-file={folder}/munge.{kind}" for kind in ("key", "pid", "log", "seed")]
        try:
            for program, arguments in (
                ("munged", ["--foreground", "--force", f"--socket={folder}/munge.socket", *munge_files]),
                ("slurmctld", ["-D"]),
                ("slurmd", ["-D", "-N", host]),
            ):
                with (folder / f"{program}.out").open("w") as output:
                    daemons.append(subprocess.Popen([find(program), *arguments], stdout=output, stderr=output))
            wait_for(lambda: told("sinfo", "--noheader", "--partition=urgent", "--format=%T") == "idle", folder)
            yield folder
        finally:
            subprocess.run(["scancel", "--user=root"], check=False)
            with contextlib.suppress(AssertionError):
                wait_for(lambda: not told("squeue", "--noheader"), folder)
            for daemon in reversed(daemons):
                daemon.terminate()
                try:
                    daemon.wait(20)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()


def told(*command):
    """Return what a command says."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def wait_for(condition, folder):
    """Wait until `condition` holds, a minute at most; where it does not, show what the daemons say."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "\n".join(path.read_text()[-3000:] for path in folder.glob("*.out"))
        time.sleep(0.1)


def advance(polls, condition):
    """Poll until `condition` holds of the tasks, two minutes at most."""
    deadline = time.monotonic() + 120
    for tasks in polls:
        if condition(tasks):
            return tasks
        assert time.monotonic() < deadline, tasks
    raise AssertionError(f"it ended before: {tasks}")


def last(polls):
    """Poll to the end, and return what came last."""
    return advance(polls, lambda tasks: all(task.state in ("done", "failed") for task in tasks))


def starts(folder):
    """Return the counts that `launch_jobs.count` began at."""
    return [int(line) for line in (folder / "starts").read_text().split()] if (folder / "starts").exists() else []


def test_an_array_runs_so_many_at_once_and_a_failure_is_kept(cluster, tmp_path):
    work = {f"item{number}": (str(tmp_path / "log"), f"item{number}", 1.0) for number in range(3)}
    snapshots = list(Slurm(parallel=1, poll_s=1).launch(launch_jobs.log_interval, work, tmp_path))
    assert [task.state for task in snapshots[-1]] == ["done"] * 3
    assert len({task.job.partition("_")[0] for task in snapshots[-1]}) == 1  # one array
    assert any([task.state for task in tasks] == ["done", "running", "waiting"] for tasks in snapshots)
    rows = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert [name for name, _, _ in rows] == list(work)
    assert all(float(earlier[2]) <= float(later[1]) for earlier, later in itertools.pairwise(rows))


def test_failures_are_kept_and_the_others_go_on(cluster, tmp_path):
    work = {"raises": ("the reason",), "dies": ("die",), "works": ("work",)}
    raises, dies, works = last(Slurm(poll_s=1).launch(launch_jobs.fare, work, tmp_path))
    assert [raises.state, dies.state, works.state] == ["failed", "failed", "done"]
    assert raises.error.rstrip().endswith("ArithmeticError: the reason")
    assert "ArithmeticError: the reason" in raises.log.read_text()
    assert "Slurm says FAILED" in dies.error
    assert "about to die" in dies.log.read_text()


def preempt():
    """Give the whole node to another job for a moment."""
    subprocess.run(["srun", "--partition=urgent", "--cpus-per-task=2", "true"], check=True, timeout=90)


@pytest.mark.parametrize("partition", ["patient", "hasty"])
def test_a_preempted_job_goes_on_from_what_it_kept(partition, cluster, tmp_path):
    heeding, deaf = tmp_path / "heeding", tmp_path / "deaf"
    work = {"heeding": (str(heeding), True), "deaf": (str(deaf), False)}
    polls = Slurm(partition=partition, patience_s=2, poll_s=1).launch(launch_jobs.count, work, tmp_path)
    advance(polls, lambda tasks: starts(heeding) == starts(deaf) == [0])
    preempt()
    advance(polls, lambda tasks: {task.state for task in tasks} == {"waiting"})
    advance(polls, lambda tasks: len(starts(heeding)) == len(starts(deaf)) == 2)
    kept = int((heeding / "count").read_text())
    assert kept > 0
    assert starts(heeding) == [0, kept]
    assert starts(deaf) == [0, 0]  # what does not ask has kept nothing, but starts again
    for folder in (heeding, deaf):
        (folder / "enough").touch()
    tasks = last(polls)
    assert [task.state for task in tasks] == ["done", "done"]
    assert "Traceback" not in tasks[0].log.read_text()


def test_a_time_limit_is_survived_so_often_as_is_allowed(cluster, tmp_path):
    limits = {"go on": 1, "give up": 0}
    folders = {name: tmp_path / name for name in limits}
    polls = {
        name: Slurm(timeout_min=1, patience_s=10, max_timeouts=number, poll_s=1).launch(
            launch_jobs.count, {name: (str(folders[name]), True)}, tmp_path
        )
        for name, number in limits.items()
    }
    for name in limits:
        advance(polls[name], lambda tasks, name=name: starts(folders[name]) == [0])
    [given_up] = last(polls["give up"])
    assert given_up.state == "failed"
    assert "timed-out too many times" in given_up.error
    advance(polls["go on"], lambda tasks: len(starts(folders["go on"])) == 2)
    assert starts(folders["go on"]) == [0, int((folders["go on"] / "count").read_text())]
    (folders["go on"] / "enough").touch()
    assert last(polls["go on"])[0].state == "done"
    assert starts(folders["give up"]) == [0]
    assert int((folders["give up"] / "count").read_text()) > 0


def test_a_cancelled_job_keeps_what_it_has_and_stays_cancelled(cluster, tmp_path):
    polls = Slurm(poll_s=1).launch(launch_jobs.count, {"a": (str(tmp_path / "a"), True)}, tmp_path)
    [task] = advance(polls, lambda tasks: starts(tmp_path / "a") == [0])
    subprocess.run(["scancel", task.job], check=True)
    [task] = last(polls)
    assert task.state == "failed"
    assert "Slurm says CANCELLED" in task.error
    assert int((tmp_path / "a" / "count").read_text()) > 0


def test_jobs_outlive_their_launcher(cluster, tmp_path):
    folder = tmp_path / "a"
    polls = Slurm(poll_s=1).launch(
        launch_jobs.count, {"a": (str(folder), True)}, tmp_path, lambda: bool(starts(folder))
    )
    with pytest.raises(KeyboardInterrupt):
        last(polls)
    assert len(told("squeue", "--noheader").splitlines()) == 1
    [again] = last(Slurm(poll_s=1).launch(launch_jobs.count, {"a": (str(folder), True)}, tmp_path))
    assert again.state == "failed"  # the first job holds the folder
    assert "BlockingIOError" in again.error
    (folder / "enough").touch()
    wait_for(lambda: not told("squeue", "--noheader"), cluster)
    assert starts(folder) == [0]
    assert (folder / "count").exists()


def test_no_work_is_done_at_once(cluster, tmp_path):
    assert list(Slurm().launch(launch_jobs.fare, {}, tmp_path)) == [[]]


def test_a_refusal_is_told(cluster, tmp_path):
    with pytest.raises(UserError, match=r"Slurm refused the jobs.*invalid partition"):
        last(Slurm(partition="none").launch(launch_jobs.fare, {"a": ("work",)}, tmp_path))
