"""Answers for examples whose task is not known: identifying the task."""
