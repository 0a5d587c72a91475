"""Grades programs by their tests."""
