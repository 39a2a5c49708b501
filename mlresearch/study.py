"""A study: a folder whose `sweep.py` yields overrides of a config, and the runs that they make.

``sweep.py`` holds a docstring (the question), the name of a config file, a generator, and what its table shows::

    CONFIG = "configs/icd10cm_terms.py"

    def runs():
        yield from cross(grid({"head.name": ["independent", "conditional"]}), seeds(10))

    TABLE = Table(baseline="independent")   # see `mlresearch.tables`
    SEARCH = Search(…)                      # see `mlresearch.search`; beside runs() or in its place

Overrides are settings by dotted key, as on the command line. Six keys are words of their own: ``config`` names another
config file than ``CONFIG``; ``baseline`` a scikit-learn baseline to fit instead of the config's model; ``ensemble`` has
that many of the study's runs, which differ in their seeds alone, evaluated as one (`mlresearch.ensemble`); ``row`` is
the row of the table that the run belongs to, where the values that differ do not name it well; ``data`` names its data
set in tables, where several have one name because they differ in options; and ``seed`` is what rows are averaged over.
A row is one on all data sets: ``data.name`` never names it.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import inspect
import itertools
import json
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from mlresearch.config import check_acting, check_key, flatten, identity, part_class, resolve
from mlresearch.errors import UserError, quote, suggest
from mlresearch.search import Search
from mlresearch.tables import Table

Overrides = dict[str, Any]

WORDS = ("config", "baseline", "ensemble", "row", "data", "seed")
"""Keys of overrides that are no settings of a part."""


def grid(settings: Mapping[str, Sequence[Any]]) -> list[Overrides]:
    """Return every combination of values, the last setting varying fastest."""
    return [dict(zip(settings, values, strict=True)) for values in itertools.product(*settings.values())]


def zipped(settings: Mapping[str, Sequence[Any]]) -> list[Overrides]:
    """Return the first values together, the second ones, and so on; unequal numbers are a `UserError`."""
    if len({len(values) for values in settings.values()}) > 1:
        lengths = ", ".join(f"{key}: {len(values)}" for key, values in settings.items())
        raise UserError(f"zipped() needs equally many values of each setting, not {lengths}")
    return [dict(zip(settings, values, strict=True)) for values in zip(*settings.values(), strict=True)]


def ablate(base: Overrides, settings: Mapping[str, Sequence[Any]]) -> list[Overrides]:
    """Return `base`, and then `base` with one setting changed at a time."""
    return [base, *(base | {key: value} for key, values in settings.items() for value in values)]


def cross(*parts: Sequence[Overrides]) -> list[Overrides]:
    """Return every combination of one of each, the last part varying fastest; of a key in several the last counts."""
    return [dict(itertools.chain.from_iterable(map(dict.items, chosen))) for chosen in itertools.product(*parts)]


def seeds(number: int, first: int = 0) -> list[Overrides]:
    """Return the seeds ``first``, …, ``first + number − 1``."""
    return grid({"seed": range(first, first + number)})


@dataclasses.dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    row: the row of the study's table. config: resolved. baseline: a scikit-learn baseline, None for the config's model.
    ensemble: how many runs of the study, those of the seeds from the config's on, are evaluated as one; 0: none.
    trial: its number in the study's search, None where it is none of the search's.
    """

    overrides: Overrides
    row: str
    config: ConfigDict
    baseline: str | None
    ensemble: int = 0
    trial: int | None = None

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.seed

    @property
    def data(self) -> str:
        """The name of its data set in tables."""
        return str(self.overrides.get("data", self.config.data.name))

    @property
    def config_hash(self) -> str:
        """Hexadecimal SHA-256 of all settings that change what the run computes."""
        settings = {"baseline": self.baseline, **identity(self.config)}
        settings |= {"ensemble": self.ensemble} if self.ensemble else {}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def run_id(self, fingerprint: str) -> str:
        """Return what names the run: 12 hexadecimal digits of its settings and of its data set's fingerprint."""
        return hashlib.sha256(f"{self.config_hash} {fingerprint}".encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Study:
    """A study's folder, its question, its runs, and what its table shows.

    runs: in the order of its generator, then the trials of its search that have records, by number. sources: the files
    that say what its runs are, `sweep.py` and config files: part of the code that made a record. search: what it
    searches beside or instead, the config file in its base.
    """

    folder: Path
    question: str
    runs: tuple[StudyRun, ...]
    table: Table
    sources: tuple[Path, ...]
    search: Search | None = None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def records(self) -> Path:
        """The folder of run records, small JSON files that are committed."""
        return self.folder / "records"

    @classmethod
    def load(cls, folder: str | Path) -> "Study":
        """Read a study, whose runs are all checked; a mistake in any is a `UserError` that names its overrides."""
        folder = Path(folder)
        path = folder / "sweep.py"
        if not path.is_file():
            near = suggest(folder.name, [each.parent.name for each in folder.parent.glob("*/sweep.py")])
            raise UserError(f"{folder} holds no study: there is no sweep.py in it{near}")
        module = _load(path)
        search, generator = getattr(module, "SEARCH", None), getattr(module, "runs", None)
        if not inspect.isgeneratorfunction(generator) and (search is None or generator is not None):
            raise UserError(f"{path} needs a generator runs() that yields overrides; see mlresearch/study.py")
        with _told(path):
            given: list[Overrides] = [] if generator is None else list(generator())
        if generator is not None and not given:
            raise UserError(f"{path}: runs() yields nothing")
        for number, overrides in enumerate(given, 1):
            if not isinstance(overrides, dict) or not all(isinstance(key, str) for key in overrides):
                raise UserError(f"{path}, run {number}: overrides are settings by dotted key, not {quote(overrides)}")
        files: dict[str, ModuleType] = {}
        made = []
        models = [overrides for overrides in given if "baseline" not in overrides]
        baselines = [overrides for overrides in given if "baseline" in overrides]
        varying = _varying(models) | _varying(baselines)  # apart: a baseline lacks what it does not read
        for number, overrides in enumerate(given, 1):
            try:
                made.append(make_run(overrides, getattr(module, "CONFIG", None), varying, files))
            except UserError as error:
                raise UserError(f"{path}, run {number}, {overrides}: {error}") from None
        _check_distinct(path, made)
        for number, run in enumerate(made, 1):
            if run.ensemble and len(members_of(run, made)) < run.ensemble:
                raise UserError(
                    f"{path}, run {number}, {run.overrides}: its members, the same runs with the seeds {run.seed} to "
                    f"{run.seed + run.ensemble - 1}, are not all runs of the study"
                )
        table = Table()
        if search is not None:
            if not isinstance(search, Search):
                raise UserError(f"{path}: SEARCH is no Search(…); see mlresearch/search.py")
            search = dataclasses.replace(search, base={"config": getattr(module, "CONFIG", None), **search.base})
            _check_search(search, path, files)
            hashes = {run.config_hash for run in made}
            made += [run for run in _trials(search, folder / "records", files) if run.config_hash not in hashes]
            table = table if given else Table(columns=(f"validation.{search.metric}",))
        sources = [path, *(Path(name.partition(":")[0]) for name in files)]
        question = inspect.cleandoc(module.__doc__ or "")
        return cls(folder, question, tuple(made), getattr(module, "TABLE", table), tuple(sources), search)


def _varying(given: Sequence[Overrides]) -> set[str]:
    """Return the settings that differ among runs and name their rows; a row is one on all data sets."""
    keys = {key for overrides in given for key in overrides if key not in (*WORDS, "data.name")}
    return {key for key in keys if len({repr(overrides.get(key)) for overrides in given}) > 1}


def _check_distinct(path: Path, runs: Sequence[StudyRun]) -> None:
    """Raise `UserError` where two runs are the same, or would be one number of a table."""
    hashes: dict[str, int] = {}
    cells: dict[tuple[str, str, int], int] = {}
    for number, run in enumerate(runs, 1):
        same = hashes.setdefault(run.config_hash, number)
        if same != number:
            raise UserError(f"{path}: runs {same} and {number} are the same: {run.overrides}")
        same = cells.setdefault((run.row, run.data, run.seed), number)
        if same != number:
            raise UserError(
                f"{path}: runs {same}, {runs[same - 1].overrides}, and {number}, {run.overrides}, have one row, one "
                f"data set and one seed: give them other rows than {run.row!r} by the override 'row'"
            )


def members_of(ensemble: StudyRun, runs: Sequence[StudyRun]) -> list[int]:
    """Return the numbers of the runs that an ensemble is made of, by seed."""

    def settings(run: StudyRun) -> dict[str, Any]:
        return {key: value for key, value in identity(run.config).items() if key != "seed"}

    seeds = range(ensemble.seed, ensemble.seed + ensemble.ensemble)
    common = settings(ensemble)
    found = {
        run.seed: number
        for number, run in enumerate(runs)
        if run.baseline is None and not run.ensemble and run.seed in seeds and settings(run) == common
    }
    return [found[seed] for seed in seeds if seed in found]


def load_config(name: str, files: dict[str, ModuleType] | None = None) -> ConfigDict:
    """Return what ``get_config()`` of a config file gives; ``file.py:argument`` hands it an argument.

    files: modules read so far, by name, so that each is read once.
    """
    files = {} if files is None else files
    path, _, argument = name.partition(":")
    if not Path(path).is_file():
        near = [str(file) for file in Path(path).parent.glob("*.py")]
        raise UserError(f"there is no config file {path}{suggest(path, near) if near else ''}")
    if name not in files:
        files[name] = _load(Path(path))
    if not hasattr(files[name], "get_config"):
        raise UserError(f"{path} needs a function get_config()")
    with _told(Path(path)):
        config = files[name].get_config(argument) if argument else files[name].get_config()
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config() returned {type(config).__name__}; it must return a base_config()")
    return config


def _load(path: Path) -> ModuleType:
    """Run a Python file of the user's."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _told(path):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what a Python file of the user's raises into a `UserError` with its line."""
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        here = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
        line = f", line {here[-1]}" if here else ""
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        raise UserError(f"{path}{line}: {kind}{error}") from None


def _set(config: ConfigDict, key: str, value: Any) -> None:
    """Change a setting that there is; a value of another type is a `UserError`."""
    old: Any = config
    for part in key.split("."):
        old = old[part]
    if isinstance(old, ConfigDict):
        raise UserError(f"config.{key} is a section: name one of its settings")
    # ml_collections takes None for anything, and what is true or false for a number.
    if old is not None and (value is None or isinstance(value, bool) != isinstance(old, bool)):
        raise UserError(f"config.{key} is {quote(value)}, not of type {type(old).__name__}")
    try:
        config.update_from_flattened_dict({key: value})
    except (TypeError, ValueError) as error:
        raise UserError(f"config.{key}: {error}") from None


def make_run(
    overrides: Overrides,
    default: str | None = None,
    varying: Iterable[str] = (),
    files: dict[str, ModuleType] | None = None,
) -> StudyRun:
    """Return the run of overrides; a mistake in them is a `UserError`.

    default: the config file, where they name none. varying: keys whose values name its row, where they do not. files:
    as `load_config` takes them.
    """
    name = overrides.get("config", default)
    if name is None:
        raise UserError("no config file is named: set CONFIG in sweep.py, or the override 'config'")
    config = load_config(name, files)
    known = flatten(config.to_dict())
    settings = {key: value for key, value in overrides.items() if key not in WORDS or key == "seed"}
    ensemble = overrides.get("ensemble", 0)
    if not isinstance(ensemble, int) or ensemble < 0 or ensemble == 1 or (ensemble and "baseline" in overrides):
        raise UserError(f"ensemble = {ensemble!r}: it is a number of runs of a config's model, two or more")
    baseline = overrides.get("baseline")
    if baseline is not None:
        part_class("baseline", baseline)
        config.baseline.name = baseline
    for key, value in settings.items():
        if key not in known:
            check_key(key)
        if baseline is not None and key.partition(".")[0] not in ("seed", "data", "columns", "evaluate", "baseline"):
            raise UserError(f"config.{key} is set, but the baseline {baseline!r} does not read it: leave it out")
        _set(config, key, value)
    if config.train.replicas != 1 or config.train.replica_overrides:
        raise UserError("config.train.replicas is for single commands: yield a run a seed, and the sweep packs them")
    check_acting(config, list(settings))
    config = resolve(config)
    values = [str(overrides[key]) for key in overrides if key in varying or key == "baseline"]
    row = str(overrides.get("row") or "+".join(values) or config.head.name)
    return StudyRun(overrides, f"{row} ×{ensemble}" if ensemble else row, config, baseline, ensemble)


def _check_search(search: Search, path: Path, files: dict[str, ModuleType]) -> None:
    """Raise `UserError` unless each end of a range and each choice makes a run, and what pruning needs is there."""
    for key in WORDS:
        if key in search.space or (key in search.base and key in ("baseline", "row")):
            raise UserError(f"{path}, SEARCH: leave {key!r} out; its base may have 'config' and 'seed', its space none")
    first = {key: values.examples[0] for key, values in search.space.items()}
    for key, values in search.space.items():
        for value in values.examples:
            where = f"{path}, SEARCH, {key} = {value!r}"
            try:
                config = make_run(search.overrides(0, first | {key: value}), files=files).config
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
            if search.prune_after is None:
                continue
            if not config.evaluate.every_epochs:
                raise UserError(
                    f"{where}: pruning needs validation while training: set config.evaluate.every_epochs, or "
                    "Search(prune_after=None)"
                )
            watched = (config.train.select or "mode").partition(".")[0]
            if search.metric.partition(".")[0] not in (watched, "loss"):
                raise UserError(
                    f"{where}: while training, validation gives the numbers of {watched!r} and the loss alone: set "
                    f"config.train.select to {search.metric!r}, or Search(prune_after=None)"
                )


def _trials(search: Search, records: Path, files: dict[str, ModuleType]) -> list[StudyRun]:
    """Return the runs of the trials whose records stand in a folder; one of another search is none of them."""
    found = []
    for path in records.glob("*.json"):
        try:
            record = json.loads(path.read_text())
            number, values, config_hash = record["trial"], record["overrides"], record["config_hash"]
            run = make_run(search.overrides(number, {key: values[key] for key in search.space}), files=files)
        except (ValueError, KeyError, TypeError, UserError):  # the table says what a damaged record lacks
            continue
        if run.config_hash == config_hash:
            found.append((number, config_hash, dataclasses.replace(run, trial=number)))
    return [run for _, _, run in sorted(found, key=lambda each: each[:2])]
