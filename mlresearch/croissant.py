"""A data set as files for others: JSON Lines, and the metadata that say how to read them.

The metadata, ``croissant.json``, are JSON-LD in the Croissant format. Source: "Croissant format specification", version
1.0, MLCommons, 2024.

Beside it lie ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl``, an example a line:

- ``key``: where the example comes from; ``text``: as the source gives it;
- ``features``: a list of numbers, null where missing; ``categories``: a list of strings, null where missing;
- ``labels``: names of the labels that are listed, with their ancestors, in the order of the label space; if some are
  soft or unknown also ``label_values``: the probability of each, null where unknown. Labels not listed are off;
- ``evidence``: ``{"label": name, "start": first character, "end": the one after the last}`` each.

``labels.jsonl`` has a label a line, in the order of the label space: ``name``, ``description`` and ``parents``, a list
of names; ``features.jsonl`` and ``categories.jsonl`` the ``name`` of each column. What a data set does not have is in
no file. A reader that guesses types, as pandas and so mlcroissant do, may take strings for numbers where all that a
column holds are digits.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlresearch.data.records import Dataset, Records
from mlresearch.errors import UserError
from mlresearch.files import write_bytes, write_json

CROISSANT = "http://mlcommons.org/croissant/"
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": CROISSANT,
    "dct": "http://purl.org/dc/terms/",
    "rai": f"{CROISSANT}RAI/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{
        term: f"cr:{term}"
        for term in (
            *("citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet"),
            *("format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet"),
            *("references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField"),
            "transform",
        )
    },
}
"""What the names in the metadata stand for, as the specification has it."""

ACCENTS = dict(zip("`'^~\"cv", "\u0300\u0301\u0302\u0303\u0308\u0327\u030c", strict=True))
"""Combining characters by the LaTeX commands for them."""


def export(
    dataset: Dataset,
    folder: str | Path,
    *,
    description: str,
    citation: str,
    homepage: str,
    license: str,
    version: str = "1.0.0",
) -> Path:
    """Write a data set as JSON Lines with Croissant metadata, and return the path of the metadata.

    description, license: texts, or the address of a licence. citation: BibTeX, which also gives the creators and the
    year of publication. homepage: an address. version: MAJOR.MINOR.PATCH. What is empty is left out.

    The metadata are written last and hold the SHA-256 of each file: where they stand, all files are whole. A folder
    that cannot be written to and an infinite feature, which JSON cannot state, are `UserError`s.
    """
    folder = Path(folder)
    for split, records in dataset.splits.items():
        if records.features is not None and np.isinf(records.features).any():
            row = int(np.flatnonzero(np.isinf(records.features).any(1))[0])
            raise UserError(
                f"data set {dataset.name!r}, {split}, row {row} ({records.keys[row]}): a feature is infinite, "
                "which JSON cannot state; mark it as missing in the source"
            )
    metadata = folder / "croissant.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        metadata.unlink(missing_ok=True)
        distribution = [_write_lines(folder / name, rows) for name, rows in _files(dataset).items()]
        page = {
            "@context": CONTEXT,
            "@type": "sc:Dataset",
            "conformsTo": f"{CROISSANT}1.0",
            "name": dataset.name,
            "description": description.strip(),
            "url": homepage,
            "license": license,
            "citeAs": citation.strip(),
            "creator": _creators(_bibtex(citation, "author")),
            "datePublished": _bibtex(citation, "year"),
            "version": version,
            "identifier": f"sha256:{dataset.fingerprint}",
            "distribution": distribution,
            "recordSet": [*(_examples_set(dataset, split) for split in dataset.splits), *_name_sets(dataset)],
        }
        write_json(metadata, {term: value for term, value in page.items() if value})
    except OSError as error:
        raise UserError(f"cannot write to {error.filename or folder}: {error.strerror}") from None
    return metadata


def _files(dataset: Dataset) -> dict[str, Iterable[dict[str, Any]]]:
    """Return the rows of each file, by its name."""
    files: dict[str, Iterable[dict[str, Any]]] = {
        f"{split}.jsonl": _examples(dataset, records) for split, records in dataset.splits.items()
    }
    files["labels.jsonl"] = _labels(dataset)
    for kind, names in (("features", dataset.feature_names), ("categories", dataset.category_names)):
        if names:
            files[f"{kind}.jsonl"] = [{"name": name} for name in names]
    return files


def _examples(dataset: Dataset, records: Records) -> Iterator[dict[str, Any]]:
    names, labels, has_values = dataset.label_space.names, records.labels, _has_values(dataset)
    values = np.ones(len(labels.ids), np.float32) if labels.values is None else labels.values
    for row in range(len(records)):
        own = slice(labels.offsets[row], labels.offsets[row + 1])
        example: dict[str, Any] = {"key": records.keys[row]}
        if records.texts is not None:
            example["text"] = records.texts[row]
        if records.features is not None:
            example["features"] = _numbers(records.features[row])
        if records.categories is not None:
            example["categories"] = [column[row] or None for column in records.categories]
        example["labels"] = [names[label] for label in labels.ids[own].tolist()]
        if has_values:
            example["label_values"] = _numbers(values[own])
        if records.evidence is not None:
            example["evidence"] = [
                {"label": names[label], "start": start, "end": end}
                for label, start, end in records.evidence[row].tolist()
            ]
        yield example


def _labels(dataset: Dataset) -> Iterator[dict[str, Any]]:
    space = dataset.label_space
    parents: list[list[str]] = [[] for _ in space.names]
    if dataset.hierarchy is not None:
        edges = zip(dataset.hierarchy.children.tolist(), dataset.hierarchy.parents.tolist(), strict=True)
        for child, parent in edges:
            parents[child].append(space.names[parent])
    for name, text, above in zip(space.names, space.descriptions, parents, strict=True):
        row: dict[str, Any] = {"name": name, "description": text}
        yield row if dataset.hierarchy is None else row | {"parents": above}


def _numbers(values: np.ndarray) -> list[float | None]:
    """Return float32 numbers as the shortest decimals that stand for them, NaN as None."""
    return [None if value != value else value for value in values.astype("U").astype(float).tolist()]


def _has_values(dataset: Dataset) -> bool:
    return any(records.labels.values is not None for records in dataset.splits.values())


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Write rows as JSON Lines, and return the description of the file."""
    content = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()
    write_bytes(path, content)
    return {
        "@type": "cr:FileObject",
        "@id": path.name,
        "name": path.name,
        "contentUrl": path.name,
        "contentSize": f"{len(content)} B",
        "encodingFormat": "application/jsonlines",
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _examples_set(dataset: Dataset, split: str) -> dict[str, Any]:
    records = dataset.splits[split]
    fields = [_field(split, "key", "Where the example comes from.")]
    if records.texts is not None:
        fields.append(_field(split, "text", "The text."))
    if records.features is not None:
        number = records.features.shape[1]
        about = f"{number} numbers, whose names are in the record set 'features'; null is missing."
        fields.append(_field(split, "features", about, "sc:Float", repeated=True))
    if records.categories is not None:
        number = len(records.categories)
        about = f"{number} values, whose columns are named in the record set 'categories'; null is missing."
        fields.append(_field(split, "categories", about, repeated=True))
    about = "Names of the labels of the example, as in the record set 'labels', ancestors among them."
    fields.append(_field(split, "labels", about, repeated=True))
    if _has_values(dataset):
        about = "The probability of each of the labels; null where it is unknown whether the label is on."
        fields.append(_field(split, "label_values", about, "sc:Float", repeated=True))
    if records.evidence is not None:
        fields.append(
            {
                "@type": "cr:Field",
                "@id": f"{split}/evidence",
                "name": "evidence",
                "description": "Parts of the text that show labels, by the numbers of their characters.",
                "repeated": True,
                "subField": [
                    _field(split, "evidence/label", "Name of the label.", path="label"),
                    _field(split, "evidence/start", "First character.", "sc:Integer", path="start"),
                    _field(split, "evidence/end", "The character after the last.", "sc:Integer", path="end"),
                ],
            }
        )
    return _record_set(split, f"The examples of the {split} split.", fields)


def _name_sets(dataset: Dataset) -> Iterator[dict[str, Any]]:
    fields = [
        _field("labels", "name", "Name of the label."),
        _field("labels", "description", "What the label stands for."),
    ]
    if dataset.hierarchy is not None:
        about = "Names of the labels that this one implies at once; none for a root."
        fields.append(_field("labels", "parents", about, repeated=True))
    yield _record_set("labels", "The labels, in the order of the label space.", fields) | {
        "key": {"@id": "labels/name"}
    }
    for kind, names in (("features", dataset.feature_names), ("categories", dataset.category_names)):
        if names:
            about = f"The names of the columns of '{kind}', in their order."
            yield _record_set(kind, about, [_field(kind, "name", "Name of the column.")])


def _record_set(name: str, description: str, fields: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "description": description, "field": list(fields)}


def _field(
    record_set: str,
    name: str,
    description: str,
    data_type: str = "sc:Text",
    *,
    repeated: bool = False,
    path: str = "",
) -> dict[str, Any]:
    """Return the description of a column; with `path`, of a part of each element of the column."""
    column, *_ = name.split("/")
    source = {"fileObject": {"@id": f"{record_set}.jsonl"}, "extract": {"column": column}}
    return {
        "@type": "cr:Field",
        "@id": f"{record_set}/{name}",
        "name": name.rpartition("/")[2],
        "description": description,
        "dataType": data_type,
        **({"repeated": True} if repeated else {}),
        "source": source | ({"transform": {"jsonPath": path}} if path else {}),
    }


def _bibtex(citation: str, name: str) -> str:
    """Return the value of a field of the first BibTeX entry that has it, without its outer braces; "" if none has."""
    found = re.search(rf"\b{name}\s*=\s*", citation, re.IGNORECASE)
    rest = citation[found.end() :] if found else ""
    if not rest.startswith("{"):
        return rest.lstrip('"').partition('"' if rest.startswith('"') else ",")[0].split("\n")[0].strip()
    depth = 0
    for place, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if not depth:
            return " ".join(rest[1:place].split())
    return ""


def _creators(authors: str) -> list[dict[str, str]]:
    """Return the authors of a BibTeX entry as persons, or organizations, which BibTeX has in braces of their own."""
    creators = []
    for author in re.split(r"\s+and\s+(?![^{]*\})", authors):
        last, _, first = author.partition(", ")
        kind = "sc:Organization" if author.startswith("{") else "sc:Person"
        name = author if author.startswith("{") else f"{first} {last}".strip()
        name = re.sub(r"\\([`'^~\"]|[cv](?=[ {])) ?\{?([^\W\d_])", lambda found: found[2] + ACCENTS[found[1]], name)
        name = unicodedata.normalize("NFC", re.sub(r"[{}]", "", name))
        if name and name != "others":
            creators.append({"@type": kind, "name": name})
    return creators
