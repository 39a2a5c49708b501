"""Devices, versions, caches, and what is missing."""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

from absl import flags

from mlresearch import environment
from mlresearch.commands.arguments import parse


def run(argv: list[str]) -> int:
    """Print devices, versions, caches and what is missing; the exit status is 1 if something is."""
    parse(flags.FlagValues(), argv)

    missing = []
    print(f"python       {platform.python_version()}, {os.cpu_count()} cores")
    for package in environment.PACKAGES:
        try:
            print(f"{package:20} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(f"the package {package}: pip install {package}")
    try:
        import jax

        for device in jax.devices():
            print(f"device       {device.id}: {device.device_kind} ({device.platform})")
    except (ImportError, RuntimeError, AssertionError) as error:  # each says in its own way that JAX has no device
        missing.append(f"a device that JAX can use: {' '.join(str(error).split()) or 'JAX gives no reason'}")
    data_dir = environment.default_data_dir()
    prepared = sorted({path.parent for path in data_dir.glob("*/*/*/decoded*.npz")})
    print(f"data sets    in {data_dir}{'' if prepared else ': none prepared yet'}")
    for path in prepared:
        print(f"             {path.relative_to(data_dir)}")
    manual_dir = os.environ.get("MLRESEARCH_MANUAL_DIR", "")
    if not manual_dir:
        print("upstream     MLRESEARCH_MANUAL_DIR is not set: only data sets without upstream files, or --manual_dir")
    elif Path(manual_dir).is_dir():
        found = sorted(path.name for path in Path(manual_dir).iterdir() if path.is_dir())
        print(f"upstream     files in {manual_dir}: {', '.join(found) or 'none'}")
    else:
        missing.append(f"the folder {manual_dir} that MLRESEARCH_MANUAL_DIR names")
    existing = next(parent for parent in (data_dir, *data_dir.parents) if parent.exists())
    free = shutil.disk_usage(existing).free / 1e9
    print(f"disk         {free:.1f} GB free there")
    if free < 1:
        missing.append(f"space on the disk of {existing}: less than 1 GB is free")
    if not os.access(existing, os.W_OK):
        missing.append(f"the right to write in {existing}: set MLRESEARCH_DATA_DIR")
    for line in missing:
        print(f"MISSING      {line}")
    print(f"missing: {len(missing)}" if missing else "nothing is missing")
    return 1 if missing else 0
