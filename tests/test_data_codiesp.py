import os
import random
import re
from pathlib import Path

import pytest

import mlresearch.data
from mlresearch.data import codiesp, icd10cm
from mlresearch.errors import UserError
from mlresearch.label_space import LabelReader

MANUAL_DIR = os.environ.get("MLRESEARCH_MANUAL_DIR", "")
upstream = pytest.mark.skipif(
    not (Path(MANUAL_DIR) / "codiesp").is_dir(), reason="no folder codiesp in MLRESEARCH_MANUAL_DIR"
)

SPANISH = "El niño tiene\nfractura de\nbóveda y fiebre."
#          0         1          2          3
#          0123456789012345678901234567890123456789
DIAGNOSES = "s1-1\tr50.9\ns1-1\ts02.0xx\ns1-2\tr50.9\n"
EVIDENCE = (
    "s1-1\tDIAGNOSTICO\tr50.9\tfiebre\t35 41\n"
    "s1-1\tPROCEDIMIENTO\tbw03zzz\tRx\t0 2\n"
    "s1-1\tDIAGNOSTICO\ts02.0xx\tfractura bóveda\t14 22;26 32\n"
)


@pytest.fixture(scope="module")
def nodes():
    return icd10cm.read_tabular_list()


@pytest.fixture
def folder(tmp_path, nodes, monkeypatch):
    monkeypatch.setattr(codiesp, "read_tabular_list", lambda: nodes)  # it takes seconds
    folder = tmp_path / "manual" / "codiesp"
    for name in ("train", "dev", "test"):
        for language, text in (("text_files", SPANISH), ("text_files_en", "The boy has a fracture.")):
            (folder / name / language).mkdir(parents=True)
            for document in ("s1-1", "s1-2"):
                (folder / name / language / f"{name}{document}.txt").write_text(f"{text}", "utf-8")
        for letter, rows in (("D", DIAGNOSES), ("X", EVIDENCE)):
            (folder / name / f"{name}{letter}.tsv").write_text(rows.replace("s1", f"{name}s1"), "utf-8")
    return folder


def load(folder, tmp_path, subset="spanish", **given):
    return mlresearch.data.load(f"codiesp/{subset}", {"manual_dir": str(folder.parent), **given}, tmp_path)


def append(path, text):
    path.write_text(path.read_text("utf-8") + text, "utf-8")


# Small files.


def test_codes_stand_below_all_that_is_above_them_in_the_list(folder, tmp_path):
    data = load(folder, tmp_path)
    names = data.label_space.names
    rows = [[names[label] for label in data.splits["train"].labels.row(row)] for row in range(2)]
    fever = ["Chapter 18", "R50-R69", "R50", "R50.9"]
    skull = ["Chapter 19", "S00-S09", "S02", "S02.0"]
    assert rows == [[*fever, *skull, "S02.0XX"], fever]
    assert set(names) == {*fever, *skull, "S02.0XX"}
    assert data.label_space.descriptions[-1] == "Fracture of vault of skull (S02.0XX)"
    parent = {names[child]: names[above] for child, above in data.parents.tolist()}
    assert (parent["S02.0XX"], parent["S02.0"], parent["S00-S09"]) == ("S02.0", "S02", "Chapter 19")


def test_each_piece_of_evidence_is_a_row(folder, tmp_path):
    data = load(folder, tmp_path)
    first, second = data.splits["train"].evidence
    names, text = data.label_space.names, data.splits["train"].texts[0]
    assert [(names[label], text[start:stop]) for label, start, stop in first.tolist()] == [
        ("R50.9", "fiebre"),
        ("S02.0XX", "fractura"),
        ("S02.0XX", "bóveda"),
    ]
    assert len(second) == 0
    assert data.notes["evidence"] == {
        "mentions": 6,
        "mentions_in_several_pieces": 3,
        "pieces_of_no_length": 0,
        "pieces_given_before": 0,
        "mentions_that_differ_from_the_text": 0,
    }


def test_english_has_no_evidence(folder, tmp_path):
    data = load(folder, tmp_path, "english")
    assert data.splits["train"].evidence is None
    assert data.splits["train"].texts[0] == "The boy has a fracture."
    assert data.splits["validation"].keys == ("devs1-1", "devs1-2")
    assert "evidence" not in data.notes


