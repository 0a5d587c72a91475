"""Plans a tiny run for a TPU that need not be there, and says what it found.

Run as `python -m tests.plan_tpu_compile v5e:2x2`, in a process of its own: the TPU compiler stays
in the process that loads it. Prints one JSON object a line, a program each.
"""

import dataclasses
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
from bstar_jax.planning import arithmetic, compiling, moments, placing, published

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
    found = planning.find(topology)
    programs = placing.place(CONFIG, published.Shape(MODEL, "this file"), found)
    for moment in moments.moments(programs):
        done = compiling.compiled(moment, found.chip)
        reckoned = arithmetic.work_of(programs, moment)
        print(
            json.dumps(
                {
                    "name": done.name,
                    "method": done.method,
                    "bytes": done.memory,
                    "arguments": moment.arguments,
                    "beside": moment.beside,
                    "held": done.held,
                    "fits": done.fits,
                    "tokens": done.tokens,
                    "work": dataclasses.asdict(done.work) if done.work else None,
                    "reckoned": dataclasses.asdict(reckoned) if reckoned else None,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1])
