"""A trained run whose labels and texts would do harm if a page took them for HTML."""

import json

import numpy as np

from mlresearch.config import base_config
from mlresearch.train import train

EVIL = '</script><img src=x onerror="document.title=`harmed`">'
LABELS = ("label 10", "label 9", f"{EVIL} owl", "Zebra & <b>", "$style ${script}", "wren")
"""In this order; a number within a name counts as one where names are sorted."""

PARENTS = {"label 9": "label 10", f"{EVIL} owl": "label 10", "wren": f"{EVIL} owl"}
WORDS = dict(zip(LABELS, ("ten", "nine", "owl", "zebra", "dollar", "wren"), strict=True))


def train_evil(folder):
    """Train on a table for a few steps, and return the run's folder."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(90):
        on = [name for at, name in enumerate(LABELS) if rng.random() < 0.2 + 0.1 * at]
        text = " ".join([*(WORDS[name] for name in on), "<i>and</i>", *(["<!-- <script>"] if number % 2 else [])])
        rows.append({"text": text + EVIL, "labels": on, "size": float(rng.normal()), "key": f"{EVIL} {number}"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = "".join(f"{name}\tof {WORDS[name]} </script>{EVIL}\n" for name in LABELS)
    (folder / "names.tsv").write_text(names)
    (folder / "parents.tsv").write_text("".join(f"{child}\t{parent}\n" for child, parent in PARENTS.items()))
    config = base_config()
    config.data.name, config.data.dir = "table", str(folder / "data")
    for option, value in {
        "train": str(folder / "rows.jsonl"),
        "label_names": str(folder / "names.tsv"),
        "parents": str(folder / "parents.tsv"),
        "text": "text",
        "features": "size",
        "labels": "labels",
        "form": "ragged",
        "key": "key",
    }.items():
        config.data.table[option] = value
    config.encoder.bag.dim = 16
    config.text.vocab_size = 80
    config.text.num_buckets = 1
    config.head.name = "conditional"
    config.train.batch_size = config.evaluate.batch_size = 16
    config.train.num_epochs = 4.0
    config.optim.learning_rate = 0.03
    config.parallel.num_devices = 1
    train(config, folder / "run")
    return folder / "run"
