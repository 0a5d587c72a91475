"""Sets the stage before JAX is imported: eight CPU devices, and strictness switched on."""

import gc
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The TPU compiler that kernel tests use must not look for a TPU machine around it.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
# Eight devices on two busy cores may meet late; by default XLA ends the process after 40 s.
_FLAGS = {
    "--xla_force_host_platform_device_count": 8,
    "--xla_cpu_collective_call_terminate_timeout_seconds": 600,
}
_given = os.environ.get("XLA_FLAGS", "")
_added = [f"{flag}={value}" for flag, value in _FLAGS.items() if flag not in _given]
os.environ["XLA_FLAGS"] = " ".join([_given, *_added]).strip()

import hypothesis  # noqa: E402
import jax  # noqa: E402  the environment above has to stand first
import pytest  # noqa: E402

# Arrays of different rank combine only where the code says how.
jax.config.update("jax_numpy_rank_promotion", "raise")

# Random examples are the same in every run, and a busy machine is no failure.
hypothesis.settings.register_profile("seeded", derandomize=True, deadline=None)
hypothesis.settings.load_profile("seeded")


@pytest.fixture(autouse=True, scope="module")
def programs_are_let_go():
    """Drops what a file compiled: Linux lets a process map 65,530 pieces of memory, no more, and a
    compiled program has dozens; beyond that the compiler ends the process."""
    yield
    jax.clear_caches()
    gc.collect()
