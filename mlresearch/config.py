"""The one base config, and its checks. A config file overrides what it needs and nothing else."""

import dataclasses
import importlib
import inspect
import json
import math
import pkgutil
import typing
from collections.abc import Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from mlresearch import data
from mlresearch.calibration import Method
from mlresearch.data.columns import SCALES
from mlresearch.data.preparation import Preparation
from mlresearch.data.splits import Splitting
from mlresearch.data.text import ALGORITHMS
from mlresearch.decisions import GRID, Rules
from mlresearch.definitions import WATCHED, check_place, direction
from mlresearch.errors import UserError, suggest
from mlresearch.linear_scores import CLASSIFIERS
from mlresearch.optim import NUMBERS, SWITCHES

GIVEN = ("self", "rngs", "dtype", "param_dtype")
"""Keyword arguments that the model gives to its parts; all others are options."""

MAY_CHANGE = (
    *("parallel.", "data.dir", "data.manual_dir"),
    *("train.log_every_steps", "train.checkpoint_every_seconds", "train.chunk_steps", "train.replica"),
)
"""Settings, by how their keys begin, that do not change what one run computes: they may differ when it goes on."""

MAY_DIFFER = "only in their seeds, the optimizer's numbers, dropout rates and fractions among options of the loss"
"""In which settings runs of one program may differ, in words."""

PARTS = ("encoder", "decoder", "head", "loss")
"""Kinds of parts of a model, each a section of the config, and a package (loss: losses) with a class a file."""

CHOSEN = (*PARTS, "baseline")
"""All that is chosen by the name of a file; of baselines it may be none."""


def base_config() -> ConfigDict:
    """Return the defaults of everything.

    The options of each encoder, decoder, head, loss and data source are its constructor's keyword arguments, in a
    section named after its file: ``config.head.conditional.siblings``. Only those of the chosen ones act. Options that
    several data sources have stand in ``config.data`` itself.
    """
    config = ConfigDict(
        {
            "seed": 0,
            "data": {
                "name": "icd10cm/terms",  # data source, and which of its data sets
                "dir": "",  # prepared files; empty: MLRESEARCH_DATA_DIR, or ~/.cache/mlresearch/data
                "closure": "up",  # up: rows get all ancestors of their labels | check: a row that lacks one is an error
                "overlaps": "keep",  # keep | drop inputs that stand in a later split (train, validation, test), too
                "split": dataclasses.asdict(Splitting()),  # how splits are drawn that the data set does not give
                **data.SHARED,
            },
            "columns": {
                "scale": "standard",  # numbers, as the training split says: standard | quantile (of a normal) | none
                "min_count": 1,  # categories that fewer training rows have count as never seen
            },
            "linear_scores": {
                "classifier": "",  # linear_svm | logistic_regression: the scores of one a label, read beside the inputs
                "c": 1.0,  # weight of the training rows against the norm of the weights
                "class_weight": "none",  # none | balanced
                "folds": 5,  # training rows are scored by classifiers fitted to the other folds
                "min_count": 2,  # training texts that have a word or pair of words, at least
            },
            "text": {
                "vocab_size": 8192,  # SentencePiece, trained on the training split
                "algorithm": "unigram",
                "lowercase": True,
                "max_length": 128,  # tokens; what is cut is reported
                "num_buckets": 5,  # padded lengths; each compiles once
            },
            "encoder": {"name": "bag"},
            "decoder": {"name": "linear"},
            "head": {"name": "independent"},
            "loss": {"name": "binary_cross_entropy"},
            "baseline": {"name": ""},  # what to fit in place of the model of encoder, decoder, head and loss
            "model": {
                "dtype": "float32",  # of the computation up to the head, which is float32 or wider
                "param_dtype": "float32",
                "prior": False,  # start from scores that give each label its frequency in the training split
            },
            "optim": {
                "name": "adamw",  # adamw | sgd
                "learning_rate": 1e-3,
                "schedule": "cosine",  # cosine | linear | constant, after the warm-up
                "warmup_share": 0.05,  # of all steps
                "weight_decay": 1e-4,  # spares biases, norms and other vectors
                "clip_norm": 1.0,  # of the global gradient norm; 0: none
                "b1": 0.9,
                "b2": 0.999,
                "momentum": 0.9,  # of sgd
                "average": 0.0,  # epochs over which parameters are averaged for validation and test; 0: not at all
            },
            "train": {
                "num_epochs": 10.0,
                "batch_size": 64,
                "select": "",  # what validation chooses the parameters by: mode.micro_f1, loss.mean, …; empty: the last
                "patience": 0,  # validations without a better one before a run stops; 0: never
                "refit": False,  # then train anew on train and validation, for the epochs that validation chose
                "replicas": 1,  # runs of the seeds seed, seed + 1, … in one program, a folder each
                "replica_overrides": (),  # what they differ in beside, one text each: ("optim.learning_rate=1e-3", …)
                "chunk_steps": 100,  # at most so many steps in one call of the compiled program
                "log_every_steps": 100,
                "checkpoint_every_seconds": 60.0,
            },
            "evaluate": {
                "batch_size": 256,
                "every_epochs": 0.0,  # validate while training; 0: at the end alone
                "calibration": "",  # temperature | platt | isotonic, fitted on validation before decisions are
                "calibration_of": "marginals",  # by one map for all labels | scores: before the head, one a label
                "threshold_metric": "micro_f1",  # what the global threshold is fitted for, on validation
                "threshold_grid": GRID,
                "label_threshold_fallback": 0.0,  # for labels of a lower F1: their highest score (SCutFBR.1)
                "label_threshold_positives": 0,  # labels of fewer positives on validation share one threshold
                "label_threshold_closure": "",  # up | down: also their predictions made coherent so
                "expected_f1_labels": 0,  # also the best set for example-F1, of at most so many
                "predictions": True,  # write predictions_<split>.npz
            },
            "parallel": {
                "mode": "jit",  # jit | pmap
                "num_devices": 0,  # 0: all
                "label_devices": 1,  # so many of them share the labels of each model (jit)
            },
        }
    )
    for kind in CHOSEN:
        for name in part_names(kind):
            config[kind][name] = part_options(kind, name)
    for source in data.sources():
        config.data[source] = data.options(source)
    return config.lock()


