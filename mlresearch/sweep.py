"""Runs a study: what is missing or failed, several runs to a program, on this machine or on a cluster.

A run is done when its record, a small JSON file, stands in the study's ``records/``; the run itself lies in
``WORKDIR/<run id>/``. Whoever works on a run holds a lock on it, so that several launchers on one study share its runs;
a lock goes with its process, however that ends.
"""

import contextlib
import dataclasses
import fcntl
import itertools
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax
from jax.experimental.compilation_cache import compilation_cache

from mlresearch import environment, workdir
from mlresearch.baselines import train_baseline
from mlresearch.config import together
from mlresearch.ensemble import evaluate_ensemble
from mlresearch.errors import UserError
from mlresearch.estimate import Estimator
from mlresearch.files import write_json
from mlresearch.fit import Stopped
from mlresearch.inputs import Fingerprints
from mlresearch.launch import Inline, Local, Slurm, Task
from mlresearch.study import Study, StudyRun, members_of
from mlresearch.train import train_together

WORKDIR = Path("runs")
"""Where the runs of all studies lie unless told otherwise, a folder a study."""

POLL_SECONDS = 2.0
"""How often is looked whether a run that another launcher works on has ended."""

CHANGED = "the study, its configs, the code or the data changed after the launch, and with them the runs: launch again"

LOOK_SECONDS = 0.05
"""Longer than it takes to look whether a run is held."""


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """A run of a study and where it stands.

    number: its place among the study's runs. folder: of the run. records: the folder that its record is to stand in.
    """

    number: int
    run: StudyRun
    run_id: str
    folder: Path
    records: Path

    @property
    def record_file(self) -> Path:
        """Where its record stands, or is to stand."""
        found = sorted(self.records.glob(f"*.{self.run_id}.json"))
        words = re.sub(r"[^A-Za-z0-9.+=-]+", "_", f"{self.run.data}-{self.run.row}")[:80]
        return found[0] if found else self.records / f"{words}-seed{self.run.seed}.{self.run_id}.json"

    @property
    def done(self) -> bool:
        """Whether the study has its record."""
        return self.record_file.exists()

    @property
    def lock(self) -> Path:
        """The file that whoever works on it holds."""
        return self.folder.parent / "locks" / self.run_id

    @contextlib.contextmanager
    def held(self) -> Iterator[bool]:
        """Hold the run, and say whether that was possible: not where another process holds it."""
        self.lock.parent.mkdir(parents=True, exist_ok=True)
        with self.lock.open("a") as file:
            taken = _lock(file)
            if not taken:  # perhaps by one who only looks whether it is held, which takes no time
                time.sleep(LOOK_SECONDS)
                taken = _lock(file)
            yield taken

    @property
    def is_held(self) -> bool:
        """Whether some process works on it."""
        self.lock.parent.mkdir(parents=True, exist_ok=True)
        with self.lock.open("a") as file:
            return not _lock(file)

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Have `UserError`s say which run they are of."""
        try:
            yield
        except UserError as error:
            raise UserError(f"run {self.number + 1}, {self.run.overrides}: {error}") from None

    def write_record(self, record: dict[str, Any], study: Study) -> None:
        """Put its run record into the study, with what says which run it is."""
        self.records.mkdir(parents=True, exist_ok=True)
        which = {
            "run_id": self.run_id,
            "config_hash": self.run.config_hash,
            "row": self.run.row,
            "overrides": self.run.overrides,
            "study": study.name,
        }
        write_json(self.record_file, which | record)


def done_runs(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return the runs that are done, by one look at their records."""
    found = {path.name.split(".")[-2] for folder in {run.records for run in runs} for path in folder.glob("*.*.json")}
    return [run for run in runs if run.run_id in found]


