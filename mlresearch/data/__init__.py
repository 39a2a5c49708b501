"""Data sources: ``load("<source>/<subset>", options, data_dir, preparation) -> Dataset``, decoded once, kept as arrays.

A source is one file here with a class ``Builder(Source)``, a TFDS builder that reads upstream's own format::

    class Builder(Source):
        VERSION = tfds.core.Version("1.0.0")         # a change of what is written is a new version
        SUBSETS = {"terms": ("depth",)}              # data sets, and the source's options that act on each;
                                                     # "" is the data set that the source's name alone stands for

        def __init__(self, *, subset, data_dir, manual_dir, depth="category"):
            self.depth = depth
            super().__init__(subset=subset, data_dir=data_dir, options={"manual_dir": manual_dir, "depth": depth})

        @classmethod
        def files(cls, subset, options):             # upstream files, in a fixed order: other content, other data
        def _info(self):                             # return self.describe(...)
        def _split_generators(self, dl_manager):     # "train", and those of "validation" and "test" that upstream gives
        def _generate_examples(self, ...):           # number, record

Its keyword-only arguments are its options; their defaults are the defaults of ``config.data.<file name>``. They are
arguments rather than a TFDS ``BuilderConfig`` class a source, so that the convention is the same as for encoders and
heads; `Source` turns those that act on the subset into the name of a config, so that data sets made with different
options lie side by side. Not among them are ``subset``, which comes from the name, ``data_dir``, and those of `SHARED`,
which several sources have and which stand in ``config.data`` itself.

A record has ``key``, which says where the example comes from, and ``labels``, ascending label ids, closed under the
hierarchy or not. Where `Source.describe` is told so, it also has ``label_values`` (float32, see `LabelSets`), ``text``,
``features`` (float32, NaN = missing), ``categories`` (a string a column, "" = missing), ``group`` (a string; where
splits are drawn, examples of one group stay together) and ``evidence`` (int32 [n, 3]: label id, first character, end).

The metadata hold ``descriptions`` (a line a label), ``parents`` (pairs of child and parent ids, or None where labels
are flat), ``notes`` (facts that a reader of results must know) and, where the distribution of the labels is known,
``truth``. Examples keep the order in which they were made.

What a source leaves open is settled here, the same way for all (`Preparation`): label sets are closed under the
hierarchy, splits that upstream does not give are drawn, and inputs that stand in two splits are counted.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import inspect
import io
import json
import os
import pkgutil
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import absl.logging
import numpy as np
import tensorflow_datasets.public_api as tfds
from etils import epath

from mlresearch.data import storage
from mlresearch.data.preparation import VERSION as PREPARATION_VERSION
from mlresearch.data.preparation import Preparation, settle
from mlresearch.data.records import SPLITS as SPLITS
from mlresearch.data.records import Dataset, Records
from mlresearch.errors import UserError, suggest
from mlresearch.hierarchy import LabelHierarchy
from mlresearch.label_space import LabelSets, LabelSpace
from mlresearch.progress import track

BATCH = 1024  # records read at once
DEFAULT = Preparation()

SHARED: dict[str, Any] = {
    "manual_dir": "",  # the folder of upstream files, a folder a source in it; empty: MLRESEARCH_MANUAL_DIR
    "unknown_labels": "error",  # error | drop: labels that are not in the label space
    "arff_train": "",  # files of one's own for `hmc` and `mulan`
    "arff_validation": "",
    "arff_test": "",
    "arff_labels": "",  # the XML label list of `mulan`; empty: labels are counted by -C, as MEKA does
}
"""Options that several sources have, with their defaults; they stand in ``config.data`` itself."""

PATHS = ("manual_dir", "arff_train", "arff_validation", "arff_test", "arff_labels")
"""Those of them that are paths."""


def manual_folder(manual_dir: str, source: str, *required: str) -> Path:
    """Return the folder of a source's upstream files; without it, or one of the `required` files, a `UserError`."""
    chosen = manual_dir or os.environ.get("MLRESEARCH_MANUAL_DIR", "")
    how = "name the folder of the upstream files by --manual_dir or MLRESEARCH_MANUAL_DIR"
    if not chosen:
        raise UserError(f"data source {source!r} reads upstream files: {how}, with a folder {source!r} in it")
    folder = Path(chosen).expanduser().absolute() / source
    if not folder.is_dir():
        raise UserError(f"data source {source!r}: there is no folder {folder}; {how}")
    for name in required:
        if not (folder / name).is_file():
            raise UserError(f"data source {source!r}: there is no file {folder / name}; {how}")
    return folder