def part_names(kind: str) -> list[str]:
    """Return the names of all parts of a kind: the files of its package."""
    package = _package(kind)
    return sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__))


def part_class(kind: str, name: str) -> Any:
    """Return the class of a part; an unknown name is a `UserError` that suggests the nearest."""
    known = part_names(kind)
    if name not in known:
        raise UserError(f"config.{kind}.name: there is no {kind} {name!r}{suggest(name, known)}")
    return getattr(importlib.import_module(f"{_package(kind)}.{name}"), kind.capitalize())


def part_options(kind: str, name: str) -> dict[str, Any]:
    """Return the options of a part with their defaults, off its constructor."""
    return {
        option: parameter.default
        for option, parameter in inspect.signature(part_class(kind, name).__init__).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and option not in GIVEN
    }


def _package(kind: str) -> str:
    return f"mlresearch.{'losses' if kind == 'loss' else kind + 's'}"


def check_acting(config: ConfigDict, given: Sequence[str]) -> None:
    """Raise `UserError` if one of the keys that the user gave is an option of a part that is not chosen."""
    for key in given:
        if key.startswith("linear_scores.") and not config.linear_scores.classifier:
            raise UserError(f"config.{key} is set, but config.linear_scores.classifier is empty: set it, too")
        if key == "evaluate.calibration_of" and not config.evaluate.calibration:
            raise UserError(f"config.{key} is set, but config.evaluate.calibration is empty: set it, too")
    for kind in (*CHOSEN, "data"):
        chosen = str(config[kind].name).partition("/")[0]
        names = data.sources() if kind == "data" else part_names(kind)
        for key in given:
            section, _, rest = key.partition(".")
            name, _, option = rest.partition(".")
            if section == kind and option and name in names and name != chosen:
                raise UserError(
                    f"config.{key} is set, but config.{kind}.name is {config[kind].name!r}: "
                    f"set the name to {name!r} too, or leave the option out"
                )
    source, _, subset = str(config.data.name).partition("/")
    if source in data.sources():
        own, acting = data.shared_options(source), data.source_class(source).SUBSETS.get(subset)
        for key in given:
            option = key.removeprefix(f"data.{source}.")
            if option != key and acting is not None and option not in acting:
                raise UserError(f"config.{key} is set, but does not act on {config.data.name!r}: leave it out")
        for key in given:
            option = key.removeprefix("data.")
            if option in data.SHARED and option not in own and option != "manual_dir":
                raise UserError(f"config.{key} is set, but the data source {source!r} does not read it: leave it out")


