"""Studies: combinations against enumeration, mistakes by the run and its overrides, names that mean what is run."""

import itertools
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict
from small_study import write_study
from small_tables import make_record

from mlresearch.config import base_config, flatten, identity, to_dict
from mlresearch.errors import UserError
from mlresearch.study import Study, StudyRun, ablate, cross, grid, seeds, zipped
from mlresearch.tables.results import read_study

SETTINGS = st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(0, 9), max_size=3), max_size=3)


@given(SETTINGS)
def test_a_grid_is_every_combination_in_counting_order(settings):
    made = grid(settings)
    sizes = [len(values) for values in settings.values()]
    number = 1
    for size in sizes:
        number *= size
    assert len(made) == number
    for place, overrides in enumerate(made):
        expected = {}
        for key, values in reversed(settings.items()):  # the digits of its place, the last setting's first
            place, digit = divmod(place, len(values))
            expected[key] = values[digit]
        assert overrides == expected
        assert list(overrides) == list(settings)


@given(SETTINGS)
def test_zipped_takes_one_of_each_at_a_time(settings):
    sizes = {len(values) for values in settings.values()}
    if len(sizes) > 1:
        with pytest.raises(UserError, match="equally many values"):
            zipped(settings)
        return
    expected = [{key: settings[key][place] for key in settings} for place in range(max(sizes, default=0))]
    assert zipped(settings) == expected


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(10, 19), max_size=4), SETTINGS)
def test_ablations_differ_from_their_base_in_one_setting(base, settings):
    first, *others = ablate(base, settings)
    assert first == base
    assert [(key, run[key]) for run in others for key in run if run[key] != base.get(key)] == [
        (key, value) for key, values in settings.items() for value in values
    ]
    assert all(len({key for key in {*run, *base} if run.get(key) != base.get(key)}) == 1 for run in others)


@given(st.lists(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)), max_size=3), max_size=3))
def test_a_cross_is_every_combination_and_the_last_word_counts(parts):
    expected = [{}]
    for part in parts:
        expected = [{**overrides, **more} for overrides in expected for more in part]
    assert cross(*parts) == expected


@given(st.integers(0, 20), st.integers(0, 20))
def test_seeds_are_consecutive(number, first):
    assert [run["seed"] for run in seeds(number, first)] == [first + place for place in range(number)]


def test_runs_are_those_of_the_generator(tmp_path, data_dir):
    runs = 'cross([{"optim.learning_rate": 0.01}], grid({"head.name": ["independent", "conditional"]}), seeds(3))'
    study = Study.load(write_study(tmp_path, data_dir, runs))
    expected = itertools.product(["independent", "conditional"], range(3))
    assert [(run.config.head.name, run.seed) for run in study.runs] == list(expected)
    assert {run.config.optim.learning_rate for run in study.runs} == {0.01}
    assert [run.row for run in study.runs] == ["independent"] * 3 + ["conditional"] * 3  # what does not vary names none
    assert study.question == "Does it work?"
    assert study.sources == (tmp_path / "study/sweep.py", tmp_path / "config.py")


def test_rows_are_named_by_what_differs_or_by_hand(tmp_path, data_dir):
    runs = '[{"seed": 1}, {"optim.learning_rate": 0.1}, {"optim.learning_rate": 0.2, "row": "fast"}]'
    study = Study.load(write_study(tmp_path, data_dir, runs))
    assert [run.row for run in study.runs] == ["independent", "0.1", "fast"]


def test_what_baselines_do_not_read_names_no_row(tmp_path, data_dir):
    runs = """[
        {"optim.learning_rate": 0.1}, {"optim.learning_rate": 0.1, "head.name": "conditional"},
        {"baseline": "one_vs_rest"}, {"baseline": "logistic_regression", "baseline.logistic_regression.c": 2.0},
    ]"""
    study = Study.load(write_study(tmp_path, data_dir, runs))
    assert [run.row for run in study.runs] == [
        *("independent", "conditional"),
        *("one_vs_rest", "logistic_regression+2.0"),
    ]


def test_a_row_is_one_row_on_all_data_sets(tmp_path, data_dir):
    runs = 'cross(grid({"data.name": ["synthetic/features", "synthetic/text"]}), grid({"seed": [0, 1]}))'
    study = Study.load(write_study(tmp_path, data_dir, runs))
    assert [(run.row, run.data) for run in study.runs] == [
        *[("independent", "synthetic/features")] * 2,
        *[("independent", "synthetic/text")] * 2,
    ]


