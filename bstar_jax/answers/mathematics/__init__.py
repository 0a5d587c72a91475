"""Answers in mathematics: how LaTeX is read, and which answers are equal."""
