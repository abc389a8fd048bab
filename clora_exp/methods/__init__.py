"""Strategies, one file each, found by file name; `base.py` holds the hooks. See CONTRIBUTING.md, "Add a method"."""
