"""The commands: ``mlresearch train | evaluate | predict | sweep | reproduce | table | data | doctor``."""

import importlib.metadata
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from mlresearch.errors import UserError, suggest

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from mlresearch.launch import Inline, Local, Slurm
    from mlresearch.outcomes import Outcomes
    from mlresearch.predict import LabelPrediction, Run
    from mlresearch.study import Study
    from mlresearch.sweep import PlannedRun

USAGE = """usage: mlresearch COMMAND [--flags]

  train     --config=FILE --workdir=DIR [--config.KEY=VALUE ...]   train, evaluate and record one run
  evaluate  --workdir=DIR --split=validation|test [--json]         the metrics of a trained run
  predict   --workdir=DIR --text "..."                             labels of a text
            --workdir=DIR --input F.jsonl --output G.jsonl         labels of many: {"text": ...} a line
  sweep     STUDY [--dry-run] [--pack=10] [--stale]                run what is missing of experiments/STUDY
            [--launcher=inline|local|slurm] [--workers=2] ...      here, in several processes, on a cluster
  reproduce STUDY [--workdir=DIR] [...]                            run all of it anew, and compare with its records
  table     STUDY | RUN ... [--format=markdown|latex|csv|json]     mean ± sd over seeds, with paired tests
            ... [--allow=missing,code,data] [--workdir=DIR]        with faults marked; where a study's runs lie
  data      list                                                   data sets by name
            prepare NAME | describe NAME [--json] [--plot=DIR]     read upstream files; what is in them
            export NAME --output=DIR                               JSON Lines with a Croissant description
            ... [--manual_dir=DIR] [--config=FILE] [--config.data.KEY=VALUE ...]
  doctor                                                           devices, versions, what is missing

'mlresearch COMMAND --help' lists the flags of a command.
"""


