import collections
import hashlib
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

import mlresearch.data
from mlresearch.data import icd10cm
from mlresearch.errors import UserError
from mlresearch.study import load_config

NUM_NOTES = 600


@pytest.fixture(scope="module")
def nodes():
    return icd10cm.read_tabular_list()


@pytest.fixture(scope="module")
def position(nodes):
    return {node.name: position for position, node in enumerate(nodes)}


@pytest.fixture(scope="module")
def xml():
    """The file itself, for what is checked without the code under test."""
    return ElementTree.parse(icd10cm._data_file(icd10cm.TABULAR_LIST)).getroot()


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def terms(data_dir):
    return mlresearch.data.load("icd10cm/terms", {}, data_dir)


@pytest.fixture(scope="module")
def encounters(data_dir):
    return mlresearch.data.load("icd10cm/encounters", {"num_notes": NUM_NOTES}, data_dir)


@pytest.fixture(scope="module")
def cooccurrence(nodes):
    return icd10cm.Cooccurrence(nodes)


def names_to_root(nodes, position, name):
    return [nodes[place].name for place in icd10cm.path_to_root(nodes, position[name])]


# The tabular list.


def test_counts_of_entries(nodes):
    counts = collections.Counter(node.kind for node in nodes)
    assert counts["chapter"] == 22
    assert counts["block"] == 297
    assert counts["category"] + counts["code"] == 46_881
    assert len(nodes) - counts["extension"] == 47_200
    assert len(nodes) == 98_505


def test_names_are_distinct_and_codes_are_those_of_the_official_list(nodes):
    assert len({node.name for node in nodes}) == len(nodes)
    listed = icd10cm._data_file(icd10cm.CODE_LIST).read_text("utf-8").split()
    codes = {node.name.replace(".", "") for node in nodes if node.kind not in ("chapter", "block")}
    # The official list names chapters by number and blocks by range; a block of one category by the category.
    assert codes == {name for name in listed if not name.isdigit() and "-" not in name}


def test_every_entry_has_one_earlier_parent_of_the_right_kind(nodes):
    above = {
        "block": {"chapter", "block"},
        "category": {"block"},
        "code": {"category", "code"},
        "extension": {"category", "code"},
    }
    for place, node in enumerate(nodes):
        if node.kind == "chapter":
            assert node.parent is None
        else:
            assert 0 <= node.parent < place
            assert nodes[node.parent].kind in above[node.kind]
            if node.kind in ("code", "extension"):
                assert node.name.startswith(nodes[node.parent].name)
        assert node.title


def test_no_chapter_or_block_is_a_leaf(nodes):
    holders = {node.parent for node in nodes}
    assert all(place in holders for place, node in enumerate(nodes) if node.kind in ("chapter", "block"))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("C50.0", ["C50", "C50-C50", "C00-C75", "C00-C96", "Chapter 2"]),
        (
            "C7A.0",
            ["C7A", "C7A-C7A", "C00-C96", "Chapter 2"],
        ),  # not among C00-C75, though the XML has it next
        ("C80.0", ["C80", "C76-C80", "C00-C96", "Chapter 2"]),
        ("D00.0", ["D00", "D00-D09", "Chapter 2"]),
        ("C4A.0", ["C4A", "C43-C44", "C00-C75", "C00-C96", "Chapter 2"]),
        ("M04.1", ["M04", "M04-M04", "M00-M25", "Chapter 13"]),
        ("T20.0", ["T20", "T20-T25", "T20-T32", "T07-T88", "Chapter 19"]),
        ("T33.0", ["T33", "T33-T34", "T07-T88", "Chapter 19"]),
        ("W00.0", ["W00", "W00-W19", "W00-X58", "V00-X58", "Chapter 20"]),
        ("X71.0", ["X71", "X71-X83", "Chapter 20"]),
        ("Y62.0", ["Y62", "Y62-Y69", "Y62-Y84", "Chapter 20"]),
        ("T45.1X5A", ["T45.1X5", "T45.1X", "T45.1", "T45", "T36-T50", "T07-T88", "Chapter 19"]),
        ("S02.0XXB", ["S02.0", "S02", "S00-S09", "Chapter 19"]),  # two placeholders
    ],
)
def test_paths_read_by_hand(nodes, position, name, path):
    assert names_to_root(nodes, position, name) == [name, *path]


