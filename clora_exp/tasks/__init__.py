"""Task streams: real data, split by group, cached by content. Start at `stream.py`."""
