import codecs
import re
import time
from pathlib import Path

import numpy as np
import pytest

from mlresearch.data import arff
from mlresearch.errors import UserError

PATH = Path("toy.arff")
HEADER = b"@relation toy\n@attribute a numeric\n@attribute b {x,y}\n"


def parse(content):
    return arff.parse_arff(content.encode() if isinstance(content, str) else content, PATH)


def table(*attributes, rows):
    """A file with the given attributes ("NAME TYPE") and rows."""
    return parse("\n".join(["@relation toy", *(f"@attribute {each}" for each in attributes), "@data", *rows]))


# What a file means.


def test_a_dense_file():
    toy = parse(
        "% a comment\n\n@relation toy\n@attribute a numeric\n@attribute b {x, y}\n@attribute c string\n"
        "@attribute d date 'yyyy-MM-dd'\n@attribute e real % a comment\n@attribute f integer\n@data % a comment\n"
        "1.5,y,some text,2020-01-01,-2e3,7\n\n  % a comment\n?, x ,?,'2020-01-02',.5,+3.\n"
    )
    assert toy.relation == "toy"
    assert toy.relation_line == 3
    assert [attribute.name for attribute in toy.attributes] == list("abcdef")
    assert [attribute.kind for attribute in toy.attributes] == [
        "numeric",
        "nominal",
        "string",
        "string",
        "numeric",
        "numeric",
    ]
    assert toy.attributes[1].values == ("x", "y")
    nan = np.nan
    np.testing.assert_array_equal(toy.cells, np.float32([[1.5, 1, nan, nan, -2000, 7], [nan, 0, nan, nan, 0.5, 3]]))
    assert toy.cells.dtype == np.float32
    assert toy.texts == {2: ["some text", None], 3: ["2020-01-01", "2020-01-02"]}
    assert toy.lines.tolist() == [11, 14]
    assert toy.where(1) == "toy.arff, line 14"
    assert toy.key(0) == "toy.arff:11"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("case", [str.upper, str.lower, str.title])
def test_line_ends_byte_order_marks_and_case_do_not_matter(end, mark, case):
    lines = ["@relation r", "", "@attribute a numeric", "@attribute b real", "@data", "1,2", "3,4", ""]
    text = end.join(re.sub(r"@\w+|numeric|real", lambda word: case(word[0]), line) for line in lines)
    toy = parse(mark + text.encode())
    assert toy.cells.tolist() == [[1, 2], [3, 4]]
    assert toy.lines.tolist() == [6, 7]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_utf_8_or_else_latin_1(encoding):
    # U+0085 is a line end to Unicode and to str.splitlines, but not to ARFF.
    toy = parse("@relation r\n@attribute 'größe\x85 ±' {ä,ö}\n@data\nö\n".encode(encoding))
    assert toy.attributes[0].name == "größe\x85 ±"
    assert toy.cells.tolist() == [[1]]


def test_a_percent_sign_within_a_name_is_a_letter():
    toy = table("DES460_0point02%_MMS numeric", "'% of all' numeric", "c {5%,10%}", rows=["1,2,10%"])
    assert [attribute.name for attribute in toy.attributes] == ["DES460_0point02%_MMS", "% of all", "c"]
    assert toy.cells.tolist() == [[1, 2, 1]]


def test_repeated_names_are_made_distinct():
    toy = table("a numeric", "b numeric", "a numeric", "'a (2)' numeric", "a numeric", rows=["1,2,3,4,5"])
    assert [attribute.name for attribute in toy.attributes] == ["a", "b", "a (3)", "a (2)", "a (4)"]
    assert toy.renamed == {"a (3)": "a", "a (4)": "a"}


def test_quotes_and_escapes():
    toy = table(
        r"'Swainson\'s Thrush' {0,1}",
        r'"a \"b\" \\ c" {' + r"'x, y}', \"\", plain, 'it\'s', '?'}".replace('\\"', '"'),
        r"don't string",
        "s{0,1}",
        rows=[r"1,'x, y}','a,\tb\\',0", r"""0, "", "%", 1""", r"? ,'it\'s','?',1", "0,'?',?,1", "1,plain,it's,0"],
    )
    assert [attribute.name for attribute in toy.attributes] == ["Swainson's Thrush", r'a "b" \ c', "don't", "s"]
    assert toy.attributes[1].values == ("x, y}", "", "plain", "it's", "?")
    nan = np.nan
    codes = np.float32([[1, 0, nan, 0], [0, 1, nan, 1], [nan, 3, nan, 1], [0, 4, nan, 1], [1, 2, nan, 0]])
    np.testing.assert_array_equal(toy.cells, codes)
    assert toy.texts[2] == ["a,\tb\\", "%", "?", None, "it's"]


