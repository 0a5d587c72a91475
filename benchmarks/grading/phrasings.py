"""Ways to state a choice, and texts that state none."""

PHRASINGS = (
    "Final answer: {label}",
    "It follows from the first law.\n\nFinal answer: ({label})",
    "Final answer: {label}.",
    "Final answer: **{label}**",
    "**Final answer:** {label}. {option}",
    "Final answer: {option}",
    "Answer: {label}",
    "So the correct answer is ({label}).",
    "Reasoning step by step, $\\boxed{{{label}}}$",
    "({label}) {option}",
    "Therefore the answer is {option}.",
    "**{label}**",
)
NEAR_MISSES = (
    "Final answer: {label} or {other}",
    "Final answer: {label}, {other}",
    "The answer is ({label}) or ({other}).",
    "The answer is not {label}.",
    "Neither {label} nor {other} is correct.",
    "({label})\n({other})",
    "Final answer: {label}{other}",
    "Final answer: {label}?",
    "Final answer:",
    "The answer is hard to know.",
    "Z",
    "",
)
