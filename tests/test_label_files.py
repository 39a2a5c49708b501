"""Files of label names and of parents: spaces and hierarchies as stated, or mistakes that name the line."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import mutate

from mlresearch.data.label_files import parse_label_names, parse_parents
from mlresearch.errors import UserError


def numbered(text):
    return enumerate(text.splitlines(keepends=True), 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\na\n", r"names, line 3: the label 'a' stands on line 1, too"),
        ("a\n b\n", r"names, line 2: the label name ' b' is empty or holds outer spaces"),
        ("\tdescription\n", r"names, line 1: the label name '' is empty"),
        ("a\tb\tc\n", "names, line 1: more than one tab"),
    ],
)
def test_wrong_files_of_names(text, message):
    with pytest.raises(UserError, match=message):
        parse_label_names(numbered(text), Path("names"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\ta\n", r"parents: 1 labels form a cycle.*: line 1: 'a' -> 'a'$"),
        (
            "x\ta\na\tb\nb\tc\nc\ta\n",
            r"3 labels form a cycle.*: line 2: 'a' -> 'b'; line 3: 'b' -> 'c'; line 4: 'c' -> 'a'$",
        ),
        ("x\ty\na\tb\nx\ty\n", "parents, line 3: 'x' -> 'y' stands on line 1, too"),
        ("a\tb\tc\n", "parents, line 1: 3 names"),
        ("a\t\n", "parents, line 1: the label name '' is empty"),
        ("a \tb\n", "parents, line 1: the label name 'a ' is empty or holds outer spaces"),
        *((text, "parents: there is no edge in it") for text in ("", "\n", "a\nb\n", "a root\n")),
    ],
)
def test_wrong_files_of_parents(text, message):
    with pytest.raises(UserError, match=message):
        parse_parents(numbered(text), Path("parents"), None)


@given(st.integers(0, 2**32 - 1))
def test_parents_stand_before_children_and_else_in_order_of_appearance(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 9))
    rank = rng.permutation(size)
    possible = [(i, j) for i in range(size) for j in range(size) if rank[i] > rank[j]]
    edges = [edge for edge in possible if rng.random() < 0.3] or possible[:1]
    rng.shuffle(edges)
    lines = "".join(f"{i}\t{j}\n" for i, j in edges) + "".join(f"{i}\n" for i in range(size))
    names, found = parse_parents(numbered(lines), Path("parents"), None)
    assert found == [(str(i), str(j)) for i, j in edges]
    appearance = list(dict.fromkeys(lines.split()))
    # By definition: of the names whose parents are all there, the one that appears first, again and again.
    expected = []
    while len(expected) < size:
        free = [n for n in appearance if n not in expected and all(p in expected for c, p in found if c == n)]
        expected.append(free[0])
    assert names == expected


def test_a_long_chain_of_parents_takes_no_time():
    text = "".join(f"{n}\t{n + 1}\n" for n in range(20_000))
    names, _ = parse_parents(numbered(text), Path("parents"), None)
    assert names == [str(n) for n in range(20_000, -1, -1)]
    with pytest.raises(UserError, match="20001 labels form a cycle") as caught:
        parse_parents(numbered(text + "20000\t0\n"), Path("parents"), None)
    assert len(str(caught.value)) < 5000


def test_mutated_parents():
    content = "leaf\tmiddle\nalone\nmiddle\troot\nroot\tmiddle2\nleaf\tother\u2028é\n".encode()  # a byte from a cycle
    rng, right = np.random.default_rng(1), 0
    for _ in range(10_000):
        changed = mutate(content, rng, b"\t\n\r \0\xff")
        try:
            lines = [line.decode() for line in io.BytesIO(changed)]
        except UnicodeDecodeError:  # told by `read_lines`
            continue
        try:
            names, edges = parse_parents(enumerate(lines, 1), Path("parents"), None)
        except UserError:
            continue
        right += 1
        assert len(set(names)) == len(names)
        assert all(names.index(parent) < names.index(child) for child, parent in edges)
    assert 1000 < right < 9000
