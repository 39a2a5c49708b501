"""TensorBoard's files, read back by their own framing."""

import contextlib
import json
import struct

import pytest
from small_study import write_study
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from mlresearch.config import flatten, identity
from mlresearch.events import Events
from mlresearch.fit import Stopped
from mlresearch.study import make_run
from mlresearch.train import train_together


def crc32c(data):
    """Castagnoli's cyclic redundancy check, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    """A check as TFRecord files have it: turned by 15 bits, and moved."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def events_of(folder, kind):
    """The events of the one file of a kind: records of length, its check, an event, its check."""
    [path] = folder.glob(f"events.out.tfevents.*.{kind}")
    content, events = path.read_bytes(), []
    while content:
        (length, check), content = struct.unpack("<QI", content[:12]), content[12:]
        assert check == masked(struct.pack("<Q", length))
        data, (check,), content = (
            content[:length],
            struct.unpack("<I", content[length : length + 4]),
            content[length + 4 :],
        )
        assert check == masked(data)
        events.append(Event.FromString(data))
    return events


def scalars(folder, kind):
    """(name, step, value) of every scalar, in order."""
    return [
        (value.tag, event.step, value.simple_value)
        for event in events_of(folder, kind)
        for value in event.summary.value
        if value.HasField("simple_value")
    ]


def test_the_check_is_the_standard_one():
    assert crc32c(b"123456789") == 0xE3069283  # of RFC 3720, appendix B.4, and of every implementation


def expected(folder, name="metrics"):
    """What the lines of a log say, as scalars."""
    made = []
    for line in map(json.loads, (folder / f"{name}.jsonl").read_text().splitlines()):
        step, _ = line.pop("step"), line.pop("epoch")
        values = {key: value for key, value in line.items() if key != "validation"}
        values |= {f"validation/{place}": value for place, value in line.get("validation", {}).items()}
        made += [(key, step, pytest.approx(value, rel=1e-6)) for key, value in values.items()]  # float32 there
    return made


@pytest.fixture(scope="module")
def run(tmp_path_factory, data_dir):
    """The folder and config of a run that was stopped after 12 of 36 steps, and went on; with a refit."""
    folder = tmp_path_factory.mktemp("events")
    write_study(folder, data_dir)
    overrides = {"train.chunk_steps": 2, "evaluate.every_epochs": 1.0, "train.select": "mode.micro_f1"}
    overrides |= {"train.refit": True, "train.log_every_steps": 5}
    config = make_run(overrides, str(folder / "config.py")).config
    asked = iter([False] * 7 + [True])
    with pytest.raises(Stopped):
        train_together([config], [folder / "run"], lambda: next(asked))
    before = scalars(folder / "run", "metrics")
    assert before == expected(folder / "run")
    [record] = train_together([config], [folder / "run"])
    assert 0 < record["resumed_at"] < record["num_steps"]
    return folder / "run", config, record, before


def test_curves_are_those_of_the_log_and_no_step_is_there_twice(run):
    folder, _, record, before = run
    made = scalars(folder, "metrics")
    assert made == expected(folder)
    assert made[: len(before)] == before
    assert {name for name, _, _ in made} >= {"train_loss", "gradient_norm", "validation/mode.micro_f1"}
    places = [(name, step) for name, step, _ in made]
    assert len({*places}) == len(places)
    assert max(step for _, step in places) == record["num_steps"]
    assert scalars(folder, "refit_metrics") == expected(folder, "refit_metrics") != []


def test_settings_and_results_are_on_the_page_of_hyperparameters(run):
    folder, config, record, _ = run
    plugins = [
        HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for event in events_of(folder, "result")
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "hparams"
    ]
    [started] = [data.session_start_info for data in plugins if data.HasField("session_start_info")]
    settings = {key: getattr(value, value.WhichOneof("kind")) for key, value in started.hparams.items()}
    given = identity(config)
    assert {*settings} == {*given}
    for key, value in given.items():
        assert settings[key] == (value if isinstance(value, bool | int | float | str) else str(value)), key
    [experiment] = [data.experiment for data in plugins if data.HasField("experiment")]
    results = {name: value for name, _, value in scalars(folder, "result")}
    assert {info.name.tag for info in experiment.metric_infos} == {*results}
    numbers = {}
    for split, groups in record["metrics"].items():
        for name, value in flatten(groups).items():
            numbers |= {f"{split}/{name}": value} if value is not None else {}
    assert results == pytest.approx(numbers, rel=1e-6)


def test_a_file_of_one_kind_replaces_no_other(tmp_path):
    for kind in ("metrics", "refit_metrics", "metrics"):
        with contextlib.closing(Events(tmp_path, kind)) as events:
            events.write({"step": 3, "epoch": 0.5, "train_loss": 0.25})
    for kind in ("metrics", "refit_metrics"):
        assert scalars(tmp_path, kind) == [("train_loss", 3, 0.25)]


def test_what_is_infinite_is_no_result(tmp_path):
    with contextlib.closing(Events(tmp_path, "result")) as events:
        metrics = {"test": {"loss": {"mean": None, "sum": float("inf")}, "mode": {"micro_f1": 0.5}}}
        events.write_result({"seed": 0, "grid": [1, 2], "refit": True, "name": "x", "rate": 0.5}, metrics)
    assert [(name, value) for name, _, value in scalars(tmp_path, "result")] == [("test/mode.micro_f1", 0.5)]
