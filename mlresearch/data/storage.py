"""A prepared data set as flat arrays in one ``.npz``: no objects in it, and a fingerprint that tells damage."""

import hashlib
import io
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mlresearch.data.records import SPLITS, Dataset, Records
from mlresearch.files import read_arrays, write_bytes
from mlresearch.label_space import LabelSets, LabelSpace


def read(path: Path, name: str) -> Dataset | None:
    """Return the stored data set, None where it is missing, damaged or not what its fingerprint says."""
    try:
        arrays = read_arrays(path)
        if _unpack("fingerprint", arrays) != (_fingerprint(arrays),):
            return None
        return _from_arrays(name, arrays)
    except (OSError, ValueError, KeyError):
        return None


def write(path: Path, dataset: Dataset) -> Dataset:
    """Store a data set, so that no reader ever sees half a file, and return it with its fingerprint."""
    arrays = _to_arrays(dataset)
    stored = io.BytesIO()
    np.savez(stored, allow_pickle=False, **arrays)
    write_bytes(path, stored.getvalue())
    return _from_arrays(dataset.name, arrays)


def _to_arrays(dataset: Dataset) -> dict[str, np.ndarray]:
    """Return a data set as flat arrays, the form that is stored and fingerprinted."""
    arrays = {
        **_pack("label_names", dataset.label_space.names),
        **_pack("label_descriptions", dataset.label_space.descriptions),
        **_pack("notes", [json.dumps(dataset.notes)]),
        **_pack("about", [json.dumps(dataset.about)]),
    }
    if dataset.parents is not None:
        arrays["parents"] = dataset.parents
    if dataset.truth is not None:
        arrays |= _pack("truth", [json.dumps(dataset.truth)])
    for split, records in dataset.splits.items():
        arrays[f"{split}/label_ids"], arrays[f"{split}/label_offsets"] = records.labels.ids, records.labels.offsets
        if records.labels.values is not None:
            arrays[f"{split}/label_values"] = records.labels.values
        arrays |= _pack(f"{split}/keys", records.keys)
        if records.texts is not None:
            arrays |= _pack(f"{split}/texts", records.texts)
        if records.features is not None:
            arrays[f"{split}/features"] = records.features
        for place, column in enumerate(records.categories or ()):
            arrays |= _pack(f"{split}/categories/{place}", column)
        if records.evidence is not None:
            arrays[f"{split}/evidence"] = np.concatenate([np.zeros((0, 3), np.int32), *records.evidence])
            arrays[f"{split}/evidence/offsets"] = np.cumsum([0, *map(len, records.evidence)], dtype=np.int64)
    if dataset.feature_names:
        arrays |= _pack("feature_names", dataset.feature_names)
    if dataset.category_names:
        arrays |= _pack("category_names", dataset.category_names)
    return arrays | _pack("fingerprint", [_fingerprint(arrays)])


def _from_arrays(name: str, arrays: Mapping[str, np.ndarray]) -> Dataset:
    """Inverse of `_to_arrays`."""
    feature_names = _unpack("feature_names", arrays) if "feature_names" in arrays else ()
    category_names = _unpack("category_names", arrays) if "category_names" in arrays else ()
    splits = {}
    for split in SPLITS:
        evidence = None
        if f"{split}/evidence" in arrays:
            offsets = arrays[f"{split}/evidence/offsets"]
            evidence = tuple(np.split(arrays[f"{split}/evidence"], offsets[1:-1]))
        splits[split] = Records(
            labels=LabelSets(
                arrays[f"{split}/label_ids"], arrays[f"{split}/label_offsets"], arrays.get(f"{split}/label_values")
            ),
            keys=_unpack(f"{split}/keys", arrays),
            texts=_unpack(f"{split}/texts", arrays) if f"{split}/texts" in arrays else None,
            features=arrays.get(f"{split}/features"),
            categories=tuple(_unpack(f"{split}/categories/{place}", arrays) for place in range(len(category_names)))
            or None,
            evidence=evidence,
        )
    return Dataset(
        name=name,
        splits=splits,
        label_space=LabelSpace(_unpack("label_names", arrays), _unpack("label_descriptions", arrays)),
        parents=arrays.get("parents"),
        fingerprint=_unpack("fingerprint", arrays)[0],
        notes=json.loads(_unpack("notes", arrays)[0]),
        feature_names=feature_names,
        category_names=category_names,
        truth=json.loads(_unpack("truth", arrays)[0]) if "truth" in arrays else None,
        about=json.loads(_unpack("about", arrays)[0]),
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
    """Hexadecimal SHA-256 of all arrays but the fingerprint itself and what only speaks of the others."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        if not name.startswith(("notes", "about", "fingerprint")):
            array = arrays[name]
            digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()
