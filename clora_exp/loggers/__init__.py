"""Where a run is followed beside its own folder: one file a logger, told by `logs.py`."""
