"""Keeps libraries quiet, and leaves one out where the device that it drives is not there.

Wherever libtpu is installed, JAX starts it to look for a TPU. Without one, libtpu complains on
standard error, which no setting of its own prevents. It is installed for its compiler on many
machines that have no TPU: the planner and the tests need it. So the doors ask here, before JAX is
imported, and look at local files and variables alone: no network, no start of the library.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import logging
import os
import pathlib
import sys
from collections.abc import Iterator, MutableMapping

from absl import logging as absl_logging

_GOOGLE = "0x1ae0"
# Virtual network card and disk of Google's machines, those without a TPU too.
_NO_TPU = {"0x0042", "0x001f"}
# Whoever starts a job on TPUs sets one of these: Cloud TPU, GKE, or the user.
_TPU_VARIABLES = (
    "TPU_WORKER_ID",
    "TPU_WORKER_HOSTNAMES",
    "TPU_ACCELERATOR_TYPE",
    "TPU_NAME",
    "TPU_VISIBLE_CHIPS",
    "TPU_VISIBLE_DEVICES",
    "TPU_CHIPS_PER_PROCESS_BOUNDS",
    "TPU_PROCESS_ADDRESSES",
    "CLOUD_TPU_TASK_ID",
    "JAX_FORCE_TPU_INIT",
)


def silence_libraries(*, verbose: bool = False) -> None:
    """Keeps the libraries' own log lines off the screen, except errors.

    Call it before they are imported where possible: some read the environment at import. JAX is
    also told not to start the TPU library where there can be no TPU.

    Args:
      verbose: Whether to leave their warnings on the screen.
    """
    leave_out_absent_tpu()
    level = logging.WARNING if verbose else logging.ERROR
    absl_logging.set_verbosity(absl_logging.WARNING if verbose else absl_logging.ERROR)
    for name in ("jax", "jax._src", "flax", "orbax", "tensorboardX", "wandb", "transformers"):
        logging.getLogger(name).setLevel(level)
    if not verbose:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@contextlib.contextmanager
def absent(name: str) -> Iterator[None]:
    """Imports inside do not find the library `name`, as if it were not installed.

    For libraries that import a large one wherever they find it and work without it. Where it has
    been imported before, it stays.
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # pyright: ignore[reportArgumentType]  # how Python marks what is not there
    try:
        yield
    finally:
        del sys.modules[name]


def leave_out_absent_tpu(
    environ: MutableMapping[str, str] | None = None, root: pathlib.Path = pathlib.Path("/")
) -> None:
    """Sets JAX_PLATFORMS to what else there is, where libtpu is installed and no TPU can be.

    Does nothing where the user chose platforms, where anything points to a TPU, and where a plugin
    other than CUDA's is installed, whose name for JAX_PLATFORMS is not known here.

    Args:
      environ: The variables, those of this process by default.
      root: Where /sys and /dev are.
    """
    environ = os.environ if environ is None else environ
    if environ.get("JAX_PLATFORMS") or environ.get("JAX_PLATFORM_NAME"):
        return
    if importlib.util.find_spec("libtpu") is None or may_have_tpu(environ, root):
        return
    plugins = _plugins()
    if not plugins:
        environ["JAX_PLATFORMS"] = "cpu"
    elif all(name.startswith("xla_cuda") for name in plugins):
        has_gpu = any((root / "dev" / name).exists() for name in ("nvidiactl", "nvidia0", "dxg"))
        environ["JAX_PLATFORMS"] = "cuda,cpu" if has_gpu else "cpu"


def may_have_tpu(environ: MutableMapping[str, str], root: pathlib.Path) -> bool:
    """Whether a variable, a device file or a PCI device may be that of a TPU."""
    if any(environ.get(name) for name in _TPU_VARIABLES):
        return True
    device_files = [*root.glob("dev/accel*"), *root.glob("dev/vfio/[0-9]*")]
    return bool(device_files) or any(
        _read(device / "vendor") == _GOOGLE and _read(device / "device") not in _NO_TPU
        for device in root.glob("sys/bus/pci/devices/*")
    )


def _read(path: pathlib.Path) -> str:
    return path.read_text().strip() if path.is_file() else ""


def _plugins() -> set[str]:
    """Names of JAX's plugins of devices, found where JAX finds them."""
    found = {point.name for point in importlib.metadata.entry_points(group="jax_plugins")}
    package = importlib.util.find_spec("jax_plugins")
    for folder in (package.submodule_search_locations or ()) if package else ():
        found |= {path.name for path in pathlib.Path(folder).iterdir() if path.is_dir()}
    return found - {"__pycache__"}
