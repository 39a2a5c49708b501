"""Data sources: ``load("<source>/<subset>", options, data_dir) -> Dataset``, decoded once and kept as arrays.

A source is one file here with a class ``Builder(Source)``, a TFDS builder::

    class Builder(Source):
        VERSION = tfds.core.Version("1.0.0")         # a change of what is written is a new version
        SUBSETS = {"terms": ("depth",)}              # data sets, and the options that act on each

        def __init__(self, *, subset, data_dir, depth="category"):
            self.depth = depth
            super().__init__(subset=subset, data_dir=data_dir, options={"depth": depth})

        def _info(self):                             # return self.describe(...)
        def _split_generators(self, dl_manager):     # "train", "validation" and "test"
        def _generate_examples(self, ...):           # key, {"text" and / or "features", "labels", "key"}

Its keyword-only arguments (but ``subset``, which comes from the name, and ``data_dir``) are its options;
their defaults are the defaults of ``config.data.<file name>``. They are arguments rather than a TFDS
``BuilderConfig`` class a source, so that the convention is the same as for encoders and heads; `Source` turns
those that act on the subset into the name of a config, so that data sets made with different options lie side
by side.

An example's ``labels`` are label ids, closed under the hierarchy; ``key`` says where the example comes from.
The metadata hold ``descriptions`` (a line a label), ``parents`` (pairs of child and parent ids, or None where
labels are flat) and ``notes`` (facts that a reader of results must know). Examples keep the order in which
they were made.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import inspect
import io
import itertools
import json
import pkgutil
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import absl.logging
import numpy as np
import tensorflow_datasets.public_api as tfds
from etils import epath

from mlresearch.errors import UserError, suggest
from mlresearch.files import write_bytes
from mlresearch.label_space import LabelSets, LabelSpace
from mlresearch.progress import track

SPLITS = ("train", "validation", "test")
BATCH = 1024  # records read at once


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """One split: texts and / or numeric features, the label set of each example, and where each comes from.

    features: float32 [examples, num_features]. labels: closed under the hierarchy.
    """

    texts: tuple[str, ...] | None
    features: np.ndarray | None
    labels: LabelSets
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """All splits of a data set, its labels and their hierarchy.

    parents: int32 [edges, 2] of (child, parent) label ids, None where labels are flat. fingerprint:
    hexadecimal SHA-256 over examples, splits, labels and hierarchy. notes: what was dropped and the like,
    JSON-able.
    """

    name: str
    splits: dict[str, Records]
    label_space: LabelSpace
    parents: np.ndarray | None
    fingerprint: str
    notes: dict[str, Any]


class Source(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Base of every ``Builder``: names, folders and the form of the records; see the top of this file."""

    SUBSETS: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    # TFDS would look for checksums beside it, with a package (importlib_resources) that it does not require.
    code_path = None

    def __init_subclass__(cls) -> None:
        # TFDS would call every class `Builder` "data", after the package, and refuse the second.
        cls.name = cls.__module__.rpartition(".")[2]
        super().__init_subclass__(skip_registration=True)

    def __init__(self, *, data_dir: str | Path, options: Mapping[str, Any], subset: str | None = None) -> None:
        config = tfds.core.BuilderConfig(name=self.variant(subset, options))
        with _quiet():
            super().__init__(config=config, data_dir=data_dir, file_format="array_record")

    @classmethod
    def variant(cls, subset: str | None, options: Mapping[str, Any]) -> str:
        """Name of the subset with the options that act on it, such as ``terms-depth=category``."""
        acting = cls.SUBSETS[subset] if subset else tuple(options)
        name = "-".join([subset or "all", *(f"{option}={options[option]}" for option in acting)])
        plain = re.sub(r"[^\w.=+-]", "_", name)
        # The digest keeps apart what differs only in characters that a folder's name cannot hold.
        return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"

    def describe(
        self,
        *,
        label_space: LabelSpace,
        parents: Sequence[tuple[int, int]] | None,
        description: str,
        citation: str,
        homepage: str,
        license: str,
        text: bool = True,
        num_features: int | None = None,
    ) -> tfds.core.DatasetInfo:
        """Return what ``_info`` must: features and metadata in the form that `load` reads."""
        label = tfds.features.ClassLabel(names=list(label_space.names))
        features: dict[str, Any] = {"labels": tfds.features.Sequence(label), "key": tfds.features.Text()}
        if text:
            features["text"] = tfds.features.Text()
        if num_features is not None:
            features["features"] = tfds.features.Tensor(shape=(num_features,), dtype=np.float32)
        return tfds.core.DatasetInfo(
            builder=self,
            description=description,
            citation=citation,
            homepage=homepage,
            license=license,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(
                descriptions=list(label_space.descriptions),
                parents=None if parents is None else [list(edge) for edge in parents],
                notes={},
            ),
            disable_shuffling=True,
        )


