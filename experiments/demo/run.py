"""`make demo`: two data sets, every decoder with every head, and the baselines, as two tables."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from configs import icd10cm_encounters, icd10cm_terms
from mlresearch.baselines import train_baseline
from mlresearch.results import markdown, row
from mlresearch.train import train

FOLDER = Path("demo")

DATA_SETS = {
    "icd10cm_terms": (icd10cm_terms.get_config, "nearest_description", "one"),
    "icd10cm_encounters": (icd10cm_encounters.get_config, "one_vs_rest", "some"),
}
"""Config, scikit-learn baseline, and which children of a label that is on `conditional` lets be on."""

EPOCHS = {
    ("icd10cm_terms", "linear"): 5.0,
    ("icd10cm_terms", "label_attention"): 1.0,
    ("icd10cm_encounters", "linear"): 12.0,
    ("icd10cm_encounters", "label_attention"): 2.0,
}
"""What fits into ten minutes on two cores: `label_attention` is small and short here."""

NUM_QUERIES = {"icd10cm_terms": 32, "icd10cm_encounters": 16}


def main() -> None:
    """Run what is missing and print a table a data set."""
    began = time.monotonic()
    rows = [(data_set, name, config) for data_set in DATA_SETS for name, config in rows_of(data_set)]
    records: dict[str, list[dict[str, Any]]] = {data_set: [] for data_set in DATA_SETS}
    for number, (data_set, name, config) in enumerate(rows, 1):
        taken = time.monotonic() - began
        left = f", about {taken / (number - 1) * (len(rows) - number + 1):.0f} s left" if number > 1 else ""
        say(f"row {number} of {len(rows)}, {taken:.0f} s so far{left}: {data_set}, {name}")
        folder = FOLDER / data_set / name
        baseline = DATA_SETS[data_set][1]
        records[data_set].append(train_baseline(name, config, folder) if name == baseline else train(config, folder))
    for data_set, finished in records.items():
        print(f"\n{data_set}\n\n{markdown([row(record) for record in finished])}")
    print(f"\n{time.monotonic() - began:.0f} s in all; the runs are in {FOLDER}/*/*", flush=True)


def rows_of(data_set: str) -> Iterator[tuple[str, ConfigDict]]:
    """Yield a name and a config for each row of a data set's table."""
    make_config, baseline, siblings = DATA_SETS[data_set]

    def config_of(decoder: str, head: str) -> ConfigDict:
        config = make_config()
        config.data.dir = str(FOLDER / "data")
        config.head.conditional.siblings = siblings if head == "conditional" else "any"
        config.decoder.name, config.head.name = decoder, head
        config.train.num_epochs = EPOCHS[data_set, decoder]
        if decoder == "label_attention":
            config.decoder.label_attention.num_queries = NUM_QUERIES[data_set]
            config.decoder.label_attention.query_dim = 64
        return config

    yield baseline, config_of("linear", "independent")
    yield "linear+flat_softmax", config_of("linear", "flat_softmax")
    for decoder in ("linear", "label_attention"):
        for head in ("independent", "max_constraint", "conditional"):
            yield f"{decoder}+{head}", config_of(decoder, head)


def say(line: str) -> None:
    """Print to standard error, where progress goes."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
