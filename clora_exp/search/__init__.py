"""Settings found on validation data within a budget: python -m clora_exp.search. `space.py` reads what is searched."""
