"""Every command as a user types it, and every mistake as a message without a traceback."""

import json
import subprocess
import sys
import time

import jax
import pytest

from mlresearch.cli import COMMANDS, main

CONFIG = """
from mlresearch.config import base_config

def get_config():
    config = base_config()
    config.data.name = "tiny/paths"
    config.encoder.bag.dim = 16
    config.text.vocab_size = 80
    config.head.name = "conditional"
    config.train.batch_size = 16
    config.train.num_epochs = 12.0
    config.evaluate.batch_size = 16
    config.optim.learning_rate = 0.03
    return config
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_dir):
    """A config file, a folder trained from it, and what the command printed."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "config.py").write_text(CONFIG)
    run = folder / "run"
    status = main(["train", f"--config={folder / 'config.py'}", f"--workdir={run}", f"--config.data.dir={data_dir}"])
    assert status == 0
    return folder / "config.py", run


def test_train_prints_its_row(trained, capsys, data_dir):
    config, run = trained
    capsys.readouterr()
    assert main(["train", f"--config={config}", f"--workdir={run}", f"--config.data.dir={data_dir}"]) == 0
    title, _, row = capsys.readouterr().out.strip().splitlines()
    assert {"subset_accuracy", "violation_rate"} <= set(title.split())
    assert row.startswith("| bag+linear+conditional-any ")