def _lock(file: TextIO) -> bool:
    """Lock a file until it is closed, and say whether that was possible."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def plan(
    study: Study, folder: Path, records: Path | None = None, numbers: Sequence[int] | None = None
) -> list[PlannedRun]:
    """Return the runs of a study, which takes the fingerprint of every data set: it is prepared if need be.

    folder: where runs lie. records: of runs that are done, those of the study unless told otherwise. numbers: which
    runs, all unless told otherwise.
    """
    fingerprints = Fingerprints()
    planned = []
    for number in range(len(study.runs)) if numbers is None else numbers:
        run = study.runs[number]
        run_id = run.run_id(fingerprints.of(run.config))
        planned.append(PlannedRun(number, run, run_id, folder / run_id, records or study.records))
    return planned


def packs(runs: Sequence[PlannedRun], size: int, places: int) -> list[list[PlannedRun]]:
    """Deal runs out to as few programs as there can be of at most `size` runs, and of no more than a place's share.

    Runs of one program have the same config but for what `config.together` leaves out. How far they are does not count:
    given all runs of a study, a sweep that was killed goes on with the programs that it began with.
    """
    groups: dict[str, list[PlannedRun]] = {}
    for run in runs:
        alone = run.run_id if run.run.baseline or run.run.ensemble else ""
        key = json.dumps([alone, together(run.run.config)], sort_keys=True)
        groups.setdefault(key, []).append(run)
    fair = max(-(-len(runs) // max(places, 1)), 1)
    most = max(min(size, fair), 1)
    return [list(pack) for group in groups.values() for pack in _cut(group, most)]


def _cut(runs: list[PlannedRun], most: int) -> Iterator[list[PlannedRun]]:
    """Cut runs into as few parts as possible of nearly equal size."""
    count = -(-len(runs) // most)
    bounds = [part * len(runs) // count for part in range(count + 1)]
    return (runs[start:end] for start, end in itertools.pairwise(bounds))


def run_pack(
    study_folder: str,
    folder: str,
    records: str,
    runs: Mapping[str, int],
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train runs of a study in one program, but those that are done or held by others.

    runs: their numbers by their ids; a `UserError` if these are not those of the study as it is now.
    """
    _keep_programs(Path(folder))
    study = Study.load(study_folder)
    if max(runs.values()) >= len(study.runs):
        raise UserError(CHANGED)
    with contextlib.ExitStack() as held:
        planned = plan(study, Path(folder), Path(records), list(runs.values()))
        if [run.run_id for run in planned] != list(runs):
            raise UserError(CHANGED)
        mine = [run for run in planned if held.enter_context(run.held()) and not run.done]
        try:
            for run in mine:
                if run.run.baseline is not None:
                    train_baseline(run.run.config, run.folder, study.sources)
                elif run.run.ensemble:
                    members = plan(study, Path(folder), Path(records), members_of(run.run, study.runs))
                    evaluate_ensemble([member.folder for member in members], run.run.config, run.folder, study.sources)
            trained = [run for run in mine if run.run.baseline is None and not run.run.ensemble]
            if trained:
                configs, folders = [run.run.config for run in trained], [run.folder for run in trained]
                train_together(configs, folders, stop, study.sources)
        finally:  # where some runs fail, others are finished
            for run in mine:
                record = workdir.finished_record(run.folder)
                if record is not None:
                    run.write_record(record, study)


def _keep_programs(folder: Path) -> None:
    """Have JAX keep what it compiles in `folder`, unless it was told where to: programs of a study are often equal.

    They are where runs differ in data of the same shape, or in numbers that are arguments of the program.
    """
    if not jax.config.values["jax_compilation_cache_dir"]:
        jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
        compilation_cache.reset_cache()  # what was compiled before has settled that nothing is kept


def check(runs: Sequence[PlannedRun], estimator: Estimator) -> None:
    """Trace every program of runs, without computing; one that cannot work is a `UserError` that names its run."""
    for run in runs:
        if not run.run.ensemble:  # which is of runs that are checked
            with run.named():
                estimator.check(run.run.config)


@dataclasses.dataclass(frozen=True)
class Failure:
    """A run that failed: the last line of what was said, and the file of all of it."""

    run: PlannedRun
    error: str
    log: Path | None


