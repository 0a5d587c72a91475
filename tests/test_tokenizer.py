"""Text that becomes ids comes back as it was, from every kind of tokenizer."""

import itertools
import random

import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from bstar_jax import tasks, tokenizer
from bstar_jax.config import UserError

WORDS = ("8", "-", "3", "=", "5", ".", "#", "now?")
TEXTS = [
    "# Question\n\nTom has  3 cats and 14 dogs.\n\n# Solution\n\n",
    "3+14=<<3+14=17>>17 pets\n#### 17",
    " Each costs $2.50, so 1/2 * 5 = 2.5\n",
] * 20


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    path = tmp_path_factory.mktemp("pieces") / "own.model"
    return tokenizer.train_sentencepiece(TEXTS, 300, path)


@pytest.fixture(scope="module")
def words():
    return tokenizer.word_tokenizer(WORDS)


def byte_level_directory(directory, *, starts=False):
    """A tokenizer directory as a Hugging Face checkpoint has it: byte-level pairs."""
    definition = tokenizers.Tokenizer(models.BPE())
    definition.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    definition.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    definition.train_from_iterator(TEXTS, trainer)
    if starts:
        definition.post_processor = processors.TemplateProcessing(
            single="<|start|> $A", special_tokens=[("<|start|>", 0)]
        )
    definition.enable_truncation(8)
    definition.enable_padding(length=8)
    directory.mkdir(parents=True, exist_ok=True)
    definition.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        '{"bos_token": "<|start|>", "eos_token": {"content": "<|end|>"}}'
    )
    return directory


@pytest.fixture(scope="module")
def byte_pairs(tmp_path_factory):
    return tokenizer.load(byte_level_directory(tmp_path_factory.mktemp("byte_pairs")))


def test_words_have_one_token_each(words):
    assert words.encode("8 - 3 = 5 .") == [2, 3, 4, 5, 6, 7]
    assert (words.vocab_size, words.pad_id, words.end_id, words.start_id) == (10, 0, 1, None)
    assert words.decode([1, 2, 0, 3, 1]) == "8 -"
    assert (words.encode(""), words.decode([])) == ([], "")


@given(st.lists(st.sampled_from(WORDS), max_size=30))
def test_words_round_trip(listed):
    words = tokenizer.word_tokenizer(WORDS)
    text = " ".join(listed)
    assert words.decode(words.encode(text)) == text
    assert len(words.encode(text)) == len(listed)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("8 plus 3", "'plus'"),
        ("8  3", "''"),
        (" 8", "''"),
        ("8\n3", r"'8\\n3'"),
        ("8.", "'8.'"),
        ("<end>", "'<end>'"),
        ("<pad> 8", "'<pad>'"),
    ],
)
def test_what_is_no_word_is_refused_and_never_becomes_unknown(words, text, named):
    with pytest.raises(UserError, match=f"^{named} is not a word of the tokenizer"):
        words.encode(text)


@pytest.mark.parametrize("bad", [("a", "a"), ("a b",), ("",), ("<pad>",)])
def test_odd_words_are_refused(bad):
    with pytest.raises(ValueError, match="words are distinct and hold no spaces"):
        tokenizer.word_tokenizer(bad)


def test_all_text_of_the_stories_round_trips():
    task = tasks.load(
        "arithmetic", seed=0, sft_examples=50, train_queries=200,
        calibration_queries=9, heldout_queries=9,
    )  # fmt: skip
    words = tokenizer.word_tokenizer(task.vocabulary)
    for queries in task.splits.values():
        tokenizer.check_round_trip(words, (query.prompt for query in queries))
        tokenizer.check_round_trip(words, (query.solution for query in queries))
        tokenizer.check_round_trip(words, map(task.hint, queries))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n",
        "\n\n# Answer\n\n 7",
        "  two  spaces ",
        "\ttab\r\n",
        "日本 😀",
        "</s><pad>",
        "\x00",
        "under▁lined <0x41>",
    ],
)
def test_pieces_bring_back_any_text(pieces, text):
    assert pieces.decode(pieces.encode(text)) == text


@settings(max_examples=300)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_pieces_round_trip(pieces, text):
    assert pieces.decode(pieces.encode(text)) == text
    assert all(0 <= token < pieces.vocab_size for token in pieces.encode(text))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_byte_pairs_of_a_checkpoint_round_trip(byte_pairs, text):
    text = text.replace("<|", "< |")
    assert byte_pairs.decode(byte_pairs.encode(text)) == text


def test_prompt_and_response_encoded_apart_decode_to_their_concatenation(pieces, byte_pairs):
    for some in (pieces, byte_pairs):
        for prompt, response in itertools.pairwise(TEXTS):
            ids = some.encode(prompt) + some.encode(response) + [some.end_id]
            assert some.decode(ids) == prompt + response


def test_pieces_have_special_ids_that_text_never_makes(pieces):
    assert (pieces.vocab_size, pieces.pad_id, pieces.end_id, pieces.start_id) == (300, 0, 2, None)
    assert not {0, 1, 2}.intersection(pieces.encode("<pad> <unk> </s> 12"))
    assert pieces.decode([0, 1, 2]) == ""


