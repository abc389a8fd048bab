"""How hard properties are tried here, as tests/properties has it, and a store to begin with."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from clora_exp.store.folder import Store

_NO_CLOCK = {"deadline": None, "suppress_health_check": list(HealthCheck)}  # a shared machine is slow at times

settings.register_profile("suite", derandomize=True, max_examples=40, **_NO_CLOCK)
settings.register_profile("search", max_examples=2000, **_NO_CLOCK)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store without versions."""
    return Store(tmp_path / "store", is_new=True)
