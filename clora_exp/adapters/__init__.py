"""How a frozen linear layer is adapted: one family of low-rank updates. Start at `layer.py`."""
