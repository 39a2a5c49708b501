"""The trials of a search: suggested by Optuna, run like any other run, by one worker or several.

What a search has come to stands in Optuna's journal, ``WORKDIR/search.journal``, a line a change. A trial is RUNNING
there from its suggestion until it is finished, pruned or has failed, and whoever works on it holds its run's lock. A
trial that is RUNNING and that nobody holds was left by a worker that was stopped, or died: another one takes it over,
and its run goes on from its checkpoint. One worker at a time decides what is to be done next.

Suggestions are those of a tree-structured Parzen estimator (Bergstra et al., "Algorithms for Hyper-Parameter
Optimization", 2011), at random for the first ten; each is drawn with a seed of its own, so that one worker makes the
same ones again, wherever it was stopped in between. With several, they depend on which trial ends first.
"""

import contextlib
import dataclasses
import fcntl
import io
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlresearch import environment, workdir
from mlresearch.config import identity
from mlresearch.definitions import direction
from mlresearch.errors import UserError
from mlresearch.fit import Stopped
from mlresearch.inputs import Fingerprints
from mlresearch.launch import Inline, Local, Slurm, Task
from mlresearch.search import Choice, Range
from mlresearch.study import Study, StudyRun, make_run
from mlresearch.sweep import POLL_SECONDS, PlannedRun
from mlresearch.train import Record, train_together

try:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
    from optuna.trial import FrozenTrial, TrialState
except ImportError:
    raise UserError("a search needs Optuna: pip install '.[search]'") from None

MOST_STARTS = 3
"""How often a trial is begun at one checkpoint; if its worker dies each time, it is the trial that has failed."""

MOST_FAILURES = 3
"""With so many trials failed and none finished, workers give up; the same command tries further trials."""

WARM_UP = 2
"""The validation from which trials are pruned: some settings learn slowly at first, and the best of them may."""

NAME = "search"


@dataclasses.dataclass(frozen=True)
class Standing:
    """How far a search is: numbers of trials, and the best finished one by validation, None before there is one.

    failed: what trials failed of, by their number. value: of the best.
    """

    finished: int
    pruned: int
    running: int
    failed: dict[int, str]
    best: PlannedRun | None
    value: float

    @property
    def ended(self) -> int:
        """Trials that are done with."""
        return self.finished + self.pruned + len(self.failed)

    def __str__(self) -> str:
        words = f"{self.finished} finished, {self.pruned} pruned, {len(self.failed)} failed"
        return f"{words}, {self.running} running" if self.running else words


