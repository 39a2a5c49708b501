"""From a table of one's own to a trained run and its predictions: all kinds of columns, soft and unknown labels."""

import json

import numpy as np
import pytest

import mlresearch
from mlresearch.cli import main
from mlresearch.commands.train import row
from mlresearch.config import base_config
from mlresearch.errors import UserError
from mlresearch.tables.typeset import aligned
from mlresearch.train import train

LEAVES = {"owl": "bird", "wren": "bird", "cod": "fish"}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """120 rows whose text names a bird, whose number says fish or not, and whose category says whether it is wet."""
    folder = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(120):
        leaf = ("owl", "wren", "cod")[rng.integers(3)]
        wet = bool(rng.integers(2))
        rows.append(
            {
                "id": f"row {number}",
                "text": f"a {'grey' if rng.random() < 0.5 else 'small'} {leaf if leaf != 'cod' else 'thing'}",
                "length": None if number % 17 == 0 else float(rng.normal(9.0 if leaf == "cod" else -9.0)),
                "place": "" if number % 13 == 0 else ("sea" if wet else "land"),
                "labels": [leaf, *(["wet"] if wet else [])],
            }
        )
    write(folder / "rows.jsonl", rows)
    (folder / "parents.tsv").write_text("".join(f"{leaf}\t{parent}\n" for leaf, parent in LEAVES.items()) + "wet\n")
    return folder


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def config(table, tmp_path):
    config = base_config()
    config.data.name = "table"
    config.data.dir = str(tmp_path / "data")
    config.data.table.train = str(table / "rows.jsonl")
    config.data.table.parents = str(table / "parents.tsv")
    config.data.table.text = "text"
    config.data.table.features = "length"
    config.data.table.categories = "place"
    config.data.table.labels = "labels"
    config.data.table.form = "ragged"
    config.data.table.key = "id"
    config.text.vocab_size = 60
    config.text.num_buckets = 1
    config.encoder.bag.dim = 32
    config.encoder.bag.dropout = 0.0
    config.head.name = "conditional"
    config.optim.learning_rate = 0.03
    config.train.num_epochs = 20.0
    config.train.batch_size = 32
    config.evaluate.batch_size = 32
    return config


def test_text_numbers_and_categories_together(config, tmp_path):
    record = train(config, tmp_path / "run")
    inputs = {"num_features": 1, "category_sizes": [3], "num_linear_scores": 0}
    assert record["inputs"] == {"vocab_size": record["inputs"]["vocab_size"], **inputs}
    # Each of the three says something that the others do not: a model that reads them all can be right throughout.
    assert record["metrics"]["test"]["mode"]["micro_f1"] > 0.85
    run = mlresearch.load(str(tmp_path / "run"))
    assert run.evaluate("test") == record["metrics"]["test"]
    inputs = [
        {"text": "a grey owl", "features": {"length": -9.0}, "categories": {"place": "sea"}},
        {"text": "a small thing", "features": {"length": 9}, "categories": {"place": "land"}},
        {"text": "a grey wren", "features": {"length": -9.0}, "categories": {"place": "on the moon"}},
        {"text": "a grey wren"},
    ]
    predicted = [{label.name for label in labels if label.on} for labels in run.predict(inputs)]
    assert predicted[:2] == [{"bird", "owl", "wet"}, {"fish", "cod"}]
    assert all({"bird", "wren"} <= labels for labels in predicted[2:])
    for wrong, message in (
        ({"features": {"length": 1.0}}, "input 1: the text is missing"),
        (
            {"text": "x", "categories": {"place": 3.5}},
            "input 1: category 'place' is 3.5, not a string, an integer or null",
        ),
        ({"text": "x", "categories": {"plaice": "y"}}, "there is no column 'plaice'; did you mean 'place'"),
        ({"text": "x", "features": [1.0]}, "columns are given as an object"),
        ({"text": "x", "features": {"length": 1e39}}, "not a finite number or null"),
    ):
        with pytest.raises(UserError, match=message):
            run.predict([wrong])


@pytest.mark.parametrize("encoder", ["mlp", "text_transformer"])
def test_the_other_encoders_read_a_table(config, tmp_path, encoder):
    config.encoder.bag.dim, config.encoder.bag.dropout = (
        base_config().encoder.bag[name] for name in ("dim", "dropout")
    )
    config.encoder.name = encoder
    config.encoder[encoder].dim = 16
    config.train.num_epochs = 1.0
    if encoder == "mlp":
        with pytest.raises(UserError, match="mlp"):  # which would not read the text
            train(config, tmp_path / "run")
        config.data.table.text = ""
    assert train(config, tmp_path / "run")["status"] == "finished"


