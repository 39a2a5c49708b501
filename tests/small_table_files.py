"""One small table, as a file of any format and form of labels, and read again."""

import csv
import io
import json
import math
from pathlib import Path

import numpy as np

import mlresearch.data

NAN = math.nan


# One table in every form: four rows, a text, two features, a category, three labels.
TEXTS = ["plain", 'quotes ", commas, and\nlines', "", "tab\tand ünïcode \u2028 €"]
NUMBERS = [[1.0, -2.5], [None, 0.0], [3e10, None], [0.1, 7.0]]
KINDS = ["a", "", "b", "a"]
LABELS = [["x", "z"], [], ["y"], ["y", "x"]]
SOFT = [{"x": 0.25, "z": 1}, {}, {"y": None}, {"x": 1.0, "y": 0.5, "z": 0.0}]
NAMES = ("x", "y", "z")
INPUTS = {"text": "title", "features": "n1,n2", "categories": "kind", "key": "id", "labels": "tags"}


def json_lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def csv_lines(rows, **dialect):
    stored = io.StringIO()
    writer = csv.writer(stored, **dialect)
    writer.writerow(rows[0])
    writer.writerows(["" if cell is None else cell for cell in row.values()] for row in rows)
    return stored.getvalue()


def rows_with(labels):
    """The rows of the table, with what `labels` adds to each."""
    return [
        {"id": f"row {number}", "title": text, "n1": one, "n2": two, "kind": kind} | own
        for number, (text, (one, two), kind, own) in enumerate(zip(TEXTS, NUMBERS, KINDS, labels, strict=True))
    ]


def write(folder, content, name="train.jsonl"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())
    return str(path)


def load(folder, content, name="train.jsonl", **options):
    """The data set of one file: its rows in "train", and twice more what they are drawn to."""
    options = {"text": "text", "labels": "labels", "form": "ragged"} | options
    return mlresearch.data.load("table", {"train": write(folder, content, name)} | options, folder / "data")


def load_all(folder, content, name="train.jsonl", **options):
    """The same, with the same rows in every split, so that all of them are there in their order."""
    others = {split: write(folder, content, f"{split}{Path(name).suffix}") for split in ("validation", "test")}
    return load(folder, content, name, **(others | options))


def dense(records, num_labels):
    matrix = np.zeros((len(records), num_labels), np.float32)
    values = 1 if records.labels.values is None else records.labels.values
    matrix[records.labels.rows, records.labels.ids] = values
    return matrix


def assert_same(one, other):
    """Two data sets are the same but for their names and notes: the fingerprint is over all else."""
    assert one.label_space.names == other.label_space.names
    assert one.fingerprint == other.fingerprint
