r"""Fine-tunes an imported checkpoint beside Transformers: the same batches, the same curve?

    python -m benchmarks.fidelity.finetune --data=gsm8k_train.jsonl --peer=PYTHON \
        --json=finetune.json

Transformers writes a random Qwen2 (4 layers of 128); its tokenizer is trained here. It is imported,
and trained for 50 steps of 8 GSM8K solutions, in full and with adapters of rank 8, which go to the
peer as PEFT reads them. `--peer` is an interpreter with torch, Transformers and PEFT; this one
needs none of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from benchmarks import figures
from bstar_jax import hub, sharding, tasks, tokenizer
from bstar_jax.config import MeshConfig, OptimizerConfig
from bstar_jax.model import adapters
from bstar_jax.training import optimizer
from bstar_jax.training.batches import Batch, Example, encode, row_order
from bstar_jax.training.fit import fit
from bstar_jax.training.optimizer import Schedule

STEPS, BATCH, EXAMPLES = 50, 8, 400
RATES = {"full": 1e-3, "lora": 5e-3}
ADAM = OptimizerConfig(b1=0.9, b2=0.98, epsilon=1e-8, weight_decay=0.01, clip_norm=1.0)


def prepare(arguments: argparse.Namespace, folder: pathlib.Path) -> list[Batch]:
    """Writes a tokenizer, a checkpoint of Transformers and the batches; returns the batches."""
    task = tasks.load(
        "gsm8k", str(arguments.data), seed=0, sft_examples=EXAMPLES, calibration_queries=0,
        heldout_queries=0,
    )  # fmt: skip
    queries = task.splits["sft"]
    texts = [text for query in queries for text in (query.prompt, query.solution)]
    trained = tokenizer.train_sentencepiece(texts, 1024)
    trained.save(folder / "model")
    ids = {
        "vocab_size": trained.vocab_size, "eos_token_id": trained.end_id, "pad": trained.pad_id,
    }  # fmt: skip
    (folder / "ids.json").write_text(json.dumps(ids))
    ask(arguments, "make", folder)
    examples = [Example(query.prompt, query.solution, query.query_id) for query in queries]
    data, too_long = encode(trained, examples, max_prompt_tokens=384, max_tokens=640)
    assert not too_long, too_long[:1]
    index = [row_order(len(data), BATCH, step, (0,)) for step in range(STEPS)]
    batches = [data.take(each) for each in index]
    arrays: dict[str, Any] = {
        name: np.stack([getattr(batch, f"{name}_BL") for batch in batches])
        for name in ("tokens", "targets", "weights", "segments")
    }
    np.savez(folder / "batches.npz", **arrays)
    return batches


def train(folder: pathlib.Path, kind: str, batches: Sequence[Batch]) -> list[float]:
    """Our loss before each step."""
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=1, tensor=1), jax.devices()[:1])
    config, params = hub.import_checkpoint(folder / "model", mesh)
    frozen: dict[str, Any] = {}
    if kind == "lora":
        config = dataclasses.replace(config, lora_rank=8, lora_alpha=16.0)
        frozen = params
        params = jax.jit(functools.partial(adapters.init_adapters, config))(jax.random.key(0))
        hub.export_adapter(config, params, str(folder / "model"), folder / "adapter")
    state = optimizer.init_state(config, ADAM, mesh, params)
    reports = fit(
        config, ADAM, Schedule(RATES[kind], 0, STEPS, 1.0), state, batches.__getitem__,
        frozen=frozen, mesh=mesh, first=0, steps=STEPS, every=1,
    )  # fmt: skip
    return [report.loss for _, report in reports]


def ask(arguments: argparse.Namespace, *words: object) -> Any:
    """What the peer answers, in its own interpreter."""
    settings = {"rates": RATES, "adam": dataclasses.asdict(ADAM)}
    done = subprocess.run(
        [arguments.peer, "-m", "benchmarks.fidelity.peer_finetune", *map(str, words)],
        cwd=figures.ROOT, input=json.dumps(settings), stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Trains both, prints how far the curves are apart and writes them."""
    parser = figures.flags(__doc__)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="GSM8K as published")
    parser.add_argument("--peer", default=sys.executable, help="the peer's interpreter")
    arguments = parser.parse_args()
    curves = {}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        batches = prepare(arguments, folder)
        for kind in RATES:
            ours = train(folder, kind, batches)
            theirs = ask(arguments, "train", folder, kind)
            largest = float(np.abs(np.array(ours) / np.array(theirs) - 1).max())
            curves[kind] = {"ours": ours, "theirs": theirs, "largest": largest}
            print(
                f"{kind}: loss {ours[0]:.4f} -> {ours[-1]:.4f}, theirs {theirs[0]:.4f} -> "
                f"{theirs[-1]:.4f}, at most {100 * largest:.4f} % apart"
            )
    figures.write(arguments.json, curves)


if __name__ == "__main__":
    main()
