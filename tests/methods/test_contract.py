"""Every method that learns in turn, found by listing conf/method, through the same trials of its sessions.

Whole runs, of joint and single too, are in test_contract_of_runs.py.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from trials import IN_TURN, SETTINGS, quiet

from clora_exp.errors import ModelError
from clora_exp.loop import evaluate
from clora_exp.methods.base import Method
from clora_exp.models.batches import mixed_batch
from clora_exp.progress import Progress
from clora_exp.randomness import seed_everything
from clora_exp.session import fit, predict
from clora_exp.tasks.stream import load_stream


class Run:
    def __init__(self, config) -> None:
        self.config = config
        self.stream = load_stream(config.tasks, config.data_seed)
        seed_everything(config.seed)
        self.method = Method(config, self.stream)
        self.test = [self.method.encode(t, task, "test") for t, task in enumerate(self.stream)]

    def learn(self, t: int):
        task = self.stream.tasks[t]
        seed = seed_everything(self.config.seed, t + 1)
        self.method.before_task(t, task)
        steps = fit(self.method, self.method.encode(t, task, "train"), task.name, self.config.trainer, seed)
        self.method.after_task(t, task)
        return steps

    def logits(self, t: int) -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([self.method.logits(b) for b in self.test[t].evaluation_batches(64)])


@pytest.fixture(params=IN_TURN)
def run(request, tiny) -> Run:
    return Run(tiny(f"method={request.param}", "trainer.learning_rate=1e-2", "trainer.head_learning_rate=3e-2"))


@pytest.fixture(params=SETTINGS)
def setting(request, tiny) -> Run:
    """A method without strategies: what is about adapters alone needs no more."""
    return Run(tiny(f"method={request.param}", "trainer.learning_rate=1e-2", "trainer.head_learning_rate=3e-2"))


def test_every_task_trains_its_own_steps_and_learns(run: Run) -> None:
    for t in range(3):
        before = run.logits(t)
        steps = run.learn(t)
        assert [s.step for s in steps] == list(range(1, 11))  # 36 examples in batches of 8, twice
        assert not torch.equal(run.logits(t), before)
        assert np.mean([s.loss for s in steps[-3:]]) < np.mean([s.loss for s in steps[:3]])


def test_the_backbone_stays_bit_identical_unless_it_is_what_trains(run: Run) -> None:
    frozen = {n: p.clone() for n, p in run.method.model.backbone.named_parameters() if "lora_" not in n}
    run.learn(0)
    now = dict(run.method.model.backbone.named_parameters())
    is_same = all(torch.equal(now[name], value) for name, value in frozen.items())
    assert is_same is (run.config.method.trainable != "all")


def test_earlier_answers_change_only_where_factors_go_on_training(run: Run) -> None:
    run.learn(0)
    before, fingerprint = run.logits(0), run.method.fingerprint(0)
    run.learn(1)
    assert torch.equal(run.logits(0), before) is not run.config.method.forgets
    assert (run.method.fingerprint(0) == fingerprint) is not run.config.method.forgets


def test_equal_seeds_give_equal_bytes(run: Run, tiny) -> None:
    again = Run(run.config)
    for t in range(2):
        run.learn(t)
        again.learn(t)
    for t in range(3):
        state, other = run.method.state_of(t), again.method.state_of(t)
        assert state.keys() == other.keys()
        assert all(torch.equal(state[name], other[name]) for name in state)


def test_state_goes_into_a_fresh_method_and_training_goes_on_the_same(run: Run) -> None:
    run.learn(0)
    fresh = Run(run.config)
    fresh.method.load_state_dict(run.method.state_dict())
    assert torch.equal(fresh.logits(0), run.logits(0))
    run.learn(1)
    fresh.learn(1)
    for t in range(3):
        assert torch.equal(fresh.logits(t), run.logits(t))


def test_nothing_trains_between_tasks(run: Run) -> None:
    assert not any(p.requires_grad for p in run.method.model.parameters())
    run.learn(0)
    assert not any(p.requires_grad for p in run.method.model.parameters())


def test_carried_over_evaluation_equals_a_fresh_one(setting: Run) -> None:
    progress = Progress(setting.method.scenario, setting.config)
    watch = quiet().watching(setting.config.trainer, [])
    taken, _ = evaluate(setting.method, setting.test, range(3), setting.config, progress, watch)
    progress.add_row("init", 0, taken, 0.0)
    for t in range(2):
        setting.learn(t)
        carried, _ = evaluate(setting.method, setting.test, range(3), setting.config, progress, watch)
        progress.add_row(str(t), t + 1, carried, 0.0)
        for j, split in enumerate(setting.test):
            np.testing.assert_array_equal(carried[j], predict(setting.method, split, setting.config.trainer))


def test_gradient_accumulation_takes_fewer_optimiser_steps(run: Run, tiny) -> None:
    halved = Run(tiny(f"method={run.config.method.name}", "trainer.accumulate=2"))
    assert [s.step for s in halved.learn(0)] == list(
        range(1, 6)
    )  # 2 epochs of 5 batches, which an epoch's end does not part


def test_adapter_dropout_acts_in_training_and_not_in_answers(setting: Run, tiny) -> None:
    if setting.method.adapters is None:
        return
    dropping = Run(tiny(f"method={setting.config.method.name}", "method.dropout=0.5"))
    plain = Run(tiny(f"method={setting.config.method.name}"))
    assert [s.loss for s in dropping.learn(0)] != [s.loss for s in plain.learn(0)]
    assert torch.equal(dropping.logits(0), dropping.logits(0))


def test_bf16_autocast_trains(run: Run, tiny) -> None:
    mixed = Run(tiny(f"method={run.config.method.name}", "trainer.precision=bf16-mixed"))
    mixed.learn(0)
    assert all(np.isfinite(s.loss) for s in mixed.learn(1))


def test_a_mixed_batch_is_answered_and_trained_as_its_rows_one_by_one(setting: Run) -> None:
    setting.learn(0)
    setting.learn(1)
    setting.method.before_task(2, setting.stream.tasks[2])
    setting.method.model.eval()  # dropout would draw otherwise for a batch than for its rows
    which = [(2, 0), (0, 3), (1, 5), (2, 7), (0, 1), (1, 2)]
    batch = mixed_batch(setting.test, which)
    trained = [p for p in setting.method.model.parameters() if p.requires_grad]
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in trained:  # away from the start, where B is zero
            parameter += 0.1 * torch.randn(parameter.shape)
    mixed = setting.method.logits(batch)
    rows = [setting.test[i][[row]] for i, row in which]
    one_by_one = [setting.method.logits(row) for row in rows]
    torch.testing.assert_close(mixed, torch.cat(one_by_one), rtol=0, atol=1e-5)
    losses = [cross_entropy(logits, row.labels) for logits, row in zip(one_by_one, rows, strict=True)]
    expected = torch.autograd.grad(torch.stack(losses).mean(), trained, allow_unused=True)  # the pooler is not used
    found = torch.autograd.grad(cross_entropy(mixed, batch.labels), trained, allow_unused=True)
    for ours, theirs in zip(found, expected, strict=True):
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_each_row_of_a_mixed_batch_is_named_by_its_task(setting: Run) -> None:
    assert setting.method.indices(["third", "first", "third"]).tolist() == [2, 0, 2]
    with pytest.raises(ModelError, match=r"unknown task 'frist'; have: first, second, third\. Did you mean 'first'"):
        setting.method.indices(["third", "frist"])


@pytest.mark.parametrize("task", [3, -1, -2])
def test_a_task_that_is_not_in_the_stream_is_an_error_and_not_the_base_model(setting: Run, task: int) -> None:
    setting.learn(0)
    batch = setting.test[0][[0, 1]]
    for wrong in (task, torch.tensor([0, task])):
        batch.task = wrong
        with pytest.raises((ModelError, IndexError)):
            setting.method.logits(batch)


def test_threads_with_interleaved_tasks_get_the_sequential_answers(setting: Run) -> None:
    setting.learn(0)
    setting.learn(1)
    batches = [
        setting.test[0][[0, 1]],
        setting.test[1][[2, 3]],
        mixed_batch(setting.test, [(1, 0), (0, 2)]),
        setting.test[2][[4, 5]],
    ]
    with torch.inference_mode():
        expected = [setting.method.logits(batch) for batch in batches]

    def ask(i: int) -> bool:
        with torch.inference_mode():
            return torch.equal(setting.method.logits(batches[i]), expected[i])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, [i for _ in range(20) for i in (0, 1, 2, 3)]))
