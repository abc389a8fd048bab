import copy

import pytest
import torch
from torch import nn

from clora_exp.optimizers import CombinedOptimizer, build_optimizer, warmup_then_linear


def _parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64)) for _ in range(2)]


def _groups(parameters) -> list[dict]:
    return [
        {"params": [parameters[0]], "lr": 0.1, "optimizer": "adamw"},
        {"params": [parameters[1]], "lr": 0.2, "optimizer": "sgd", "weight_decay": 0.0},
    ]


def test_groups_of_one_kind_need_no_wrapper() -> None:
    assert isinstance(build_optimizer(_groups(_parameters())[:1], 0.01), torch.optim.AdamW)


def test_combined_steps_equal_the_two_optimisers_apart_under_a_schedule() -> None:
    ours, theirs = _parameters(), _parameters()
    combined = build_optimizer(_groups(ours), 0.01)
    assert isinstance(combined, CombinedOptimizer)
    schedule = warmup_then_linear(combined, 10, 0.2)
    adamw = torch.optim.AdamW([theirs[0]], lr=0.1, weight_decay=0.01)
    sgd = torch.optim.SGD([theirs[1]], lr=0.2, momentum=0.9)
    schedules = [warmup_then_linear(o, 10, 0.2) for o in (adamw, sgd)]
    for _ in range(10):
        combined.zero_grad()
        sum((p**2).sum() for p in ours).backward()
        combined.step()
        schedule.step()
        for optimizer, s, p in zip((adamw, sgd), schedules, theirs, strict=True):
            optimizer.zero_grad()
            (p**2).sum().backward()
            optimizer.step()
            s.step()
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)


def test_combined_state_round_trips() -> None:
    one, other = _parameters(), _parameters()
    first = build_optimizer(_groups(one), 0.01)
    sum((p**2).sum() for p in one).backward()
    first.step()
    with torch.no_grad():
        for p, q in zip(one, other, strict=True):
            q.copy_(p)
    second = build_optimizer(_groups(other), 0.01)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for optimizer, parameters in ((first, one), (second, other)):
        optimizer.zero_grad()
        sum((p**2).sum() for p in parameters).backward()
        optimizer.step()
    for p, q in zip(one, other, strict=True):
        assert torch.equal(p, q)


def test_the_schedule_warms_up_and_ends_at_zero() -> None:
    optimizer = torch.optim.SGD(_parameters(), lr=1.0)
    schedule = warmup_then_linear(optimizer, 10, 0.2)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1 / 3, 2 / 3, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125])
    assert optimizer.param_groups[0]["lr"] == 0
