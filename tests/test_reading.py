"""Rows of JSON Lines, CSV and TSV: what a file says, or a mistake that names file and line."""

import json
import time

import pytest

from mlresearch.data.reading import read_csv, read_jsonl
from mlresearch.errors import UserError

WRONG_JSON = [
    (b'{"text": "b", "labels": ["x"', ": no JSON at character 30"),
    (b"[]", r": a row is a JSON object, \{...\}, not '\[\]'"),
    (b"3", ": a row is a JSON object"),
    (b"null", ": a row is a JSON object"),
    (b'{"n": 1e999}', ": the number '1e999' is too large"),
    (b'{"n": -1e400}', ": the number '-1e400' is too large"),
    (b'{"n": ' + b"1" * 401 + b"}", r": the number '1+\.\.\.' is too large"),
    (b'{"n": 1' + b"0" * 5000 + b"}", r": the number '10+\.\.\.' is too large"),
    (b'{"n": NaN}', ": NaN is no JSON; write null"),
    (b'{"n": -Infinity}', ": -Infinity is no JSON"),
    (b'{"text": "", "text": ""}', ": the key 'text' stands twice in one object"),
    (b'{"o": [{"a": 1, "a": 1}]}', ": the key 'a' stands twice"),
    (b'{"text": "\\ud800"}', ": half of a surrogate pair"),
    (b'{"text": "\\uDFFF"}', ": half of a surrogate pair"),
    (b'{"\\udc00": 1}', ": half of a surrogate pair"),
    (b'{"labels": ' + b"[" * 100_000 + b"}", ": lists or objects are nested too deeply"),
    (b'{"o":' * 100_000, ": lists or objects are nested too deeply"),
    (b'{"text": "\xff"}', ", byte 11: this is not UTF-8"),
    (b'{"text": "\xed\xa0\x80"}', ", byte 11: this is not UTF-8"),
    (b'{"text": "a\x01"}', ": .*Invalid control character"),
    (b"\xef\xbb\xbf{}", ": no JSON at character 1"),
    (b"\0", ": no JSON at character 1"),
    (b"{'text': ''}", ": no JSON at character 2"),
    (b"{} {}", ": .*Extra data"),
]


@pytest.mark.parametrize(("line", "message"), WRONG_JSON, ids=range(len(WRONG_JSON)))
def test_wrong_rows_of_json(tmp_path, line, message):
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + line + b"\n")
    with pytest.raises(UserError, match=f"t.jsonl, line 2{message}") as caught:
        list(read_jsonl(path))
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b'\xef\xbb\xbf{"text": "a", "labels": ["x"]}\n{"text": "b", "labels": []}\n', (1, 2)),
        (b'{"text": "a", "labels": ["x"]}\r\n{"text": "b", "labels": []}\r\n', (1, 2)),
        (b'\n\r\n  \t\n{"text": "a", "labels": ["x"]}\n\n{"text": "b", "labels": []}\n\n', (4, 6)),
        (b'{"text": "a", "labels": ["x"]}\n {"labels": [ ], "text": "\\u0062"} ', (1, 2)),
    ],
)
def test_right_rows_of_json(tmp_path, content, lines):
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    rows = {"text": "a", "labels": ["x"]}, {"text": "b", "labels": []}
    assert list(read_jsonl(path)) == list(zip(lines, rows, strict=True))


def test_values_of_json_come_as_they_are(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"o": [null, true, -0.0e5, "\\ud83d\\ude00"]}')
    assert list(read_jsonl(path)) == [(1, {"o": [None, True, 0.0, "\U0001f600"]})]


WRONG_CSV = [
    (b"", " is empty; its first line must be a header"),
    (b"\n\n", " is empty; its first line must be a header"),
    (b"text,n,text\na,1,x\n", ", line 1: two columns are named 'text'"),
    (b"text,n,labels\na,1\n", ", line 2: a row of 2 cells, where the header has 3"),
    (b'text,n,labels\n"a\nb",1,x\na,1,x,\n', ", line 4: a row of 4 cells, where the header has 3"),
    (b'text,n,labels\n"a\n\nb",1,x\n"c,1,x\n', ", line 5: a quote that opens in this row is never closed"),
    (b'text,n,labels\n"a" b,1,x\n', ", line 2: ',' expected after '\"'"),
    (b"text,n,labels\na,1,x\nb\0,1,x\n", ", line 3: a NUL character"),
    ("text,n,labels\na,1,x\n".encode("utf-16"), ", line 1, byte 1: this is not UTF-8"),
    (b"text,n,labels\na\xff,1,x\n", ", line 2, byte 2: this is not UTF-8"),
    (b"text,n,labels\ra,1,x\r", ", line 1: a carriage return within a row"),
]


@pytest.mark.parametrize(("content", "message"), WRONG_CSV, ids=range(len(WRONG_CSV)))
def test_wrong_rows_of_csv(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"t.csv{message}") as caught:
        list(read_csv(path, "csv"))
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_a_cell_of_10_mb(tmp_path):
    text = 'word "quoted", \n' * 700_000
    took = {}
    for size in (len(text) // 10, len(text)):
        cell = text[:size]
        (tmp_path / "t.csv").write_bytes(b'text,labels\n"' + cell.replace('"', '""').encode() + b'",x\n')
        (tmp_path / "t.jsonl").write_text(json.dumps({"text": cell, "labels": ["x"], "o": "\\ud800"}) + "\n")
        began = time.monotonic()
        assert list(read_csv(tmp_path / "t.csv", "csv")) == [(2, {"text": cell, "labels": "x"})]
        [(line, row)] = read_jsonl(tmp_path / "t.jsonl")
        assert (line, row["text"]) == (1, cell)
        took[size] = time.monotonic() - began
    assert took[len(text)] < 60 * took[len(text) // 10]  # were it quadratic, 100 times
