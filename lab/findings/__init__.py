"""Findings of the paper, each measured in the town with intervals and a verdict (README.md in this folder)."""
