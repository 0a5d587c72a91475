"""Sets the stage before JAX is imported: eight CPU devices, and strictness switched on.

Most of the suite's time is the compiler's, so it is asked for less, by variables that the
processes that tests start inherit:

- A program that took a twentieth of a second or more to compile is kept in a folder for one run of
  the suite: workers, files and processes share it. What is traced and lowered is as without it.
- JAX_DISABLE_MOST_OPTIMIZATIONS, and XLA's older way of writing kernels where there is one:
  operations, layouts and exchanges are the same, but nobody polishes the instructions of kernels
  that run for microseconds. Tests that compute more than they compile are marked `optimized`, the
  whole runs of `test_iterate` among them; .ci/run runs all numerical files once more, optimized.
"""

import atexit
import collections
import gc
import importlib.metadata
import os
import pathlib
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The TPU compiler that kernel tests use must not look for a TPU machine around it.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
# Eight devices on two busy cores may meet late; by default XLA ends the process after 40 s.
_FLAGS = {
    "--xla_force_host_platform_device_count": 8,
    "--xla_cpu_collective_call_terminate_timeout_seconds": 600,
}
if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones end at this flag
        _FLAGS["--xla_cpu_use_fusion_emitters"] = "false"
_given = os.environ.get("XLA_FLAGS", "")
_added = [f"{flag}={value}" for flag, value in _FLAGS.items() if flag not in _given]
os.environ["XLA_FLAGS"] = " ".join([_given, *_added]).strip()
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _programs = tempfile.mkdtemp(prefix="bstar-jax-programs-")
    atexit.register(shutil.rmtree, _programs, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _programs
# Writing down what took less to compile costs more than compiling it again.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import hypothesis
import jax
import pytest

# Arrays of different rank combine only where the code says how.
jax.config.update("jax_numpy_rank_promotion", "raise")

# Random examples are the same in every run, and a busy machine is no failure.
hypothesis.settings.register_profile("seeded", derandomize=True, deadline=None)
hypothesis.settings.load_profile("seeded")


def pytest_collection_finish():
    """Spares the garbage collector what never becomes garbage.

    Modules of JAX, PyTorch and all tests are millions of objects. Tracing makes so many new ones
    that the collector, left alone, looks through all of them a hundred times.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Lets a test marked `optimized`, with its fixtures and processes, compile as people do."""
    before = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"]
    if item.get_closest_marker("optimized"):
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"
        jax.config.update("jax_disable_most_optimizations", False)
    try:
        return (yield)
    finally:
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = before
        jax.config.update("jax_disable_most_optimizations", before == "1")


MOST_MAPPINGS = 65_530 // 3  # Linux lets a process have so many


@pytest.fixture(autouse=True, scope="module")
def programs_are_let_go():
    """Drops what was compiled once it takes a third of the mappings that a process may have.

    A compiled program has dozens; beyond the limit the compiler ends the process.
    """
    yield
    mappings = pathlib.Path("/proc/self/maps")
    if not mappings.exists() or mappings.read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


def pytest_collection_modifyitems(items):
    """The files with most slow tests come first, so that workers end together."""
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