def test_sparse_rows_leave_out_zeros_and_first_values():
    toy = table(
        "a numeric",
        "b {red,green}",
        "c string",
        "d {1,0}",
        rows=["{}", "{ 0 2.5,1 green, 3\t0 }", "{3 1,2 'x, }y'}", "{1 ?,0 ?} % a comment", "1,red,z,0"],
    )
    nan = np.nan
    expected = [[0, 0, nan, 0], [2.5, 1, nan, 1], [0, 0, nan, 0], [nan, nan, nan, 0], [1, 0, nan, 1]]
    np.testing.assert_array_equal(toy.cells, np.float32(expected))
    assert toy.texts == {2: [None, None, "x, }y", None, "z"]}


def test_tabs_separate_where_there_is_no_comma():
    toy = table("a numeric", "b {x,'y, z'}", rows=["1\tx", "2\t'y, z'", "3,\tx", "4\t, x"])
    assert toy.cells.tolist() == [[1, 0], [2, 1], [3, 0], [4, 0]]


def test_a_hierarchical_attribute_keeps_its_entries():
    toy = table("a numeric", "class hierarchical 1, 1/2,x y", rows=["1,1/2@x y", "2, ?"])
    assert toy.attributes[1].values == ("1", "1/2", "x y")
    assert toy.texts == {1: ["1/2@x y", None]}


# What is refused, with file and line.


@pytest.mark.parametrize(
    ("content", "line", "what"),
    [
        ("", 1, "the file ends without @data"),
        ("% nothing\n", 2, "the file ends without @data"),
        ("@relation r\n@attribute a numeric\n1\n", 3, "'1', expected '@attribute NAME TYPE' or '@data'"),
        ("@relation r\n@attribute a numeric\n", 3, "expected @relation, @attribute ..., @data, rows"),
        ("@attribute a numeric\n@data\n1\n", 1, "expected '@relation NAME' first"),
        ("@relation r\n@relation s\n", 2, "'@relation s', expected"),
        ("@relation 'r\n", 1, "opens a quote, expected its end"),
        ("@relation r\n@data\n1\n", 2, "@data without any attribute"),
        ("@relation r\n@inputs a\n", 2, "'@inputs a', expected"),
        ("@relation r\n@attribute a numeric\n@data 1\n", 3, "'1' after @data"),
        ("@relation r\n@attribute\n", 2, "'', expected '@attribute NAME TYPE'"),
        ("@relation r\n@attribute a\n", 2, "'a' has the type ''"),
        ("@relation r\n@attribute 'a numeric\n", 2, "expected '@attribute NAME TYPE', a name with blanks in quotes"),
        ("@relation r\n@attribute '' numeric\n", 2, "name '' is empty"),
        ("@relation r\n@attribute ' a' numeric\n", 2, "name ' a' is empty or holds outer blanks"),
        ("@relation r\n@attribute 'a\\nb' numeric\n", 2, "a line feed"),
        ("@relation r\n@attribute a b numeric\n", 2, "'a' has the type 'b'"),
        ("@relation r\n@attribute a relational\n", 2, "type 'relational', which cannot be read"),
        ("@relation r\n@attribute a numeric [0,1]\n", 2, "'[0,1]' after the type"),
        ("@relation r\n@attribute a {x,y\n", 2, "break off at 'y'"),
        ("@relation r\n@attribute a {x,'y}\n", 2, 'break off at "\'y}"'),
        ("@relation r\n@attribute a {x,,y}\n", 2, "'a' has an empty value"),
        ("@relation r\n@attribute a {}\n", 2, "'a' has an empty value"),
        ("@relation r\n@attribute a {x,y,x}\n", 2, "lists the value 'x' twice"),
        ("@relation r\n@attribute a {x,?}\n", 2, "'?' among the values"),
        ("@relation r\n@attribute a {x,y} z\n", 2, "'z' after the values"),
        (HEADER + b"@data\n", 5, "no row after @data"),
        (HEADER + b"@data\n% none\n\n", 7, "no row after @data"),
        (HEADER + b"@data\n1,x\n2\n", 6, "1 values, expected 2"),
        (HEADER + b"@data\n1,x,3\n", 5, "3 values, expected 2"),
        (HEADER + b"@data\n1,x,\n", 5, "3 values, expected 2"),
        (HEADER + b"@data\n1,x,{2}\n", 5, "weight '{2}', expected none"),
        (HEADER + b"@data\n{0 1}, {2}\n", 5, "weight '{2}', expected none"),
        (HEADER + b"@data\n{0 1} 2\n", 5, "'2' after the closing brace"),
        (HEADER + b"@data\n1,z\n", 5, "attribute 'b' is 'z', expected one of 'x', 'y', or ?"),
        (HEADER + b"@data\n1,X\n", 5, "attribute 'b' is 'X'"),
        (HEADER + b"@data\n,x\n", 5, "attribute 'a' is '', expected a finite number"),
        (HEADER + b"@data\n1,'x\n", 5, "expected its quote to close"),
        (HEADER + b"@data\n1,'x'y\n", 5, "expected its quote to close"),
        (HEADER + b"@data\n{0 1,0 2}\n", 5, "the index 0 stands twice"),
        (HEADER + b"@data\n{2 1}\n", 5, "the index '2', expected one of 0..1"),
        (HEADER + b"@data\n{-1 1}\n", 5, "the index '-1'"),
        (HEADER + b"@data\n{" + b"9" * 5000 + b" 1}\n", 5, "the index"),
        (HEADER + "@data\n{² 1}\n".encode(), 5, "the index '²'"),
        (HEADER + b"@data\n{0 1,\n", 5, "expected pairs 'index value' and a closing brace"),
        (HEADER + b"@data\n{0 1,}\n", 5, "expected pairs"),
        (HEADER + b"@data\n{0}\n", 5, "expected pairs"),
        (HEADER + b"@data\n{1 'x}\n", 5, "expected pairs"),
        (HEADER + b"@data\n{1 z}\n", 5, "attribute 'b' is 'z'"),
        (HEADER + b"@data\n{0 }\n", 5, "attribute 'a' is ''"),
        (HEADER + b"@data\n1,\x00\n", 5, "control character '\\x00'"),
        (b"\x7fELF\x02\x01\x01\x00\x00", 1, "control character '\\x7f'"),
        ("@relation r\n".encode("utf-16"), 1, "the file is in UTF-16"),
        ("@relation r\n".encode("utf-16-le"), 1, "control character '\\x00'"),
        (b"PK rubbish \xff\xfe", 1, "is this an ARFF file?"),
    ],
)
def test_what_is_malformed_is_named_with_its_line(content, line, what):
    with pytest.raises(UserError, match=f"^toy.arff, line {line}: .*{re.escape(what)}"):
        parse(content)


