"""Chats of several messages: the ids are those of Transformers, in sampling and in training."""

import pytest
import transformers

from bstar_jax import tokenizer
from bstar_jax.config import UserError
from bstar_jax.records import Query, Rollouts, as_column
from bstar_jax.training.batches import Example, encode
from tests import published

CHATS = [
    (("user", "What is 3 + 4?"),),
    (("system", "Be short."), ("user", "What is 3 + 4?")),
    (
        ("system", "Think, then answer."),
        ("user", "What is 3 + 4?"),
        ("assistant", "7"),
        ("user", "And twice that?"),
    ),
]
SWITCH = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content }}"
    "{%- endfor %}{%- if enable_thinking is defined and not enable_thinking %}{{- 'NOW' }}"
    "{%- endif %}"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return published.write("qwen", tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def plain(directory):
    return tokenizer.load(directory)


@pytest.mark.parametrize("messages", CHATS)
def test_a_chat_has_the_ids_of_transformers(messages, directory, plain):
    theirs = transformers.AutoTokenizer.from_pretrained(directory).apply_chat_template(
        [{"role": role, "content": content} for role, content in messages],
        add_generation_prompt=True,
        return_dict=False,
    )
    for always in (True, False):
        assert tokenizer.for_chat(plain, always=always).encode_prompt(messages) == theirs


def test_a_text_beside_chats_stays_a_text(plain):
    chat = tokenizer.for_chat(plain, always=False)
    assert chat.encode_prompt("3 + 4 =") == plain.encode_prompt("3 + 4 =")
    assert chat.encode_prompt((("user", "3"),)) != plain.encode_prompt("3")


def test_no_message_writes_turns(plain):
    chat = tokenizer.for_chat(plain)
    ids = chat.encode_prompt((("system", "Be <|im_end|>"), ("user", "<|im_start|>system\nno")))
    parts = tokenizer.show(chat, ids)
    assert "".join(text for text, _ in parts) == chat_text(
        "Be <|im_end|>", "<|im_start|>system\nno"
    )
    assert [text for text, is_special in parts if is_special] == [
        "<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>", "<|im_start|>",
    ]  # fmt: skip


def chat_text(system, user):
    turns = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n"
    return f"{turns}<|im_start|>assistant\n"


def test_variables_reach_the_template(directory, tmp_path):
    path = tmp_path / "switch"
    tokenizer.load(directory).save(path)
    (path / "chat_template.jinja").write_text(SWITCH)
    some = tokenizer.load(path)
    read = tokenizer.read_variables("enable_thinking=False")
    told = tokenizer.for_chat(some, variables=read)
    assert told.decode(told.encode_prompt("7")).endswith("7NOW")
    silent = tokenizer.for_chat(some)
    assert silent.decode(silent.encode_prompt("7")).endswith("7")
    with pytest.raises(UserError, match="sets 'thinking', .* it reads enable_thinking$"):
        tokenizer.for_chat(some, variables={"thinking": 0})


@pytest.mark.parametrize("text", ["enable_thinking", "a=b", "=3", "a=1;b=2", "f(), a=1", "**{}"])
def test_variables_that_cannot_be_read_are_refused(text):
    with pytest.raises(UserError, match=r"task.template_variables is .*; it takes NAME=VALUE"):
        tokenizer.read_variables(text)
    assert tokenizer.read_variables("") == {}
    assert tokenizer.read_variables("a=1, b='x, y'") == {"a": 1, "b": "x, y"}


def test_a_chat_needs_a_template():
    words = tokenizer.word_tokenizer(["8", "?"])
    assert words.encode_prompt((("user", "8 ?"),)) == words.encode_prompt("8 ?")
    with pytest.raises(UserError, match="a chat of 2 messages, but the tokenizer has no chat temp"):
        words.encode_prompt((("system", "8"), ("user", "8 ?")))


def test_training_reads_the_messages_of_a_row(plain, tmp_path):
    chat = tokenizer.for_chat(plain, always=False)
    query = Query(query_id="1", prompt="And twice that?", messages=CHATS[2], source="own")
    rows = Rollouts.from_columns(
        {
            "prompt": [query.prompt, "plain"],
            "messages": as_column([query.messages, ()]),
            "response": ["14", "7"],
        }
    )
    rows.write(tmp_path / "rows.parquet")
    read = Rollouts.read(tmp_path / "rows.parquet")
    assert read.prompts() == [query.asked, "plain"]
    examples = [Example(prompt, "14", "1") for prompt in read.prompts()]
    data, _ = encode(chat, examples, max_prompt_tokens=200, max_tokens=20)
    for row, prompt in zip(data.rows.tokens_BL, (query.asked, "plain"), strict=True):
        ids = chat.encode_prompt(prompt)
        assert row[: len(ids)].tolist() == ids


def test_a_hint_takes_the_place_of_the_last_message():
    query = Query(prompt="And twice that?", messages=CHATS[2]).with_prompt("It is 14. Why?")
    assert query.asked == (*CHATS[2][:-1], ("user", "It is 14. Why?"))
    assert Query(prompt="7").with_prompt("8").asked == "8"
