"""What is missing of a study: run it, or print what that would be."""

import contextlib
import sys
from pathlib import Path

from absl import flags

from mlresearch.commands.arguments import parse
from mlresearch.commands.interrupt import stop_on_signal
from mlresearch.definitions import title
from mlresearch.errors import UserError
from mlresearch.estimate import Estimator
from mlresearch.launch import Inline, Local, Slurm
from mlresearch.live import Live
from mlresearch.study import Study, make_run
from mlresearch.sweep import WORKDIR, PlannedRun, check, packs, plan, set_aside, stale
from mlresearch.sweep import sweep as run_missing


def run(argv: list[str]) -> int:
    """Run what is missing of a study, or print what that would be."""
    values = flags.FlagValues()
    define_sweep(values)
    flags.DEFINE_bool("dry_run", False, "Check and count everything, and print what would run.", flag_values=values)
    flags.DEFINE_bool("stale", False, "Run again what other code than today's has made.", flag_values=values)
    study = parse_study(values, argv)

    everything = plan(study, sweep_folder(values, study))
    planned = [run for run in everything if run.run.trial is None]
    old = stale(planned, study)
    if old and values.stale and not values.dry_run:
        set_aside(old)
    elif old:
        print(f"{len(old)} runs were made by other code than today's; --stale runs them again", file=sys.stderr)
    old = stale([run for run in everything if run.run.trial is not None], study)
    if old:
        print(f"{len(old)} trials were made by other code than today's; a new --workdir searches anew", file=sys.stderr)
    failed = 0
    if planned:
        failed = _dry_run(planned, values.pack) if values.dry_run else run_sweep(values, study, planned)
    if study.search is not None:
        failed = max(failed, _dry_run_search(values, study) if values.dry_run else _run_search(values, study))
    return failed


