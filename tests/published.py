"""Small tokenizers in the shapes that checkpoints publish, made by the libraries of those."""

import functools
import io
import json
import pathlib

import sentencepiece
import tokenizers
import transformers
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers.tokenization_utils_base import generate_merges

TEXTS = [
    "# Question\n\nTom has  3 cats and 14 dogs.\n\n# Solution\n\n",
    "3+14=<<3+14=17>>17 pets\n#### 17",
    " Each costs $2.50, so 1/2 * 5 = 2.5.\n\n",
    "def f(x):\n    if x:\n        return x[1:]\n\n\n    return 'a  b'\n",
] * 20
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_WORDS = LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")
QWEN_TEMPLATE = (
    "{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\\nYou help.<|im_end|>\\n' }}"
    "{%- endif %}{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + "
    "message.content + '<|im_end|>' + '\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
LLAMA3_TEMPLATE = (
    "{{- bos_token }}{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)
GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'assistant') %}"
    "{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"
)
LLAMA2_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + message['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)


@functools.cache
def model_file(
    *, prefix: bool, kind: str = "bpe", given: tuple[str, ...] = (), names=("<unk>", "<s>", "</s>")
) -> bytes:
    """A sentencepiece `.model` with the settings of those of Llama, Mistral and Gemma."""
    unknown, start, end = names
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, model_type=kind, vocab_size=340,
        byte_fallback=True, split_digits=True, normalization_rule_name="identity",
        add_dummy_prefix=prefix, remove_extra_whitespaces=False, hard_vocab_limit=False,
        allow_whitespace_only_pieces=True, character_coverage=1.0, num_threads=1, pad_id=-1,
        unk_id=0, bos_id=1, eos_id=2, unk_piece=unknown, bos_piece=start, eos_piece=end,
        user_defined_symbols=list(given), minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def joined_pieces(model: bytes, special: list[str]) -> tokenizers.Tokenizer:
    """The pieces of a `.model` as `tokenizer.json` has them, without what stands around."""
    vocabulary = {piece.piece: i for i, piece in enumerate(ModelProto.FromString(model).pieces)}
    definition = tokenizers.Tokenizer(
        models.BPE(
            vocabulary,
            generate_merges(vocabulary),
            unk_token=special[0],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    definition.add_special_tokens([AddedToken(name, normalized=False) for name in special])
    return definition


def underlined(*, strips: bool) -> decoders.Decoder:
    """Underlines to spaces, bytes to text and, where it `strips`, the first space away."""
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strips else steps)


def start_before(definition: tokenizers.Tokenizer, start: str) -> processors.TemplateProcessing:
    """The post-processor that writes start-of-text."""
    return processors.TemplateProcessing(
        single=f"{start} $A",
        pair=f"{start} $A {start} $B:1",
        special_tokens=[(start, definition.token_to_id(start))],
    )


def llama2(metaspace: str = "") -> tuple[tokenizers.Tokenizer, dict]:
    """Llama 2 and Mistral: a space before every text; `metaspace` is the newer way to write it."""
    definition = joined_pieces(model_file(prefix=True), ["<unk>", "<s>", "</s>"])
    if metaspace:
        definition.pre_tokenizer = pre_tokenizers.Metaspace("▁", metaspace, split=False)
    else:
        definition.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    definition.decoder = underlined(strips=True)
    definition.post_processor = start_before(definition, "<s>")
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return definition, {**names, "chat_template": LLAMA2_TEMPLATE}


def gemma() -> tuple[tokenizers.Tokenizer, dict]:
    """Gemma: underlined spaces and bytes, nothing before a text but <bos>."""
    special = ["<unk>", "<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>"]
    model = model_file(prefix=False, names=("<unk>", "<bos>", "<eos>"))
    definition = joined_pieces(model, special)
    definition.normalizer = normalizers.Replace(" ", "▁")
    definition.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    definition.decoder = underlined(strips=False)
    definition.post_processor = start_before(definition, "<bos>")
    names = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "unk", "pad")}
    return definition, {**names, "chat_template": GEMMA_TEMPLATE}


def byte_level(words: str, special: list[str]) -> tokenizers.Tokenizer:
    """Byte-level pairs, cut at words."""
    definition = tokenizers.Tokenizer(models.BPE())
    definition.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    definition.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    definition.train_from_iterator(TEXTS, trainer)
    definition.add_special_tokens(special)
    return definition


def llama3() -> tuple[tokenizers.Tokenizer, dict]:
    """Llama 3: byte-level behind <|begin_of_text|>, spans without their spaces, no padding."""
    start, end = "<|begin_of_text|>", "<|end_of_text|>"
    turn = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    definition = byte_level(LLAMA3_WORDS, [start, end, *turn])
    definition.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=True), start_before(definition, start)]
    )
    names = {"bos_token": start, "eos_token": end}
    return definition, {**names, "chat_template": LLAMA3_TEMPLATE}


def qwen() -> tuple[tokenizers.Tokenizer, dict]:
    """Qwen 2 and 3: Unicode NFC, byte-level, no start-of-text; <think> is no special token."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    definition = byte_level(QWEN_WORDS, special)
    definition.normalizer = normalizers.NFC()
    definition.post_processor = processors.ByteLevel(trim_offsets=False)
    definition.add_tokens([AddedToken("<think>", normalized=False, special=False)])
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return definition, {**names, "chat_template": QWEN_TEMPLATE}


KINDS = {
    "llama2": llama2,
    "llama2_metaspace": functools.partial(llama2, "first"),
    "mistral": functools.partial(llama2, "always"),
    "gemma": gemma,
    "llama3": llama3,
    "qwen": qwen,
}
"""From a name to what makes the definition, and what Transformers is told beside it."""

ENDS = {
    "gemma": ["<eos>", "<end_of_turn>"],
    "llama3": ["<|end_of_text|>", "<|eot_id|>"],
    "qwen": ["<|im_end|>", "<|endoftext|>"],
}
"""What ends a response, as `generation_config.json` has it."""


def write(kind: str, directory: pathlib.Path) -> pathlib.Path:
    """Writes the directory of a checkpoint's tokenizer, as Transformers does."""
    definition, settings = KINDS[kind]()
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=definition, **settings)
    wrapped.save_pretrained(directory)
    ends = [definition.token_to_id(token) for token in ENDS.get(kind, ())]
    if ends:
        write_settings(directory / "generation_config.json", {"eos_token_id": ends})
    return directory


def write_settings(path: pathlib.Path, settings: dict) -> None:
    """Writes a file of settings."""
    path.write_text(json.dumps(settings))