def test_digits_and_line_ends_are_pieces_of_their_own(pieces):
    seven = pieces.encode("17\n\n")
    assert len(seven) == 4 and seven[2] == seven[3]


def test_pieces_are_those_of_sentencepiece(tmp_path):
    path = tmp_path / "own.model"
    ours = tokenizer.train_sentencepiece(TEXTS, 330, path)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path))
    assert ours.vocab_size == theirs.vocab_size()
    for text in [*TEXTS, "  # Tom's 日 pets", "catsandcats", "\n dogs  dogs"]:
        assert ours.encode(text) == theirs.encode(text)


def test_training_is_repeatable(pieces, tmp_path):
    again = tokenizer.train_sentencepiece(iter(TEXTS), 300, tmp_path / "deep" / "own.model")
    assert again.fingerprint == pieces.fingerprint
    assert tokenizer.load(tmp_path / "deep" / "own.model").fingerprint == pieces.fingerprint


def test_a_text_longer_than_the_trainers_default_is_not_left_out(tmp_path):
    longer = tokenizer.train_sentencepiece(["Ω" * 5000], 264, tmp_path / "own.model")
    assert len(longer.encode("Ω" * 64)) < 64


def test_saved_and_loaded_tokenizers_are_equal(words, pieces, byte_pairs, tmp_path):
    text = "8 - 3 = 5 . # 5"
    for name, some in (("words", words), ("pieces", pieces), ("byte_pairs", byte_pairs)):
        some.save(tmp_path / name)
        loaded = tokenizer.load(tmp_path / name)
        assert loaded.fingerprint == some.fingerprint
        assert loaded.encode(text) == some.encode(text)
        assert (loaded.vocab_size, loaded.end_id) == (some.vocab_size, some.end_id)
        assert (loaded.pad_id, loaded.start_id) == (some.pad_id, some.start_id)
    with pytest.raises(UserError, match="'9' is not a word"):
        tokenizer.load(tmp_path / "words").encode("9")


def test_fingerprints_tell_tokenizers_apart(words, pieces, byte_pairs, tmp_path):
    others = [
        tokenizer.word_tokenizer(WORDS[::-1]),
        tokenizer.train_sentencepiece(TEXTS, 301, tmp_path / "other.model"),
        tokenizer.load(byte_level_directory(tmp_path / "starts", starts=True)),
    ]
    prints = {some.fingerprint for some in (words, pieces, byte_pairs, *others)}
    assert len(prints) == 6


def test_checkpoint_settings_are_read_and_truncation_is_not_applied(byte_pairs, tmp_path):
    assert (byte_pairs.end_id, byte_pairs.pad_id, byte_pairs.start_id) == (1, 1, None)
    assert len(byte_pairs.encode("17 " * 40)) > 8
    assert len(byte_pairs.encode("1")) == 1
    starts = tokenizer.load(byte_level_directory(tmp_path / "starts", starts=True))
    assert starts.start_id == 0
    assert starts.encode("1") == byte_pairs.encode("1")


@pytest.mark.parametrize("source", ["words", "pieces", "byte_pairs"])
def test_transformers_reads_what_is_saved(source, request, tmp_path):
    transformers = pytest.importorskip("transformers")
    ours = request.getfixturevalue(source)
    ours.save(tmp_path)
    read = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ["8 - 3 = 5 . # 5", *(TEXTS[:3] if source != "words" else [])]:
        ids = read(text, add_special_tokens=False)["input_ids"]
        assert ids == ours.encode(text)
        assert read.decode([*ids, ours.end_id], skip_special_tokens=True) == text
    assert (read.eos_token_id, read.pad_token_id) == (ours.end_id, ours.pad_id)


def test_round_trip_check_names_the_first_difference(pieces, tmp_path):
    tokenizer.check_round_trip(pieces, TEXTS)
    lossy = tokenizers.Tokenizer(models.WordPiece({"<end>": 0, "a": 1, "b": 2}, unk_token="<end>"))
    lossy.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    lossy.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    with pytest.raises(UserError, match=r"at character 2, ' b' comes back as 'b', in 'a  b'"):
        tokenizer.check_round_trip(tokenizer.load(tmp_path), ["a b", "a  b"])


def test_a_prompt_begins_with_start_of_text_where_there_is_one(byte_pairs, tmp_path):
    starts = tokenizer.load(byte_level_directory(tmp_path, starts=True))
    assert starts.encode_prompt("17") == [0, *byte_pairs.encode("17")]
    assert byte_pairs.encode_prompt("17") == byte_pairs.encode("17")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "word", "byte_fallback": True}, "neither byte pairs nor unigrams"),
        ({"model_type": "bpe", "byte_fallback": False}, "no byte fallback"),
        ({"model_type": "unigram", "byte_fallback": True}, "changes the spaces or characters"),
        ({"model_type": "bpe", "byte_fallback": True}, "changes the spaces or characters"),
    ],
)
def test_sentencepiece_models_that_change_text_are_refused(tmp_path, settings, message):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_prefix=str(tmp_path / "own"), vocab_size=310,
        hard_vocab_limit=False, minloglevel=2, **settings,
    )  # fmt: skip
    with pytest.raises(UserError, match=message):
        tokenizer.load(tmp_path / "own.model")