def define_sweep(values: flags.FlagValues) -> None:
    """Define what is said of how a study is run."""
    flags.DEFINE_string("workdir", "", "Where runs lie; runs/STUDY unless told otherwise.", flag_values=values)
    flags.DEFINE_integer("pack", 10, "At most so many runs in one program.", lower_bound=1, flag_values=values)
    kinds = ["inline", "local", "slurm"]
    flags.DEFINE_enum("launcher", "inline", kinds, "This process, several, or a cluster.", flag_values=values)
    flags.DEFINE_integer("workers", 2, "Of a search, or local: processes at once.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("timeout_min", 24 * 60, "slurm: minutes a job.", flag_values=values)
    flags.DEFINE_string("partition", None, "slurm: the partition.", flag_values=values)
    flags.DEFINE_integer("gpus", None, "slurm: GPUs a job.", flag_values=values)
    flags.DEFINE_integer("cpus", None, "slurm: cores a job.", flag_values=values)
    flags.DEFINE_integer("mem_gb", None, "slurm: GB of memory a job.", flag_values=values)
    flags.DEFINE_integer("parallel", 256, "slurm: jobs at once.", flag_values=values)
    flags.DEFINE_list("slurm", [], "slurm: further options of sbatch, name=value.", flag_values=values)


def _launcher(values: flags.FlagValues) -> Inline | Local | Slurm:
    if values.launcher == "inline":
        return Inline()
    if values.launcher == "local":
        return Local(values.workers)
    bad = [word for word in values.slurm if "=" not in word]
    if bad:
        raise UserError(f"--slurm={bad[0]}: write options of sbatch as name=value")
    return Slurm(
        timeout_min=values.timeout_min,
        partition=values.partition,
        gpus_per_node=values.gpus,
        cpus_per_task=values.cpus,
        mem_gb=values.mem_gb,
        parallel=values.parallel,
        options=dict(word.split("=", 1) for word in values.slurm),
    )


def parse_study(values: flags.FlagValues, argv: list[str]) -> Study:
    """Parse the flags and load the study that the command line names."""
    words = parse(values, argv)
    if len(words) != 1:
        raise UserError("name the folder of one study, such as experiments/demo")

    return Study.load(words[0])


def sweep_folder(values: flags.FlagValues, study: Study) -> Path:
    """Return the folder of a study's runs."""
    return Path(values.workdir) if values.workdir else WORKDIR / study.name


def _dry_run(planned: list[PlannedRun], size: int) -> int:
    """Trace every program that is missing, and print the runs, their time and their memory."""
    estimator, total = Estimator(), 0.0
    missing = [run for run in planned if not run.done]
    check(missing, estimator)
    print(f"{'run id':14}{'data':22}{'row':40}{'seed':>5}{'steps':>9}{'parameters':>12}{'minutes':>9}{'GB':>7}")
    left = [[run for run in pack if not run.done] for pack in packs(planned, size, 1)]
    for number, pack in enumerate(filter(None, left), 1):
        for place, run in enumerate(pack):
            words = f"{run.run_id:14}{run.run.data[:21]:22}{run.run.row[:39]:40}{run.run.seed:5}"
            if run.run.baseline is not None or run.run.ensemble:
                print(f"{words}{'':9}{'':12}{'?':>9}{'?':>7}")
                continue
            cost = estimator.cost(run.run.config)
            total += cost.seconds
            memory = (cost.shared_bytes + len(pack) * cost.run_bytes) / 1e9
            program = f"{memory:7.1f}" if place == 0 else f"{'':7}"
            print(f"{words}{cost.num_steps:9,}{cost.num_parameters:12,}{cost.seconds / 60:9.1f}{program}")
        if len(pack) > 1:
            print(f"  program {number}: these {len(pack)} runs together")
    done = len(planned) - len(missing)
    print(
        f"{len(planned)} runs, {done} done; the others take about {total / 60:.0f} minutes one by one on this machine"
    )
    print("(time within a factor of 2 or 3; memory is a program's, shown with its first run)")
    return 0


def run_sweep(values: flags.FlagValues, study: Study, planned: list[PlannedRun]) -> int:
    """Run what is not done of the planned runs; the exit status is 1 where something failed."""
    launcher = _launcher(values)
    done = sum(run.done for run in planned)
    print(f"{study.name}: {len(planned)} runs, {done} of them done", file=sys.stderr)
    places = [place for place in study.table.places if place.startswith("validation.")]
    live = Live(planned, [*places, "validation.mode.micro_f1"][0], draw=not isinstance(launcher, Inline))
    with contextlib.closing(live):
        failures = run_missing(study, planned, launcher, values.pack, live.show, stop_on_signal())
    for failure in failures:
        run = failure.run.run
        see = f"; see {failure.log}" if failure.log else ""
        print(f"FAILED {run.data} {run.row} seed {run.seed}: {failure.error}{see}", file=sys.stderr)
    done = sum(run.done for run in planned)
    print(f"{study.name}: {done} of {len(planned)} runs done, {len(failures)} failed", file=sys.stderr)
    return 1 if failures else 0


def _dry_run_search(values: flags.FlagValues, study: Study) -> int:
    """Trace a trial at the first and one at the last end of all that is searched, and print what they take."""
    from mlresearch.trials import Trials  # for which Optuna is needed, an extra

    assert study.search is not None
    folder, estimator = sweep_folder(values, study), Estimator()
    begun = f"{Trials(study, folder, study.records).standing()}" if (folder / "search.journal").exists() else "none yet"
    print(f"search: {study.search.trials} trials; {begun}")
    for place in (0, -1):
        ends = {key: each.examples[place] for key, each in study.search.space.items()}
        cost = estimator.cost(make_run(study.search.overrides(0, ends)).config)
        print(
            f"  {', '.join(f'{key}={value}' for key, value in ends.items())}: {cost.num_steps:,} steps, "
            f"{cost.num_parameters:,} parameters, {cost.seconds / 60:.1f} minutes, "
            f"{(cost.shared_bytes + cost.run_bytes) / 1e9:.1f} GB"
        )
    return 0


def _run_search(values: flags.FlagValues, study: Study) -> int:
    """Work on a study's search, and print its best trial; the exit status is 1 where it has none, or was given up."""
    from mlresearch.trials import Standing, search

    assert study.search is not None
    launcher = _launcher(values)
    shown = ""

    def show(standing: Standing) -> None:
        nonlocal shown
        if str(standing) != shown and not isinstance(launcher, Inline):  # which says itself what comes of each trial
            shown = str(standing)
            print(f"{study.name}: {shown}", file=sys.stderr, flush=True)

    folder = sweep_folder(values, study)
    workers = 1 if isinstance(launcher, Inline) else values.workers
    standing, gave_up = search(study, folder, launcher, workers, show, stop_on_signal())
    for task in gave_up:
        error = (task.error.strip().splitlines() or [""])[-1]
        print(f"FAILED {task.name}: {error}; see {task.log}", file=sys.stderr)
    for number, error in standing.failed.items():
        print(f"FAILED trial {number}: {error}", file=sys.stderr)
    print(f"{study.name}: {study.search.trials} trials: {standing}")
    if standing.best is not None:
        place = f"validation.{study.search.metric}"
        print(f"best: trial {standing.best.number}, {title(place)} {standing.value:.4f}, in {standing.best.folder}")
        for key in study.search.space:
            print(f"  --config.{key}={standing.best.run.overrides[key]}")
    return 1 if gave_up or standing.best is None else 0
