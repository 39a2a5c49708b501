"""Where the items of a sweep are worked on: in this process, in several on this machine, or on a Slurm cluster.

The three launchers, `Inline`, `Local` and `Slurm`, have one method::

    for tasks in launcher.launch(call, work, logs, stop):   # again and again, until all are done or failed
        show(tasks)

work: the arguments of each call, plain JSON types, by the item's name, which must do as a file name.
call: ``call(*arguments, stop=…)``, a function that its module exports. It asks ``stop()`` now and then; where that is
    True it keeps what it has and raises `KeyboardInterrupt`. Called again with the same arguments, it goes on from
    there. Anything else that it raises makes its item fail; the others go on.
logs: a folder; every launch makes a folder of its own in it.
stop: asked between polls. Where it says True the launcher stops, too, and raises `KeyboardInterrupt`.
"""

import collections
import contextlib
import dataclasses
import datetime
import fcntl
import importlib
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mlresearch.errors import UserError
from mlresearch.files import write_bytes

if TYPE_CHECKING:
    from submitit import Job
    from submitit.helpers import DelayedSubmission

T = TypeVar("T")

Work = Mapping[str, Sequence[Any]]
"""The arguments of the calls, by the name of the item."""

POLL_SECONDS = 0.2
NO_LIMIT_MINUTES = 60 * 24 * 365 * 10

ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED"),
    *("GONE", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"),
}
"""States in which Slurm leaves a job that it will not run again; GONE is one that it knows no more."""

WAITING = {"CONFIGURING", "PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"}
"""States in which a job has not started, or waits to start again."""


