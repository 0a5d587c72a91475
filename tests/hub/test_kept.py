"""A model that also sees: its language model is trained, and the rest of it is left as it is."""

import dataclasses
import json
import re

import numpy as np
import pytest
import transformers
from safetensors.numpy import save_file

from bstar_jax import hub
from bstar_jax.config import UserError
from bstar_jax.hub import names
from bstar_jax.model import adapters
from tests import builders, checkpoints

CASE = "gemma3, with vision"
LAYOUTS = {
    "modules of Transformers": ("model.language_model.", "model.", "lm_head."),
    "as published": ("language_model.model.", "", "language_model.lm_head."),
}


def layout_of(name: str, layout: str) -> str:
    """The name of a tensor in one of the two layouts, from its name in either."""
    text, rest, head = LAYOUTS[layout]
    for one, other, theirs in LAYOUTS.values():
        if name.startswith(theirs):
            return head + name.removeprefix(theirs)
        if name.startswith(one):
            return text + name.removeprefix(one)
        if names.is_vision(name) and name.startswith(other):
            bare = name.removeprefix("model.")
            return rest + bare
    raise AssertionError(name)


@pytest.fixture(params=LAYOUTS)
def source(request, tmp_path):
    """A checkpoint in either layout, in bf16."""
    made = checkpoints.write(tmp_path / "in", CASE, dtype="bfloat16")
    stored = checkpoints.tensors(made)
    moved = {layout_of(name, request.param): tensor for name, tensor in stored.items()}
    assert len(moved) == len(stored)
    save_file(moved, made / "model.safetensors", metadata={"format": "pt"})
    return made


def trained(source):
    """The checkpoint's model with one changed matrix."""
    config, params = hub.import_checkpoint(source)
    query = params["blocks"]["attention"]["query"]
    params["blocks"]["attention"]["query"] = query.at[1].add(1.0)
    return config, params


def changed(source, output):
    before, after = checkpoints.tensors(source), checkpoints.tensors(output)
    assert before.keys() == after.keys()
    return [name for name in before if before[name].tobytes() != after[name].tobytes()]


def test_what_sees_is_exported_untouched_in_the_layout_of_the_source(tmp_path, source):
    hub.export_checkpoint(*trained(source), source, tmp_path / "out")
    (name,) = changed(source, tmp_path / "out")
    assert name.removeprefix("model.").startswith("language_model.")
    assert name.endswith("layers.1.self_attn.q_proj.weight")
    assert any(names.is_vision(name) for name in checkpoints.tensors(tmp_path / "out"))
    loaded, notes = transformers.AutoModelForImageTextToText.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(notes[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert type(loaded).__name__ == "Gemma3ForConditionalGeneration"


def test_a_run_keeps_where_what_sees_is_and_reads_it_from_there(tmp_path, source):
    hub.keep_source(source, tmp_path / "kept")
    assert not list((tmp_path / "kept").glob("*.safetensors"))
    hub.keep_source(tmp_path / "kept", tmp_path / "again")  # a run from a run's copy
    hub.export_checkpoint(*trained(source), tmp_path / "again", tmp_path / "out")
    assert len(changed(source, tmp_path / "out")) == 1
    file = source / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="model.safetensors is not the file that the run started"):
        hub.export_checkpoint(*trained(source), tmp_path / "kept", tmp_path / "more")
    model = trained(source)
    file.unlink()
    with pytest.raises(UserError, match="model.safetensors is not the file that the run started"):
        hub.export_checkpoint(*model, tmp_path / "kept", tmp_path / "more")


def test_an_unknown_tensor_beside_what_sees_is_refused(source):
    stored = checkpoints.tensors(source)
    save_file({**stored, "audio_tower.weight": np.zeros(3)}, source / "model.safetensors")
    with pytest.raises(UserError, match=r"audio_tower.weight"):
        hub.import_checkpoint(source)


def test_a_text_model_has_no_place_for_what_sees(tmp_path):
    source = checkpoints.write(tmp_path / "in", "gemma3")
    stored = checkpoints.tensors(source)
    more = {"vision_tower.weight": np.zeros(3, np.float32)}
    save_file({**stored, **more}, source / "model.safetensors")
    with pytest.raises(UserError, match="has tensor vision_tower.weight, which a model with its"):
        hub.import_checkpoint(source)


def test_adapters_for_peft_name_the_modules_of_the_language_model_alone(tmp_path, source):
    config, _ = hub.import_checkpoint(source)
    config = dataclasses.replace(config, lora_rank=2, lora_targets=("query", "down"))
    params = adapters.trained(config, builders.params(config))
    hub.export_adapter(config, params, str(source), tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    modules = [name for name, _ in checkpoints.model(CASE).named_modules()]
    found = [name for name in modules if re.fullmatch(settings["target_modules"], name)]
    assert len(found) == 2 * config.layers
    assert all(name.startswith("model.language_model.layers.") for name in found)
    stored = checkpoints.tensors(tmp_path / "adapter")
    assert {name.rpartition(".lora_")[0] for name in stored} == {
        f"base_model.model.{name}" for name in found
    }
