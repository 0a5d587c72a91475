"""Sets the stage before JAX is imported: eight CPU devices, and strictness switched on."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The TPU compiler that kernel tests use must not look for a TPU machine around it.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
_DEVICES = "--xla_force_host_platform_device_count"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}=8".strip()

import jax  # noqa: E402  the environment above has to stand first

# Arrays of different rank combine only where the code says how.
jax.config.update("jax_numpy_rank_promotion", "raise")