def sources() -> list[str]:
    """Names of all data sources, sorted."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(__path__)
        if hasattr(importlib.import_module(f"{__name__}.{module.name}"), "Builder")
    )


def options(source: str) -> dict[str, Any]:
    """Options of a source with their defaults, off its constructor; an unknown source is a `UserError`."""
    parameters = inspect.signature(_builder_class(source).__init__).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in ("subset", "data_dir")
    }


def check_name(name: str) -> None:
    """Raise `UserError` if there is no data set ``"<source>/<subset>"``, with the nearest name that there is."""
    source, _, subset = name.partition("/")
    subsets = _builder_class(source).SUBSETS
    if subset not in (subsets or {"": ()}):
        raise UserError(
            f"unknown data set {name!r}{suggest(name, [f'{source}/{known}' for known in subsets] or [source])}"
        )


def load(name: str, given: Mapping[str, Any], data_dir: str | Path) -> Dataset:
    """Return the data set ``"<source>/<subset>"``, or ``"<source>"`` if it has no subsets.

    `given` holds options that differ from their defaults; a name or an option that does not exist is a
    `UserError`. The prepared files and the decoded arrays (one ``.npz``) lie under `data_dir`; a damaged
    array file is made again.
    """
    check_name(name)
    source, _, subset = name.partition("/")
    builder_class = _builder_class(source)
    settings = options(source)
    for option in given:
        if option not in settings:
            raise UserError(f"data source {source!r} has no option {option!r}{suggest(option, settings)}")
    settings |= given

    # A builder may take a second to construct (ICD-10-CM reads its tables): the arrays are found without.
    variant = builder_class.variant(subset or None, settings)
    folder = Path(data_dir).expanduser().absolute() / source / variant / str(builder_class.VERSION)
    arrays = _read_arrays(folder / "decoded.npz")
    if arrays is None:
        arguments = settings | ({"subset": subset} if subset else {})
        builder = _prepare(lambda: builder_class(data_dir=folder.parents[2], **arguments), folder)
        arrays = _decode(builder)
        _write_arrays(folder / "decoded.npz", arrays)
    return _dataset(name, arrays)


def _builder_class(source: str) -> type[Source]:
    """Return the class ``Builder`` of the source's file."""
    # The file is looked for first, so that an import that fails within it is not taken for a misspelt name.
    if any(module.name == source for module in pkgutil.iter_modules(__path__)):
        builder_class = getattr(importlib.import_module(f"{__name__}.{source}"), "Builder", None)
        if builder_class is not None:
            return builder_class
    raise UserError(f"unknown data source {source!r}{suggest(source, sources())}")


