"""Transformers and PEFT, as `finetune` asks them: `make FOLDER`, `train FOLDER full|lora`."""

from __future__ import annotations

import json
import pathlib
import sys

import numpy as np
import torch
import transformers


def make(room):
    """Writes a random Qwen2."""
    ids = json.loads((room / "ids.json").read_text())
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=ids["vocab_size"], hidden_size=128, intermediate_size=384, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, bos_token_id=None,
        eos_token_id=ids["eos_token_id"], pad_token_id=ids["pad"],
    )  # fmt: skip
    transformers.Qwen2ForCausalLM(config).save_pretrained(room / "model")
    return "done"


def train(room, kind, settings):
    """Loss before each step, by AdamW with clipping as torch has them."""
    model = transformers.AutoModelForCausalLM.from_pretrained(room / "model", dtype=torch.float32)
    if kind == "lora":
        import peft

        model = peft.PeftModel.from_pretrained(model, room / "adapter", is_trainable=True)
    learnt = [part for part in model.parameters() if part.requires_grad]
    adam = settings["adam"]
    optimizer = torch.optim.AdamW(
        learnt, lr=settings["rates"][kind], betas=(adam["b1"], adam["b2"]), eps=adam["epsilon"],
        weight_decay=adam["weight_decay"],
    )  # fmt: skip
    losses = []
    with np.load(room / "batches.npz") as stored:
        batches = {name: torch.from_numpy(stored[name]) for name in stored.files}
    for step in range(len(batches["tokens"])):
        tokens, targets, weights, segments = (
            batches[name][step] for name in ("tokens", "targets", "weights", "segments")
        )
        logits = model(tokens.long(), attention_mask=segments.long()).logits
        surprise = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), targets.long(), reduction="none"
        )
        loss = (surprise * weights).sum() / weights.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learnt, adam["clip_norm"])
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[2])
    if sys.argv[1] == "make":
        print(json.dumps(make(folder)))
    else:
        print(json.dumps(train(folder, sys.argv[3], json.load(sys.stdin))))
