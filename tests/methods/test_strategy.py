"""A strategy is one added file and one yaml: found, configured, called in order, saved, and its settings checked."""

import pytest
import torch

from clora_exp.errors import ConfigError
from clora_exp.methods.base import Method
from clora_exp.randomness import seed_everything
from clora_exp.session import fit
from clora_exp.tasks.stream import load_stream


def _trained(config) -> Method:
    stream = load_stream(config.tasks, 0)
    seed_everything(0)
    method = Method(config, stream)
    task = stream.tasks[0]
    method.before_task(0, task)
    fit(method, method.model.encode(0, task, "train"), task.name, config.trainer, 0)
    method.after_task(0, task)
    return method


def test_hooks_are_called_once_an_optimiser_step_and_around_the_task(tiny) -> None:
    method = _trained(tiny("method=lora_anchor", "trainer.accumulate=2", "trainer.epochs=1"))
    assert method.strategies[0].calls == ["before 0", "step", "step", "step", "after 0"]


def test_a_strategy_joins_any_method_from_the_command_line(tiny) -> None:
    config = tiny("method=clora_xs", "+method.anchor.strength=2.0")
    assert config.method.strategies["anchor"].strength == 2.0


def test_its_penalty_is_felt(tiny) -> None:
    config = tiny("method=lora_anchor", "method.anchor.strength=100.0", "trainer.weight_decay=0.0")
    seed_everything(0)
    start = Method(config, load_stream(config.tasks, 0)).model.heads[0].weight
    held, free = _trained(config), _trained(tiny("method=lora", "trainer.weight_decay=0.0"))
    assert (held.model.heads[0].weight - start).norm() < 0.5 * (free.model.heads[0].weight - start).norm()


def test_it_may_change_gradients_before_clipping(tiny) -> None:
    config = tiny("method=lora_anchor", "+method.anchor.shrink_gradients=true", "trainer.weight_decay=0.0")
    seed_everything(0)
    start = Method(config, load_stream(config.tasks, 0)).model.heads[0].weight.clone()
    torch.testing.assert_close(_trained(config).model.heads[0].weight, start, rtol=0, atol=0)


def test_a_wrong_key_of_a_strategy_names_its_fields(tiny) -> None:
    with pytest.raises(
        ConfigError, match=r"method.anchor.strenght=1.*have: shrink_gradients, strength.*Did you mean 'strength'"
    ):
        tiny("method=lora_anchor", "+method.anchor.strenght=1")
