"""Plans a tiny run for a TPU that need not be there, and says what it found.

Run as `python -m tests.plan_tpu_compile v5e:2x2`, in a process of its own: the TPU compiler stays
in the process that loads it. Prints one JSON object a line, a program each.
"""

import json
import sys

from bstar_jax import planning
from bstar_jax.config import (
    CalibrateConfig,
    Config,
    GenerateConfig,
    ImproveConfig,
    LoopConfig,
    MeshConfig,
    ModelConfig,
    MonitorConfig,
    SftConfig,
)
from bstar_jax.planning import compiling, memory, placement
from bstar_jax.planning.models import PlannedModel
from bstar_jax.planning.reports import cost_to_json

MODEL = ModelConfig(
    vocab_size=8192, width=256, layers=4, heads=4, kv_heads=2, head_width=128, feed_forward=512,
    tied=False, dtype="bfloat16",
)  # fmt: skip
CONFIG = Config(
    model=MODEL,
    mesh=MeshConfig(data=1, fsdp=2, tensor=2),
    sft=SftConfig(steps=0, warmup_steps=0),
    loop=LoopConfig(iterations=1),
    improve=ImproveConfig(batch=8),
    calibrate=CalibrateConfig(queries=0, responses=4, temperatures=(1.0,), thresholds=(0.5,)),
    generate=GenerateConfig(
        queries=64, responses=16, batch=512, slots=64, max_prompt_tokens=64, max_tokens=129,
        weights="bfloat16",
    ),
    monitor=MonitorConfig(queries=8, responses=4, ks=(1,), s=1),
)  # fmt: skip


def main(topology: str) -> None:
    """Compiles and prints every program."""
    found = planning.find_topology(topology)
    placed = placement.place(CONFIG, PlannedModel(MODEL, "this file"), found)
    for occupancy in memory.timeline(placed):
        program = occupancy.program
        done = compiling.compiled(occupancy, found.accelerator)
        print(
            json.dumps(
                {
                    "name": done.name,
                    "method": done.method,
                    "bytes": done.memory,
                    "arguments": program.arguments,
                    "held": done.held,
                    "fits": done.fits,
                    "tokens": done.tokens,
                    "work": cost_to_json(done.cost) if done.cost else None,
                    "estimated": cost_to_json(program.cost()) if program.cost else None,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1])
