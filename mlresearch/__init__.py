"""Multi-label classification with label dependencies: every head a distribution over label sets."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlresearch.predict import Run


def load(workdir: str) -> "Run":
    """Load the trained run in `workdir`; ``load(workdir).predict(texts)`` predicts labels."""
    from mlresearch.predict import Run  # JAX takes a second to import, and commands that print help need none

    return Run(workdir)
