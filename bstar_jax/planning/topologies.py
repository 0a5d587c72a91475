"""Devices that a run is planned for: their names, their memory and their peak rates.

    v5e:8x8         64 TPU v5e chips as a torus of 8 by 8; needs the compiler, libtpu, but no TPU
    v5p:2x2x4       16 TPU v5p chips as a torus of three dimensions
    h100:8          one host of 8 GPUs
    h200:2x8        2 hosts of 8 GPUs
    gpu-80gb:8      8 GPUs of any kind with 80 GB each; their rates are taken to be an A100's

For TPUs the programs are compiled; for GPUs all figures are arithmetic.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re

from jax.experimental import topologies

from bstar_jax.config import UserError
from bstar_jax.config.schema import unknown_name

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One device. Rates are published peaks, per second.

    Attributes:
      memory: Bytes that programs may use.
      source: Where that number is from.
      flops: bf16 multiplications and additions, counted separately.
      hbm: Bytes between main memory and the processor.
      link: Bytes that a device receives along one mesh axis within its host or torus. TPU: a ring
        in both directions, which is two links; GPU: NVLink.
      outside: The same where the axis reaches over several hosts; TPUs make no difference.
      dimensions: Dimensions of a TPU's torus; 0 is a GPU.
    """

    memory: float
    source: str
    flops: float
    hbm: float
    link: float
    outside: float
    dimensions: int = 0


def _tpu(
    gib: float, tera_flops: float, giga_hbm: float, giga_link: float, dimensions: int
) -> Accelerator:
    return Accelerator(
        gib * GIB, "what the TPU compiler, libtpu 0.0.42, lets a program use",
        tera_flops * 1e12, giga_hbm * 1e9, 2e9 * giga_link, 2e9 * giga_link, dimensions,
    )  # fmt: skip


def _gpu(
    gigabytes: float, tera_flops: float, giga_hbm: float, giga_link: float, giga_outside: float
) -> Accelerator:
    return Accelerator(
        0.75 * gigabytes * 1e9, "0.75 of the memory, JAX's default share (XLA_PYTHON_CLIENT_MEM_"
        "FRACTION)", tera_flops * 1e12, giga_hbm * 1e9, 1e9 * giga_link, 1e9 * giga_outside,
    )  # fmt: skip


# TPUs: the system pages of Google Cloud's TPU documentation; bytes per link and direction from "How
# To Scale Your Model" (jax-ml.github.io/scaling-book). GPUs: NVIDIA's data sheets, products
# without sparsity; outside the host, one adapter of 400 Gb/s (A100: 200 Gb/s) per GPU.
ACCELERATORS = {
    "v4": _tpu(30.75, 275, 1_228, 45, 3),
    "v5e": _tpu(15.75, 197, 819, 45, 2),
    "v5p": _tpu(95.74, 459, 2_765, 90, 3),
    "v6e": _tpu(31.25, 918, 1_640, 90, 2),
    "a100": _gpu(80, 312, 2_039, 300, 25),
    "h100": _gpu(80, 989, 3_350, 450, 50),
    "h200": _gpu(141, 989, 4_800, 450, 50),
}
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}  # fmt: skip
_ANY_GPU = re.compile(r"gpu-(\d+)gb")
_EXAMPLES = "v5e:8x8, v5p:2x2x4, h100:8, h200:2x8 or gpu-80gb:8"


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices that need not be there.

    Attributes:
      name: The name as the user wrote it.
      kind: The kind of device, such as "v5e".
      accelerator: What one device is.
      sizes: Sizes of the torus, or (hosts, GPUs a host).
      devices: The compiler's devices; empty for GPUs.
    """

    name: str
    kind: str
    accelerator: Accelerator
    sizes: tuple[int, ...]
    devices: tuple = ()

    @property
    def count(self) -> int:
        """Number of devices."""
        return math.prod(self.sizes)

    @property
    def is_tpu(self) -> bool:
        """Whether programs can be compiled for it."""
        return bool(self.accelerator.dimensions)

    @property
    def devices_per_host(self) -> int:
        """Number of devices of one host."""
        if not self.is_tpu:
            return self.sizes[-1]
        return sum(device.process_index == 0 for device in self.devices)


def find_topology(name: str) -> Topology:
    """Returns the topology of a name.

    Raises:
      UserError: If the kind or shape is not known, or the compiler refuses the shape.
    """
    kind, colon, shape = name.partition(":")
    any_gpu = _ANY_GPU.fullmatch(kind)
    if not colon or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise UserError(
            f"--topology={name}: a topology is a kind of device and a shape, such as {_EXAMPLES}"
        )
    if kind not in ACCELERATORS and not any_gpu:
        raise UserError(
            f"--topology={name}: {unknown_name(kind, [*ACCELERATORS], 'device')}; there are "
            f"{', '.join(ACCELERATORS)}, and gpu-<memory>gb"
        )
    sizes = tuple(map(int, shape.split("x")))
    if any_gpu:
        memory = 0.75e9 * int(any_gpu.group(1))
        return _gpus(name, kind, dataclasses.replace(ACCELERATORS["a100"], memory=memory), sizes)
    accelerator = ACCELERATORS[kind]
    if not accelerator.dimensions:
        return _gpus(name, kind, accelerator, sizes)
    if len(sizes) != accelerator.dimensions:
        example = "x".join(["2"] * 2 + ["4"] * (accelerator.dimensions - 2))
        raise UserError(
            f"--topology={name}: {kind} is a torus of {accelerator.dimensions} dimensions, and "
            f"this has {len(sizes)}; write such as {kind}:{example}"
        )
    return Topology(name, kind, accelerator, sizes, _tpus(name, kind, accelerator))


def _gpus(name: str, kind: str, accelerator: Accelerator, sizes: tuple[int, ...]) -> Topology:
    if len(sizes) > 2:
        raise UserError(
            f"--topology={name}: GPUs are a number, or hosts x GPUs a host, such as {kind}:8 or "
            f"{kind}:2x8"
        )
    return Topology(name, kind, accelerator, sizes if len(sizes) == 2 else (1, *sizes))


def _tpus(name: str, kind: str, accelerator: Accelerator) -> tuple:
    """Asks the TPU compiler for the devices of a topology.

    Raises:
      UserError: If the compiler is not installed, or does not know the shape.
    """
    # No machine need be asked for its TPUs, and there is no TPU that two processes could share.
    for variable, value in _ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    # The runtime makes one device of the two cores of a v4 chip; the compiler's default is two.
    settings = {"chip_config_name": "megacore"} if kind == "v4" else {}
    try:
        found = topologies.get_topology_desc(name, platform="tpu", **settings)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        example = "x".join(["2"] * 2 + ["4"] * (accelerator.dimensions - 2))
        raise UserError(
            f"--topology={name}: the TPU compiler has no such topology ({reason}); hosts are 2x2 "
            f"chips, so write such as {kind}:{example}, or install it: pip install libtpu"
        ) from error
    return tuple(found.devices)