def test_a_block_of_one_category_and_the_category_are_two_entries(nodes, position):
    assert nodes[position["B20-B20"]].kind == "block"
    assert nodes[position["B20"]].kind == "category"
    assert nodes[position["B20"]].parent == position["B20-B20"]


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("S02.0XXB", "Fracture of vault of skull, initial encounter for open fracture"),
        # S12 and S12.8 both say what "A" means: the nearer one counts.
        ("S12.8XXA", "Fracture of other parts of neck, initial encounter"),
    ],
)
def test_a_seventh_character_adds_its_meaning_to_the_title(nodes, position, name, title):
    assert nodes[position[name]].title == title


@pytest.mark.parametrize(("depth", "count"), [("category", 2_237), ("all", 47_200), ("extensions", 98_505)])
def test_labels_at_each_depth_keep_all_ancestors(nodes, depth, count):
    label_ids = icd10cm.number_labels(nodes, depth)
    numbered = [label for label in label_ids if label is not None]
    assert numbered == list(range(count))
    for node, label in zip(nodes, label_ids, strict=True):
        assert label is None or node.parent is None or label_ids[node.parent] is not None


def test_missing_files_say_what_to_install(monkeypatch):
    monkeypatch.setattr(icd10cm, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match=r"pip install simple-icd-10-cm==1\.5\.0"):
        icd10cm.read_tabular_list()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"depth": "categories"}, "did you mean 'category'"),
        ({"num_notes": 9}, "at least 10"),
        ({"seed": -1}, "negative"),
    ],
)
def test_impossible_options_are_errors_for_people(tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        mlresearch.data.load("icd10cm/encounters", given, tmp_path)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Fallot's  Tetralogy, NOS", "fallot s tetralogy nos", True),
        ("Ménière (disease)", "MÉNIÈRE DISEASE", True),
        ("ﬁbrosis", "fibrosis", True),
        ("HR+", "HR-", False),
        ("type 1", "type 2", False),
    ],
)
def test_normalised_texts(one, other, same):
    assert (icd10cm.normalise(one) == icd10cm.normalise(other)) is same


# Terms.


def test_training_texts_are_the_titles_of_all_codes(terms, xml):
    titles = [" ".join(code.findtext("desc").split()) for code in xml.iter("diag")]
    assert list(terms.splits["train"].texts) == titles
    assert list(terms.splits["train"].keys) == [code.findtext("name") for code in xml.iter("diag")]


def test_every_inclusion_term_is_kept_or_counted(terms, xml):
    kept = terms.splits["validation"].texts + terms.splits["test"].texts
    written = [" ".join(note.text.split()) for note in xml.iterfind(".//inclusionTerm/note")]
    dropped = terms.notes["dropped_inclusion_terms"]
    assert len(written) == 12_574
    assert len(kept) + sum(dropped.values()) == len(written)
    assert not collections.Counter(kept) - collections.Counter(written)
    assert dropped["under a block"] == len(xml.findall(".//section/inclusionTerm/note"))
    titles = {icd10cm.normalise(text) for text in terms.splits["train"].texts}
    under_codes = [" ".join(note.text.split()) for note in xml.iterfind(".//diag/inclusionTerm/note")]
    assert dropped["equal to a title"] == sum(icd10cm.normalise(text) in titles for text in under_codes)
    assert terms.notes["examples"] == {split: len(records) for split, records in terms.splits.items()}


def test_splits_share_no_text_and_halve_the_terms(terms):
    texts = {split: {icd10cm.normalise(text) for text in records.texts} for split, records in terms.splits.items()}
    assert not texts["train"] & texts["validation"]
    assert not texts["train"] & texts["test"]
    assert not texts["validation"] & texts["test"]
    # A fair coin gives 12,549 terms a difference between the halves of standard deviation sqrt(12,549) = 112.
    assert abs(len(texts["validation"]) - len(texts["test"])) < 4 * 112