@dataclasses.dataclass(frozen=True)
class Task:
    """Where an item stands.

    job: the number of its process, or of its Slurm job. log: the file of what it prints; with `Inline`, which prints as
    this process does, of a failed item's traceback. error: that traceback, or how the process ended without one.
    """

    name: str
    state: Literal["waiting", "running", "done", "failed"] = "waiting"
    job: str = ""
    log: Path | None = None
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Inline:
    """One item after another, in this process; a failed one's traceback is its log."""

    def launch(
        self, call: Callable[..., object], work: Work, logs: Path, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[list[Task]]:
        """Work on the items and yield where they stand, before every one and at the end."""
        tasks = {name: Task(name) for name in work}
        folder = _new_folder(logs)
        for name, arguments in work.items():
            if stop():
                raise KeyboardInterrupt
            tasks[name] = Task(name, "running", str(os.getpid()))
            yield list(tasks.values())
            try:
                call(*arguments, stop=stop)
                tasks[name] = dataclasses.replace(tasks[name], state="done")
            except Exception:
                log, error = folder / f"{name}.log", traceback.format_exc()
                write_bytes(log, error.encode())
                tasks[name] = dataclasses.replace(tasks[name], state="failed", log=log, error=error)
        yield list(tasks.values())


@dataclasses.dataclass(frozen=True)
class Local:
    """At most `workers` processes at once on this machine, among which its GPUs and cores are shared out.

    When the launcher is stopped or killed, however hard, its processes are asked to stop; what has not ended
    `patience_s` seconds later is killed. Ctrl-C in their terminal does not reach them but through the launcher.
    """

    workers: int = 1
    patience_s: int = 60

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise UserError(f"the local launcher needs at least 1 worker, not {self.workers}")

    def launch(
        self, call: Callable[..., object], work: Work, logs: Path, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[list[Task]]:
        """Start processes as places become free, and yield where the items stand."""
        submitit, name_of_call, folder = _submitit(), _importable(call), _new_folder(logs)
        tasks = {name: Task(name) for name in work}
        waiting = collections.deque(work)
        running: dict[str, tuple[Job[None], str]] = {}
        places = _places(max(min(self.workers, len(work)), 1))
        leash = folder / "launcher.lock"
        with leash.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            try:
                while True:
                    for name, (job, place) in list(running.items()):
                        if job.done():
                            tasks[name] = _outcome(name, job, "killed, or short of memory")
                            del running[name]
                            places.append(place)
                    while waiting and places:
                        name, place = waiting.popleft(), places.pop(0)
                        # A folder each: the process's number, which names submitit's files, may come again.
                        executor = submitit.LocalExecutor(folder / name, python=place)
                        executor.update_parameters(timeout_min=NO_LIMIT_MINUTES, stderr_to_stdout=True)
                        with _signals_blocked(signal.SIGINT, signal.SIGHUP):
                            job = executor.submit(_Call(name_of_call, work[name], self.patience_s, leash))
                        running[name] = job, place
                        tasks[name] = Task(name, "running", job.job_id, job.paths.stdout)
                    yield list(tasks.values())
                    if not running:
                        return
                    if stop():
                        raise KeyboardInterrupt
                    time.sleep(POLL_SECONDS)
            finally:
                fcntl.flock(held, fcntl.LOCK_UN)  # the processes wait for this: see `_Call`
                deadline = time.monotonic() + self.patience_s + 5
                while time.monotonic() < deadline and any(not job.done() for job, _ in running.values()):
                    time.sleep(POLL_SECONDS)


@dataclasses.dataclass(frozen=True)
class Slurm:
    """An array of Slurm jobs, at most `parallel` at once; they outlive the launcher.

    A job that comes near to its time limit, or that makes room for another one, is asked to stop, has `patience_s`
    seconds to do so, and goes back to the queue, from where it goes on. An item that came near to its limit more than
    `max_timeouts` times has failed. A job that is cancelled with ``scancel`` is asked to stop, too.

    options: further options of ``sbatch`` by their long names, such as ``{"account": "…", "qos": "…"}``.
    """

    timeout_min: int = 24 * 60
    partition: str | None = None
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None
    mem_gb: int | None = None
    parallel: int = 256
    max_timeouts: int = 100
    patience_s: int = 60
    poll_s: int = 10
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.timeout_min * 60 <= 2 * self.patience_s:
            raise UserError(
                f"a time limit of {self.timeout_min} min leaves a Slurm job no time to work: it is asked to stop "
                f"{2 * self.patience_s} s before"
            )

    def launch(
        self, call: Callable[..., object], work: Work, logs: Path, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[list[Task]]:
        """Submit all items and yield where they stand."""
        submitit = _submitit()
        if shutil.which("sbatch") is None:
            raise UserError(
                "there is no sbatch on this machine: launch where Slurm takes jobs, or on this machine alone"
            )
        name_of_call, folder = _importable(call), _new_folder(logs)
        executor = submitit.SlurmExecutor(folder, max_num_timeout=self.max_timeouts)
        executor.update_parameters(
            job_name="mlresearch",
            time=self.timeout_min,
            partition=self.partition,
            gpus_per_node=self.gpus_per_node,
            cpus_per_task=self.cpus_per_task,
            mem=None if self.mem_gb is None else f"{self.mem_gb}GB",
            array_parallelism=self.parallel,
            signal_delay_s=2 * self.patience_s,
            stderr_to_stdout=True,
            additional_parameters={"requeue": True, **self.options},
        )
        calls = [_Call(name_of_call, arguments, self.patience_s, None) for arguments in work.values()]
        try:
            jobs = dict(zip(work, executor.submit_array(calls) if calls else [], strict=True))
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            raise UserError(f"Slurm refused the jobs: {error}") from None
        tasks = {name: Task(name, "waiting", job.job_id, job.paths.stdout) for name, job in jobs.items()}
        seen_ended: set[str] = set()
        while True:
            states = _slurm_states()  # before the results are looked for: an ended job has written its own
            for name in [name for name, task in tasks.items() if task.state in ("waiting", "running")]:
                job = jobs[name]
                slurm_state = "UNKNOWN" if states is None else states.get(job.job_id, "GONE")
                ended = slurm_state in ENDED
                # A shared file system may show the result a moment after the end: ask twice.
                if job.paths.result_pickle.exists() or (ended and name in seen_ended):
                    tasks[name] = _outcome(name, job, f"Slurm says {slurm_state}")
                elif ended:
                    seen_ended.add(name)
                elif slurm_state != "UNKNOWN":
                    state: Literal["waiting", "running"] = "waiting" if slurm_state in WAITING else "running"
                    tasks[name] = dataclasses.replace(tasks[name], state=state)
            yield list(tasks.values())
            if all(task.state in ("done", "failed") for task in tasks.values()):
                return
            again = time.monotonic() + self.poll_s
            while time.monotonic() < again:
                if stop():
                    raise KeyboardInterrupt
                time.sleep(POLL_SECONDS)


@dataclasses.dataclass(frozen=True)
class _Call:
    """What runs in the process of an item: the call, and what asks it to stop.

    leash: a file that the launcher keeps locked as long as the process shall go on; None on Slurm.
    """

    name: str
    arguments: Sequence[Any]
    patience_s: int
    leash: Path | None

    def __call__(self) -> None:
        """Work on the item; asked to stop, go back to Slurm's queue or exit."""
        stop = threading.Event()
        # Submitit's own way of going back to the queue does so at once, and loses what came after the last checkpoint.
        requeue: Any = signal.getsignal(_preemption_signal())

        def leave(number: int = 0, frame: FrameType | None = None) -> None:
            if self.leash is None and _own_slurm_state() != "COMPLETING":  # else Slurm decides, or scancel has decided
                requeue(_preemption_signal(), frame)
            sys.exit("stopped: the next launch goes on from here")

        def ask(number: int, frame: FrameType | None) -> None:
            stop.set()
            signal.alarm(self.patience_s)

        signal.signal(signal.SIGALRM, leave)
        for number in (signal.SIGTERM, _preemption_signal()):
            signal.signal(number, ask)
        if self.leash is not None:
            threading.Thread(target=_follow, args=(self.leash, stop, self.patience_s), daemon=True).start()
        module, _, function = self.name.partition(":")
        try:
            getattr(importlib.import_module(module), function)(*self.arguments, stop=stop.is_set)
        except KeyboardInterrupt:
            leave()
        finally:
            signal.alarm(0)

    def checkpoint(self) -> "DelayedSubmission":
        """Return what Submitit puts back into the queue: the same again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _follow(leash: Path, stop: threading.Event, patience_s: int) -> None:
    """Wait until the launcher lets go of `leash`, or dies; ask to stop, then end the process if it still runs."""
    with contextlib.suppress(FileNotFoundError), leash.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
    stop.set()
    time.sleep(patience_s)
    os._exit(1)


def _preemption_signal() -> signal.Signals:
    """Return the signal by which Submitit has Slurm announce a time limit."""
    import submitit

    return signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]


def _own_slurm_state() -> str:
    """Return the state of the Slurm job that this process belongs to, "" where Slurm does not answer."""
    import submitit

    command = ["squeue", "--noheader", "--format=%T", f"--jobs={submitit.JobEnvironment().job_id}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _slurm_states() -> dict[str, str] | None:
    """Return the states of the user's Slurm jobs by their numbers, None where Slurm does not answer."""
    command = ["squeue", "--me", "--array", "--noheader", "--states=all", "--format=%i %T"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return dict(line.split() for line in answer.stdout.splitlines()) if answer.returncode == 0 else None


def _outcome(name: str, job: "Job[None]", end: str) -> Task:
    """Return where an ended item stands; `end` says how it ended if it has left no result."""
    log = job.paths.stdout
    if not job.paths.result_pickle.exists():
        return Task(name, "failed", job.job_id, log, f"it ended before its call did: {end}")
    error = job.exception()
    if error is None:
        return Task(name, "done", job.job_id, log)
    rule = "-" * 22 + "\n"  # Submitit's, before and after the traceback
    return Task(name, "failed", job.job_id, log, str(error).partition(rule)[2].rpartition(rule)[0])


def _places(number: int) -> list[str]:
    """Return the commands that start Python on a share of this machine's GPUs and cores each."""
    gpus = _gpus()
    gpu_shares = share(gpus, number)
    prefixes = [["env", f"CUDA_VISIBLE_DEVICES={','.join(gpu_share)}"] for gpu_share in gpu_shares]
    chosen = {"XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"} & {*os.environ}
    if 0 < len(gpus) < number and not chosen:
        for prefix, gpu_share in zip(prefixes, gpu_shares, strict=True):  # JAX takes 3/4 of a GPU for itself
            prefix.append(f"XLA_CLIENT_MEM_FRACTION={0.75 / gpu_shares.count(gpu_share):.3f}")
    if shutil.which("taskset") is not None:
        for prefix, cores in zip(prefixes, share(sorted(os.sched_getaffinity(0)), number), strict=True):
            prefix.extend(["taskset", "--cpu-list", ",".join(map(str, cores))])
    return [shlex.join([*prefix, sys.executable]) for prefix in prefixes]


def share(devices: Sequence[T], number: int) -> list[list[T]]:
    """Deal devices out to `number` places: every device to one place, or, where they are too few, to several."""
    if 0 < len(devices) < number:
        return [[devices[place % len(devices)]] for place in range(number)]
    bounds = [place * len(devices) // number for place in range(number + 1)]
    return [list(devices[start:end]) for start, end in itertools.pairwise(bounds)]


def _gpus() -> list[str]:
    """Return the names of the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    answer = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False)
    return [str(number) for number in range(len(re.findall("^GPU ", answer.stdout, re.MULTILINE)))]


@contextlib.contextmanager
def _signals_blocked(*numbers: signal.Signals) -> Iterator[None]:
    """Hold signals back from this thread, and for good from the processes that it starts here."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _importable(call: Callable[..., object]) -> str:
    """Return ``module:function``, by which another process finds `call`."""
    module, name = call.__module__, call.__qualname__
    if module == "__main__" or getattr(sys.modules[module], name, None) is not call:
        raise ValueError(f"{module}.{name} cannot be imported by this name")
    return f"{module}:{name}"


def _new_folder(logs: Path) -> Path:
    """Make and return a folder in `logs`, named after the time."""
    folder = logs.absolute() / f"{datetime.datetime.now():%Y%m%d-%H%M%S-%f}"
    folder.mkdir(parents=True)
    return folder


def _submitit() -> ModuleType:
    """Return the module, which not every installation has."""
    try:
        import submitit
    except ImportError:
        raise UserError("this launcher needs Submitit: pip install '.[cluster]'") from None
    return submitit
