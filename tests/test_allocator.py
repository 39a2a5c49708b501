"""Memory in large pages: the program starts anew once, as it was called, and its arrays fault no more."""

import json
import os
import platform
import subprocess
import sys

import pytest

from mlresearch.allocator import VARIABLE

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone reads GLIBC_TUNABLES")

PROGRAM = """
import json, os, resource, sys
from mlresearch.allocator import restart_with_large_pages
restart_with_large_pages()
for _ in range(20):
    b"1" * (1 << 26)
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
told = os.environ["GLIBC_TUNABLES"]
print(json.dumps({"arguments": sys.argv[1:], "flags": sys.flags.utf8_mode, "told": told, "faults": faults}))
"""


def start(*arguments, **variables):
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE} | variables
    command = [sys.executable, "-X", "utf8", "-c", PROGRAM, *arguments]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    [line] = process.stdout.splitlines()  # the first start of the program printed nothing
    return json.loads(line)


def test_a_program_starts_anew_as_it_was_called():
    found = start("two words", "--flag=ü")
    assert (found["arguments"], found["flags"]) == (["two words", "--flag=ü"], 1)
    assert found["told"].startswith("glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:")


def test_what_the_user_set_stays():
    assert start(**{VARIABLE: ""})["told"] == ""


def test_arrays_no_longer_fault():
    """Twenty arrays of 64 MiB are 16,384 pages each where every one is mapped anew."""
    assert start(**{VARIABLE: ""})["faults"] > 20 * 16384
    assert start()["faults"] < 2 * 16384