def test_codes_are_counted_as_they_are_written(folder, tmp_path):
    append(folder / "test" / "testD.tsv", "tests1-2\tr51\ntests1-2\tr50.9\n")
    notes = load(folder, tmp_path).notes
    assert notes["diagnoses"] == {"train": 3, "validation": 3, "test": 4}
    assert notes["rows_that_repeat_a_diagnosis"] == {"train": 0, "validation": 0, "test": 1}
    assert notes["codes"] == {"train": 2, "validation": 2, "test": 3}
    assert (notes["codes_of_all_splits"], notes["test_codes_not_in_train"]) == (3, 1)
    assert (notes["codes_that_icd10cm_lacks"], notes["diagnoses_that_icd10cm_lacks"]) == (1, 3)


def test_pieces_of_no_length_repeated_ones_and_other_texts_are_counted(folder, tmp_path):
    rows = "devs1-1\tDIAGNOSTICO\tr50.9\tfiebre \t35 41;35 35\ndevs1-1\tDIAGNOSTICO\tr50.9\tFiebre\t35 41\n"
    append(folder / "dev" / "devX.tsv", rows)
    data = load(folder, tmp_path)
    assert data.notes["evidence"] == {
        "mentions": 8,
        "mentions_in_several_pieces": 4,
        "pieces_of_no_length": 1,
        "pieces_given_before": 2,
        "mentions_that_differ_from_the_text": 1,  # "fiebre " is what the two pieces, joined by a blank, are
    }
    assert len(data.splits["validation"].evidence[0]) == 3


def test_byte_order_mark_and_line_ends_do_not_move_evidence(folder, tmp_path):
    expected = load(folder, tmp_path / "one")
    for path in folder.rglob("*.t*"):
        if path.is_file():
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load(folder, tmp_path / "other").fingerprint == expected.fingerprint


def test_a_document_without_diagnoses_is_an_example_without_labels(folder, tmp_path):
    (folder / "train" / "text_files" / "trains1-3.txt").write_text("Sano.")
    (folder / "train" / "text_files" / "._trains1-3.txt").write_bytes(b"\xff")  # what some systems leave beside files
    data = load(folder, tmp_path)
    assert data.splits["train"].labels.row(2).tolist() == []
    assert data.notes["unlabelled_rows"]["train"] == 1


@pytest.mark.parametrize("code", ["q99.99999", "chapter 2", "c00-c75", "xxx", "u99", "r5", "r50."])
def test_unknown_codes_are_errors_or_dropped(folder, tmp_path, code):
    append(folder / "test" / "testD.tsv", f"tests1-2\t{code}\n")
    append(folder / "test" / "testX.tsv", f"tests1-2\tDIAGNOSTICO\t{code}\tfiebre\t35 41\n")
    with pytest.raises(UserError, match=rf"testD\.tsv, line 4: unknown label '{re.escape(code.upper())}'"):
        load(folder, tmp_path)
    data = load(folder, tmp_path, unknown_labels="drop")
    assert data.notes["dropped_labels"] == {"total": 1, "names": {code.upper(): 1}}
    assert [len(rows) for rows in data.splits["test"].evidence] == [3, 0]


@pytest.mark.parametrize(
    ("code", "below"),
    [
        ("S02.0XX", "S02.0"),
        ("S02.0XXQ", "S02.0"),
        ("T68.XXX", "T68"),
        ("R50.91", "R50.9"),
        ("R50.8X", "R50.8"),
        ("R50.7", "R50"),
        ("S02.0XXA", None),  # in the list itself
        ("R50", None),
        ("U99", None),
        ("R50.", None),
        ("R50.9999", "R50.9"),
        ("R50.99999", None),
        ("C00-C75", None),
        ("Chapter 2", None),
    ],
)
def test_codes_that_the_list_lacks_stand_below_their_longest_beginning(nodes, code, below):
    _, _, added = codiesp.make_labels({code}, nodes)
    assert added == ({code: below} if below else {})