def resolve(config: ConfigDict) -> ConfigDict:
    """Check a config and return it locked, with the options of the chosen parts alone.

    A name or setting that does not exist, a value that is not among an option's choices or out of range are
    `UserError`s. Options of parts that are not chosen do not act, and are left out.
    """
    base = base_config()
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config() returned {type(config).__name__}; it must return what base_config() gave it")
    odd = sorted(set(flatten(to_dict(config))) ^ set(flatten(to_dict(base))))
    if odd:
        raise UserError(f"config.{odd[0]} is unknown or missing: start from base_config(), and add or delete nothing")
    resolved = ConfigDict(to_dict(config))
    if not resolved.baseline.name:
        del resolved["baseline"]
    for kind in CHOSEN:
        if kind not in resolved:
            continue
        _check_options(resolved, kind)
        for name in set(part_names(kind)) - {resolved[kind].name}:
            del resolved[kind][name]
    source = resolved.data.name.partition("/")[0]
    data.check_name(resolved.data.name)
    for name in {*data.sources(), *data.SHARED} - {source, *data.shared_options(source)}:
        del resolved.data[name]
    _check_values(resolved)
    preparation(resolved)
    return resolved.lock()


def _check_options(config: ConfigDict, kind: str) -> None:
    chosen = config[kind].name
    hints = typing.get_type_hints(part_class(kind, chosen).__init__)
    for option, value in config[kind][chosen].items():
        key = f"config.{kind}.{chosen}.{option}"
        choices = typing.get_args(hints[option]) if typing.get_origin(hints[option]) is typing.Literal else ()
        if choices and value not in choices:
            raise UserError(f"{key} is {value!r}{suggest(value, choices)}")
        if option.endswith("dropout") and not 0 <= value < 1:
            raise UserError(f"{key} is {value}; it is a probability below 1")
        least = 1 if "dim" in option or "ratio" in option or option == "num_heads" else 0
        if isinstance(value, int) and not isinstance(value, bool) and value < least:
            raise UserError(f"{key} is {value}; it must be at least {least}")


