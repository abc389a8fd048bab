"""What a task costs, measured from files."""

import pytest

from clora_exp.adapters.__main__ import main, measure
from clora_exp.compose import compose_experiment


@pytest.mark.parametrize(
    ("method", "shared", "own"),
    [
        ("lora", 4 * 4 * 64, 0),
        ("clora", 4 * (4 * 64 + 16), 0),
        ("clora_gated", 0, 4 * (4 * 64 + 2)),
        ("clora_xs", 4 * 4 * 64, 4 * 17),
        ("clora_shared", 4 * 4 * 64, 4 * 17),
    ],
)
def test_a_task_owns_what_its_setting_says(tiny, method: str, shared: int, own: int) -> None:
    """Query and value of two layers of width 32, rank 4."""
    sizes = measure(tiny(f"method={method}"))
    assert (sizes.shared_parameters, sizes.task_parameters) == (shared, own)
    assert sizes.task_bytes == 0 if own == 0 else 4 * own < sizes.task_bytes < 4 * own + 1000


def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sizes", "model=minilmm"]) == 2
    assert "Did you mean 'minilm'?" in capsys.readouterr().err


@pytest.mark.slow
def test_a_task_of_clora_xs_is_a_fortieth_of_a_lora_on_the_real_model(capsys: pytest.CaptureFixture[str]) -> None:
    for targets in ([], ["method.target_modules=[query,value]"]):
        xs, lora = (measure(compose_experiment([f"method={m}", *targets])) for m in ("clora_xs", "lora_per_task"))
        assert 40 * xs.task_bytes <= lora.task_bytes
    assert main(["sizes", "model=minilm"]) == 0
    assert "clora_xs" in capsys.readouterr().out