def sweep(
    study: Study,
    planned: Sequence[PlannedRun],
    launcher: Inline | Local | Slurm,
    size: int,
    show: Callable[[Sequence[Failure]], None],
    stop: Callable[[], bool],
) -> list[Failure]:
    """Run what is not done, programs of at most `size` runs at a time; returns what failed.

    Before anything starts, all of it is traced: what cannot work is a `UserError`. Where a program of several runs ends
    before they do, they are tried one by one. Runs that others hold are waited for, and taken over if they are let go
    unfinished. show: is given what has failed so far, again and again.
    """
    if not isinstance(launcher, Inline):
        jax.config.update("jax_platforms", "cpu")  # the GPUs of this machine are the workers'
    check([run for run in planned if not run.done], Estimator())
    failures: dict[str, Failure] = {}
    alone: set[str] = set()
    places = launcher.workers if isinstance(launcher, Local) else 1
    folder = planned[0].folder.parent
    dealt = packs(planned, size, places)
    ids = {run.number: run.run_id for run in planned}
    ensembles = [run for run in planned if run.run.ensemble]
    members = {run.run_id: {ids[number] for number in members_of(run.run, study.runs)} for run in ensembles}
    while True:
        over = {run.run_id for run in done_runs(planned)} | {*failures}
        left = [run for run in planned if run.run_id not in over]
        for run in left:
            if members.get(run.run_id, set()) & {*failures}:
                failures[run.run_id] = Failure(run, "a run that it is made of failed", None)
        left = [run for run in left if run.run_id not in failures]
        if not left:
            return list(failures.values())
        free = {run.run_id for run in left if members.get(run.run_id, set()) <= over and not run.is_held}
        if not free:
            show(list(failures.values()))
            if stop():
                raise Stopped
            time.sleep(POLL_SECONDS)
            continue
        programs = []
        for pack in dealt:
            packed = [run for run in pack if run.run_id in free - alone]
            programs += [[packed[place] for place in part] for part in workdir.by_step([run.folder for run in packed])]
        programs += [[run] for run in left if run.run_id in free & alone]
        by_name = {f"{pack[0].run_id}" + (f"+{len(pack) - 1}" if len(pack) > 1 else ""): pack for pack in programs}
        work = {
            name: (str(study.folder), str(folder), str(pack[0].records), {run.run_id: run.number for run in pack})
            for name, pack in by_name.items()
        }
        for tasks in launcher.launch(run_pack, work, folder / "logs", stop):
            for task in tasks:
                if task.state == "failed" and task.name in by_name:
                    again, failed = _failed(by_name.pop(task.name), task)
                    alone |= again
                    failures |= failed
            show(list(failures.values()))


def _failed(pack: Sequence[PlannedRun], task: Task) -> tuple[set[str], dict[str, Failure]]:
    """Return which runs of a program that failed are to be tried one by one, and which have failed, by run id."""
    again: set[str] = set()
    failures: dict[str, Failure] = {}
    for run in pack:
        if run.done:
            continue
        own = _own_error(run)
        if len(pack) > 1 and own is None:
            again.add(run.run_id)
        else:
            last = (task.error.strip().splitlines() or [""])[-1]
            failures[run.run_id] = Failure(run, own or last, task.log)
    return again, failures


def _own_error(run: PlannedRun) -> str | None:
    """Return what the run itself says that it failed of, None where it does not say so."""
    if not (run.folder / "run.json").exists():
        return None
    record = workdir.read_record(run.folder)
    return str(record.get("error")) if record["status"] == "failed" else None


def stale(planned: Sequence[PlannedRun], study: Study) -> list[PlannedRun]:
    """Return the runs that are done, but by other code than today's."""
    today = environment.code_hash(study.sources)
    done = [run for run in planned if run.done]
    return [run for run in done if json.loads(run.record_file.read_text())["code_hash"] != today]


def set_aside(runs: Sequence[PlannedRun]) -> None:
    """Move the folders of runs out of the way, keeping them, and delete their records, so that they are made again."""
    for run in runs:
        old = json.loads(run.record_file.read_text())["code_hash"][:8]
        if run.folder.exists():
            aside = run.folder.with_name(f"{run.run_id}.{old}")
            if aside.exists():
                shutil.rmtree(aside)
            run.folder.rename(aside)
        run.record_file.unlink()