def test_the_half_of_a_text_is_a_hash_of_the_text_alone(terms):
    for split, half in (("validation", 0), ("test", 1)):
        for text in terms.splits[split].texts[:50]:
            assert hashlib.sha256(icd10cm.normalise(text).encode()).digest()[0] % 2 == half


def test_no_evaluation_example_repeats_another(terms):
    for split in ("validation", "test"):
        records = terms.splits[split]
        examples = [
            (icd10cm.normalise(text), tuple(records.labels.row(number))) for number, text in enumerate(records.texts)
        ]
        assert len(set(examples)) == len(examples)
        ambiguous = len(examples) - len({text for text, _ in examples})
        assert ambiguous >= terms.notes["texts_with_several_label_sets"][split] > 0


def test_labels_are_the_category_and_what_is_above_it(terms, nodes, position):
    names = terms.label_space.names
    for records in terms.splits.values():
        for number in range(0, len(records), 7):
            code = records.keys[number]
            expected = names_to_root(nodes, position, code[:3])
            assert [names[label] for label in records.labels.row(number)] == expected[::-1]


def test_labels_below_the_category_are_kept_when_asked_for(tmp_path, nodes, position):
    builder = icd10cm.Builder(subset="terms", data_dir=tmp_path, depth="all")
    names = builder.info.features["labels"].feature.names
    assert [names[label] for label in builder.closure(position["A00.0"])] == [
        "Chapter 1",
        "A00-A09",
        "A00",
        "A00.0",
    ]


def test_at_most_one_child_is_on_in_the_full_tree_and_sometimes_none(data_dir):
    """What `configs/icd10cm_full.py` asks for; exactly one child of each label that is on would refuse some rows."""
    config = load_config(str(Path(__file__).parent.parent / "configs/icd10cm_full.py"))
    assert config.head.conditional.siblings == "at_most_one"
    dataset = mlresearch.data.load("icd10cm/terms", {"depth": config.data.icd10cm.depth}, data_dir)
    tree, on = dataset.hierarchy, dataset.train.labels.sparse(dataset.label_space.num_labels)
    below = scipy.sparse.csr_array(
        (np.ones(len(tree.children), np.int64), (tree.children, tree.parents)), shape=(tree.num_labels, tree.num_labels)
    )
    children_on = (on @ below).tocsr()
    assert children_on.max() == 1
    inner = on[:, np.flatnonzero(tree.num_children)].sum()
    assert 0 < children_on.sum() < inner


def test_the_parents_are_those_of_the_list(terms, nodes, position):
    names = terms.label_space.names
    edges = {(names[child], names[parent]) for child, parent in terms.parents}
    assert len(edges) == len(terms.parents) == 2_237 - 22
    for child, parent in edges:
        assert nodes[nodes[position[child]].parent].name == parent
    assert (terms.parents[:, 1] < terms.parents[:, 0]).all()


# Encounters.


def small_list():
    """A chapter of two blocks, A and B, with a note "use additional code" at a code and at a block."""
    add = {"useAdditionalCode": ("first (B00.1, B01-B02), or HIV (HIV)", "none: B03")}
    block = {"codeFirst": ("both (A00.-)",), "excludes1": ("never (A01)",)}
    rows = [
        ("Chapter 1", "chapter", None, {}),
        ("A00-A01", "block", 0, {}),
        ("A00", "category", 1, {}),
        ("A00.1", "code", 2, add),
        ("A01", "category", 1, {}),
        ("B00-B03", "block", 0, block),
        ("B00", "category", 5, {}),
        ("B01", "category", 5, {}),
        ("B02", "category", 5, {}),
        ("B03", "category", 5, {}),
    ]
    return [icd10cm.Node(name, name, kind, parent, notes) for name, kind, parent, notes in rows]


def test_links_and_their_weights_by_hand():
    # Places: A00 0, A01 1, B00 2, B01 3, B02 4, B03 5. A00.1 names B00.1 (weight 1) and B01-B02 (1/2 each);
    # "HIV" is no category, B03 not in parentheses. Block B00-B03 names A00: 1/4 for each of its four.
    links = icd10cm.Cooccurrence(small_list()).links
    assert links == {(0, 2): 1.25, (0, 3): 0.75, (0, 4): 0.75, (0, 5): 0.25}


