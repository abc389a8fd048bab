"""Heads of different widths in one batch, against each head by itself."""

import pytest
import torch
from torch import nn

from clora_exp.errors import ModelError
from clora_exp.models.heads import Heads

WIDTHS = [2, 5, 3]


@pytest.fixture
def heads() -> Heads:
    torch.manual_seed(0)
    return Heads(7, WIDTHS).double().requires_grad_(False)


def test_each_row_is_answered_by_its_own_head_and_nothing_beyond_its_labels(heads: Heads) -> None:
    features, tasks = torch.randn(6, 7, dtype=torch.float64), [1, 0, 2, 1, 0, 0]
    mixed = heads(features, torch.tensor(tasks))
    assert mixed.shape == (6, 5)
    for i, t in enumerate(tasks):
        torch.testing.assert_close(mixed[i, : WIDTHS[t]], heads(features, t)[i], rtol=0, atol=1e-12)
        assert (mixed[i, WIDTHS[t] :] == -torch.inf).all()
        torch.testing.assert_close(heads(features, torch.tensor(t))[i], mixed[i], rtol=0, atol=1e-12)


@pytest.mark.parametrize("trained", [[1], [0, 2]])
def test_a_mixed_batch_trains_the_heads_that_train_as_the_rows_would(heads: Heads, trained: list[int]) -> None:
    features, tasks = torch.randn(6, 7, dtype=torch.float64), [1, 0, 2, 1, 0, 2]
    labels = torch.tensor([4, 1, 2, 0, 0, 1])
    for t in trained:
        heads[t].requires_grad_(True)
    wanted = [p for p in heads.parameters() if p.requires_grad]
    loss = nn.functional.cross_entropy(heads(features, torch.tensor(tasks)), labels)
    rows = [nn.functional.cross_entropy(heads(features[[i]], t), labels[[i]]) for i, t in enumerate(tasks)]
    for ours, theirs in zip(
        torch.autograd.grad(loss, wanted), torch.autograd.grad(torch.stack(rows).mean(), wanted), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_a_head_that_changes_is_seen(heads: Heads) -> None:
    features, tasks = torch.randn(2, 7, dtype=torch.float64), torch.tensor([0, 1])
    before = heads(features, tasks)
    heads[1].bias += 1
    torch.testing.assert_close(heads(features, tasks)[1], before[1] + 1)


def test_a_head_that_is_replaced_or_added_is_seen(heads: Heads) -> None:
    features, tasks = torch.randn(2, 7, dtype=torch.float64), torch.tensor([0, 1])
    heads(features, tasks)
    heads[1] = nn.Linear(7, 9, dtype=torch.float64).requires_grad_(False)
    mixed = heads(features, tasks)
    assert mixed.shape == (2, 9)
    torch.testing.assert_close(mixed[1], heads(features, 1)[1])
    heads.append(nn.Linear(7, 2, dtype=torch.float64).requires_grad_(False))
    torch.testing.assert_close(heads(features, torch.tensor([3, 3]))[:, :2], heads(features, 3))


def test_a_compiled_answer_sees_what_a_refresh_took_up(heads: Heads) -> None:
    torch._dynamo.reset()
    features, tasks = torch.randn(2, 7, dtype=torch.float64), torch.tensor([0, 1])
    heads.refresh()
    fast = torch.compile(heads, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(fast(features, tasks), heads(features, tasks))
    heads[1].bias += 1
    heads.refresh()
    torch.testing.assert_close(fast(features, tasks), heads(features, tasks))


@pytest.mark.parametrize("task", [3, -1])
def test_a_task_without_a_head_is_an_error(heads: Heads, task: int) -> None:
    features = torch.randn(2, 7, dtype=torch.float64)
    with pytest.raises(ModelError, match=f"task {task} has no head; 3 tasks have"):
        heads(features, task)
    with pytest.raises(ModelError, match=f"task {task} has no head; 3 tasks have"):
        heads(features, torch.tensor([0, task]))
    with torch.no_grad(), pytest.raises(IndexError):
        heads(features, torch.tensor([0, task]))