def test_what_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no tokenizer at .*missing"):
        tokenizer.load(tmp_path / "missing")
    (tmp_path / "broken.model").write_bytes(b"no model")
    with pytest.raises(UserError, match="broken.model cannot be used"):
        tokenizer.load(tmp_path / "broken.model")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="tokenizer.json is not a tokenizer"):
        tokenizer.load(tmp_path)


def test_a_tokenizer_without_end_of_text_is_refused(tmp_path):
    directory = byte_level_directory(tmp_path)
    (directory / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match="names no eos_token"):
        tokenizer.load(directory)


def test_too_many_pieces_for_the_text_are_refused(tmp_path):
    with pytest.raises(UserError, match="no tokenizer of 5000 pieces .* 1 texts"):
        tokenizer.train_sentencepiece(["abc"], 5000, tmp_path / "own.model")
    with pytest.raises(UserError, match="no text to train"):
        tokenizer.train_sentencepiece(["", ""], 300, tmp_path / "own.model")


def joined(some, ids):
    pieces = some.pieces()
    return b"".join(pieces[token] for token in ids)


def is_text(data: bytes) -> bool:
    return "\ufffd" not in data.decode(errors="replace")


@pytest.mark.parametrize("source", ["words", "pieces", "byte_pairs"])
@settings(max_examples=200)
@given(data=st.data())
def test_a_text_is_its_tokens_pieces_in_a_row(source, request, data):
    some = request.getfixturevalue(source)
    each = some.pieces()
    assert len(each) == some.vocab_size
    whole = [[token] for token, piece in enumerate(each) if is_text(piece)]
    parts = st.sampled_from(whole)
    if source != "words":
        parts |= st.text(st.characters(exclude_categories=["Cs"])).map(some.encode)
    ids = [token for part in data.draw(st.lists(parts, max_size=20)) for token in part]
    text = joined(some, ids).decode()
    assert text.removeprefix(" ") == some.decode(ids).removeprefix(" ")
    assert source == "words" or text == some.decode(ids)


@settings(max_examples=200)
@given(data=st.data())
def test_pieces_that_are_no_text_make_replacement_characters(byte_pairs, pieces, data):
    ids = data.draw(st.lists(st.integers(0, byte_pairs.vocab_size - 1), max_size=40))
    assert joined(byte_pairs, ids).decode(errors="replace") == byte_pairs.decode(ids)
    ids = data.draw(st.lists(st.integers(0, pieces.vocab_size - 1), max_size=8))
    assert is_text(joined(pieces, ids)) == ("\ufffd" not in pieces.decode(ids))


def test_pieces_of_texts_and_special_tokens(words, pieces, byte_pairs):
    for some in (pieces, byte_pairs):
        for text in [*TEXTS[:3], "日本 😀 é", "\t\r\n"]:
            assert joined(some, some.encode(text)) == text.encode()
    assert joined(words, words.encode("8 - 3")) == b" 8 - 3"
    for some in (words, pieces, byte_pairs):
        special = {some.end_id, some.pad_id}
        assert {some.pieces()[token] for token in special} == {b""}


DECODERS = {
    "underlined": decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    ),
    "metaspace": decoders.Metaspace(),
    "byte_level": decoders.ByteLevel(),
    "none": None,
}


def word_level(directory, decoder):
    listed = ["<end>", "▁a", "b", "▁▁c", "<0x41>", "Ġd", "é", "e f"]
    definition = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(listed)}))
    if decoder is not None:
        definition.decoder = decoder
    definition.add_tokens(["<more>"])
    definition.add_special_tokens(["<|special|>"])
    definition.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    return tokenizer.load(directory)


@pytest.mark.parametrize("name", DECODERS)
def test_pieces_follow_the_decoder_of_a_checkpoint(tmp_path, name):
    some = word_level(tmp_path, DECODERS[name])
    rng = random.Random(0)
    for _ in range(100):
        ids = rng.choices(range(some.vocab_size), k=rng.randrange(12))
        text = joined(some, ids).decode(errors="replace")
        assert text.lstrip(" ") == some.decode(ids).lstrip(" ")


@pytest.mark.parametrize(
    ("decoder", "named"),
    [
        (decoders.WordPiece(), "WordPiece"),
        (decoders.BPEDecoder(), "BPEDecoder"),
        (decoders.Sequence([decoders.Fuse(), decoders.Replace("▁", " ")]), "Fuse Replace"),
        (decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 1)]), "Fuse Strip"),
        (decoders.Replace(tokenizers.Regex("a+"), " "), "Replace"),
    ],
)
def test_tokens_that_change_where_they_meet_have_no_pieces(tmp_path, decoder, named):
    with pytest.raises(UserError, match=rf"decoder of the tokenizer \({named}\) changes tokens"):
        word_level(tmp_path, decoder).pieces()
