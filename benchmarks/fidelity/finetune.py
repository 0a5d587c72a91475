"""Fine-tunes an imported checkpoint beside Transformers: the same batches, the same curve?

    python -m benchmarks.fidelity.finetune --data=gsm8k_train.jsonl --peer=PYTHON --json=FILE

A random Qwen2 (4 layers of 128) is written by Transformers with a tokenizer trained here, imported,
and trained for 50 steps of 8 GSM8K solutions in full and with adapters of rank 8, which go to the
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

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from benchmarks import launching
from bstar_jax import adapters, hub, sharding, tasks, tokenizer
from bstar_jax.config import MeshConfig, OptimizerConfig
from bstar_jax.training import optimizer
from bstar_jax.training.batches import Example, encode, order
from bstar_jax.training.fit import fit
from bstar_jax.training.optimizer import Schedule

STEPS, BATCH, EXAMPLES = 50, 8, 400
RATES = {"full": 1e-3, "lora": 5e-3}
ADAM = OptimizerConfig(b1=0.9, b2=0.98, epsilon=1e-8, weight_decay=0.01, clip_norm=1.0)


def main():
    """Trains both, prints and writes the curves and how far they are apart."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--peer", default=sys.executable)
    parser.add_argument("--json", type=pathlib.Path, required=True)
    args = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as room:
        room = pathlib.Path(room)
        data = prepare(args, room)
        for kind in RATES:
            ours = train(room, kind, data)
            theirs = ask(args, "train", room, kind)
            apart = np.abs(np.array(ours) / np.array(theirs) - 1)
            figures[kind] = {"ours": ours, "theirs": theirs, "largest": float(apart.max())}
            print(
                f"{kind}: loss {ours[0]:.4f} -> {ours[-1]:.4f}, theirs {theirs[0]:.4f} -> "
                f"{theirs[-1]:.4f}, at most {100 * apart.max():.4f} % apart"
            )
    args.json.write_text(json.dumps(figures, indent=1) + "\n")


def prepare(args, room):
    """A tokenizer, a checkpoint of Transformers, and the batches, in a folder."""
    task = tasks.load(
        "gsm8k", str(args.data), seed=0, sft_examples=EXAMPLES, calibration_queries=0,
        heldout_queries=0,
    )  # fmt: skip
    queries = task.splits["sft"]
    texts = [text for query in queries for text in (query.prompt, query.solution)]
    words = tokenizer.train_sentencepiece(texts, 1024)
    words.save(room / "model")
    ids = {"vocab_size": words.vocab_size, "eos_token_id": words.end_id, "pad": words.pad_id}
    (room / "ids.json").write_text(json.dumps(ids))
    ask(args, "make", room)
    examples = [Example(query.prompt, query.solution, query.query_id) for query in queries]
    data, too_long = encode(words, examples, max_prompt_tokens=384, max_tokens=640)
    assert not too_long, too_long[:1]
    index = [order(len(data), BATCH, step, (0,)) for step in range(STEPS)]
    rows = [data.take(each) for each in index]
    np.savez(
        room / "batches.npz",
        **{
            name: np.stack([getattr(batch, f"{name}_BL") for batch in rows])
            for name in ("tokens", "targets", "weights", "segments")
        },
    )
    return rows


def train(room, kind, rows):
    """Our loss before each step."""
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=1, tensor=1), jax.devices()[:1])
    config, params = hub.import_checkpoint(room / "model", mesh)
    frozen = {}
    if kind == "lora":
        config = dataclasses.replace(config, lora_rank=8, lora_alpha=16.0)
        frozen = params
        params = jax.jit(functools.partial(adapters.start, config))(jax.random.key(0))
        hub.export_adapter(config, params, str(room / "model"), room / "adapter")
    state = optimizer.start(config, ADAM, mesh, params)
    reports = fit(
        config, ADAM, Schedule(RATES[kind], 0, STEPS, 1.0), state, rows.__getitem__,
        frozen=frozen, mesh=mesh, first=0, steps=STEPS, every=1,
    )  # fmt: skip
    return [progress.loss for _, progress in reports]


def ask(args, *words):
    """What the peer answers, in its own interpreter."""
    settings = {"rates": RATES, "adam": dataclasses.asdict(ADAM)}
    done = subprocess.run(
        [args.peer, "-m", "benchmarks.fidelity.peer_finetune", *map(str, words)],
        cwd=launching.ROOT,
        input=json.dumps(settings), stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