def main(argv: list[str]) -> int:
    """Run one command; returns the exit status: 0, or 2 for a mistake, whose message is printed without a traceback."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if argv else 2
    try:
        if argv[0] not in COMMANDS:
            raise UserError(f"there is no command {argv[0]!r}{suggest(argv[0], COMMANDS)}")
        return COMMANDS[argv[0]](argv)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (UserError, flags.Error) as error:
        print(f"mlresearch {argv[0]}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"mlresearch {argv[0]}: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"mlresearch {argv[0]}: interrupted", file=sys.stderr)
        return 130


def run() -> None:
    """Run the command of the process."""
    sys.exit(main(sys.argv[1:]))


def train(argv: list[str]) -> int:
    """Train, evaluate and record one run."""
    from mlresearch.results import markdown, row

    values = flags.FlagValues()
    _define_workdir(values)
    config, given, _ = _parse_config(values, argv)
    if not _names_config(argv):
        raise UserError("--config is missing: name a config file, such as --config=configs/icd10cm_terms.py")

    from mlresearch.config import check_acting, replicas, resolve

    check_acting(config, given)

    from mlresearch.train import train_replicas
    from mlresearch.workdir import finished_record

    folders = [_workdir(values) / name for name, _ in replicas(resolve(config))]
    finished = all(finished_record(folder) is not None for folder in folders)
    records = train_replicas(config, _workdir(values), stop=_stop_on_signal())
    if finished:
        print(f"{_workdir(values)}: the run was finished before; nothing was done", file=sys.stderr)
    print(markdown([row(record) for record in records]))
    for remark in dict.fromkeys(remark for record in records for remark in record.get("remarks", [])):
        print(remark)
    return 0


def _names_config(argv: list[str]) -> bool:
    return any(word.startswith(("--config=", "-config=")) or word in ("--config", "-config") for word in argv)


def _parse_config(values: flags.FlagValues, argv: list[str]) -> "tuple[ConfigDict, list[str], list[str]]":
    """Parse the flags of a command that takes a config: the file's, or the defaults where no file is named.

    Returns the config with the settings of the command line, the keys of these, and the words that are no flags.
    """
    from ml_collections import config_flags

    from mlresearch.config import base_config, check_key

    words = [word.lstrip("-") for word in argv if word.startswith(("--config.", "-config."))]
    given = [word.removeprefix("config.").partition("=")[0] for word in words]
    for key in given:
        check_key(key)
    flags.DEFINE_string("manual_dir", "", "The folder of upstream files.", flag_values=values)
    for word in argv:
        path = word.partition("=")[2].partition(":")[0] if word.startswith(("--config=", "-config=")) else ""
        if path and not Path(path).is_file():
            near = [str(file) for file in Path(path).parent.glob("*.py")]
            raise UserError(f"--config: there is no file {path}{suggest(path, near) if near else ''}")
    if _names_config(argv):
        config_flags.DEFINE_config_file("config", None, "The config file.", flag_values=values, sys_argv=argv)
    else:
        config_flags.DEFINE_config_dict("config", base_config(), flag_values=values, sys_argv=argv)
    rest = _parse(values, argv)
    try:
        values.config.keys()
    except OSError as error:  # kept back by ml_collections until the config is used
        raise UserError(f"cannot load the config: {str(error).split('Attempted', 1)[-1].strip()}") from None
    if values.manual_dir:
        values.config.data.manual_dir = values.manual_dir
    return values.config, given, rest


def evaluate(argv: list[str]) -> int:
    """Print the metrics of a trained run on a split."""
    values = flags.FlagValues()
    _define_workdir(values)
    flags.DEFINE_enum("split", "test", ["train", "validation", "test"], "Which examples.", flag_values=values)
    flags.DEFINE_bool("json", False, "Print JSON.", flag_values=values)
    _parse(values, argv)

    from mlresearch.predict import Run

    metrics = Run(_workdir(values)).evaluate(values.split)
    if values.json:
        print(json.dumps({"split": values.split, "metrics": metrics}, allow_nan=False))
        return 0
    for group, numbers in metrics.items():
        print(f"{values.split}, {group}")
        for name, value in numbers.items():
            print(f"  {name:28} {_metric(name, value)}")
    return 0


def _metric(name: str, value: float | None) -> str:
    if value is None:
        return "infinite"
    return f"{value:.0f}" if name.startswith("num_") else f"{value:.4f}"


def predict(argv: list[str]) -> int:
    """Print or write the labels of texts."""
    values = flags.FlagValues()
    _define_workdir(values)
    flags.DEFINE_string("text", None, "A text.", flag_values=values)
    flags.DEFINE_string("input", None, 'JSON Lines, {"text": ...} each.', flag_values=values)
    flags.DEFINE_string("output", None, "Where to write JSON Lines.", flag_values=values)
    flags.DEFINE_string("decision", "mode", "mode, half, global_threshold or label_thresholds.", flag_values=values)
    flags.DEFINE_float(
        "min_probability",
        0.05,
        "List labels at least so probable.",
        lower_bound=0,
        upper_bound=1,
        flag_values=values,
    )
    _parse(values, argv)
    if (values.text is None) == (values.input is None):
        raise UserError("give either --text or --input")
    if (values.input is None) != (values.output is None):
        raise UserError("--input and --output go together")
    if values.output is not None and (not Path(values.output).parent.is_dir() or Path(values.output).is_dir()):
        raise UserError(f"--output={values.output} is no file in a folder that there is")
    inputs = [{"text": values.text}] if values.input is None else _read_inputs(Path(values.input))

    from mlresearch.predict import Run

    run = Run(_workdir(values))
    try:
        predictions = run.predict(inputs, decision=values.decision, min_probability=values.min_probability)
    except UserError as error:
        raise UserError(f"{values.input or '--text'}: {error}") from None
    if values.output is None:
        _print_labels(run, predictions[0])
        return 0

    from mlresearch.files import write_bytes

    lines = [
        json.dumps(given | {"predicted": [vars(label) for label in labels]}, ensure_ascii=False) + "\n"
        for given, labels in zip(inputs, predictions, strict=True)
    ]
    write_bytes(values.output, "".join(lines).encode())
    print(f"{values.output}: labels of {len(inputs)} inputs")
    unread = sorted({name for given in inputs for name in given} - {"text", "features", "categories"})
    if unread:
        print(f"copied but not read: {', '.join(unread)}", file=sys.stderr)
    return 0


def table(argv: list[str]) -> int:
    """Print the tables of studies, or of runs."""
    values = flags.FlagValues()
    flags.DEFINE_enum("format", "markdown", ["markdown", "latex", "csv", "json"], "How to write.", flag_values=values)
    flags.DEFINE_list("allow", [], "Print in spite of: missing, code, data.", flag_values=values)
    flags.DEFINE_string("workdir", None, "The folder of a study's runs, if not runs/STUDY.", flag_values=values)
    folders = [Path(word) for word in _parse(values, argv)]
    if not folders:
        raise UserError("name the folders of one or more studies or runs")

    from mlresearch import environment
    from mlresearch.outcomes import OutcomeReader
    from mlresearch.results import Result, Table, read_runs, read_study
    from mlresearch.study import Study
    from mlresearch.tabulate import FAULTS, tabulate
    from mlresearch.typeset import FORMATS

    reader = OutcomeReader()

    def outcomes(result: Result, places: Sequence[str]) -> "Outcomes":
        if result.folder is None or result.config is None:
            raise UserError(f"the folder of the run {result.file} is not known")
        return reader.read(result.folder, result.config, result.record["data"]["fingerprint"], places)

    def say(lines: Iterable[str]) -> None:
        for line in lines:
            print(line, file=sys.stderr)

    sheets = []
    for folder in folders:
        if (folder / "sweep.py").exists():
            study = Study.load(folder)
            results = read_study(study, Path(values.workdir or f"runs/{study.name}"))
            stale = results.stale(environment.code_hash(study.sources))
            say([*results.remarks, *([stale] if stale else [])])
            sheets += tabulate(results, study.table, values.allow, outcomes)
    runs = [folder for folder in folders if not (folder / "sweep.py").exists()]
    if runs:
        results = read_runs(runs)
        say(results.remarks)
        if not results.runs:
            raise UserError("none of these runs is finished")
        sheets += tabulate(results, Table(), tuple(FAULTS))
    print(FORMATS[values.format](sheets).rstrip("\n"))
    if values.format == "csv":  # which has no place for notes
        say(dict.fromkeys(note for sheet in sheets for note in sheet.notes))
    return 0


def sweep(argv: list[str]) -> int:
    """Run what is missing of a study, or print what that would be."""
    values = flags.FlagValues()
    _define_sweep(values)
    flags.DEFINE_bool("dry_run", False, "Check and count everything, and print what would run.", flag_values=values)
    flags.DEFINE_bool("stale", False, "Run again what other code than today's has made.", flag_values=values)
    study = _parse_study(values, argv)

    from mlresearch.sweep import plan, set_aside, stale

    everything = plan(study, _sweep_folder(values, study))
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
        failed = _dry_run(planned, values.pack) if values.dry_run else _run_sweep(values, study, planned)
    if study.search is not None:
        failed = max(failed, _dry_run_search(values, study) if values.dry_run else _run_search(values, study))
    return failed


def reproduce(argv: list[str]) -> int:
    """Make a study anew, and compare its table with the committed records; the exit status is 1 where they differ."""
    values = flags.FlagValues()
    _define_sweep(values)
    study = _parse_study(values, argv)

    from mlresearch.results import compare, read_study
    from mlresearch.sweep import plan
    from mlresearch.tabulate import FAULTS, tabulate
    from mlresearch.typeset import FORMATS

    if not study.runs or not any(study.records.glob("*.json")):
        raise UserError(
            f"{study.records} holds no records to compare with: 'mlresearch sweep {study.folder}' makes them"
        )
    folder = _sweep_folder(values, study)
    records = folder / "records"
    failed = _run_sweep(values, study, plan(study, folder, records))
    made, committed = read_study(study, folder, records), read_study(study, folder)
    print(FORMATS["markdown"](tabulate(made, study.table, tuple(FAULTS))).rstrip("\n"))
    lines = compare(made, committed, study.table)
    apart = [line for line in lines if not line.within]
    for line in apart:
        print(line)
    print(
        f"\n{len(lines) - len(apart)} of {len(lines)} numbers agree with {study.records}, to within their tolerance or "
        "two standard errors, whichever is more"
    )
    return 1 if failed or apart else 0


def _dry_run(planned: "list[PlannedRun]", size: int) -> int:
    """Trace every program that is missing, and print the runs, their time and their memory."""
    from mlresearch.estimate import Estimator
    from mlresearch.sweep import check, packs

    estimator, total = Estimator(), 0.0
    missing = [run for run in planned if not run.done]
    check(missing, estimator)
    print(f"{'run id':14}{'data':22}{'row':40}{'seed':>5}{'steps':>9}{'parameters':>12}{'minutes':>9}{'GB':>7}")
    left = [[run for run in pack if not run.done] for pack in packs(planned, size, 1)]
    for number, pack in enumerate(filter(None, left), 1):
        for place, run in enumerate(pack):
            words = f"{run.run_id:14}{run.run.data[:21]:22}{run.run.row[:39]:40}{run.run.seed:5}"
            if run.run.baseline is not None:
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


def _run_sweep(values: flags.FlagValues, study: "Study", planned: "list[PlannedRun]") -> int:
    """Run what is not done of the planned runs; the exit status is 1 where something failed."""
    import contextlib

    from mlresearch.launch import Inline
    from mlresearch.live import Live
    from mlresearch.sweep import sweep as run_missing

    launcher = _launcher(values)
    done = sum(run.done for run in planned)
    print(f"{study.name}: {len(planned)} runs, {done} of them done", file=sys.stderr)
    places = [place for place in study.table.places if place.startswith("validation.")]
    live = Live(planned, [*places, "validation.mode.micro_f1"][0], draw=not isinstance(launcher, Inline))
    with contextlib.closing(live):
        failures = run_missing(study, planned, launcher, values.pack, live.show, _stop_on_signal())
    for failure in failures:
        run = failure.run.run
        print(f"FAILED {run.data} {run.row} seed {run.seed}: {failure.error}; see {failure.log}", file=sys.stderr)
    done = sum(run.done for run in planned)
    print(f"{study.name}: {done} of {len(planned)} runs done, {len(failures)} failed", file=sys.stderr)
    return 1 if failures else 0


def _dry_run_search(values: flags.FlagValues, study: "Study") -> int:
    """Trace a trial at the first and one at the last end of all that is searched, and print what they take."""
    from mlresearch.estimate import Estimator
    from mlresearch.study import make_run
    from mlresearch.trials import Trials

    assert study.search is not None
    folder, estimator = _sweep_folder(values, study), Estimator()
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


def _run_search(values: flags.FlagValues, study: "Study") -> int:
    """Work on a study's search, and print its best trial; the exit status is 1 where it has none, or was given up."""
    from mlresearch.definitions import title
    from mlresearch.launch import Inline
    from mlresearch.trials import Standing, search

    assert study.search is not None
    launcher = _launcher(values)
    shown = ""

    def show(standing: Standing) -> None:
        nonlocal shown
        if str(standing) != shown and not isinstance(launcher, Inline):  # which says itself what comes of each trial
            shown = str(standing)
            print(f"{study.name}: {shown}", file=sys.stderr, flush=True)

    folder = _sweep_folder(values, study)
    workers = 1 if isinstance(launcher, Inline) else values.workers
    standing, gave_up = search(study, folder, launcher, workers, show, _stop_on_signal())
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


