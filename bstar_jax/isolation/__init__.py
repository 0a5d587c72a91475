"""Runs what may hang or attack: functions in worker processes, programs in a sandbox.

This room knows no task and no grade.
"""
