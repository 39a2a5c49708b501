"""Pages of runs and studies: what stands in them is right, and none of it can become a script or fetch anything."""

import base64
import hashlib
import html.parser
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import small_pages
import small_study
from sklearn.metrics import average_precision_score, precision_recall_fscore_support
from small_scores import scored_split
from small_tables import write_study

from mlresearch import environment
from mlresearch.cli import main
from mlresearch.decisions import Half, Mode
from mlresearch.report import markup
from mlresearch.report.examples import NUM_RIGHT, NUM_WRONG, choose_examples
from mlresearch.report.labels import score_labels
from mlresearch.report.page import Page, Section, figures_section, render, to_script
from mlresearch.report.run import gather, run_page


class Reader(html.parser.HTMLParser):
    """The elements of a page in order, and the text within each kind of them."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.texts = [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        for tag in self.open[-1:]:
            self.texts[tag] = self.texts.get(tag, "") + data


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_pages.train_evil(tmp_path_factory.mktemp("evil"))


@pytest.fixture(scope="module")
def written(run):
    assert main(["report", str(run)]) == 0
    return (run / "report.html").read_text()


def make_scores(rng, num_examples=60, num_labels=9):
    """Scores with ties, label sets, a truth without the first label, and what of it is known."""
    scores = np.log(rng.random((num_examples, num_labels)).round(1) * 0.98 + 0.01).astype(np.float32)
    labels = rng.random(scores.shape) < 0.3
    labels[:, 0] = False
    return scores, rng.random(scores.shape) < 0.4, labels, rng.random(scores.shape) < 0.8


@pytest.mark.parametrize("all_known", [True, False])
def test_scores_of_a_label_are_those_of_scikit_learn(all_known):
    scores, mode, labels, known = make_scores(np.random.default_rng(0))
    mode[:, 1] = False
    known |= all_known
    scored = scored_split(scores[None], mode[None], labels, None if all_known else known, split="test")
    found = score_labels(scored, Mode())
    for label in range(labels.shape[1]):
        rows = known[:, label]
        true, on = labels[rows, label], mode[rows, label]
        precision, recall, f1, _ = precision_recall_fscore_support(true, on, average="binary", zero_division=np.nan)
        for name, value in (("precision", precision), ("recall", recall), ("f1", f1)):
            np.testing.assert_allclose(found[name][label], value, err_msg=f"{name} {label}")
        wanted = average_precision_score(true, scores[rows, label]) if true.any() else np.nan
        np.testing.assert_allclose(found["average_precision"][label], wanted, rtol=1e-6)


def test_examples_are_the_most_wrong_and_some_right_ones():
    scores, _, labels, known = make_scores(np.random.default_rng(1), 300)
    labels[::3] = scores[::3] > np.log(0.5)  # a third is right
    order = np.random.default_rng(2).permutation(300)
    found = choose_examples(scored_split(scores[None], labels[None], labels, known, split="test", order=order), Half())

    preds, keys = scores > np.log(0.5), {}
    for row in range(300):
        cells = np.flatnonzero(known[row])
        hits = sum(preds[row, at] and labels[row, at] for at in cells)
        total = sum(int(preds[row, at]) + int(labels[row, at]) for at in cells)
        p = np.exp(scores[row].astype(np.float64))
        log_truth = sum(np.log(max(p[at] if labels[row, at] else 1 - p[at], 1e-6)) for at in cells)
        keys[row] = (2 * hits / total if total else 1.0, log_truth)
    ranked = sorted(keys, key=keys.get)
    assert [example.row for example in found.wrong] == ranked[:NUM_WRONG]
    right = [row for row in range(300) if keys[row][0] == 1]
    assert (found.num_right, found.num_examples) == (len(right), 300)
    assert len(found.right) == NUM_RIGHT
    assert {example.row for example in found.right} <= set(right)
    for example in found.wrong + found.right:
        row = example.row
        assert example.f1 == pytest.approx(keys[row][0])
        of = {kind: {label for label, _ in own} for kind, own in example.labels.items()}
        assert of["right"] == set(np.flatnonzero(preds[row] & labels[row] & known[row]))
        assert of["missed"] == set(np.flatnonzero(~preds[row] & labels[row] & known[row]))
        assert of["wrong"] == set(np.flatnonzero(preds[row] & ~labels[row] & known[row]))
        for own in example.labels.values():
            assert [probability for _, probability in own] == sorted((p for _, p in own), reverse=True)


def test_data_come_back_from_a_script_element():
    given = {"a": ["</script><script>alert(1)</script>", "<!--", "\u2028 é \x00", None, 0.1], "b": {"<": 1}}
    text = to_script(given)
    assert "<" not in text
    assert json.loads(text) == given
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_script([float("nan")])


def test_what_is_no_html_is_escaped():
    assert markup.tag("p", "<i>", markup.tag("b", "&"), attributes={"title": '"<'}) == (
        '<p title="&quot;&lt;">&lt;i&gt;<b>&amp;</b></p>'
    )
    assert markup.breakable("a_<b>") == "a_&lt;b&gt;"
    assert markup.breakable("macro_f1 ↑") == "macro_<wbr>f1\N{NO-BREAK SPACE}↑"


def test_a_page_allows_its_own_script_and_style_and_nothing_else(written):
    reader = Reader(written)
    names = [name for name, _ in reader.elements]
    policy = next(own["content"] for _, own in reader.elements if own.get("http-equiv") == "Content-Security-Policy")
    allowed = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert allowed["default-src"] == "'none'"
    assert allowed["img-src"] == "data:"
    scripts = re.findall(r"<script>(.*?)</script>", written, re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", written, re.DOTALL)
    for kind, [text] in (("script-src", scripts), ("style-src", styles)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert allowed[kind] == f"'sha256-{digest}'"
    assert names.count("script") == 2  # the data and the script
    assert not {"iframe", "object", "embed", "base", "form", "i"} & set(names)
    for name, own in reader.elements:
        if name == "img":  # a figure
            assert set(own) == {"src", "alt"}
            assert own["src"].startswith("data:image/svg+xml;base64,")
            continue
        assert not {"src", "style", "srcset", "onerror", "onload"} & set(own), name
        if "href" in own:
            assert own["href"] == "data:," or own["href"].startswith("#")


def test_figures_are_images_that_the_page_holds():
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    [section] = figures_section([('a "figure"', svg)])
    [image] = [own for name, own in Reader(section.content).elements if name == "img"]
    kind, _, content = image["src"].partition(",")
    assert kind == "data:image/svg+xml;base64"
    assert base64.b64decode(content).decode() == svg
    assert image["alt"] == 'a "figure"'
    assert figures_section([]) == []
    both = figures_section([("wide", '<svg height="9pt" width="486pt">'), ("narrow", '<svg width="234pt">')])[0].content
    assert [own for name, own in Reader(both).elements if name == "figure"] == [{"class": "wide"}, {}]
    page = Page("a", markup.Html(""), (Section("x", "X", section.content),), {})
    assert svg not in render(page)


def test_a_run_is_shown_with_all_that_is_at_hand(run, written):
    record = json.loads((run / "run.json").read_text())
    data = json.loads(Reader(written).texts["script"].partition("\n")[0].partition('"use strict"')[0])["labels"]
    assert tuple(data["names"]) == small_pages.LABELS
    columns = {column["key"]: column["values"] for column in data["columns"]}
    assert set(columns) == {
        *("train", "validation", "test", "precision", "recall", "f1", "average_precision", "threshold"),
    }
    # 0/0 is 0 in the mean over labels
    assert np.mean([value or 0.0 for value in columns["f1"]]) == pytest.approx(
        record["metrics"]["test"]["mode"]["macro_f1"], abs=1e-4
    )
    edges = {
        (data["names"][child], data["names"][parent])
        for child, parent in zip(data["edges"]["children"], data["edges"]["parents"], strict=True)
    }
    assert edges == set(small_pages.PARENTS.items())
    text = markup.html.unescape(re.sub(r"<[^>]*>", " ", written.partition("<main>")[2]))
    assert f"{record['metrics']['validation']['half']['micro_f1']:.4f}" in text
    assert "head.conditional.siblings" in text
    assert "wrongly predicted" in text
    assert record["started"].endswith("Z")


def test_a_record_has_the_command_that_made_it(monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/mlresearch", "train", "--config=a b.py"])
    assert environment.command() == "mlresearch train '--config=a b.py'"
    assert environment.command([Path("studies/heads/sweep.py"), Path("config.py")]) == "mlresearch sweep studies/heads"
    monkeypatch.setattr("sys.argv", ["worker.py", "/somewhere"])
    assert environment.command() is None


def test_what_is_not_at_hand_is_said(run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "predictions_test.npz").unlink()
    of = gather(folder)
    assert of.examples is None
    assert not of.labels.has_scores
    assert "there is no" in render(run_page(of))
    assert gather(folder, "validation").examples is not None

    config = json.loads((folder / "config.json").read_text())
    config["data"]["table"]["train"] = "gone.jsonl"
    (folder / "config.json").write_text(json.dumps(config))
    of = gather(folder, "validation")
    assert of.dataset is None
    assert set(of.labels.columns) == {"train", "threshold"}
    assert "The data set is not at hand" in render(run_page(of))

    record = json.loads((folder / "run.json").read_text())
    del record["metrics"]
    (folder / "run.json").write_text(json.dumps(record | {"status": "failed", "error": "step 3 <was> not finite"}))
    for name in ("decisions.json", "labels.txt"):
        (folder / name).unlink()
    assert main(["report", str(folder), f"--output={tmp_path / 'page.html'}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    for said in ("The run is failed", "There is nothing to say of labels", "step 3 &lt;was&gt; not finite"):
        assert said in page


def test_a_study_is_shown_with_its_table_and_its_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    study = write_study(tmp_path / "study", seeds=2)
    missing, failed, *_ = study.runs
    for each in (missing, failed):
        next((tmp_path / "study/records").glob(f"{each.run_id('p')}.json")).unlink()
    folder = tmp_path / "runs" / "study" / failed.run_id("print of tiny/paths")
    folder.mkdir(parents=True)
    record = {
        "status": "failed",
        "name": "",
        "seconds": {},
        "data": {},
        "inputs": {},
        "num_steps": 1,
        "error": "no <x>",
    }
    (folder / "run.json").write_text(json.dumps(record))
    assert main(["report", "study"]) == 0
    assert capsys.readouterr().out.strip() == "runs/study/report.html"
    text = (tmp_path / "runs/study/report.html").read_text()
    rows = [re.sub(r"<[^>]*>", " ", row).split() for row in re.findall(r"<tr>.*?</tr>", text, re.DOTALL)]
    said = [" ".join(row) for row in rows]
    assert any(line.startswith("conditional 0.605 ± 0.007") and line.endswith(" 2") for line in said)
    assert any("independent tiny/paths 0 ○ no record" in line for line in said)
    assert any("independent tiny/paths 1 ✗ failed: no &lt;x&gt;" in line for line in said)
    assert sum("✓ finished" in line for line in said) == 2
    assert "Does it matter?" in text


def test_reproduce_ends_by_naming_the_page(tmp_path, data_dir, capsys):
    study = small_study.write_study(tmp_path, data_dir, runs='grid({"baseline": ["logistic_regression"]})')
    assert main(["sweep", str(study), f"--workdir={tmp_path / 'first'}"]) == 0
    capsys.readouterr()
    assert main(["reproduce", str(study), f"--workdir={tmp_path / 'again'}"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    path = Path(last.partition(": ")[2])
    assert path == tmp_path / "again" / "report.html"
    assert "numbers agree with" in path.read_text()


MISTAKES = {
    "report": "name the folder of one run or study",
    "report R W": "name the folder of one run or study",
    "report W": "holds no run",
    "report R --split=train": "split",
    "report R --workdir=W": "--workdir goes with a study",
    "report R --output=W/none/page.html": "is no file in a folder that there is",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_told(line, run, tmp_path, capsys):
    words = [word.replace("R", str(run)).replace("W", str(tmp_path)) for word in line.split()]
    assert main(words) == 2
    assert MISTAKES[line] in capsys.readouterr().err


def test_the_package_holds_what_pages_are_made_of(tmp_path):
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    assert {f"mlresearch/report/page.{kind}" for kind in ("html", "css", "js")} <= held