def _check_values(config: ConfigDict) -> None:
    choices = {
        "linear_scores.classifier": ("", *CLASSIFIERS),
        "linear_scores.class_weight": ("none", "balanced"),
        "optim.name": ("adamw", "sgd"),
        "optim.schedule": ("cosine", "linear", "constant"),
        "parallel.mode": ("jit", "pmap"),
        "model.dtype": ("float32", "bfloat16", "float64"),
        "model.param_dtype": ("float32", "bfloat16", "float64"),
        "columns.scale": SCALES,
        "text.algorithm": ALGORITHMS,
        "data.unknown_labels": ("error", "drop"),
    }
    flat = flatten(to_dict(config))
    for key, known in choices.items():
        if key in flat and flat[key] not in known:  # not all data sources have all options
            raise UserError(f"config.{key} is {flat[key]!r}{suggest(flat[key], known)}")
    for key, value in flat.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config.{key} is {value}; it must be finite")
    positive = (
        *("train.num_epochs", "train.batch_size", "train.log_every_steps", "train.checkpoint_every_seconds"),
        *("train.replicas", "train.chunk_steps"),
        *("evaluate.batch_size", "optim.learning_rate", "text.max_length", "text.num_buckets"),
        *("text.vocab_size", "parallel.label_devices"),
        *("columns.min_count", "linear_scores.c", "linear_scores.min_count"),
    )
    for key in positive:
        if not _at(config, key) > 0:
            raise UserError(f"config.{key} is {_at(config, key)}; it must be above 0")
    for key in (
        *("optim.weight_decay", "optim.clip_norm", "optim.average", "parallel.num_devices", "seed"),
        *("evaluate.every_epochs", "train.patience"),
    ):
        if not _at(config, key) >= 0:
            raise UserError(f"config.{key} is {_at(config, key)}; it must not be negative")
    if config.linear_scores.folds < 2:
        raise UserError(f"config.linear_scores.folds is {config.linear_scores.folds}; it must be at least 2")
    if "float64" in (config.model.dtype, config.model.param_dtype) and not jax.config.read("jax_enable_x64"):
        raise UserError("config.model asks for float64, which JAX computes only where JAX_ENABLE_X64=1 is set: set it")
    Rules.of(config)
    _check_calibration(config)
    for key in ("optim.warmup_share", "optim.b1", "optim.b2", "optim.momentum"):
        if not 0 <= _at(config, key) < 1:
            raise UserError(f"config.{key} is {_at(config, key)}; it is a share, 0 to below 1")
    if config.seed >= 1 << 32:
        raise UserError(f"config.seed is {config.seed}; it must be below 2³²")
    if config.train.select:
        check_selection(config.train.select)
        if not config.evaluate.every_epochs:
            raise UserError("config.train.select needs validation while training: set config.evaluate.every_epochs")
    elif config.train.patience:
        raise UserError("config.train.patience needs a metric to wait for: set config.train.select")


def _check_calibration(config: ConfigDict) -> None:
    """Raise `UserError` where scores are to be calibrated that do not stand before the head, label by label."""
    if not Method.of(config).kind or config.evaluate.calibration_of != "scores":
        return
    without = None
    if "baseline" in config:
        without = f"the baseline {config.baseline.name!r} has no head"
    elif getattr(part_class("head", config.head.name), "causal", False):
        without = f"of the head {config.head.name!r} a label's scores depend on the labels before it"
    if without is not None:
        raise UserError(f"config.evaluate.calibration_of is 'scores', but {without}: set it to 'marginals'")


def watched_group(config: ConfigDict) -> str:
    """Return which group of metrics is watched while runs train: that which parameters are chosen by, or ``mode``."""
    return str(config.train.select or "mode").partition(".")[0]


def check_selection(place: str) -> None:
    """Raise `UserError` unless the validation split's number at ``group.metric`` can choose parameters."""
    if place.partition(".")[0] not in WATCHED:
        raise UserError(f"config.train.select is {place!r}; it begins with {', '.join(WATCHED)}, and a dot")
    try:
        check_place(f"validation.{place}")
    except UserError as error:
        raise UserError(f"config.train.select: {error}") from None
    if direction(place) == 0:
        raise UserError(
            f"config.train.select is {place!r}: choose a metric of which more or less is better, such as "
            "mode.micro_f1, ranking.micro_average_precision or loss.mean"
        )


