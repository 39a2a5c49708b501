"""A study on a few made-up examples, for tests and for the processes that they start; sweeps that note and dawdle."""

import sys
import time
from pathlib import Path

import mlresearch.sweep
from mlresearch.cli import main
from mlresearch.data.pipeline import Feed

CONFIG = """
from mlresearch.config import base_config

def get_config():
    config = base_config()
    config.data.name = "synthetic/features"
    config.data.dir = {data_dir!r}
    config.data.synthetic.update({{"num_labels": 6, "num_features": 4, "cardinality": 2.0}})
    config.data.synthetic.update({{"num_train": 90, "num_validation": 30, "num_test": 30}})
    config.encoder.name = "mlp"
    config.encoder.mlp.dim = 8
    config.train.num_epochs = 6.0
    config.train.batch_size = 16
    config.train.log_every_steps = 4
    config.evaluate.batch_size = 16
    config.parallel.num_devices = 1
    return config
"""

RUNS = 'cross(grid({"head.name": ["independent", "conditional"]}), seeds(2))'
OFTEN = '{"train.checkpoint_every_seconds": 0.01, "train.chunk_steps": 4}'
"""What changes no run but keeps it after every four steps."""


def write_study(folder, data_dir, runs=RUNS):
    """Write a study whose runs are those of an expression, and return its folder."""
    (folder / "study").mkdir(parents=True, exist_ok=True)
    (folder / "config.py").write_text(CONFIG.format(data_dir=str(data_dir)))
    (folder / "study" / "sweep.py").write_text(
        '"""Does it work?"""\n'
        "from mlresearch.study import ablate, cross, grid, seeds, zipped\n"
        f"CONFIG = {str(folder / 'config.py')!r}\n"
        f"def runs():\n    yield from {runs}\n"
    )
    return folder / "study"


def sweep(log, dawdle_s, together, *arguments):
    """Sweep as the command does; note the trainings of each run in `log`, and take `dawdle_s` for every chunk.

    together: how many launchers begin at once.
    """
    log, (train, check, chunk) = Path(log), (mlresearch.sweep.train_together, mlresearch.sweep.check, Feed.chunk)

    def noting(configs, folders, *rest):
        with log.open("a") as file:
            file.write("".join(f"train {folder.name}\n" for folder in folders))
        return train(configs, folders, *rest)

    def waiting(*both):
        check(*both)
        with log.open("a") as file:
            file.write("ready\n")
        while log.read_text().split().count("ready") < together:
            time.sleep(0.01)

    def dawdling(self, *which):
        time.sleep(dawdle_s)
        return chunk(self, *which)

    mlresearch.sweep.train_together, mlresearch.sweep.check, Feed.chunk = noting, waiting, dawdling
    return main(["sweep", *arguments])


if __name__ == "__main__":
    sys.exit(sweep(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]))