def test_data_sets_that_differ_in_options_are_told_apart_by_name(tmp_path, data_dir):
    runs = """[
        {"data.name": "synthetic/features", "data.synthetic.dependence": strength, "data": f"dependence {strength:g}"}
        for strength in (0.0, 2.0)
    ]"""
    study = Study.load(write_study(tmp_path, data_dir, runs))
    assert [run.data for run in study.runs] == ["dependence 0", "dependence 2"]
    assert [run.config.data.synthetic.dependence for run in study.runs] == [0.0, 2.0]
    study.records.mkdir()
    for number, run in enumerate(study.runs):
        record = make_record(0) | {"config_hash": run.config_hash, "run_id": str(number)}
        (study.records / f"{number}.json").write_text(json.dumps(record))
    assert [run.data for run in read_study(study).runs] == ["dependence 0", "dependence 2"]


GOOD = '{"seed": 5}'
MISTAKES = {
    '{"optim.learning_rat": 0.1}': "no setting config.optim.learning_rat; did you mean 'learning_rate'?",
    '{"encodr.name": "mlp"}': "no setting config.encodr; did you mean 'encoder'?",
    '{"train.batch_size": "16"}': "config.train.batch_size",
    '{"train.batch_size": 16.5}': "config.train.batch_size",
    '{"train.batch_size": True}': "config.train.batch_size is True, not of type int",
    '{"optim.learning_rate": None}': "config.optim.learning_rate is None, not of type float",
    '{"optim": {"learning_rat": 0.1}}': "config.optim is a section",
    '{"train.batch_size": 0}': "config.train.batch_size is 0; it must be above 0",
    '{"optim.name": "adam"}': "config.optim.name is 'adam'; did you mean 'adamw'?",
    '{"head.name": "conditonal"}': "there is no head 'conditonal'; did you mean 'conditional'?",
    '{"head.conditional.siblings": "any"}': "config.head.conditional.siblings is set, but config.head.name is 'indep",
    '{"head.name": "conditional", "head.conditional.siblings": "few"}': "config.head.conditional.siblings is 'few'",
    '{"data.name": "synthetc/features"}': "synthetc",
    '{"config": "nowhere.py"}': "there is no config file nowhere.py",
    '{"baseline": "one_vs_all"}': "there is no baseline 'one_vs_all'; did you mean 'one_vs_rest'?",
    '{"baseline": "one_vs_rest", "optim.learning_rate": 0.1}': "the baseline 'one_vs_rest' does not read it",
}


@pytest.mark.parametrize("overrides", MISTAKES)
def test_a_mistake_in_any_run_is_told_with_its_number_and_overrides(overrides, tmp_path, data_dir):
    folder = write_study(tmp_path, data_dir, f"[{GOOD}, {overrides}]")
    with pytest.raises(UserError) as caught:
        Study.load(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder}/sweep.py, run 2, {eval(overrides)}: ")
    assert MISTAKES[overrides] in message


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (f"[{GOOD}, {{'seed': 6}}, {GOOD}]", r"sweep.py: runs 1 and 3 are the same: \{'seed': 5\}"),
        (f"[{GOOD}, {GOOD[:-1]}, 'train.chunk_steps': 7}}]", "runs 1 and 2 are the same"),
        ("[]", "yields nothing"),
        (f"[{GOOD}, 'seed']", r"run 2: overrides are settings by dotted key, not 'seed'"),
        (f"[{GOOD}, {{1: 2}}]", r"run 2: overrides are settings by dotted key, not dict"),
        ("zipped({'seed': [1, 2], 'row': ['a']})", r"sweep.py, line 5: zipped\(\) needs equally many values"),
        ("grid({'seed': 3})", "sweep.py, line 5: Type"),
        (
            "ablate({}, {'encoder.mlp.dropout': [0.1], 'optim.weight_decay': [0.1]})",
            r"runs 2, \{'encoder.mlp.dropout': 0.1\}, and 3, .* have one row, one data set and one seed",
        ),
    ],
)
def test_mistakes_of_the_generator_are_told(runs, message, tmp_path, data_dir):
    with pytest.raises(UserError, match=message):
        Study.load(write_study(tmp_path, data_dir, runs))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def runs():\n    yield {}\n", r"run 1, \{\}: no config file is named: set CONFIG"),
        ("CONFIG = 'c.py'\ndef runs(:\n", r"sweep.py: SyntaxError: .*line 2"),
        ("import os\n\nfrom mlresearch.study import gird\n", r"sweep.py, line 3: ImportError: .*gird"),
        ("CONFIG = 'c.py'\ndef runs():\n    return [{}]\n", r"needs a generator runs\(\)"),
        ("CONFIG = 'c.py'\nruns = [{}]\n", r"needs a generator runs\(\)"),
        ("CONFIG = 'c.py'\n", r"needs a generator runs\(\)"),
        ("def runs():\n    yield {}\n    yield {'seed': 1 / 0}\n", "sweep.py, line 3: ZeroDivisionError"),
    ],
)
def test_mistakes_of_the_file_are_told(text, message, tmp_path):
    (tmp_path / "sweep.py").write_text(text)
    with pytest.raises(UserError, match=message):
        Study.load(tmp_path)


