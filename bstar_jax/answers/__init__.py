"""Answers: how one is found in text, read, and compared with another."""
