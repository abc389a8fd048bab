"""Backbones with heads, one file a kind, found by file name. Start at `text_encoder.py`."""