class Trials:
    """The trials of a study's search whose runs lie in `folder`; those of another search there are a `UserError`.

    records: where the records of finished trials are written.
    """

    def __init__(self, study: Study, folder: Path, records: Path) -> None:
        assert study.search is not None
        self._study, self._search, self._folder, self._records = study, study.search, folder, records
        self._fingerprints = Fingerprints()
        self._runs: dict[int, StudyRun] = {}
        folder.mkdir(parents=True, exist_ok=True)
        journal = folder / "search.journal"
        optuna.logging.set_verbosity(optuna.logging.CRITICAL)
        self._storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=_Lock(journal)))
        after = self._search.prune_after
        pruner = optuna.pruners.MedianPruner(after, WARM_UP) if after else optuna.pruners.NopPruner()
        settings = self._settings()
        with self._alone():
            self._optuna = optuna.create_study(
                storage=self._storage,
                pruner=pruner,
                study_name=NAME,
                direction="maximize" if direction(self._search.metric) > 0 else "minimize",
                load_if_exists=True,
            )
            if "settings" not in self._optuna.user_attrs:
                self._optuna.set_user_attr("settings", settings)
        known = self._optuna.user_attrs["settings"]
        changed = [key for key in known | settings if known.get(key) != settings.get(key)]
        if changed:
            lines = [f"{key}: {known.get(key)!r} -> {settings.get(key)!r}" for key in changed]
            raise UserError(
                f"{folder} holds another search; give a new --workdir, or undo the change:\n  " + "\n  ".join(lines)
            )

    def standing(self) -> Standing:
        """Return how far the search is."""
        trials = self._trials()
        states = [trial.state for trial in trials]
        finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        best = max(finished, key=lambda trial: direction(self._search.metric) * trial.values[0], default=None)
        return Standing(
            finished=len(finished),
            pruned=states.count(TrialState.PRUNED),
            running=states.count(TrialState.RUNNING),
            failed={trial.number: trial.user_attrs["error"] for trial in trials if trial.state == TrialState.FAIL},
            best=None if best is None else self._planned(best),
            value=math.nan if best is None else best.values[0],
        )

    @property
    def size(self) -> int:
        """Bytes of the journal, which grows with all that happens."""
        return (self._folder / "search.journal").stat().st_size

    @property
    def is_held(self) -> bool:
        """Whether all that is left to do is being done by other workers."""
        trials = self._trials()
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        return len(trials) >= self._search.trials and all(self._planned(trial).is_held for trial in running)

    @contextlib.contextmanager
    def taken(self) -> Iterator[PlannedRun | None]:
        """Hold the run of a trial that is to be worked on: one that was left, else a new one; None if there is none."""
        with contextlib.ExitStack() as held:
            with self._alone():
                run = self._take(held)
            yield run

    def _take(self, held: contextlib.ExitStack) -> PlannedRun | None:
        for trial in self._optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if "run_id" not in trial.user_attrs:  # whoever suggested it died
                self._optuna.tell(trial.number, state=TrialState.FAIL)
        for trial in self._trials():
            if trial.state != TrialState.RUNNING:
                continue
            with contextlib.ExitStack() as mine:
                run = self._planned(trial)
                # It may have ended since; whoever ends it does so before letting it go.
                if mine.enter_context(run.held()) and self._read(trial.number).state == TrialState.RUNNING:
                    held.push(mine.pop_all())
                    return run
        while len(self._trials()) < self._search.trials:
            run = self._suggest()
            if held.enter_context(run.held()):  # else the same settings are at work already: it ends with them
                return run
        return None

    def work(self, run: PlannedRun, stop: Callable[[], bool]) -> str:
        """Bring a trial to its end and return what came of it; `Stopped` is raised where `stop` says True."""
        number = run.number
        starts: list[int] = self._read(number).user_attrs.get("starts", [])
        step = max(workdir.checkpoint_steps(run.folder), default=0)
        if starts.count(step) >= MOST_STARTS:
            return self._fail(number, f"{MOST_STARTS} workers died while they worked on it after step {step}")
        self._note(number, "starts", [*starts, step])
        watch = _Watch(self, run, stop)
        try:
            recorded = self._recorded(run)
            record = recorded or train_together([run.run.config], [run.folder], watch, self._study.sources)[0]
        except Stopped:
            if watch.pruned:
                self._optuna.tell(number, state=TrialState.PRUNED)
                return f"trial {number} pruned at validation {watch.validations}"
            self._note(number, "starts", starts)
            raise
        except (OSError, MemoryError):  # which are not the settings' fault
            raise
        except Exception as error:
            return self._fail(number, f"{type(error).__name__}: {error}")
        value = self._value(record)
        if recorded is None:
            run.write_record({**record, "trial": number}, self._study)
        self._optuna.tell(number, value)
        settings = run.run.row.partition(": ")[2]
        return f"trial {number} finished, validation {self._search.metric} {value:.4f}: {settings}"

    def report(self, number: int, validation: int, value: float | None) -> None:
        """Write down what a trial came to at a validation, counted from 1; None where that is infinite."""
        if value is not None and validation not in self._read(number).intermediate_values:
            self._storage.set_trial_intermediate_value(self._id(number), validation, value)

    def hopeless(self, number: int) -> bool:
        """Return whether a trial is to be pruned after its last report."""
        return bool(self._optuna.pruner.prune(self._optuna, self._read(number)))

    def _suggest(self) -> PlannedRun:
        """Return a new trial."""
        number = len(self._trials())
        seed = int(np.random.SeedSequence([self._search.seed, number]).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # Trials that others work on count as bad ones, so that not all workers try the same.
            self._optuna.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        space = {key: _distribution(values) for key, values in self._search.space.items()}
        trial = self._optuna.ask(space)
        run = self._run(trial.number, trial.params)
        self._note(trial.number, "run_id", run.run_id(self._fingerprints.of(run.config)))
        return self._planned(self._read(trial.number))

    def _planned(self, trial: FrozenTrial) -> PlannedRun:
        """Return the run of a trial, and where it stands."""
        run, run_id = self._run(trial.number, trial.params), trial.user_attrs["run_id"]
        return PlannedRun(trial.number, run, run_id, self._folder / run_id, self._records)

    def _run(self, number: int, values: Mapping[str, Any]) -> StudyRun:
        if number not in self._runs:
            run = make_run(self._search.overrides(number, values))
            self._runs[number] = dataclasses.replace(run, trial=number)
        return self._runs[number]

    def _recorded(self, run: PlannedRun) -> Record | None:
        """Return the record that the study has of a trial's run, None where it has none of today's code."""
        if not run.done:
            return None
        record = json.loads(run.record_file.read_text())
        return record if record["code_hash"] == environment.code_hash(self._study.sources) else None

    def _value(self, record: Record) -> float:
        """Return what a finished trial is judged by; an infinite loss is the worst."""
        group, _, metric = self._search.metric.partition(".")
        numbers = record["metrics"]["validation"].get(group, {})
        if metric not in numbers:
            raise UserError(f"Search(metric={self._search.metric!r}): these data do not have it; use another metric")
        return -direction(metric) * math.inf if numbers[metric] is None else float(numbers[metric])

    def _settings(self) -> dict[str, Any]:
        """Return all that makes it this search, in JSON's types: other suggestions would have nothing to do with it."""
        search = self._search
        space = {f"space.{key}": repr(values) for key, values in search.space.items()}
        first = make_run(search.overrides(0, {key: values.examples[0] for key, values in search.space.items()}))
        common = {key: value for key, value in identity(first.config).items() if key not in search.space}
        shown = {
            "metric": search.metric,
            "search.seed": search.seed,
            "data fingerprint": self._fingerprints.of(first.config),
        }
        return {**shown, **space, **common}

    def _trials(self) -> list[FrozenTrial]:
        """Return all trials, but those that were not suggested to the end."""
        return [trial for trial in self._optuna.get_trials(deepcopy=False) if "run_id" in trial.user_attrs]

    def _read(self, number: int) -> FrozenTrial:
        return self._storage.get_trial(self._id(number))

    def _id(self, number: int) -> int:
        study = self._storage.get_study_id_from_name(NAME)
        return self._storage.get_trial_id_from_study_id_trial_number(study, number)

    def _note(self, number: int, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(self._id(number), key, value)

    def _fail(self, number: int, error: str) -> str:
        self._note(number, "error", error)
        self._optuna.tell(number, state=TrialState.FAIL)
        return f"trial {number} failed: {error}"

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other worker is choosing, and keep them from it."""
        path = self._folder / "locks" / "search"
        path.parent.mkdir(exist_ok=True)
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class _Watch:
    """Asked by a run whether to stop: where the search is told to, or where the run's validations are hopeless."""

    def __init__(self, trials: Trials, run: PlannedRun, stop: Callable[[], bool]) -> None:
        self._trials, self._number, self._stop = trials, run.number, stop
        self._metric, self._prunes = trials._search.metric, trials._search.prune_after is not None
        self._log, self._read = run.folder / "metrics.jsonl", 0
        self.validations = 0
        self.pruned = False

    def __call__(self) -> bool:
        if self._stop():
            return True
        if self._prunes and not self.pruned and self._report():
            self.pruned = self._trials.hopeless(self._number)
        return self.pruned

    def _report(self) -> bool:
        """Report the validations that the log has since, and say whether there were any."""
        before = self.validations
        if self._log.stat().st_size > self._read:
            with self._log.open("rb") as file:
                file.seek(self._read)
                text = file.read()
            self._read += len(text)
            for line in map(json.loads, text.splitlines()):
                if "validation" in line:
                    self.validations += 1
                    self._trials.report(self._number, self.validations, line["validation"].get(self._metric))
        return self.validations > before


class _Lock(JournalFileOpenLock):
    """Holds the journal while it is written to; goes with its process, and cuts off what another died while writing."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._file: io.BufferedRandom | None = None

    def acquire(self) -> bool:
        """Wait until no other process writes."""
        self._file = self._path.open("a+b")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        end = self._file.seek(0, io.SEEK_END)
        self._file.seek(max(end - (1 << 16), 0))
        half = self._file.read().rpartition(b"\n")[2]
        if half:
            self._file.truncate(end - len(half))
        return True

    def release(self) -> None:
        """Let others write."""
        assert self._file is not None
        self._file.close()


def _distribution(values: Range | Choice) -> BaseDistribution:
    """Return what Optuna calls it."""
    if isinstance(values, Choice):
        return CategoricalDistribution(values.values)
    if values.whole:
        return IntDistribution(int(values.low), int(values.high))
    return FloatDistribution(values.low, values.high, log=values.log)


def work(study_folder: str, folder: str, records: str, stop: Callable[[], bool] = lambda: False) -> None:
    """Work on trials of a study's search until there is none to be taken: what every worker does."""
    trials = Trials(Study.load(study_folder), Path(folder), Path(records))
    while True:
        if stop():
            raise Stopped
        with trials.taken() as run:
            if run is None:
                return
            print(trials.work(run, stop), file=sys.stderr, flush=True)
        standing = trials.standing()
        if standing.ended == len(standing.failed) >= MOST_FAILURES:
            raise UserError(
                f"all of {len(standing.failed)} trials have failed, the last of {[*standing.failed.values()][-1]}"
            )


def search(
    study: Study,
    folder: Path,
    launcher: Inline | Local | Slurm,
    workers: int,
    show: Callable[[Standing], None],
    stop: Callable[[], bool],
) -> tuple[Standing, list[Task]]:
    """Work on a study's search until all trials have ended; returns how it ended, and workers that could not go on.

    workers: at most so many at once. show: is given how far it is, again and again. Trials that others hold are waited
    for, and taken over if they are let go.
    """
    trials = Trials(study, folder, study.records)
    assert study.search is not None
    while True:
        standing = trials.standing()
        left = study.search.trials - standing.ended
        if left <= 0 and not standing.running:
            return standing, []
        if trials.is_held:
            show(standing)
            if stop():
                raise Stopped
            time.sleep(POLL_SECONDS)
            continue
        before, tasks = trials.size, []
        arguments = (str(study.folder), str(folder), str(study.records))
        names = [f"worker_{number}" for number in range(max(min(workers, left), 1))]
        for tasks in launcher.launch(work, dict.fromkeys(names, arguments), folder / "logs", stop):  # noqa: B007
            show(trials.standing())
        # Workers that died are replaced: a trial that kills them fails in the end. Who says why would say so again.
        gave_up = [
            task for task in tasks if task.state == "failed" and ("Traceback" in task.error or trials.size == before)
        ]
        if gave_up:
            return trials.standing(), gave_up