class Source(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Base of every ``Builder``: names, folders and the form of the records; see the top of this file."""

    SUBSETS: ClassVar[Mapping[str, tuple[str, ...]]] = {"": ()}

    # TFDS would look for checksums beside it, with a package (importlib_resources) that it does not require.
    code_path = None

    def __init_subclass__(cls) -> None:
        # TFDS would call every class `Builder` "data", after the package, and refuse the second.
        cls.name = cls.__module__.rpartition(".")[2]
        super().__init_subclass__(skip_registration=True)

    def __init__(self, *, data_dir: str | Path, options: Mapping[str, Any], subset: str = "") -> None:
        config = tfds.core.BuilderConfig(name=self.variant(subset, options))
        with _quiet():
            super().__init__(config=config, data_dir=data_dir, file_format="array_record")

    @classmethod
    def files(cls, subset: str, options: Mapping[str, Any]) -> Sequence[Path]:
        """Return the upstream files that a data set is read from; one that is missing is a `UserError`."""
        del subset, options
        return ()

    @classmethod
    def variant(cls, subset: str, options: Mapping[str, Any]) -> str:
        """Name of the subset with the options that act on it and a digest of its files, in a folder's characters.

        Such as ``terms-depth=category``. Where the folder of upstream files lies does not matter, what they hold does.
        """
        name = cls._variant_of_options(subset, options)
        files = cls.files(subset, options)
        return f"{name}-files={_digest(files)[:16]}" if files else name

    @classmethod
    def _variant_of_options(cls, subset: str, options: Mapping[str, Any]) -> str:
        shared = [name for name in SHARED if name != "manual_dir" and options.get(name, SHARED[name]) != SHARED[name]]
        settings = [f"{option}={options[option]}" for option in [*cls.SUBSETS[subset], *shared]]
        name = "-".join([subset or "all", *settings])
        plain = re.sub(r"[^\w.=+-]", "_", name, flags=re.ASCII)[:150]
        if plain == name and not any("-" in setting for setting in settings):
            return plain
        # The digest keeps apart what differs only in what a folder's name cannot hold, or where one value ends.
        return f"{plain}-{hashlib.sha256(json.dumps([subset, settings]).encode()).hexdigest()[:8]}"

    @classmethod
    def prepared(cls, subset: str, options: Mapping[str, Any], data_dir: Path) -> str | None:
        """Return the newest variant with these options that is prepared already; None if there is none.

        Nor is there one for files of one's own, or where a folder is named: a path that does not lead to files is a
        mistake, and a relative one may mean other files than it did.
        """
        if os.environ.get("MLRESEARCH_MANUAL_DIR") or any(options.get(name) for name in PATHS):
            return None
        name = cls._variant_of_options(subset, options)
        made = data_dir.glob(f"{cls.name}/{name}-files=*/{cls.VERSION}")
        newest = max(made, key=lambda folder: folder.stat().st_mtime, default=None)
        return None if newest is None else newest.parent.name

    def describe(
        self,
        *,
        label_space: LabelSpace,
        parents: Sequence[tuple[int, int]] | None,
        description: str,
        citation: str,
        homepage: str,
        license: str,
        text: bool = False,
        feature_names: Sequence[str] | None = None,
        category_names: Sequence[str] | None = None,
        values: bool = False,
        groups: bool = False,
        evidence: bool = False,
    ) -> tfds.core.DatasetInfo:
        """Return what ``_info`` must: features and metadata in the form that `load` reads.

        text, feature_names, category_names, values (of labels), groups, evidence: what records hold besides labels and
        key. A cycle or a duplicate edge among the parents is a `UserError`.
        """
        if not label_space.num_labels:
            raise UserError(f"data source {self.name!r}: there are no labels")
        edges = None if parents is None else [list(edge) for edge in parents]
        if edges is not None:
            LabelHierarchy.from_edges(label_space.names, np.array(edges, np.int32))
        label = tfds.features.ClassLabel(names=list(label_space.names))
        features: dict[str, Any] = {"labels": tfds.features.Sequence(label), "key": tfds.features.Text()}
        if text:
            features["text"] = tfds.features.Text()
        if feature_names is not None:
            features["features"] = tfds.features.Tensor(shape=(len(feature_names),), dtype=np.float32)
        if category_names is not None:
            features["categories"] = tfds.features.Sequence(tfds.features.Text(), length=len(category_names))
        if values:
            features["label_values"] = tfds.features.Tensor(shape=(None,), dtype=np.float32)
        if groups:
            features["group"] = tfds.features.Text()
        if evidence:
            features["evidence"] = tfds.features.Tensor(shape=(None, 3), dtype=np.int32)
        return tfds.core.DatasetInfo(
            builder=self,
            description=description,
            citation=citation,
            homepage=homepage,
            license=license,
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(
                descriptions=list(label_space.descriptions),
                parents=edges,
                notes={},
                feature_names=list(feature_names or ()),
                category_names=list(category_names or ()),
                truth=None,
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


def subsets(source: str) -> list[str]:
    """Names of a source's data sets, such as ``hmc/cellcycle_FUN``, in its own order."""
    return [f"{source}/{subset}".rstrip("/") for subset in source_class(source).SUBSETS]


def options(source: str) -> dict[str, Any]:
    """Own options of a source with their defaults, off its constructor; an unknown source is a `UserError`."""
    return {name: default for name, default in _arguments(source).items() if name not in SHARED}


def shared_options(source: str) -> list[str]:
    """Names of the options of `SHARED` that a source has."""
    return [name for name in _arguments(source) if name in SHARED]


def _arguments(source: str) -> dict[str, Any]:
    parameters = inspect.signature(source_class(source).__init__).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in ("subset", "data_dir")
    }