def _define_sweep(values: flags.FlagValues) -> None:
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


def _launcher(values: flags.FlagValues) -> "Inline | Local | Slurm":
    from mlresearch.launch import Inline, Local, Slurm

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


def _parse_study(values: flags.FlagValues, argv: list[str]) -> "Study":
    words = _parse(values, argv)
    if len(words) != 1:
        raise UserError("name the folder of one study, such as experiments/demo")

    from mlresearch.study import Study

    return Study.load(words[0])


def _sweep_folder(values: flags.FlagValues, study: "Study") -> Path:
    from mlresearch.sweep import WORKDIR

    return Path(values.workdir) if values.workdir else WORKDIR / study.name


def data(argv: list[str]) -> int:
    """List, prepare, describe, draw or export data sets."""
    values = flags.FlagValues()
    flags.DEFINE_bool("json", False, "Print JSON.", flag_values=values)
    flags.DEFINE_string("plot", None, "The folder to draw pictures into.", flag_values=values)
    flags.DEFINE_string("output", None, "The folder to export to.", flag_values=values)
    config, given, words = _parse_config(values, argv)
    action = words[0] if words else ""
    if action not in DATA_ACTIONS or len(words) > 2:
        hint = suggest(action, DATA_ACTIONS) if action not in DATA_ACTIONS else ""
        raise UserError(f"'mlresearch data' takes one of {', '.join(DATA_ACTIONS)}, and one name of a data set{hint}")
    if action == "list" and (len(words) > 1 or values.output is not None):
        raise UserError("'mlresearch data list' takes no name and no --output")
    if action != "describe" and (values.json or values.plot is not None):
        raise UserError("--json and --plot go with 'mlresearch data describe'")
    if action == "list":
        return _list_data()
    if len(words) == 2:
        config.data.name = words[1]
    elif not _names_config(argv) and "data.name" not in given:
        raise UserError(f"'mlresearch data {action}' needs the name of a data set, or a --config that has one")
    if (values.output is not None) != (action == "export"):
        raise UserError("--output=DIR goes with 'mlresearch data export', and is needed there")

    from mlresearch.config import check_acting, resolve
    from mlresearch.inputs import load_dataset

    check_acting(config, given)
    dataset = load_dataset(resolve(config))
    if action == "export":
        from mlresearch.croissant import export

        print(export(dataset, values.output, **dataset.about))
        return 0
    from mlresearch.describe import describe, print_description

    if action == "prepare":
        sizes = ", ".join(f"{len(records)} {split}" for split, records in dataset.splits.items())
        print(
            f"{dataset.name}: {sizes}, {dataset.label_space.num_labels} labels, fingerprint {dataset.fingerprint[:16]}"
        )
        for name, value in dataset.notes.items():
            print(f"  {name}: {json.dumps(value, ensure_ascii=False)}")
        return 0
    description = describe(dataset)
    if values.json:
        print(json.dumps(description, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print_description(description)
    if values.plot is not None:
        from mlresearch.figures import plot

        for path in plot(dataset, values.plot):
            print(path, file=sys.stderr if values.json else sys.stdout)
    return 0


DATA_ACTIONS = ("list", "prepare", "describe", "export")


def _list_data() -> int:
    """Print the names of all data sets, a source a line or more, with what each source is."""
    from mlresearch import data
    from mlresearch.data import source_class

    for source in data.sources():
        doc = sys.modules[source_class(source).__module__].__doc__ or ""
        print(f"{source}: {doc.partition(chr(10))[0]}")
        for name in data.subsets(source):
            own = name == source and len(data.subsets(source)) > 1
            print(f"  {name}{'  (files of your own: --config.data.arff_train=FILE)' if own else ''}")
    return 0


def doctor(argv: list[str]) -> int:
    """Print devices, versions, caches and what is missing; the exit status is 1 if something is."""
    _parse(flags.FlagValues(), argv)

    import platform
    import shutil

    from mlresearch import environment

    missing = []
    print(f"python       {platform.python_version()}, {os.cpu_count()} cores")
    for package in environment.PACKAGES:
        try:
            print(f"{package:20} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(f"the package {package}: pip install {package}")
    try:
        import jax

        for device in jax.devices():
            print(f"device       {device.id}: {device.device_kind} ({device.platform})")
    except (ImportError, RuntimeError, AssertionError) as error:  # each says in its own way that JAX has no device
        missing.append(f"a device that JAX can use: {' '.join(str(error).split()) or 'JAX gives no reason'}")
    data_dir = environment.default_data_dir()
    prepared = sorted({path.parent for path in data_dir.glob("*/*/*/decoded*.npz")})
    print(f"data sets    in {data_dir}{'' if prepared else ': none prepared yet'}")
    for path in prepared:
        print(f"             {path.relative_to(data_dir)}")
    manual_dir = os.environ.get("MLRESEARCH_MANUAL_DIR", "")
    if not manual_dir:
        print("upstream     MLRESEARCH_MANUAL_DIR is not set: only data sets without upstream files, or --manual_dir")
    elif Path(manual_dir).is_dir():
        found = sorted(path.name for path in Path(manual_dir).iterdir() if path.is_dir())
        print(f"upstream     files in {manual_dir}: {', '.join(found) or 'none'}")
    else:
        missing.append(f"the folder {manual_dir} that MLRESEARCH_MANUAL_DIR names")
    existing = next(parent for parent in (data_dir, *data_dir.parents) if parent.exists())
    free = shutil.disk_usage(existing).free / 1e9
    print(f"disk         {free:.1f} GB free there")
    if free < 1:
        missing.append(f"space on the disk of {existing}: less than 1 GB is free")
    if not os.access(existing, os.W_OK):
        missing.append(f"the right to write in {existing}: set MLRESEARCH_DATA_DIR")
    for line in missing:
        print(f"MISSING      {line}")
    print("nothing is missing" if not missing else f"{len(missing)} things are missing")
    return 1 if missing else 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "sweep": sweep,
    "reproduce": reproduce,
    "table": table,
    "data": data,
    "doctor": doctor,
}


def _define_workdir(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "The run's folder.", flag_values=values)


def _workdir(values: flags.FlagValues) -> Path:
    if not values.workdir:
        raise UserError("--workdir is missing: name the run's folder")
    return Path(values.workdir)


def _parse(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """Parse the flags of a command and return what is not a flag; mistakes become `UserError`s."""
    flags.DEFINE_bool("help", False, "Show these flags.", short_name="h", flag_values=values)
    try:
        rest = values([_underscored(word) for word in argv])
    except flags.UnrecognizedFlagError as error:
        raise UserError(f"there is no flag --{error.flagname}{suggest(error.flagname, values)}") from None
    except Exception as error:  # from ml_collections, or from the user's config file
        said: object = error
        while isinstance(said, KeyError):  # whose text is a quotation
            said = said.args[0]
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "get_config" in frame.name]
        where = f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""
        raise UserError(where + " ".join(str(said).replace("\\n", " ").split())) from None
    if values.help:
        print(f"mlresearch {argv[0]}\n\n{values.get_help()}")
        sys.exit(0)
    return rest[1:]


def _underscored(word: str) -> str:
    """Return a flag with underscores in its name, where dashes are written as well."""
    name, sign, value = word.partition("=")
    return name[:2] + name[2:].replace("-", "_") + sign + value if word.startswith("--") else word


def _stop_on_signal() -> Callable[[], bool]:
    """Return whether Ctrl-C or SIGTERM came: the first asks to stop after the step, the second stops at once.

    Stopping in the middle of a step, or while a checkpoint is being written, would lose what the first stop keeps.
    """
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        asked.append(number)
        print("stopping after this step; once more to stop at once", file=sys.stderr, flush=True)
        signal.signal(number, signal.default_int_handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask)
    return lambda: bool(asked)


def _read_inputs(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON Lines file, one a line: a blank line is a `UserError`, too."""
    from mlresearch.data.reading import read_jsonl

    inputs: list[dict[str, Any]] = []
    for line, row in read_jsonl(path):
        if line > len(inputs) + 1:
            raise UserError(f"{path}, line {len(inputs) + 1} is blank")
        inputs.append(row)
    return inputs


def _print_labels(run: "Run", labels: "list[LabelPrediction]") -> None:
    """Print labels, as a tree where there is a hierarchy; a label with several parents stands under each."""
    import rich.console
    import rich.markup
    import rich.tree

    def text(label: "LabelPrediction") -> str:
        name = rich.markup.escape(
            f"{label.name}  {label.description}" if label.description != label.name else label.name
        )
        return f"{label.probability:6.3f} {'●' if label.on else '○'} {f'[bold]{name}[/]' if label.on else name}"

    ids = {run.label_space.index[label.name]: label for label in labels}
    above: dict[int, list[int]] = {label: [] for label in ids}
    if run.hierarchy is not None:
        for child, parent in zip(run.hierarchy.children.tolist(), run.hierarchy.parents.tolist(), strict=True):
            if child in ids and parent in ids:
                above[child].append(parent)
    tree = rich.tree.Tree("probability, ● predicted", guide_style="dim")

    def grow(branch: Any, parent: int | None) -> None:
        for label in sorted(ids, key=lambda label: -ids[label].probability):
            if (parent is None and not above[label]) or parent in above[label]:
                grow(branch.add(text(ids[label])), label)

    grow(tree, None)
    rich.console.Console().print(tree)
