"""What the tests of strategies start from."""

import pytest
from sessions import Run


@pytest.fixture
def start(tiny):
    return lambda *overrides: Run(tiny(*overrides, "trainer.learning_rate=1e-2", "trainer.head_learning_rate=3e-2"))
