"""Answers made to hang, crash or bloat a grader of mathematics."""

from __future__ import annotations

from random import Random

REFERENCES = (
    r"\sqrt{2}", r"x^2+1", r"\frac{\pi}{6}", "2n+1", r"\begin{pmatrix} 1 \\ x \end{pmatrix}",
    "(1, x]", "5x - 7y = 3", r"1 \pm \sqrt{19}", "7", r"\text{east}", "(3,4]", "1,-2",
)  # fmt: skip
_COMMANDS = (
    r"\frac \sqrt \left( \right) \begin{pmatrix} \end{pmatrix} \\ & \text{ } { } ( ) [ ] ^ _ + - * "
    r"/ = < > , . ! | 1 2 9 99 x y n i e \pi \infty \cup \sum \int \lim \sin \log \binom \cdot \pm "
    r"\boxed{ $ % # ~ '"
).split(" ")


def tower(random: Random) -> str:
    base = random.choice(("9", "2", "x", "10", r"\pi", "(-3)", r"\frac{1}{2}"))
    text = str(random.randint(2, 99))
    for _ in range(random.randint(2, 25)):
        text = f"{base}^{{{text}}}"
    return text


def factorials(random: Random) -> str:
    size = 10 ** random.randint(3, 12)
    text = f"{random.randint(size // 10, size)}"
    return f"({text}" + "!)" * random.randint(1, 4) if random.random() < 0.5 else f"{text}!"


def binomial(random: Random) -> str:
    size = 10 ** random.randint(4, 12)
    return rf"\binom{{{size}}}{{{size // 2}}} + {random.randint(1, 9)}"


def power(random: Random) -> str:
    terms = "+".join(random.sample(["x", "y", "z", "1", r"\sqrt{2}", "n"], 3))
    return f"({terms})^{{{10 ** random.randint(1, 6)}}}"


def long_sum(random: Random) -> str:
    terms = random.randint(20, 120)
    return "+".join(rf"\sqrt{{{random.randint(2, 10**6)}}}" for _ in range(terms))


def nested_roots(random: Random) -> str:
    text = "2"
    for _ in range(random.randint(3, 40)):
        text = rf"\sqrt{{{random.randint(2, 99)}+{text}}}"
    return text


def nested_fractions(random: Random) -> str:
    text = "x"
    for _ in range(random.randint(5, 400)):
        text = rf"\frac{{1}}{{1+{text}}}"
    return text


def nested_brackets(random: Random) -> str:
    depth = random.choice((5, 25, 29, 100, 500, 900, 10_000))
    opening, closing = random.choice(("()", "[]", "{}", ("\\left(", "\\right)")))
    return opening * depth + "x" + closing * depth


def analysis(random: Random) -> str:
    return random.choice(
        (
            r"\sum_{n=1}^{10^{9}} n^{n}", r"\int_{0}^{1} x^{x^{x}} dx", r"\lim_{x \to 0} \sin(1/x)",
            r"\prod_{n=1}^{10^{7}} (n+x)", r"\sum_{n=1}^{\infty} \frac{\sin(n^{2})}{n}",
            r"\int \sin(\sin(\cos(x))) dx",
            r"\int_{0}^{\infty} \frac{e^{-x^{3}}\log(x+1)}{x^{2}+7} dx",
            r"\sum_{n=1}^{999999} \frac{1}{n^{3}}",
        )
    ) + f"+{random.randint(1, 99)}"  # fmt: skip


def trigonometry(random: Random) -> str:
    count = random.randint(5, 40)
    return "".join(rf"\sin({random.randint(2, 99)}x+{k})\cos^{{{k}}}(x)" for k in range(1, count))


def large_matrix(random: Random) -> str:
    size = random.randint(5, 12)
    row = "&".join(rf"\sqrt{{{random.randint(2, 99)}}}" for _ in range(size))
    return rf"\begin{{pmatrix}}{row}\end{{pmatrix}}^{{{random.randint(2, 10**6)}}}"


def decimals(random: Random) -> str:
    return random.choice(
        ("0." + "0" * random.randint(100, 1500) + "1", "9" * random.randint(100, 1900),
         "1e999999999", r"10^{10^{10}}", "1/" + "3" * 1000, r"5\cdot 10^{-999999999}",
         "9" * 500 + r"\cdot x")
    )  # fmt: skip


def megabyte(random: Random) -> str:
    piece = random.choice(
        ("9", "(", r"\frac{", "x+", r"\sqrt{", "$", "\\", " ", "\n", "\0", "{}", "1,", "the ", "é")
    )
    return piece * (1_000_000 // len(piece))


def binary(random: Random) -> str:
    strange = "\0\x01\x1b\x7f\ud800\udfff\ufeff\u202e\u0301\U0001f600\u2028\xa0"
    return "".join(random.choice(strange + "12x+()") for _ in range(random.randint(1, 60)))


def soup(random: Random) -> str:
    return " ".join(random.choice(_COMMANDS) for _ in range(random.randint(2, 60)))


def digits_in_disguise(random: Random) -> str:
    return "".join(random.choice("٣५１²½Ⅷ൬12,./-") for _ in range(random.randint(1, 12)))


def hyphens(random: Random) -> str:
    return f"5 {random.choice(('a-', 'well-', '- -', 'a b-'))}" * random.randint(10, 300)


def powers_of_ten(random: Random) -> str:
    return str(random.randint(1, 9)) + r"\cdot10^{999}" * random.randint(2, 99)


def open_formulas(random: Random) -> str:
    return random.choice((r"\[", "$$", r"\(", r"\begin{pmatrix}", "\n")) * random.randint(1, 10**4)


KINDS = (
    tower, factorials, binomial, power, long_sum, nested_roots, nested_fractions, nested_brackets,
    analysis, trigonometry, large_matrix, decimals, megabyte, binary, soup, digits_in_disguise,
    hyphens, powers_of_ten, open_formulas,
)  # fmt: skip


def make(count: int, random: Random) -> list[tuple[str, str, str]]:
    """(kind, answer, reference) triples, all kinds in turn."""
    made = []
    for index in range(count):
        kind = KINDS[index % len(KINDS)]
        made.append((kind.__name__, kind(random), random.choice(REFERENCES)))
    return made
