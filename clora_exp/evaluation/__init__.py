"""The accuracy matrix and the metrics that are pure functions of it."""