def test_labels_keep_all_that_is_above_them_before_them(nodes):
    codes = {node.name for node in nodes[::500]} | {"S02.0XX", "R50.7"}
    label_space, parents, _ = codiesp.make_labels(codes, nodes)
    above = dict(parents)
    assert len(above) == len(parents)
    assert all(parent < child for child, parent in parents)
    roots = {name for label, name in enumerate(label_space.names) if label not in above}
    assert roots == {name for name in label_space.names if name.startswith("Chapter ")}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train/trainD.tsv", b"", r"trainD\.tsv has no rows"),
        ("train/trainD.tsv", b"trains1-1 r50.9\n", r"trainD\.tsv, line 1: 1 fields"),
        ("train/trainD.tsv", b"trains1-1\tr50.9\nother\tr50.9\n", r"trainD\.tsv, line 2: there is no text .* 'other'"),
        ("train/trainD.tsv", b"trains1-1\tr50.9\n\xff\xfe", r"trainD\.tsv, line 2: this is not UTF-8"),
        ("train/trainD.tsv", b"trains1-1\tr50.9\n", r"trainX\.tsv, line 3: 'S02.0XX' is no diagnosis"),
        (
            "train/trainX.tsv",
            b"trains1-1\tDIAGNOSTICO\tr50.9\tfiebre\t35\n",
            r"trainX\.tsv, line 1: '35' are no places",
        ),
        ("train/trainX.tsv", b"trains1-1\tDIAGNOSTICO\tr50.9\tfiebre\t35 41;\n", "line 1: '35 41;' are no places"),
        ("train/trainX.tsv", b"trains1-1\tDIAGNOSTICO\tr50.9\tfiebre\t41 35\n", "line 1: 41 to 35 is no place"),
        ("train/trainX.tsv", b"trains1-1\tDIAGNOSTICO\tr50.9\tfiebre\t35 99\n", "line 1: 35 to 99 is no place"),
        ("train/trainX.tsv", b"other\tDIAGNOSTICO\tr50.9\tfiebre\t35 41\n", "line 1: there is no text"),
        ("train/trainX.tsv", b"trains1-1\tDIAGNOSIS\tr50.9\tfiebre\t35 41\n", "line 1: 'DIAGNOSIS' is neither"),
        ("train/text_files/trains1-1.txt", b"", r"trains1-1\.txt has no text"),
        ("train/text_files/trains1-1.txt", b" \r\n", r"trains1-1\.txt has no text"),
        ("train/text_files/trains1-1.txt", "bóveda".encode("latin-1"), r"trains1-1\.txt, line 1: this is not UTF-8"),
    ],
)
def test_damaged_files_are_errors_with_their_line(folder, tmp_path, file, content, message):
    (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        load(folder, tmp_path)


@pytest.mark.parametrize("name", ["devD.tsv", "devX.tsv"])
def test_a_missing_table_is_named(folder, tmp_path, name):
    (folder / "dev" / name).unlink()
    with pytest.raises(UserError, match=re.escape(name)):
        load(folder, tmp_path)


def test_a_missing_text_or_folder_is_named(folder, tmp_path):
    (folder / "test" / "text_files" / "tests1-2.txt").unlink()
    with pytest.raises(UserError, match=r"testD\.tsv, line 3: there is no text of the document 'tests1-2'"):
        load(folder, tmp_path)
    (folder / "test" / "text_files" / "tests1-1.txt").unlink()
    with pytest.raises(UserError, match="no texts"):
        load(folder, tmp_path)


def test_rows_of_ten_megabytes(tmp_path):
    path = tmp_path / "trainX.tsv"
    path.write_text("s1\tDIAGNOSTICO\tr50.9\tfiebre\t" + "1 2;" * 200_000 + "1 2")
    [row] = codiesp.read_evidence(path)
    assert len(row.spans) == 200_001
    for places in ("1" * 10_000_000, "1 " * 5_000_000, ";" * 1_000_000):
        path.write_text("s1\tDIAGNOSTICO\tr50.9\tfiebre\t" + places)
        with pytest.raises(UserError, match=r"line 1: .* are no places"):
            codiesp.read_evidence(path)


def mutate(content, rng):
    """Replace, insert, drop or repeat a few bytes at a few places."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(content) + 1)
        stop = start + rng.choice((0, 1, 1, 5, 40))
        some = rng.choice((b"", rng.randbytes(2), rng.choice(b"\t\n 0123;.xX").to_bytes(), bytes(content[:start])))
        content[start:stop] = some
    return bytes(content)


def test_mutated_tables_are_read_right_or_refused(tmp_path, nodes):
    rng = random.Random(0)
    texts = {"s1-1": SPANISH, "s1-2": SPANISH}
    clean, table = tmp_path / "trainD.tsv", tmp_path / "table.tsv"
    clean.write_text(DIAGNOSES)
    label_space, _, _ = codiesp.make_labels({"R50.9", "S02.0XX"}, nodes)
    reader = LabelReader(label_space, "ragged", "error")
    labels = codiesp.labels_by_document(codiesp.read_diagnoses(clean), texts, reader)
    messages = []
    for number in range(3000):
        content = mutate((DIAGNOSES if number % 2 else EVIDENCE).encode(), rng)
        table.write_bytes(content)
        try:
            if number % 2:
                found = codiesp.labels_by_document(codiesp.read_diagnoses(table), texts, reader)
                fields = [line.split("\t") for line in content.decode("utf-8-sig").split("\n") if line]
                for document in texts:
                    codes = {code.strip("\r").upper() for other, code in fields if other == document}
                    assert {label_space.names[label] for label in found[document]} == codes
            else:
                evidence, _ = codiesp.place_evidence(codiesp.read_evidence(table), texts, labels, label_space)
                for document, pieces in evidence.items():
                    assert pieces == sorted(pieces)
                    assert all(0 <= start < stop <= len(SPANISH) for _, start, stop in pieces)
                    assert {label for label, _, _ in pieces} <= labels[document]
        except UserError as error:
            messages.append(str(error))
    assert 500 < len(messages) < 2900
    assert all("table.tsv" in message for message in messages)


# The upstream files.


@upstream
def test_counts_of_the_upstream_files(tmp_path):
    data = mlresearch.data.load("codiesp/spanish", {"manual_dir": MANUAL_DIR}, tmp_path)
    assert {split: len(records) for split, records in data.splits.items()} == {
        "train": 500,
        "validation": 250,
        "test": 250,
    }
    notes = data.notes
    assert notes["codes_of_all_splits"] == 2_557
    assert round(sum(notes["diagnoses"].values()) / 1_000, 1) == 11.2
    assert (notes["test_codes_not_in_train"], notes["codes"]["test"]) == (439, 1_143)
    assert notes["dropped_labels"] == {"total": 0, "names": {}}
    assert notes["codes_with_labels_below_them"] == 82
    words = [len(text.split()) for records in data.splits.values() for text in records.texts]
    assert round(sum(words) / 1_000) == 351
    assert notes["evidence"]["mentions_that_differ_from_the_text"] == 4
    assert notes["evidence"]["pieces_of_no_length"] == 3

    # Each label is a code of some document or above one, and the codes can be had back from the closed label sets.
    names = data.label_space.names
    leaves = set(range(len(names))) - set(data.parents[:, 1].tolist())
    codes = {}
    for split, folder in codiesp.FOLDERS.items():
        for line in (Path(MANUAL_DIR) / "codiesp" / folder / f"{folder}D.tsv").read_text("utf-8").splitlines():
            document, code = line.split("\t")
            codes.setdefault((split, document), set()).add(code.upper())
    assert {names[label] for label in leaves} <= set().union(*codes.values()) <= set(names)
    for split, records in data.splits.items():
        for row, key in enumerate(records.keys):
            labels = {names[label] for label in records.labels.row(row)}
            assert codes[split, key] <= labels
            assert {names[label] for label in records.labels.row(row) if label in leaves} <= codes[split, key]
            assert {names[label] for label in records.evidence[row][:, 0]} == codes[split, key]


@upstream
def test_upstream_codes_that_the_list_lacks_only_leave_out_the_seventh_character(tmp_path):
    builder = codiesp.Builder(subset="english", data_dir=tmp_path, manual_dir=MANUAL_DIR, unknown_labels="error")
    assert len(builder.added) == 98
    for code, below in builder.added.items():
        assert re.fullmatch("X+", code.removeprefix(below).removeprefix("."))