def _prepare(make_builder: Callable[[], Source], folder: Path) -> Source:
    """Write the records and the metadata of a data set, where they are not there, and return its builder."""
    builder = make_builder()
    if builder.data_path != epath.Path(folder):
        raise ValueError(f"{type(builder).__name__} of {builder.name} writes to {builder.data_path}, not to {folder}")
    if folder.exists():
        return builder
    try:
        with _quiet():
            builder.download_and_prepare()
    except OSError:
        # TFDS renames a finished folder into place: if there is one now, another process was faster.
        if not folder.exists():
            raise
        builder = make_builder()
    return builder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep TFDS from announcing downloads that do not happen and warning of configs that are as meant."""
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        absl.logging.set_verbosity(verbosity)


def _decode(builder: Source) -> dict[str, np.ndarray]:
    """Read all records of a prepared data set into flat arrays, the form that is stored and fingerprinted."""
    if missing := set(SPLITS) - set(builder.info.splits):
        raise ValueError(f"data source {builder.name} wrote no split {sorted(missing)}")
    features, metadata = builder.info.features, builder.info.metadata
    arrays = {
        **_pack("label_names", features["labels"].feature.names),
        **_pack("label_descriptions", metadata["descriptions"]),
        **_pack("notes", [json.dumps(metadata["notes"])]),
    }
    if metadata["parents"] is not None:
        arrays["parents"] = np.asarray(metadata["parents"], np.int32).reshape(-1, 2)
    for split in SPLITS:
        columns: dict[str, list[Any]] = {name: [] for name in features}
        records = builder.as_data_source(split)
        starts = range(0, len(records), BATCH)
        for start in track(starts, f"read {builder.name} {split}", len(starts)):
            for record in records.__getitems__(range(start, min(start + BATCH, len(records)))):
                for name, values in columns.items():
                    values.append(record[name])
        labels = LabelSets.from_rows([int(label) for label in row] for row in columns["labels"])
        if "parents" in arrays:
            _check_closed(f"{builder.name}, {split}", labels, arrays["parents"])
        arrays[f"{split}/label_ids"], arrays[f"{split}/label_offsets"] = labels.ids, labels.offsets
        arrays |= _pack(f"{split}/keys", columns["key"])
        if "text" in columns:
            arrays |= _pack(f"{split}/texts", columns["text"])
        if "features" in columns:
            shape = (len(labels), *features["features"].shape)
            arrays[f"{split}/features"] = np.array(columns["features"], np.float32).reshape(shape)
    return arrays | _pack("fingerprint", [_fingerprint(arrays)])


def _check_closed(where: str, labels: LabelSets, parents: np.ndarray) -> None:
    """Raise `ValueError` where a label set holds a label without one of its parents."""
    size = int(max(labels.ids.max(initial=0), parents.max(initial=0))) + 1
    rows = np.repeat(np.arange(len(labels)), np.diff(labels.offsets))
    present = rows * size + labels.ids
    order = np.argsort(parents[:, 0], kind="stable")
    edges = parents[order].astype(np.int64)
    # The parents of a label are a run in `edges`; `rank` counts through the runs of all labels at once.
    start, stop = (np.searchsorted(edges[:, 0], labels.ids, side) for side in ("left", "right"))
    counts = stop - start
    rank = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    needed = np.repeat(rows, counts) * size + edges[np.repeat(start, counts) + rank, 1]
    absent = needed[~np.isin(needed, present)]
    if len(absent):
        row, parent = divmod(int(absent[0]), size)
        raise ValueError(f"data source {where}: row {row} lacks label {parent}, a parent of one of its labels")


def _dataset(name: str, arrays: Mapping[str, np.ndarray]) -> Dataset:
    """Return the data set that `arrays` hold."""
    return Dataset(
        name=name,
        splits={
            split: Records(
                texts=_unpack(f"{split}/texts", arrays) if f"{split}/texts" in arrays else None,
                features=arrays.get(f"{split}/features"),
                labels=LabelSets(arrays[f"{split}/label_ids"], arrays[f"{split}/label_offsets"]),
                keys=_unpack(f"{split}/keys", arrays),
            )
            for split in SPLITS
        },
        label_space=LabelSpace(_unpack("label_names", arrays), _unpack("label_descriptions", arrays)),
        parents=arrays.get("parents"),
        fingerprint=_unpack("fingerprint", arrays)[0],
        notes=json.loads(_unpack("notes", arrays)[0]),
    )


def _pack(name: str, texts: Sequence[str | bytes]) -> dict[str, np.ndarray]:
    """Texts as two arrays: all their UTF-8 bytes, and the offsets at which each text begins and ends."""
    encoded = [text.encode() if isinstance(text, str) else text for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return {name: np.frombuffer(b"".join(encoded), np.uint8), f"{name}/offsets": offsets}


def _unpack(name: str, arrays: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Inverse of `_pack`."""
    joined, offsets = arrays[name].tobytes(), arrays[f"{name}/offsets"].tolist()
    return tuple(joined[start:stop].decode() for start, stop in itertools.pairwise(offsets))


def _fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    """Hexadecimal SHA-256 of all arrays but the notes and the fingerprint itself."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        if not name.startswith(("notes", "fingerprint")):
            array = arrays[name]
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Return the stored arrays, None where they are missing, damaged or not what their fingerprint says."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = dict(stored)
        intact = _unpack("fingerprint", arrays) == (_fingerprint(arrays),)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return arrays if intact else None


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Store the arrays, so that no reader ever sees half a file."""
    stored = io.BytesIO()
    np.savez(stored, allow_pickle=False, **arrays)
    write_bytes(path, stored.getvalue())
