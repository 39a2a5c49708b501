"""On the same encoder and with the same training, how many label sets does each head get exactly right?

And does any of them beat a baseline of scikit-learn that takes a few lines?
"""

from collections.abc import Iterator

from mlresearch.study import Overrides, cross, grid
from mlresearch.tables import COLUMNS, Table

HEADS = ["independent", "max_constraint", "conditional"]


def runs() -> Iterator[Overrides]:
    """Yield eight rows a data set; as many steps as fit into ten minutes on two cores."""
    terms = {"config": "configs/icd10cm_terms.py"}
    yield terms | {"baseline": "nearest_description"}
    yield from rows(terms, siblings="one", epochs={"linear": 5.0, "label_attention": 1.0}, num_queries=32)
    encounters = {"config": "configs/icd10cm_encounters.py"}
    yield encounters | {"baseline": "one_vs_rest"}
    yield from rows(encounters, siblings="some", epochs={"linear": 12.0, "label_attention": 2.0}, num_queries=16)


def rows(base: Overrides, siblings: str, epochs: dict[str, float], num_queries: int) -> Iterator[Overrides]:
    """Yield every decoder with every head, and a flat softmax."""
    linear = {"decoder.name": "linear", "train.num_epochs": epochs["linear"]}
    attention = {
        "decoder.name": "label_attention",
        "decoder.label_attention.num_queries": num_queries,  # small and short here
        "decoder.label_attention.query_dim": 64,
        "train.num_epochs": epochs["label_attention"],
    }
    flat = base | linear | {"head.name": "flat_softmax"}
    for run in [flat, *cross([base], [linear, attention], grid({"head.name": HEADS}))]:
        if run["head.name"] == "conditional":
            run["head.conditional.siblings"] = siblings
        yield run | {"row": f"{run['decoder.name']}+{run['head.name']}"}


TABLE = Table(columns=[*COLUMNS, "num_steps", "seconds.train"])