def test_dropped_labels_follow_the_run_into_its_table(config, table, tmp_path):
    rows = [json.loads(line) for line in (table / "rows.jsonl").read_text().splitlines()]
    for number in (3, 5, 8):
        rows[number]["labels"].append("unicorn")
    write(tmp_path / "rows.jsonl", rows)
    config.data.table.train = str(tmp_path / "rows.jsonl")
    config.train.num_epochs = 1.0
    with pytest.raises(UserError, match=r"rows.jsonl, line 4: .*'unicorn', which .*parents.tsv does not have"):
        train(config, tmp_path / "run")
    config.data.unknown_labels = "drop"
    record = train(config, tmp_path / "run")
    assert record["data"]["notes"]["dropped_labels"] == {"total": 3, "names": {"unicorn": 3}}
    assert row(record)["dropped labels"] == "3"
    other = {title: cell for title, cell in row(record).items() if title != "dropped labels"}
    table = aligned([other, row(record)]).splitlines()
    assert table[0].count("dropped labels") == 1
    assert len({line.count("|") for line in table}) == 1


def test_a_finished_run_notices_other_data(config, table, tmp_path):
    rows = (table / "rows.jsonl").read_text()
    (tmp_path / "rows.jsonl").write_text(rows)
    config.data.table.train = str(tmp_path / "rows.jsonl")
    config.train.num_epochs = 1.0
    record = train(config, tmp_path / "run")
    (tmp_path / "rows.jsonl").write_text(rows.replace("small", "little"))
    with pytest.raises(UserError, match="table is not what it was when the run was trained on it"):
        train(config, tmp_path / "run")
    (tmp_path / "rows.jsonl").write_text(rows)
    assert train(config, tmp_path / "run") == record


@pytest.fixture
def soft(config, tmp_path):
    """Labels as an object of names and probabilities; null is unknown."""

    def make(values):
        rng = np.random.default_rng(1)
        write(
            tmp_path / "rows.jsonl",
            [
                {"id": str(number), "text": " ".join(rng.choice(["a", "b", "c"], 3)), "labels": values(rng)}
                for number in range(60)
            ],
        )
        config.data.table.train = str(tmp_path / "rows.jsonl")
        config.data.table.features = config.data.table.categories = ""
        config.data.table.form = "soft"
        config.train.num_epochs = 1.0
        return config

    return make


def test_soft_labels_are_trained_on_and_refused_by_name(soft, tmp_path):
    config = soft(lambda rng: {"owl": round(rng.random(), 3), "wet": 1})
    with pytest.raises(UserError, match="head 'conditional' models label sets and cannot take soft labels"):
        train(config, tmp_path / "run")
    config.head.name = "independent"
    record = train(config, tmp_path / "run")
    assert np.isfinite(record["metrics"]["test"]["loss"]["mean"])


@pytest.mark.parametrize("head", ["independent", "max_constraint", "conditional", "flat_softmax"])
def test_unknown_labels_are_left_out(soft, tmp_path, head):
    config = soft(lambda rng: {"owl": None} if rng.random() < 0.5 else {"owl": 1})
    config.head.name = head
    record = train(config, tmp_path / "run")
    # "owl" and "bird" are unknown together, all other labels are known and off.
    assert np.isfinite(record["metrics"]["test"]["loss"]["mean"])
    assert record["metrics"]["test"]["half"]["num_examples"] == 12
    assert mlresearch.load(str(tmp_path / "run")).evaluate("test") == record["metrics"]["test"]


def test_data_commands_describe_and_export_a_table(table, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MLRESEARCH_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MLRESEARCH_MANUAL_DIR", "")
    options = [
        *("table", "--config.data.table.train=rows.jsonl", f"--manual_dir={table}", "--config.data.table.text=text"),
        *("--config.data.table.labels=labels", "--config.data.table.form=ragged", "--config.data.table.key=id"),
    ]
    assert main(["data", "prepare", *options]) == 0
    assert "table: 84 train, 12 validation, 24 test, 4 labels" in capsys.readouterr().out
    assert main(["data", "describe", *options, "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["num_labels"] == 4
    assert main(["data", "export", *options, f"--output={tmp_path / 'out'}"]) == 0
    texts = [(tmp_path / "out" / f"{split}.jsonl").read_text() for split in ("train", "validation", "test")]
    lines = "".join(texts).splitlines()
    assert {json.loads(line)["key"] for line in lines} == {f"row {number}" for number in range(120)}
    capsys.readouterr()
    for words, message in (
        (["describe", "tabel"], "did you mean 'table'"),
        (["describe"], "needs the name of a data set"),
        (["export", *options], "--output=DIR goes with"),
        (["prepare", *options, "--json"], "--json and --plot go with"),
        (["prepare", "hmc/cellcycle_FUN"], "MLRESEARCH_MANUAL_DIR"),
        (["prepare", "hmc/cellcycle_FUM"], "did you mean 'hmc/cellcycle_FUN'"),
        (["prepare", "icd10cm/terms", "--config.data.arff_train=x"], "does not read it"),
        (["prepare", *options, "--config.data.closure=down"], "config.data.closure is 'down'"),
        (["prepare", *options, "--config.data.split.method=stratifed"], "did you mean 'stratified'"),
    ):
        assert main(["data", *words]) == 2
        assert message in capsys.readouterr().err