def check_name(name: str) -> None:
    """Raise `UserError` if there is no data set ``"<source>/<subset>"``, with the nearest name that there is."""
    source, slash, subset = name.partition("/")
    if subset not in source_class(source).SUBSETS or (slash and not subset):
        raise UserError(f"unknown data set {name!r}{suggest(name, subsets(source))}")


def load(name: str, given: Mapping[str, Any], data_dir: str | Path, preparation: Preparation = DEFAULT) -> Dataset:
    """Return the data set ``"<source>/<subset>"``, or ``"<source>"`` if it has no subsets.

    `given` holds options that differ from their defaults; a name or an option that does not exist is a `UserError`, and
    so is whatever is wrong with the upstream files. The prepared files and the decoded arrays (one ``.npz``) lie under
    `data_dir`; a damaged array file is made again. Upstream files that have changed are read again. Where it is not
    said where they are, arrays that were last prepared from them are taken; what needs the files is an error then.
    """
    check_name(name)
    source, _, subset = name.partition("/")
    builder_class, settings = source_class(source), _arguments(source)
    for option in given:
        if option not in settings:
            raise UserError(f"data source {source!r} has no option {option!r}{suggest(option, settings)}")
    settings = {
        option: SHARED.get(option) if default is inspect.Parameter.empty else default
        for option, default in settings.items()
    } | dict(given)
    root = Path(data_dir).expanduser().absolute()
    try:
        # A builder may take a second to construct (ICD-10-CM reads its tables): the arrays are found without.
        variant = builder_class.variant(subset, settings)
    except UserError:
        prepared = builder_class.prepared(subset, settings, root)
        if prepared is None:
            raise
        variant = prepared
    folder = root / source / variant / str(builder_class.VERSION)
    stored = folder / f"decoded-{_suffix(preparation)}.npz"
    dataset = storage.read(stored, name)
    if dataset is None:
        arguments = settings | ({"subset": subset} if tuple(builder_class.SUBSETS) != ("",) else {})

        def make_builder() -> Source:
            return builder_class(data_dir=root, **arguments)

        found = folder.exists()
        try:
            decoded = _decode(_prepare(make_builder, folder))
        except UserError:
            raise
        except Exception:  # TFDS, protobuf and array_record have their own for damaged files
            if not found:
                raise
            shutil.rmtree(folder)
            decoded = _decode(_prepare(make_builder, folder))
        dataset = storage.write(stored, settle(name, *decoded, preparation))
    return dataset


