"""Settings that hold for every test: eight CPU devices, strict dtype promotion, no network."""

import os

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")

from hypothesis import settings

# Compiling takes its time, and the machine may be busy: a slow example is no failure.
settings.register_profile("mlresearch", deadline=None, derandomize=True)
settings.load_profile("mlresearch")
