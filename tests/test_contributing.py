"""The head that CONTRIBUTING.md adds, taken from its text: one file and a name in the config."""

import importlib
import re
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import mlresearch.heads
from mlresearch.config import base_config, part_names, resolve
from mlresearch.encoders import Encoded
from mlresearch.errors import UserError
from mlresearch.train import train


@pytest.fixture
def one_coin(tmp_path):
    text = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    folder = tmp_path / "heads"
    folder.mkdir()
    (folder / "one_coin.py").write_text(code)
    mlresearch.heads.__path__.append(str(folder))
    importlib.invalidate_caches()
    yield
    mlresearch.heads.__path__.remove(str(folder))
    sys.modules.pop("mlresearch.heads.one_coin")


def test_a_head_is_added_with_one_file_and_its_name(one_coin, tmp_path, data_dir):
    assert "one_coin" in part_names("head")
    config = base_config()
    config.data.name, config.data.dir = "tiny/paths", str(data_dir)
    config.head.name = "one_coin"
    config.text.vocab_size = 80
    config.train.batch_size = config.evaluate.batch_size = 16
    config.train.num_epochs = 0.1
    # No text of the data set has all its labels or none: the head says so, by name and row.
    with pytest.raises(UserError, match=r"row \d+ .*: the label set .* probability 0 under bag"):
        train(config, tmp_path / "run")
    make_head = importlib.import_module("mlresearch.heads.one_coin").Head
    head = make_head(None, 3, 1, param_dtype=jnp.float32, rngs=nnx.Rngs(0))
    nothing = Encoded(jnp.zeros((1, 1, 1)), jnp.ones((1, 1), bool), jnp.zeros((1, 1)))
    dist = head(jnp.array([[[1.0], [2.0], [6.0]]]), nothing)
    # σ(3), the mean score
    np.testing.assert_allclose(np.exp(dist.log_prob(jnp.ones((1, 3), bool))), 1 / (1 + np.exp(-3)), rtol=1e-6)
    assert resolve(config).head.name == "one_coin"
