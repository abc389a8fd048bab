"""Continual low-rank adaptation: a frozen backbone, small adapters, tasks in sequence.

Start reading at `clora_exp/loop.py`.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no hub is asked unless somebody says so; read when it is imported

__version__ = "0.1.0"
