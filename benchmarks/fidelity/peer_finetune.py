"""Transformers and PEFT, as `finetune` asks them: `make FOLDER`, `train FOLDER full|lora`."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import Any

import numpy as np
import torch
import transformers


def make(folder: pathlib.Path) -> str:
    """Writes a random Qwen2."""
    ids = json.loads((folder / "ids.json").read_text())
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=ids["vocab_size"], hidden_size=128, intermediate_size=384, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, bos_token_id=None,
        eos_token_id=ids["eos_token_id"], pad_token_id=ids["pad"],
    )  # fmt: skip
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder / "model")
    return "done"


def train(folder: pathlib.Path, kind: str, settings: dict[str, Any]) -> list[float]:
    """Trains by torch's AdamW with clipping; returns the loss before each step."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    if kind == "lora":
        import peft  # type: ignore[import-not-found]  # in the peer's environment alone

        model = peft.PeftModel.from_pretrained(model, folder / "adapter", is_trainable=True)
    trained = [part for part in model.parameters() if part.requires_grad]
    adam = settings["adam"]
    optimizer = torch.optim.AdamW(
        trained, lr=settings["rates"][kind], betas=(adam["b1"], adam["b2"]), eps=adam["epsilon"],
        weight_decay=adam["weight_decay"],
    )  # fmt: skip
    losses = []
    with np.load(folder / "batches.npz") as stored:
        batches = {name: torch.from_numpy(stored[name]) for name in stored.files}
    for step in range(len(batches["tokens"])):
        tokens, targets, weights, segments = (
            batches[name][step] for name in ("tokens", "targets", "weights", "segments")
        )
        logits = model(tokens.long(), attention_mask=segments.long()).logits
        cross_entropy = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), targets.long(), reduction="none"
        )
        loss = (cross_entropy * weights).sum() / weights.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, adam["clip_norm"])
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    location = pathlib.Path(sys.argv[2])
    if sys.argv[1] == "make":
        print(json.dumps(make(location)))
    else:
        print(json.dumps(train(location, sys.argv[3], json.load(sys.stdin))))
