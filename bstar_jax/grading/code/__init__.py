"""Programs graded by their tests."""
