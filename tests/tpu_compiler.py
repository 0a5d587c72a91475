"""The TPU compiler in a process of its own: it stays in the process that loads it."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

needed = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the TPU compiler, libtpu, is not installed"
)


def programs(module, topology):
    """Runs `python -m module topology`; the JSON objects that it prints, a program each."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "XLA_FLAGS": "",
    }
    done = subprocess.run(
        [sys.executable, "-m", module, topology],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