def source_class(source: str) -> type[Source]:
    """Return the class ``Builder`` of the source's file; an unknown source is a `UserError`."""
    # The file is looked for first, so that an import that fails within it is not taken for a misspelt name.
    if any(module.name == source for module in pkgutil.iter_modules(__path__)):
        builder_class = getattr(importlib.import_module(f"{__name__}.{source}"), "Builder", None)
        if builder_class is not None:
            return builder_class
    raise UserError(f"unknown data source {source!r}{suggest(source, sources())}")


def _digest(files: Sequence[Path]) -> str:
    """Hexadecimal SHA-256 of the names and the content of files."""
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from None
        digest.update(path.name.encode() + b"\n" + content)
    return digest.hexdigest()


def _suffix(preparation: Preparation) -> str:
    """Return what tells the arrays of one preparation from those of another."""
    return hashlib.sha256(repr((preparation, PREPARATION_VERSION)).encode()).hexdigest()[:8]


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
    except UserError:
        with contextlib.suppress(OSError):
            folder.parent.rmdir()  # which nothing was written to
        raise
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


def _decode(builder: Source) -> tuple[Dataset, dict[str, tuple[str, ...]]]:
    """Read all records of a prepared data set as upstream gives them, and the groups of the examples by split."""
    features, metadata = builder.info.features, builder.info.metadata
    given = [split for split in SPLITS if split in builder.info.splits]
    splits, groups = {}, {}
    for split in given:
        columns: dict[str, list[Any]] = {name: [] for name in features}
        records = builder.as_data_source(split)
        starts = range(0, len(records), BATCH)
        for start in track(starts, f"read {builder.name} {split}", len(starts)):
            for record in records.__getitems__(range(start, min(start + BATCH, len(records)))):
                for name, values in columns.items():
                    values.append(record[name])
        splits[split] = _records(columns, features)
        if "group" in columns:
            groups[split] = tuple(group.decode() for group in columns["group"])
    dataset = Dataset(
        name=builder.name,
        splits=splits,
        label_space=LabelSpace(tuple(features["labels"].feature.names), tuple(metadata["descriptions"])),
        parents=None if metadata["parents"] is None else np.asarray(metadata["parents"], np.int32).reshape(-1, 2),
        fingerprint="",
        notes=metadata["notes"],
        feature_names=tuple(metadata["feature_names"]),
        category_names=tuple(metadata["category_names"]),
        truth=metadata["truth"],
        about={
            "description": builder.info.description,
            "citation": builder.info.citation,
            "homepage": next(iter(builder.info.as_proto.location.urls), ""),  # TFDS makes one up where there is none
            "license": builder.info.redistribution_info.license,
            "version": str(builder.version),
        },
    )
    return dataset, groups


def _records(columns: Mapping[str, list[Any]], features: Any) -> Records:
    """Return the records of a split from lists of what TFDS has decoded."""
    rows = [[int(label) for label in row] for row in columns["labels"]]
    values = [row.tolist() for row in columns["label_values"]] if "label_values" in columns else None
    labels = LabelSets.from_rows(rows, values)
    if labels.values is not None and bool((labels.values == 1).all()):
        labels = dataclasses.replace(labels, values=None)
    categories = None
    if "categories" in columns:
        by_column = zip(*columns["categories"], strict=True)
        categories = tuple(tuple(value.decode() for value in column) for column in by_column)
    numbers = None
    if "features" in columns:
        numbers = np.array(columns["features"], np.float32).reshape(len(rows), *features["features"].shape)
    return Records(
        labels=labels,
        keys=tuple(key.decode() for key in columns["key"]),
        texts=tuple(text.decode() for text in columns["text"]) if "text" in columns else None,
        features=numbers,
        categories=categories,
        evidence=tuple(columns["evidence"]) if "evidence" in columns else None,
    )
