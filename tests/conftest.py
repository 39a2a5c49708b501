"""Settings that hold for every test: eight CPU devices, strict dtype promotion, sources of test data."""

import os

# Read when JAX starts, so set before it is imported.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Most of the suite's time is compiling: less optimised code is compiled in half the time. Where the optimised code is
# what is tested, a test asks for it by `compiler_options`.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"

from pathlib import Path

import hypothesis
import jax
import pytest

import mlresearch.data

jax.config.update("jax_numpy_dtype_promotion", "strict")

# Compiling takes its time, and the machine may be busy: a slow example is no failure.
hypothesis.settings.register_profile("mlresearch", deadline=None, derandomize=True)
hypothesis.settings.load_profile("mlresearch")

# The files in tests/sources are data sources like any other: tiny/paths beside icd10cm/terms.
mlresearch.data.__path__.append(str(Path(__file__).parent / "sources"))


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory):
    """Keep compiled programs for the session, and for the processes that it starts: many train by equal ones."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    for name, value in (("compilation_cache_dir", folder), ("persistent_cache_min_compile_time_secs", 0.0)):
        jax.config.update(f"jax_{name}", value)
        os.environ[f"JAX_{name.upper()}"] = str(value)


@pytest.fixture(scope="module", autouse=True)
def forgotten_after():
    """Let go of the programs of a module, which add up to gigabytes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """Where data sets are prepared, once for all tests."""
    return tmp_path_factory.mktemp("data")
