"""A study: a folder whose `sweep.py` yields overrides of a config, and the runs that they make.

``sweep.py`` holds a docstring (the question), the name of a config file, a generator, and what its table shows::

    CONFIG = "configs/icd10cm_terms.py"

    def runs():
        yield from cross(grid({"head.name": ["independent", "conditional"]}), seeds(10))

    TABLE = Table(baseline="independent")   # see `mlresearch.results`

Overrides are settings by dotted key, as on the command line. Four keys are words of their own: ``config`` names another
config file than ``CONFIG``; ``baseline`` a scikit-learn baseline to fit instead of the config's model; ``row`` the row
of the table that the run belongs to, where the values that differ do not name it well; and ``seed`` is what rows are
averaged over.
"""

import dataclasses
import hashlib
import importlib.util
import inspect
import itertools
import json
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from mlresearch.config import check_acting, check_key, identity, resolve
from mlresearch.errors import UserError, suggest
from mlresearch.results import Table

Overrides = dict[str, Any]

WORDS = ("config", "baseline", "row", "seed")
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
    """

    overrides: Overrides
    row: str
    config: ConfigDict
    baseline: str | None

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.seed

    @property
    def data(self) -> str:
        """The name of its data set."""
        return self.config.data.name

    @property
    def config_hash(self) -> str:
        """Hexadecimal SHA-256 of all settings that change what the run computes."""
        settings = {"baseline": self.baseline, **identity(self.config)}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def run_id(self, fingerprint: str) -> str:
        """Return what names the run: 12 hexadecimal digits of its settings and of its data set's fingerprint."""
        return hashlib.sha256(f"{self.config_hash} {fingerprint}".encode()).hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Study:
    """A study's folder, its question, its runs in the order of its generator, and what its table shows.

    sources: the files that say what its runs are, `sweep.py` and config files: part of the code that made a record.
    """

    folder: Path
    question: str
    runs: tuple[StudyRun, ...]
    table: Table
    sources: tuple[Path, ...]
    search: Any = None

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
        if not inspect.isgeneratorfunction(getattr(module, "runs", None)):
            raise UserError(f"{path} needs a generator runs() that yields overrides; see mlresearch/study.py")
        given: list[Overrides] = list(module.runs())
        if not given:
            raise UserError(f"{path}: runs() yields nothing")
        files: dict[str, ModuleType] = {}
        made = []
        varying = {key for overrides in given for key in overrides if key not in WORDS}
        varying = {key for key in varying if len({repr(overrides.get(key)) for overrides in given}) > 1}
        for number, overrides in enumerate(given, 1):
            try:
                made.append(_make_run(overrides, getattr(module, "CONFIG", None), varying, files))
            except UserError as error:
                raise UserError(f"{path}, run {number}, {overrides}: {error}") from None
        hashes: dict[str, int] = {}
        for number, run in enumerate(made, 1):
            if run.config_hash in hashes:
                raise UserError(f"{path}: runs {hashes[run.config_hash]} and {number} are the same: {run.overrides}")
            hashes[run.config_hash] = number
        sources = [path, *(Path(name.partition(":")[0]) for name in files)]
        table = getattr(module, "TABLE", Table())
        question = inspect.cleandoc(module.__doc__ or "")
        return cls(folder, question, tuple(made), table, tuple(sources), getattr(module, "SEARCH", None))


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
    return files[name].get_config(argument) if argument else files[name].get_config()


def _load(path: Path) -> ModuleType:
    """Run a Python file of the user's; what it raises is a `UserError` with its line."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        here = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
        line = f", line {here[-1].lineno}" if here else ""
        raise UserError(f"{path}{line}: {type(error).__name__}: {error}") from None
    return module


def _make_run(
    overrides: Overrides, default: str | None, varying: Iterable[str], files: dict[str, ModuleType]
) -> StudyRun:
    """Return the run of overrides; `varying` are the keys whose values name its row."""
    name = overrides.get("config", default)
    if name is None:
        raise UserError("no config file is named: set CONFIG in sweep.py, or the override 'config'")
    config = load_config(name, files)
    settings = {key: value for key, value in overrides.items() if key not in ("config", "baseline", "row")}
    for key, value in settings.items():
        check_key(key)
        try:
            config.update_from_flattened_dict({key: value})
        except (TypeError, ValueError) as error:
            raise UserError(f"config.{key}: {error}") from None
    check_acting(config, list(settings))
    baseline = overrides.get("baseline")
    config = resolve(config)
    values = [str(overrides[key]) for key in overrides if key in varying or key == "baseline"]
    return StudyRun(overrides, str(overrides.get("row") or "+".join(values) or config.head.name), config, baseline)
