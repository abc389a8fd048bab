"""Continual low-rank adaptation: a frozen backbone, small adapters, tasks in sequence.

Start reading at `clora_exp/loop.py`.
"""

__version__ = "0.1.0"
