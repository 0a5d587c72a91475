"""Answers in mathematics: how LaTeX is read, and what equals what."""