def test_evaluate_repeats_the_record(trained, capsys):
    _, run = trained
    assert main(["evaluate", f"--workdir={run}", "--split=test", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["split"] == "test"
    assert printed["metrics"] == json.loads((run / "run.json").read_text())["metrics"]["test"]
    assert main(["evaluate", f"--workdir={run}", "--split=validation"]) == 0
    assert "subset_accuracy" in capsys.readouterr().out


def test_evaluate_prints_intervals_from_what_is_stored_or_else_by_the_model(trained, capsys):
    _, run = trained
    record = json.loads((run / "run.json").read_text())["metrics"]["test"]
    words = ["evaluate", f"--workdir={run}", "--intervals=39"]
    assert main([*words, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["metrics"] == record
    assert set(said["intervals"]["bounds"]) == {f"test.{group}.{name}" for group, of in record.items() for name in of}
    assert main([*words, "--level=0.5", "--seed=3"]) == 0
    printed = capsys.readouterr().out
    assert "50 % of 39 resamples of the 29 examples, drawn with seed 3" in printed
    for line in printed.splitlines():
        if line.startswith("  "):
            name, value, *interval = line.split()
            if name.startswith("num_"):  # counts of the split have none
                assert not interval
                continue
            low, _, high, *mark = interval
            assert (mark == ["*"]) == (not float(low) <= float(value) <= float(high)), line
    stored = run / "predictions_test.npz"
    kept = stored.read_bytes()
    stored.unlink()
    assert main([*words, "--json"]) == 0
    anew = json.loads(capsys.readouterr().out)["intervals"]
    stored.write_bytes(kept)
    assert anew["bounds"].keys() == said["intervals"]["bounds"].keys()
    for place, bounds in anew["bounds"].items():
        assert bounds == pytest.approx(said["intervals"]["bounds"][place], rel=1e-6)


def test_evaluate_reports_labels(trained, capsys):
    _, run = trained
    assert main(["evaluate", f"--workdir={run}", "--per_label", "--decision=mode", "--top=3"]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "test, mode: 3 of 9 labels"
    assert len(lines) == 1 + 3 + 1 + 4  # the columns, labels, a blank, means


def test_predict_prints_a_tree(trained, capsys):
    _, run = trained
    assert main(["predict", f"--workdir={run}", "--text", "an owl near a tree"]) == 0
    lines = capsys.readouterr().out.splitlines()
    depths = {line.split("●")[1].split()[0]: line.index("●") for line in lines[1:] if "●" in line}
    assert list(depths) == ["animal", "bird", "owl"]
    assert depths["animal"] < depths["bird"] < depths["owl"]


def test_predict_reads_and_writes_json_lines(trained, tmp_path, capsys):
    _, run = trained
    given, wanted = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    texts = ["grey oak", "", "a wren \u2028 and a fish", "fish"]
    given.write_text("".join(json.dumps({"text": text, "id": 7}, ensure_ascii=False) + "\n" for text in texts))
    assert main(["predict", f"--workdir={run}", f"--input={given}", f"--output={wanted}", "--decision=half"]) == 0
    rows = [json.loads(line) for line in wanted.read_text().split("\n")[:-1]]
    assert [row["text"] for row in rows] == texts
    on = [[label["name"] for label in row["predicted"] if label["on"]] for row in rows]
    assert on[0] == ["plant", "tree", "oak"]
    assert on[3] == ["animal", "fish"]
    for row in rows:
        assert all(label["on"] or label["probability"] >= 0.05 for label in row["predicted"])

    given.write_text('{"text": "fine"}\n{"txt": "wrong"}\n')
    assert main(["predict", f"--workdir={run}", f"--input={given}", f"--output={wanted}"]) == 2
    assert "in.jsonl: input 2: the text is missing" in capsys.readouterr().err
    for line, message in (
        ('{"text": "x", "id": ' + "1" * 5000 + "}", "line 1: the number '111"),
        (r'{"text": "x", "id": "\ud800"}', "line 1: half of a surrogate pair"),
        ('{"text": "x"}\n\n{"text": "y"}', "line 2 is blank"),
        ("[" * 100_000, "line 1: lists or objects are nested too deeply"),
    ):
        given.write_text(line + "\n")
        assert main(["predict", f"--workdir={run}", f"--input={given}", f"--output={wanted}"]) == 2
        assert message in capsys.readouterr().err


def test_table_has_the_row_of_a_run(trained, capsys):
    _, run = trained
    assert main(["table", str(run)]) == 0
    printed = capsys.readouterr().out
    assert sum(line.startswith("| ") for line in printed.splitlines()) == 2  # the headings and one row
    assert "hamming_loss: share of wrong cells" in printed


def test_counts_have_no_intervals(trained, capsys):
    assert main(["evaluate", f"--workdir={trained[1]}", "--intervals=39"]) == 0
    printed = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line[:1] == " "}
    assert len(printed["num_examples"]) == len(printed["num_labels_absent"]) == 1
    assert printed["micro_f1"][2] == "to"


def test_doctor_lists_devices_and_versions(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert jax.__version__ in printed
    assert printed.count("device ") == len(jax.devices())
    assert "nothing is missing" in printed


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_no_mistake(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert command in capsys.readouterr().out


MISTAKES = {
    "trian": "no command 'trian'; did you mean 'train'?",
    "train --confg=C": "no flag --confg; did you mean 'config'?",
    "train --workdir=W": "--config is missing",
    "train --config=C": "--workdir is missing",
    "train --config=none.py --workdir=W": "--config: there is no file none.py",
    "train --config=C --workdir=W --config.hed.name=x": "no setting config.hed; did you mean 'head'?",
    "train --config=C --workdir=W --config.head.nme=x": "no setting config.head.nme; did you mean 'name'?",
    "train --config=C --workdir=W --config.head.name=conditonal": "no head 'conditonal'; did you mean 'conditional'?",
    "train --config=C --workdir=W --config.encoder.name=bog": "no encoder 'bog'; did you mean 'bag'?",
    "train --config=C --workdir=W --config.loss.name=x": "no loss 'x'; known: asymmetric, binary_cross_entropy",
    "train --config=C --workdir=W --config.head.conditional.siblings=sme": "is 'sme'; did you mean 'some'?",
    "train --config=C --workdir=W --config.decoder.label_attention.num_layers=2": "decoder.name is 'linear': set",
    "train --config=C --workdir=W --config.data.name=tiny/pats": "'tiny/pats'; did you mean 'tiny/paths'?",
    "train --config=C --workdir=W --config.data.name=tinny": "unknown data source 'tinny'; did you mean 'tiny'?",
    "train --config=C --workdir=W --config.train.batch_size=many": "batch_size",
    "train --config=C --workdir=W --config.train.batch_size=0": "config.train.batch_size is 0; it must be above 0",
    "train --config=C --workdir=W --config.optim.name=adamm": "config.optim.name is 'adamm'; did you mean 'adamw'?",
    "train --config=C --workdir=W --config.evaluate.threshold_metric=f1": "can be fitted for the metric 'f1'",
    "train --config=C --workdir=W --config.parallel.num_devices=99": "there are 8 devices",
    "evaluate --workdir=W": "holds no run",
    "evaluate --workdir=R --split=tset": "split",
    "evaluate --workdir=R --split=train --intervals=99": "has no metrics of 'train'",
    "evaluate --workdir=R --intervals=38": "38 resamples are too few for a level of 0.95: it takes 39",
    "evaluate --workdir=R --per_label --sort=f2": "no column 'f2' to sort by; known: average_precision, f1",
    "evaluate --workdir=R --per_label --split=validation": "--per_label tells of the test split",
    "evaluate --workdir=R --top=3": "--top goes with --per_label",
    "evaluate --workdir=R --per_label --level=0.9": "--level goes with --intervals",
    "predict --workdir=R": "give either --text or --input",
    "predict --workdir=R --text=x --decision=mod": "no decision 'mod'; did you mean 'mode'?",
    "predict --workdir=R --input=none.jsonl --output=o": "cannot read none.jsonl",
    "predict --workdir=R --text=x --min_probability=2": "min_probability",
    "figures R --workdir=W": "--workdir goes with a study",
    "report R --workdir=W": "--workdir goes with a study",
    "table": "name the folders",
    "table W": "holds no run",
    "table R --allow=code": "--allow goes with a study",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_told_without_a_traceback(line, trained, tmp_path, data_dir, capsys):
    config, run = trained
    names = {"C": str(config), "W": str(tmp_path / "none"), "R": str(run)}
    words = [
        "=".join(names.get(part, part) for part in word.split("=")) if "=" in word else names.get(word, word)
        for word in line.split()
    ]
    if words[0] == "train" and "--confg" not in line and "--config=C" in line:
        words.append(f"--config.data.dir={data_dir}")
    assert main(words) == 2
    said = capsys.readouterr().err
    assert MISTAKES[line] in said
    assert "Traceback" not in said
    assert not (tmp_path / "none").exists()  # a refused run leaves no folder that would refuse the corrected one


def test_a_misspelt_head_is_told_in_five_seconds(trained, tmp_path):
    config, _ = trained
    began = time.monotonic()
    words = ["train", f"--config={config}", f"--workdir={tmp_path}", "--config.head.name=conditonal"]
    code = "import sys; from mlresearch.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    # The limit is 5 seconds of an idle machine; a busy one may take a while longer.
    assert time.monotonic() - began < 15
    assert done.returncode == 2
    assert "did you mean 'conditional'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_config_file_that_fails_names_its_line(tmp_path, capsys):
    (tmp_path / "c.py").write_text("def get_config():\n    return nothing\n")
    assert main(["train", f"--config={tmp_path / 'c.py'}", f"--workdir={tmp_path / 'run'}"]) == 2
    assert "c.py, line 2: name 'nothing' is not defined" in capsys.readouterr().err