@pytest.mark.parametrize(
    "number",
    ["nan", "inf", "-Infinity", "1e999", "3.5e38", "1_000", "0x10", "1,5", "٣", "1 2", "e5", ".", "-", "1e", "--1"],
)
def test_what_is_no_finite_number_is_refused(number):
    with pytest.raises(UserError, match="expected a finite number"):
        table("a numeric", rows=[f"'{number}'"])


@pytest.mark.parametrize("number", ["0", "-0", "+1", "1.", ".5", "-1.5E-3", "1e+5", "3.4e38", "1e-999", "000.10"])
def test_numbers(number):
    assert table("a numeric", rows=[number, f" '{number}' "]).cells.tolist() == [[np.float32(number)]] * 2


def test_files_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "none.arff", tmp_path, Path("nul\0.arff")):
        with pytest.raises(UserError, match="cannot be read"):
            arff.read_arff(path)


def test_a_file_that_takes_more_memory_than_there_is(tmp_path, monkeypatch):
    def exhaust(content, path):
        raise MemoryError

    (tmp_path / "a.arff").write_bytes(HEADER + b"@data\n1,x\n")
    monkeypatch.setattr(arff, "parse_arff", exhaust)
    with pytest.raises(UserError, match=r"a\.arff does not fit into the memory"):
        arff.read_arff(tmp_path / "a.arff")


def test_more_cells_than_fit_are_refused_before_they_are_made():
    rows = b"{}\n" * 300_000
    header = b"@relation r\n" + b"".join(b"@attribute a%d numeric\n" % number for number in range(10_000))
    with pytest.raises(UserError, match=r"line 10003: .* expected at most 2147483648 cells"):
        parse(header + b"@data\n" + rows)


# Any bytes at all.

HOSTILE = 500_000  # bytes; what took the square of it would not end


