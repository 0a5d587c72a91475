"""A stated choice is read in any of its phrasings; what states none, or two, is not."""

import json
import os
import pathlib

import pytest

from bstar_jax.answers.choices import read

LABELS = ["A", "B", "C", "D"]
OPTIONS = ["dry palms", "wet palms", "palms covered with oil", "A warm fire"]

PHRASINGS = [
    "Final answer: {label}",
    "The palms rub.\n\nFinal answer: ({label})",
    "final answer: {label}.",
    "Final answer: **{label}**",
    "**Final answer:** {label}. {option}",
    "Final answer: {option}",
    "Answer: {label}",
    "So the correct answer is ({label}).",
    "Water, hence $\\boxed{{{label}}}$",
    "({label}) {option}",
    "Therefore, the answer is {option}.",
    "**{label}**",
    # and more than twelve
    "{label}",
    "{label}.",
    "{label})",
    "\\boxed{{\\text{{({label})}}}}",
    "I think so.\n\n**{label}. {option}**",
    "Option {label} is correct.",
    "The answer is option {label} because the others are cold.",
    "**Answer:** {label}",
    "The best choice is: {label}, because water conducts.",
    "Final answer:\n\n{label}",
    "Thus, {label} is the correct answer.",
    "Final answer: [{label}]",
    "Final answer is **{label}**",
    "Final answer: \\({label}\\)",
    "Final answer: {label}: {option}",
    "Final answer: {label} - {option}",
    "**Final answer**: {label}",
    'Final answer: "{option}"',
    "I choose {label}.",
    "The answer is not clear at first. The answer is {label}.",
    "Final answer: {label}\n\nFinal answer: none of these",
    "A. dry palms\nB. wet palms\n\nThe answer is {label}.",
]

NEAR_MISSES = [
    "",
    "Final answer:",
    "Final answer: B or C",
    "Final answer: B, C",
    "Final answer: B/C",
    "Final answer: B and C",
    "Final answer: (B) or (C)",
    "Final answer: B (or C)",
    "Final answer: B?",
    "Final answer: BC",
    "Final answer: B. dry palms",
    "Final answer: palms",
    "Final answer: a wet palm",
    "Final answer: B. C. D.",
    "Final answer: E",
    "Final answer: 2",
    "The answer is not B.",
    "The answer is A. No, the answer is C.",
    "Neither B nor C is correct.",
    "B is not correct.",
    "A or B",
    "A palm is wet.",
    "A warm fire is hot",
    "not B",
    "B C",
    "B-52",
    "It may be B.",
    "A. dry palms\nB. wet palms",
    "1. We rub.",
]


@pytest.mark.parametrize("phrase", PHRASINGS)
@pytest.mark.parametrize("place", range(4))
def test_every_option_is_read_in_every_phrasing(phrase, place):
    text = phrase.format(label=LABELS[place], option=OPTIONS[place])
    assert read(text, LABELS, OPTIONS) == LABELS[place]


@pytest.mark.parametrize("text", NEAR_MISSES)
def test_what_states_no_choice_or_two_is_not_read(text):
    assert read(text, LABELS, OPTIONS) is None


@pytest.mark.parametrize(
    "labels", [["1", "2", "3"], ["1", "2", "3", "4"], ["A", "B", "C", "D", "E"]]
)
@pytest.mark.parametrize("phrase", PHRASINGS[:33])
def test_labels_may_be_digits_and_three_to_five(labels, phrase):
    options = ["iron", "a cloud of gas", "2.5 km", "2.5 Km", "none of these"][: len(labels)]
    for label, option in zip(labels, options, strict=True):
        assert read(phrase.format(label=label, option=option), labels, options) == label


def test_the_words_of_an_option_may_begin_like_a_label():
    assert read("Final answer: A warm fire", LABELS, OPTIONS) == "D"
    assert read("Final answer: A", LABELS, OPTIONS) == "A"
    assert read("Final answer: A. A warm fire", LABELS, OPTIONS) is None
    assert read("Final answer: 1.5 km", ["1", "2"], ["2 km", "1.5 km"]) == "2"
    assert read("Final answer: 2", ["1", "2"], ["2", "4"]) is None  # the label, or the option?


def test_options_that_differ_in_case_alone_are_told_apart():
    labels, options = ["A", "B", "C"], ["WW or ww", "WW or Ww", "Ww"]
    assert read("The answer is WW or Ww.", labels, options) == "B"
    assert read("The answer is wW OR ww.", labels, options) is None


def test_two_equal_options_are_not_read_by_their_words():
    assert read("Final answer: ice", ["A", "B"], ["ice", "ice"]) is None
    assert read("Final answer: B. ice", ["A", "B"], ["ice", "ice"]) == "B"


def test_the_first_marker_ends_the_solution():
    assert read("Final answer: B\nFinal answer: C", LABELS, OPTIONS) == "B"
    assert read("Answer: C\nFinal answer: B", LABELS, OPTIONS) == "B"
    assert read("so #### B", LABELS, OPTIONS, marker="####") == "B"


def test_of_a_cut_response_whole_lines_are_read():
    assert read("Final answer: B", LABELS, OPTIONS, finish_reason="length") is None
    assert read("Final answer: B\n", LABELS, OPTIONS, finish_reason="length") == "B"


@pytest.mark.parametrize("letter", ["\u0131", "\u0130", "\u017f", "\u212a", "k"])
def test_letters_of_other_alphabets_are_labels_or_not(letter):
    """Which letters differ in case alone is not the same to all of Python."""
    for labels in (["I", "S", "K"], ["i", "s", "k"]):
        for text in (f"({letter})", f"Final answer: {letter}.", f"({letter}{letter})"):
            assert read(text, labels, ["ice", "fire", "dust"]) in (None, *labels)


def test_labels_without_options_are_an_error():
    with pytest.raises(ValueError, match="4 labels and 3 options"):
        read("A", LABELS, OPTIONS[:3])


@pytest.mark.parametrize(
    "piece", ["final ", "the answer is ", "A\n", "\\boxed{", "_", "(B) ", "\0", "\ud800"]
)
def test_long_texts_are_read(piece):
    """What takes more than time in proportion to a text would not end here."""
    chosen = read(piece * (10**6 // len(piece)), LABELS, OPTIONS)
    assert chosen == ("A" if piece == "A\n" else None)


def test_published_labels_go_through_twelve_phrasings():
    path = pathlib.Path(os.environ.get("BSTAR_DATA", "")) / "arc_challenge_train.jsonl"
    if not path.is_file():
        pytest.skip("set BSTAR_DATA to a folder with the published arc_challenge_train.jsonl")
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(records) == 1119
    for record in records:
        labels, options = record["choices"]["label"], record["choices"]["text"]
        key = record["answerKey"]
        option = options[labels.index(key)]
        for phrase in PHRASINGS[:12]:
            text = phrase.format(label=key, option=option)
            assert read(text, labels, options) == key, (record["id"], text)
