"""How an answer is found in text, read, and compared with another."""