def test_excluded_pairs_by_hand():
    assert set(icd10cm.Cooccurrence(small_list()).excluded) == {(1, 2), (1, 3), (1, 4), (1, 5)}


def test_draws_keep_to_what_is_available_and_allowed():
    cooccurrence = icd10cm.Cooccurrence(small_list())
    rng = np.random.Generator(np.random.PCG64(0))
    available = np.array([True, True, True, True, False, True])
    drawn = [cooccurrence.draw(rng, available) for _ in range(400)]
    assert {category for row in drawn for category in row} == {0, 1, 2, 3, 5}
    for row in drawn:
        assert len(set(row)) == len(row)
        assert not (1 in row and {2, 3, 5} & set(row))
    # A01 excludes all of block B, so that A00 is the only company it ever has.
    assert max(len(row) for row in drawn) == 4


def test_draws_follow_the_stated_probabilities():
    cooccurrence = icd10cm.Cooccurrence(small_list())
    rng = np.random.Generator(np.random.PCG64(1))
    drawn = [cooccurrence.draw(rng, np.ones(6, bool)) for _ in range(6000)]
    # First: uniform over six. 6000 / 6 = 1000, standard deviation sqrt(6000 * 1/6 * 5/6) = 29.
    firsts = np.bincount([row[0] for row in drawn], minlength=6)
    assert (abs(firsts - 1000) < 4 * 29).all()
    # Second after A00 (one chapter): B00 by link .7 * 1.25 / 3, else uniform over five, .3 / 5: .352 in all.
    seconds = [row[1] for row in drawn if row[0] == 0 and len(row) > 1]
    share = np.mean(np.array(seconds) == 2)
    assert abs(share - (0.7 * 1.25 / 3 + 0.3 / 5)) < 4 * np.sqrt(0.352 * 0.648 / len(seconds))
    # Sizes: a note of one phrase has probability .1; standard deviation sqrt(6000 * .1 * .9) = 23.
    assert abs(sum(len(row) == 1 for row in drawn) - 600) < 4 * 23


def test_links_of_the_real_list(cooccurrence, nodes):
    names = [nodes[place].name for place in cooccurrence.categories]
    links = {(names[left], names[right]) for left, right in cooccurrence.links}
    assert ("E11", "Z79") in links  # use additional code to identify control using insulin (Z79.4)
    assert ("E66", "Z68") in links  # use additional code to identify body mass index (Z68.-)
    assert ("E11", "S72") not in links


def plain_exclusions(xml):
    """Pairs of categories by notes of the form "… (B00.-)" at codes, read without the code under test."""
    pairs = set()
    for category in xml.iterfind(".//section/diag"):
        own = category.findtext("name")
        for note in category.iterfind(".//excludes1/note"):
            for named in re.findall(r"\(([A-Z]\d\d)(?:\.[0-9A-Z]*)?-?\)", note.text):
                pairs |= {frozenset((own, named))} if named != own else set()
    return pairs


def test_excluded_pairs_of_the_real_list(cooccurrence, nodes, xml):
    names = [nodes[place].name for place in cooccurrence.categories]
    excluded = {frozenset((names[left], names[right])) for left, right in cooccurrence.excluded}
    plain = {pair for pair in plain_exclusions(xml) if pair <= set(names)}
    assert len(plain) > 2_000
    assert plain <= excluded


def test_labels_of_a_note_are_the_closures_of_one_to_six_categories(encounters, nodes, position):
    names = encounters.label_space.names
    for records in encounters.splits.values():
        for number, key in enumerate(records.keys):
            codes = key.split(" ")
            categories = {code[:3] for code in codes}
            assert 1 <= len(codes) == len(categories) <= 6
            closure = {name for category in categories for name in names_to_root(nodes, position, category)}
            assert {names[label] for label in records.labels.row(number)} == closure