@pytest.mark.parametrize(
    "content",
    [
        HEADER + b"@data\n" + b"1" * HOSTILE + b"x,x\n",
        HEADER + b"@data\n" + b"1," * HOSTILE,
        HEADER + b"@data\n" + b"'" * HOSTILE,
        HEADER + b"@data\n" + b"'" + b"\\'" * HOSTILE,
        HEADER + b"@data\n1," + b" " * HOSTILE + b"z\n",
        HEADER + b"@data\n{" + b"0 1," * (HOSTILE // 4),
        HEADER + b"@data\n{" + b" " * HOSTILE,
        HEADER + b"@data\n{" * (HOSTILE // 8),
        HEADER + b"@data\n1,'" + b"\t," * HOSTILE + b"'\tz",
        b"@relation '" + b"\\" * HOSTILE,
        b"@relation r\n@attribute '" + b"a\\b" * HOSTILE,
        b"@relation r\n@attribute " + b"a" * HOSTILE,
        b"@relation r\n@attribute '" + b"a" * HOSTILE + b" '",
        b"@relation r\n@attribute a {" + b"x" * HOSTILE,
        b"@relation r\n@attribute a {" + b"' ',".join(b"%d" % value for value in range(HOSTILE // 10)),
        b"@relation r\n" + b"@attribute a numeric\n" * (HOSTILE // 20) + b"@data\nx\n",
        b"\n" * HOSTILE,
        b" " * HOSTILE,
        b"\xff" * HOSTILE,
    ],
    ids=range(19),
)
def test_hostile_files_end_soon_in_an_error_of_one_line(content):
    start = time.perf_counter()
    with pytest.raises(UserError) as caught:
        parse(content)
    assert time.perf_counter() - start < 20  # seconds
    assert len(str(caught.value)) < 1000
    assert "\n" not in str(caught.value)


def test_a_row_of_ten_megabytes():
    names = b"".join(b"@attribute %d numeric\n" % number for number in range(20))
    text = b"'" + b"x" * 10_000_000 + b"'"
    toy = parse(b"@relation r\n" + names + b"@attribute t string\n@data\n" + b"1," * 20 + text + b"\n")
    assert len(toy.texts[20][0]) == 10_000_000
    domain = b",".join(b"v%d" % value for value in range(100_000))
    assert len(parse(b"@relation r\n@attribute a {" + domain + b"}\n@data\nv7\n").attributes[0].values) == 100_000


def test_every_cut_of_a_file_is_an_error_or_a_shorter_file():
    rows = ["1.25,x,'a b'", "{1 y,2 c}", "3,?,d"]
    text = "\n".join(
        ["@relation r", "@attribute a numeric", "@attribute b {x,y}", "@attribute c string", "@data", *rows]
    )
    for cut in range(len(text)):
        try:
            toy = parse(text[:cut])
        except UserError:
            continue
        assert len(toy) <= 3
        assert toy.cells.shape == (len(toy), 3)


# Against the arrays that files are made from.


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("sparse", [False, True])
def test_random_files(seed, sparse):
    rng = np.random.default_rng(seed)
    num_rows = int(rng.integers(1, 30))
    awkward = [
        "plain",
        "it's",
        'say "x"',
        "a, b",
        "{brace}",
        "back\\slash",
        "?",
        "% c",
        " outer ",
        "tab\there",
        "0",
        "",
    ]

    def quote(value):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'").replace("\t", "\\t") + "'"

    def written(value):
        return value if re.fullmatch(r"\w+", value) and rng.random() < 0.5 else quote(value)

    header, columns, texts, cells = [], [], {}, []
    for place in range(int(rng.integers(1, 12))):
        kind = rng.choice(["numeric", "nominal", "string"])
        if kind == "numeric":
            numbers = rng.normal(0, 10.0 ** rng.integers(-3, 4), num_rows) * (rng.random(num_rows) < 0.6)
            header.append(f"a{place} numeric")
            columns.append([repr(float(number)) for number in numbers])
            cells.append(numbers)
            default = "0.0"
        elif kind == "nominal":
            domain = rng.permutation(awkward)[: rng.integers(1, len(awkward))].tolist()
            codes = rng.integers(0, len(domain), num_rows)
            header.append(f"a{place} {{{','.join(map(written, domain))}}}")
            columns.append([written(domain[code]) for code in codes])
            cells.append(codes.astype(float))
            default = None
        else:
            chosen = rng.choice(awkward, num_rows).tolist()
            header.append(f"a{place} string")
            columns.append([written(value) for value in chosen])
            cells.append(np.full(num_rows, np.nan))
            texts[place] = chosen
            default = None
        for row in np.flatnonzero(rng.random(num_rows) < 0.2):
            columns[-1][row], cells[-1][row] = "?", np.nan
            if place in texts:
                texts[place][row] = None
        if sparse:  # what is left out
            for row in range(num_rows):
                first = kind == "nominal" and cells[-1][row] == 0
                missing_text = kind == "string" and texts[place][row] is None
                if (columns[-1][row] == default or first or missing_text) and rng.random() < 0.8:
                    columns[-1][row] = None
    rows = []
    for row in range(num_rows):
        if sparse:
            pairs = [f"{place} {column[row]}" for place, column in enumerate(columns) if column[row] is not None]
            rows.append("{" + ", ".join(rng.permutation(pairs).tolist() if pairs else []) + "}")
        else:
            rows.append(rng.choice([",", ", ", " ,"]).join(column[row] for column in columns))
    toy = table(*header, rows=rows)
    np.testing.assert_array_equal(toy.cells, np.stack(cells, 1).astype(np.float32))
    assert toy.texts == texts


# Features, and files that belong together.


def test_features():
    toy = table(
        "a numeric", "b {x,y,z}", "c {1,0}", "s string", "a=b {0}", rows=["1,y,1,s,0", "?,?,?,?,?", "2,z,0,t,0"]
    )
    every = range(5)
    assert arff.feature_names(toy.attributes) == ["a", "b=x", "b=y", "b=z", "c", "a=b=0"]
    nan = np.nan
    expected = np.float32([[1, 0, 1, 0, 1, 1], [nan, 0, 0, 0, nan, 0], [2, 0, 0, 1, 0, 1]])
    np.testing.assert_array_equal(arff.feature_matrix(toy, every), expected)
    assert arff.feature_matrix(toy, every).dtype == np.float32
    np.testing.assert_array_equal(arff.feature_matrix(toy, [2, 0]), expected[:, [4, 0]])
    assert arff.feature_matrix(toy, [3]).shape == (3, 0)
    notes = arff.describe_tables({"train": toy}, every)
    assert notes["missing_values"] == {"train": 4}
    assert notes["strings_left_out"] == ["s"]


def test_names_of_features_are_distinct():
    toy = table("'a=x' numeric", "a {x,y}", rows=["1,x"])
    assert arff.feature_names(toy.attributes) == ["a=x", "a=x (2)", "a=y"]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (["a numeric", "c {x,y}"], "train.arff"),
        (["z numeric", "c {x,y}"], "line 2: attribute 'z', expected 'a' as in .*train.arff, line 2"),
        (["a string", "c {x,y}"], "line 2: attribute 'a' is string, expected numeric"),
        (["a numeric", "c {x,z}"], "line 3: value 1 of attribute 'c' is 'z', expected 'y'"),
        (["a numeric", "c {x}"], "line 3: value 1 of attribute 'c' is none, expected 'y'"),
        (["a numeric"], "line 2: 1 attributes, expected 2"),
        (["a numeric", "c {x,y}", "d numeric"], "line 4: 3 attributes, expected 2"),
    ],
)
def test_files_of_a_data_set_declare_the_same(tmp_path, attributes, message):
    paths = {"train": tmp_path / "train.arff", "test": tmp_path / "test.arff"}
    for path, declared in zip(paths.values(), (["a numeric", "c {x,y}"], attributes), strict=True):
        header = [f"@attribute {each}" for each in declared]
        row = ",".join({"numeric": "1", "{": "x"}.get(each.split()[1][:7].rstrip("x,yz}"), "1") for each in declared)
        path.write_text("\n".join(["@relation r", *header, "@data", row]))
    if message == "train.arff":
        assert list(arff.read_splits(paths)) == ["train", "test"]
    else:
        with pytest.raises(UserError, match=f"test.arff, {message}"):
            arff.read_splits(paths)


def test_given_files():
    assert arff.given_files("hmc", "a", "", "~/b") == {"train": Path("a"), "test": Path("~/b").expanduser()}
    with pytest.raises(UserError, match=r"hmc: no training file; give --config\.data\.arff_train=FILE"):
        arff.given_files("hmc", "", "", "b")


def test_two_splits_are_not_read_from_one_file():
    assert list(arff.given_files("hmc", "a", "", "b")) == ["train", "test"]
    with pytest.raises(UserError, match="two splits are to be read from one file"):
        arff.given_files("hmc", "a", "", "./a")
