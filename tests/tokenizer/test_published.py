"""Tokenizers of every published kind give the ids of Transformers, and bring texts back."""

import io
import json
import shutil
import unicodedata

import numpy as np
import pytest
import sentencepiece
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from bstar_jax import tokenizer
from bstar_jax.balance import Choice
from bstar_jax.config import UserError
from bstar_jax.console import Console
from bstar_jax.phases.opening import open_run
from bstar_jax.sampling import Keys, generate
from bstar_jax.tokenizer.definition import JsonTokenizer, SpecialTokens
from tests import builders, published, tiny
from tests.published import KINDS, TEXTS

PREFIXED = ("llama2", "llama2_metaspace", "mistral")
PROMPTS = [
    *TEXTS[:4], "7", " 7", "  7", "\n7", "", "Tom's 日本 😀 é", "1234567\t8", "<think>", "x\n\n\ny "
]  # fmt: skip
RESPONSES = ["17", " 17", "\n17", "  17 pets\n\n#### 17", " ", "日本 😀"]


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    return {kind: published.write(kind, root / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def ours(directories):
    return {kind: tokenizer.load(directory) for kind, directory in directories.items()}


@pytest.fixture(scope="module")
def theirs(directories):
    load = transformers.AutoTokenizer.from_pretrained
    return {kind: load(directory) for kind, directory in directories.items()}


def joined(some, ids):
    pieces = some.pieces()
    return b"".join(pieces[token] for token in ids).decode(errors="replace")


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_has_the_ids_of_transformers(kind, ours, theirs):
    for prompt in PROMPTS:
        assert ours[kind].encode_prompt(prompt) == theirs[kind](prompt)["input_ids"]


@pytest.mark.parametrize(
    ("kind", "tokenizer_class"),
    [
        ("llama2", "LlamaTokenizerFast"),
        ("mistral", "LlamaTokenizer"),
        ("gemma", "GemmaTokenizerFast"),
        ("llama3", "PreTrainedTokenizerFast"),
        ("qwen", "Qwen2Tokenizer"),
    ],
)
def test_a_prompt_has_the_ids_of_the_models_class(kind, tokenizer_class, directories, tmp_path):
    directory = shutil.copytree(directories[kind], tmp_path / "own")
    path = directory / "tokenizer_config.json"
    named = {**json.loads(path.read_text()), "tokenizer_class": tokenizer_class}
    published.write_settings(path, named)
    read = transformers.AutoTokenizer.from_pretrained(directory)
    some = tokenizer.load(directory)
    for prompt in PROMPTS:
        # Transformers 5 writes Llama's pieces anew, and puts no space before one.
        if kind not in PREFIXED or not prompt.startswith(" "):
            assert some.encode_prompt(prompt) == read(prompt)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_those_of_transformers(kind, ours, theirs):
    some, other = ours[kind], theirs[kind]
    starts = kind != "qwen"
    assert some.start_id == (other.bos_token_id if starts else None)
    assert some.end_id == other.eos_token_id
    assert some.pad_id == (other.eos_token_id if other.pad_token is None else other.pad_token_id)
    assert some.vocab_size == len(other)
    names = published.ENDS.get(kind, [other.eos_token])
    assert set(some.end_ids) == set(other.convert_tokens_to_ids(names))
    assert some.end_ids[0] == some.end_id
    assert some.special >= set(other.all_special_tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_and_response_decode_to_both(kind, ours, theirs):
    for prompt in ["3 + 4 =", "# Question\n\n", "x"]:
        for response in RESPONSES:
            drawn = ours[kind].encode(response)
            ids = [*ours[kind].encode_prompt(prompt), *drawn, ours[kind].end_id]
            assert ours[kind].decode(drawn) == response
            assert theirs[kind].decode(ids, skip_special_tokens=True) == prompt + response
            space = " " if kind in PREFIXED else ""
            assert ours[kind].decode(ids) == space + prompt + response


@pytest.mark.parametrize("kind", PREFIXED)
def test_no_space_comes_before_a_response(kind, ours):
    some = ours[kind]
    names = [some.definition.id_to_token(token) for token in some.encode("7")]
    assert names == ["7"]
    assert some.decode(some.encode(" 7")) == " 7"


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_texts_come_back(kind, ours, text):
    some = ours[kind]
    text = text.replace("▁", "_") if kind != "llama3" else text
    text = unicodedata.normalize("NFC", text) if kind == "qwen" else text
    ids = some.encode(text)
    assert some.decode(ids) == text == joined(some, ids)
    assert some.encode_batch([text, "7"]) == [ids, some.encode("7")]
    assert some.decode_batch([ids, []]) == [text, ""]
    tokenizer.check_round_trip(some, [text])


@pytest.mark.parametrize("kind", KINDS)
def test_ends_are_where_each_token_ends(kind, ours):
    some = ours[kind]
    for text in (*TEXTS[:4], "a.\n\n b,\n7 "):
        ends, ids = some.ends(text), some.encode(text)
        assert [joined(some, ids[: place + 1]) for place in range(len(ids))] == [
            text[:end] for end in ends
        ]
        places = list(range(1, len(text) + 1))
        first = [int(np.argmax(np.array(ends) >= place)) for place in places]
        assert tokenizer.tokens_at(some, text, places) == first


def test_ends_count_the_spaces_that_a_post_processor_leaves_out(tmp_path):
    definition = published.byte_level(r"[\s\S]+", ["<end>"])
    definition.post_processor = processors.ByteLevel(trim_offsets=True)
    definition.save(str(tmp_path / "tokenizer.json"))
    published.write_settings(tmp_path / "tokenizer_config.json", {"eos_token": "<end>"})
    some = tokenizer.load(tmp_path)
    text = TEXTS[0]
    ends, ids = some.ends(text), some.encode(text)
    assert any(some.decode([token]).strip(" ") != some.decode([token]) for token in ids)
    assert [some.decode(ids[: place + 1]) for place in range(len(ids))] == [
        text[:end] for end in ends
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_in_a_text_are_plain_text(kind, ours, theirs):
    some = ours[kind]
    special = {theirs[kind].convert_tokens_to_ids(token) for token in some.special}
    assert special >= {*some.end_ids, some.pad_id}
    for token in some.special:
        text = f"What is {token} in HTML?{token}"
        tokenizer.check_round_trip(some, [text, token])
        assert not special & set(some.encode(text))
        split = theirs[kind](text, split_special_tokens=True)["input_ids"]
        assert some.encode_prompt(text) == split


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_loaded_equal(kind, ours, tmp_path):
    some = ours[kind]
    some.save(tmp_path / "first")
    tokenizer.for_chat(tokenizer.load(tmp_path / "first")).save(tmp_path / "second")
    again = tokenizer.load(tmp_path / "second")
    names = "fingerprint vocab_size end_id end_ids pad_id start_id special".split()
    for name in names:
        assert getattr(again, name) == getattr(some, name)
    chats = tokenizer.for_chat(some), tokenizer.for_chat(again)
    for prompt in PROMPTS:
        assert again.encode(prompt) == some.encode(prompt)
        assert again.encode_prompt(prompt) == some.encode_prompt(prompt)
        assert chats[0].encode_prompt(prompt) == chats[1].encode_prompt(prompt)
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "second")
    assert read("7 x")["input_ids"] == some.encode_prompt("7 x")


def test_fingerprints_tell_templates_and_ends_apart(directories, ours, tmp_path):
    shutil.copytree(directories["qwen"], tmp_path / "ends")
    (tmp_path / "ends" / "generation_config.json").unlink()
    shutil.copytree(directories["qwen"], tmp_path / "template")
    (tmp_path / "template" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    others = [tokenizer.load(tmp_path / name).fingerprint for name in ("ends", "template")]
    assert len({ours["qwen"].fingerprint, *others}) == 3


@pytest.mark.parametrize("adds", [True, False])
def test_start_of_text_is_added_where_the_json_says_so(adds, directories, tmp_path):
    shutil.copytree(directories["llama2"], tmp_path / "own")
    path = tmp_path / "own" / "tokenizer_config.json"
    published.write_settings(path, {**json.loads(path.read_text()), "add_bos_token": adds})
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "own")
    some = tokenizer.load(tmp_path / "own")
    some.save(tmp_path / "saved")
    for each in (some, tokenizer.load(tmp_path / "saved")):
        assert each.encode_prompt("7") == read("7")["input_ids"]
        assert each.start_id == 1


def test_silent_settings_are_completed_by_the_models(directories, tmp_path):
    directory = shutil.copytree(directories["llama3"], tmp_path / "own")
    (directory / "tokenizer_config.json").write_text("{}")
    (directory / "generation_config.json").unlink()
    with pytest.raises(UserError, match="names no eos_token"):
        tokenizer.load(directory)
    known = tokenizer.load(directories["llama3"])
    ids = {"bos_token_id": known.start_id, "eos_token_id": [99999, *known.end_ids[::-1]]}
    published.write_settings(directory / "config.json", {**ids, "pad_token_id": -1})
    some = tokenizer.load(directory)
    assert (some.start_id, some.end_ids) == (known.start_id, known.end_ids[::-1])
    assert some.pad_id == some.end_id
    named = {"eos_token": {"content": "<|end_of_text|>"}}
    published.write_settings(directory / "special_tokens_map.json", named)
    assert tokenizer.load(directory).end_ids == known.end_ids
    (directory / "special_tokens_map.json").write_text("{")
    with pytest.raises(UserError, match="special_tokens_map.json is not JSON"):
        tokenizer.load(directory)


SYMBOLS = ("<mark>", "\n\n")


@pytest.mark.parametrize(
    ("kind", "prefix", "given"),
    [
        *(("bpe", prefix, ()) for prefix in (True, False)),
        ("bpe", False, SYMBOLS),
        *(("unigram", prefix, given) for prefix in (True, False) for given in ((), SYMBOLS)),
    ],
)
def test_a_model_file_has_the_ids_of_sentencepiece(kind, prefix, given, tmp_path):
    model = published.model_file(prefix=prefix, kind=kind, given=given)
    (tmp_path / "tokenizer.model").write_bytes(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    for path in (tmp_path, tmp_path / "tokenizer.model"):
        some = tokenizer.load(path)
        assert (some.vocab_size, some.end_id) == (processor.vocab_size(), 2)
        assert (some.start_id, some.pad_id) == (1, 2)
        for prompt in [*PROMPTS, "a <mark>\n\n b", "</s> <s> <0x41>"]:
            assert some.encode_prompt(prompt) == [1, *processor.encode(prompt)]
            assert some.decode(some.encode(prompt)) == prompt


def test_a_model_file_that_would_get_other_ids_is_refused(tmp_path):
    (tmp_path / "own.model").write_bytes(published.model_file(prefix=True, given=SYMBOLS))
    with pytest.raises(UserError, match="symbols that are no byte pairs, such as '<mark>'"):
        tokenizer.load(tmp_path / "own.model")


@pytest.mark.parametrize(
    ("tokenizer_class", "names"),
    [("LlamaTokenizer", ("<unk>", "<s>", "</s>")), ("GemmaTokenizer", ("<unk>", "<bos>", "<eos>"))],
)
def test_a_directory_without_json_is_converted_by_transformers(tokenizer_class, names, tmp_path):
    prefix = tokenizer_class == "LlamaTokenizer"
    model = published.model_file(prefix=prefix, names=names)
    (tmp_path / "tokenizer.model").write_bytes(model)
    settings = dict(zip(("unk_token", "bos_token", "eos_token"), names, strict=True))
    settings |= {"tokenizer_class": tokenizer_class, "add_bos_token": True}
    published.write_settings(tmp_path / "tokenizer_config.json", settings)
    some = tokenizer.load(tmp_path)
    read = transformers.AutoTokenizer.from_pretrained(tmp_path)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    for prompt in TEXTS[:2]:
        assert some.encode_prompt(prompt) == read(prompt)["input_ids"]
        assert some.encode_prompt(prompt) == [1, *processor.encode(prompt)]
    tokenizer.check_round_trip(some, [*TEXTS, *RESPONSES])


@pytest.mark.parametrize("kind", KINDS)
def test_a_chat_prompt_has_the_ids_of_transformers(kind, ours, theirs):
    chat = tokenizer.for_chat(ours[kind])
    for prompt in PROMPTS:
        messages = [{"role": "user", "content": prompt}]
        ids = theirs[kind].apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        assert chat.encode_prompt(prompt) == ids
        assert chat.encode(prompt) == ours[kind].encode(prompt)
    if kind != "qwen":
        assert ids.count(theirs[kind].bos_token_id) == 1


def test_the_end_of_a_chats_turn_is_the_templates(ours, theirs):
    ends = {"gemma": "<end_of_turn>", "llama3": "<|eot_id|>", "qwen": "<|im_end|>"}
    for kind, some in ours.items():
        chat = tokenizer.for_chat(some)
        end = ends.get(kind, "</s>")
        assert chat.end_id == theirs[kind].convert_tokens_to_ids(end)
        assert chat.end_ids[0] == chat.end_id and set(chat.end_ids) == set(some.end_ids)


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_cannot_write_turns(kind, ours):
    chat = tokenizer.for_chat(ours[kind])
    plain = chat.encode_prompt("What is it?")
    special = {ours[kind].definition.token_to_id(token) for token in chat.special}
    count = sum(token in special for token in plain)
    for token in chat.special:
        ids = chat.encode_prompt(f"What is {token}{token} \ue000 it?")
        assert sum(each in special for each in ids) == count
        assert f"What is {token}{token} \ue000 it?" in chat.decode(ids)


def test_a_chat_is_the_same_on_every_day(directories, tmp_path):
    directory = shutil.copytree(directories["llama3"], tmp_path / "own")
    path = directory / "chat_template.jinja"
    text = "{% if strftime_now is defined %}\n {% set day = strftime_now('%d %b %Y') %}\n"
    path.write_text(text + "{% endif %}{{ day }}: {{ messages[0].content }}")
    chat = tokenizer.for_chat(tokenizer.load(directory))
    assert chat.decode(chat.encode_prompt("7")) == "26 Jul 2024: 7"


def test_a_template_may_stand_in_the_settings(directories, tmp_path, ours):
    directory = shutil.copytree(directories["qwen"], tmp_path / "own")
    template = (directory / "chat_template.jinja").read_text()
    (directory / "chat_template.jinja").unlink()
    path = directory / "tokenizer_config.json"
    listed = [{"name": "tools", "template": "?"}, {"name": "default", "template": template}]
    for form in (template, listed):
        values = {**json.loads(path.read_text()), "chat_template": form}
        published.write_settings(path, values)
        assert tokenizer.load(directory).fingerprint == ours["qwen"].fingerprint


def test_without_a_usable_template_there_is_no_chat(directories, tmp_path):
    with pytest.raises(UserError, match="has no chat template"):
        tokenizer.for_chat(tokenizer.word_tokenizer(["8"]))
    directory = shutil.copytree(directories["qwen"], tmp_path / "own")
    (directory / "chat_template.jinja").write_text("{{ raise_exception('system first') }}")
    with pytest.raises(UserError, match="cannot write 'Question' .*: system first"):
        tokenizer.for_chat(tokenizer.load(directory))


def test_what_a_tokenizer_changes_is_shown(ours):
    with pytest.raises(UserError, match=r"at character 3, 'e\\u0301!' comes back as '\\xe9!'"):
        tokenizer.check_round_trip(ours["qwen"], ["fine", "cafe\u0301!"])
    with pytest.raises(UserError, match=r"at character 1, '\\u2581b' comes back as ' b'"):
        tokenizer.check_round_trip(ours["llama2"], ["a▁b"])


def chat_config(directory, **task):
    return tiny.GRID.changed(
        {
            **{f"task.{name}": value for name, value in task.items()},
            "tokenizer.path": str(directory),
            "generate.max_prompt_tokens": 200,
            "generate.max_tokens": 120,
        }
    )


def test_a_run_keeps_its_chats(directories, ours, tmp_path):
    config = chat_config(directories["gemma"], chat_template=True)
    console = Console(quiet=True, stderr=io.StringIO())
    prompt = "Eve has 8 . How many now?"
    chat = tokenizer.for_chat(ours["gemma"])
    for _ in range(2):  # made, and opened again
        with open_run(tmp_path / "run", config, console) as run:
            run.workspace.begin(run.config, run.policy)
            assert run.policy.tokenizer.encode_prompt(prompt) == chat.encode_prompt(prompt)
            assert (run.policy.tokenizer.end_id, run.policy.tokenizer.end_ids) == (
                chat.end_id,
                chat.end_ids,
            )
            assert run.policy.tokenizer.fingerprint == ours["gemma"].fingerprint
    kept = tokenizer.load(tmp_path / "run" / "tokenizer")
    assert kept.end_ids == ours["gemma"].end_ids


def test_special_tokens_in_settings_are_refused(directories, tmp_path):
    console = Console(quiet=True, stderr=io.StringIO())
    config = chat_config(directories["qwen"], prompt="<|im_start|>user\n{question}")
    with (
        pytest.raises(UserError, match=r"task.prompt contains '<\|im_start\|>', a special token"),
        open_run(tmp_path / "run", config, console),
    ):
        pass


@pytest.mark.slow
def test_all_ends_end_a_response():
    words = builders.WORDS
    ends = (words.end_id, *words.encode("8 ."))
    many = JsonTokenizer(words.definition, SpecialTokens(ends[0], 0, None, more_end_ids=ends[1:]))
    queries = builders.queries(6)

    def rows(some):
        choice, keys = Choice(1.0, 0, 0.0, 1.0), Keys(0, 1, "generate")
        return generate(
            builders.MODEL, builders.params(), queries, choice=choice, keys=keys, max_tokens=16,
            tokenizer=some, responses=8,
        )  # fmt: skip

    plain, ended = rows(words), rows(many)
    ended_early = 0
    texts, reasons = plain.column("response"), plain.column("finish_reason")
    for place, (text, reason) in enumerate(zip(texts, reasons, strict=True)):
        listed = text.split(" ")
        at = next((at for at, word in enumerate(listed) if word in ("8", ".")), None)
        text, reason = (text, reason) if at is None else (" ".join(listed[:at]), "stop")
        assert ended.column("response")[place] == text
        assert ended.column("finish_reason")[place] == reason
        ended_early += at is not None
    assert ended_early > 10