def test_lines_are_told_of_studies_named_from_here(tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "sweep.py").write_text("import os\n1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"one/sweep.py, line 2: ZeroDivisionError"):
        Study.load("one")
    with pytest.raises(UserError, match=r"there is no sweep.py in it; did you mean 'one'\?"):
        Study.load("onr")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", r"config.py needs a function get_config\(\)"),
        ("def get_config():\n    return {}['x']\n", r"config.py, line 2: KeyError"),
        ("def get_config():\n    return 3\n", r"get_config\(\) returned int"),
        (
            "from mlresearch.config import base_config\ndef get_config():\n    config = base_config()\n"
            "    config.encoder.nam = 'mlp'\n    return config\n",
            "config.py, line 4: AttributeError: .*nam",
        ),
    ],
)
def test_mistakes_of_the_config_file_are_told(text, message, tmp_path, data_dir):
    folder = write_study(tmp_path, data_dir)
    (tmp_path / "config.py").write_text(text)
    with pytest.raises(UserError, match=rf"run 1, \{{.*\}}: .*{message}"):
        Study.load(folder)


FREE = (  # where and how a run is computed, not what
    *("data.dir", "data.manual_dir", "parallel.mode", "parallel.num_devices", "parallel.label_devices"),
    *("train.log_every_steps", "train.checkpoint_every_seconds", "train.chunk_steps"),
    *("train.replicas", "train.replica_overrides"),
)


def changed(config, key):
    """Return a config with another value of a setting, whether or not it makes sense."""
    other = ConfigDict(to_dict(config))
    value = flatten(to_dict(config))[key]
    section, _, option = key.rpartition(".")
    place = other
    for part in filter(None, section.split(".")):
        place = place[part]
    with place.ignore_type():
        place[option] = not value if isinstance(value, bool) else f"{value}x" if isinstance(value, str) else 17
    return other


def test_a_run_is_named_after_all_that_it_computes(tmp_path, data_dir):
    [run, *_] = Study.load(write_study(tmp_path, data_dir)).runs
    names = {}
    for key in flatten(to_dict(run.config)):
        other = StudyRun(run.overrides, run.row, changed(run.config, key), None)
        if key in FREE:
            assert other.run_id("print") == run.run_id("print"), key
        else:
            names[key] = other.run_id("print")
    assert len(names) > 40
    names |= {"": run.run_id("print"), "fingerprint": run.run_id("another")}
    names["baseline"] = StudyRun(run.overrides, run.row, run.config, "one_vs_rest").run_id("print")
    names["ensemble"] = StudyRun(run.overrides, run.row, run.config, None, ensemble=2).run_id("print")
    assert len({*names.values()}) == len(names)
    assert StudyRun({"seed": 3}, "another row", run.config, None).run_id("print") == run.run_id("print")


def test_settings_of_parts_that_are_not_chosen_name_no_run(tmp_path, data_dir):
    folder = write_study(tmp_path, data_dir)
    before = [run.run_id("print") for run in Study.load(folder).runs]
    path = tmp_path / "config.py"
    path.write_text(path.read_text().replace("return config", "config.encoder.bag.dim = 77\n    return config"))
    assert [run.run_id("print") for run in Study.load(folder).runs] == before
    path.write_text(path.read_text().replace("bag.dim", "mlp.dim"))
    assert not {run.run_id("print") for run in Study.load(folder).runs} & {*before}


def test_names_are_those_of_other_processes(tmp_path, data_dir):
    folder = write_study(tmp_path, data_dir)
    code = f"from mlresearch.study import Study; print(*(r.run_id('print') for r in Study.load({str(folder)!r}).runs))"
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert made.stdout.split() == [run.run_id("print") for run in Study.load(folder).runs]


def test_no_setting_is_free_by_accident():
    """What may change without another name is named above; the rest of the defaults is part of it."""
    everything = flatten(to_dict(base_config()))
    assert {key for key in everything if key not in identity(base_config())} == {*FREE}