def replicas(config: ConfigDict) -> list[tuple[str, ConfigDict]]:
    """Return the runs that a config asks to train in one program: the name of each one's folder, and its own config.

    A single run has an empty name: its folder is the workdir itself. Replica r has the seed ``seed + r`` and what
    ``train.replica_overrides[r]`` says; settings in which replicas cannot differ are a `UserError`.
    """
    texts = config.train.replica_overrides
    if texts and len(texts) != config.train.replicas:
        raise UserError(f"config.train.replica_overrides has {len(texts)} entries for {config.train.replicas} replicas")
    if config.train.replicas == 1 and not texts:
        return [("", config)]
    flat = flatten(to_dict(config))
    made: dict[str, ConfigDict] = {}
    for number in range(config.train.replicas):
        own = ConfigDict(to_dict(config))
        own.seed = config.seed + number
        settings = [word.strip() for word in (texts[number] if texts else "").split(",") if word.strip()]
        for setting in settings:
            key, _, value = setting.partition("=")
            check_key(key)
            if key not in flat:
                raise UserError(f"config.train.replica_overrides[{number}]: no part that is chosen reads config.{key}")
            if not _may_differ(key, flat[key]):
                raise UserError(f"replicas cannot differ in config.{key}: {MAY_DIFFER}")
            try:
                own.update_from_flattened_dict({key: type(flat[key])(value)})
            except ValueError:
                raise UserError(
                    f"config.train.replica_overrides[{number}]: {setting!r} is not a setting and a number, such as "
                    "optim.learning_rate=1e-3"
                ) from None
        own.train.replicas, own.train.replica_overrides = 1, ()
        for kind in PARTS:
            _check_options(own, kind)
        _check_values(own)
        name = "+".join([f"seed_{own.seed}", *settings])
        if name in made:
            raise UserError(f"config.train.replica_overrides[{number}]: there are two replicas {name}")
        made[name] = own.lock()
    first, *others = made.values()
    for other in others:
        check_together(first, other)
    return list(made.items())


def _may_differ(key: str, value: Any) -> bool:
    """Return whether runs of one program may differ in a setting: the seed, and numbers of the computation."""
    section, _, option = key.partition(".")
    if section == "optim":
        return option in NUMBERS
    return isinstance(value, float) if section == "loss" else key == "seed" or key.endswith("dropout")


def together(config: ConfigDict) -> dict[str, Any]:
    """Return all that runs of one program have in common, by dotted key: resolved configs with equal ones can share it.

    They may differ in the seed and in numbers of the computation: of the optimizer, of the loss, dropout rates.
    Numbers that switch a part off at 0 must all be 0 or none.
    """

    def switches(key: str) -> bool:
        return key.endswith("dropout") or key.removeprefix("optim.") in SWITCHES

    settings = identity(config)
    common = {key: value for key, value in settings.items() if not _may_differ(key, value)}
    return common | {f"{key} is 0": settings[key] == 0 for key in settings if switches(key)}


def check_together(one: ConfigDict, other: ConfigDict) -> None:
    """Raise `UserError` if two configs cannot be trained in one program."""
    left, right = together(one), together(other)
    for key in sorted(left | right):
        if left.get(key) != right.get(key):
            raise UserError(
                f"replicas cannot differ in whether config.{key}"
                if key.endswith(" is 0")
                else f"replicas cannot differ in config.{key}: {MAY_DIFFER}"
            )


def preparation(config: ConfigDict) -> Preparation:
    """Return what the config wants done to the examples of any source; a setting out of range is a `UserError`."""
    return Preparation(config.data.closure, config.data.overlaps, Splitting(**config.data.split.to_dict()))


def check_key(key: str) -> None:
    """Raise `UserError` if there is no setting of this dotted key, with the nearest one that there is."""
    section: Any = base_config()
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(section, ConfigDict) or part not in section:
            known = section.keys() if isinstance(section, ConfigDict) else ()
            prefix = "".join(f"{above}." for above in parts[:depth])
            raise UserError(f"there is no setting config.{prefix}{part}{suggest(part, known) if known else ''}")
        section = section[part]


def _at(config: ConfigDict, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value[part]
    return value


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted key."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def identity(config: ConfigDict) -> dict[str, Any]:
    """Return the settings that change what a run computes, by dotted key: all but `MAY_CHANGE`."""
    return {key: value for key, value in flatten(to_dict(config)).items() if not key.startswith(MAY_CHANGE)}


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return a line for each setting that differs."""
    flat_old, flat_new = flatten(old), flatten(new)
    return [
        f"config.{key}: {flat_old.get(key, 'absent')!r} -> {flat_new.get(key, 'absent')!r}"
        for key in sorted(flat_old | flat_new)
        if flat_old.get(key, "absent") != flat_new.get(key, "absent")
    ]


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """Return a config in JSON's types."""
    return json.loads(json.dumps(config.to_dict()))