def test_no_note_holds_an_excluded_pair(encounters, xml):
    excluded = plain_exclusions(xml)
    for records in encounters.splits.values():
        for key in records.keys:
            categories = [code[:3] for code in key.split(" ")]
            assert not {frozenset((one, other)) for one in categories for other in categories} & excluded


def can_be_made(text, codes, phrases):
    """Whether `text` is phrases of these codes, in this order, with connectors between them."""
    for phrase in phrases[codes[0]]:
        rest = text.removeprefix(phrase)
        if rest != text and len(codes) == 1 and not rest:
            return True
        if rest != text and len(codes) > 1:
            for connector in icd10cm.CONNECTORS:
                if rest.startswith(connector) and can_be_made(rest.removeprefix(connector), codes[1:], phrases):
                    return True
    return False


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_notes_are_made_of_their_own_splits_phrases_alone(encounters, terms, split):
    phrases = collections.defaultdict(list)
    for text, code in zip(terms.splits[split].texts, terms.splits[split].keys, strict=True):
        phrases[code].append(text)
    records = encounters.splits[split]
    for text, key in zip(records.texts, records.keys, strict=True):
        assert can_be_made(text, key.split(" "), phrases)


def test_notes_vary_in_size_and_splits_are_of_the_stated_sizes(encounters):
    assert {split: len(records) for split, records in encounters.splits.items()} == {
        "train": NUM_NOTES - 2 * (NUM_NOTES // 10),
        "validation": NUM_NOTES // 10,
        "test": NUM_NOTES // 10,
    }
    assert {len(key.split(" ")) for key in encounters.splits["train"].keys} == {1, 2, 3, 4, 5, 6}


def test_the_distribution_is_in_the_metadata(data_dir, encounters, cooccurrence):
    builder = icd10cm.Builder(subset="encounters", data_dir=data_dir, num_notes=NUM_NOTES)
    stated = builder.info.metadata["cooccurrence"]
    assert len(stated["links"]) == len(cooccurrence.links)
    assert len(stated["excluded"]) == len(cooccurrence.excluded)
    assert sum(stated["size_probs"]) == pytest.approx(1)
    assert encounters.notes["seed"] == 0


def test_a_seed_gives_the_same_bytes_on_any_machine(encounters, tmp_path):
    first, second = (
        mlresearch.data.load("icd10cm/encounters", {"num_notes": 20}, tmp_path / folder) for folder in "ab"
    )
    assert first.fingerprint == second.fingerprint
    # Written down once: a change means other data, and asks for a new `Builder.VERSION`.
    joined = "\n".join(text for records in first.splits.values() for text in records.texts)
    assert hashlib.sha256(joined.encode()).hexdigest().startswith("fef05e73e6d600c7")
    # More notes leave the first ones as they are.
    assert first.splits["train"].texts == encounters.splits["train"].texts[:16]
    assert first.splits["test"].texts == encounters.splits["test"].texts[:2]


def test_another_seed_gives_other_notes(cooccurrence, terms, position):
    phrases = {
        split: [icd10cm.Phrase(text, position[code]) for text, code in zip(records.texts, records.keys, strict=True)]
        for split, records in terms.splits.items()
    }
    sizes = dict.fromkeys(terms.splits, 5)
    (zero, _), (one, _) = (icd10cm.draw_notes(cooccurrence, phrases, sizes, seed) for seed in (0, 1))
    for split in terms.splits:
        assert zero[split] != one[split]


def test_a_note_that_another_split_has_is_drawn_anew():
    # One category, so that each note is one phrase: validation may use "b" alone.
    nodes = [icd10cm.Node("A00", "A00", "category", None, {})]
    pools = {"train": ["a"], "validation": ["A.", "b"], "test": ["c"]}
    phrases = {split: [icd10cm.Phrase(text, 0) for text in texts] for split, texts in pools.items()}
    examples, redrawn = icd10cm.draw_notes(icd10cm.Cooccurrence(nodes), phrases, dict.fromkeys(pools, 20), seed=0)
    assert {example.text for example in examples["validation"]} == {"b"}
    assert redrawn > 0
