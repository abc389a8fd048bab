"""Every method in every scenario: it learns, goes on the same from its state, keeps its promises, or says why not."""

import numpy as np
import pytest
import torch
from trials import IN_TURN, quiet

from clora_exp.errors import ConfigError
from clora_exp.loop import run
from clora_exp.methods.base import Method
from clora_exp.methods.suitable import check_strategies
from clora_exp.randomness import seed_everything
from clora_exp.session import fit, predict
from clora_exp.tasks.stream import load_stream

STREAM = {"class_incremental": "words", "domain_incremental": "same_words"}


@pytest.fixture(params=list(STREAM))
def scenario(request) -> str:
    return request.param


@pytest.fixture(params=IN_TURN)
def config(request, scenario: str, tiny):
    return tiny(
        f"method={request.param}",
        f"scenario={scenario}",
        f"tasks={STREAM[scenario]}",
        "trainer.learning_rate=1e-2",
        "trainer.head_learning_rate=3e-2",
    )


class Run:
    def __init__(self, config) -> None:
        self.config, self.stream = config, load_stream(config.tasks, config.data_seed)
        seed_everything(config.seed)
        self.method = Method(config, self.stream)
        self.test = [self.method.encode(t, task, "test") for t, task in enumerate(self.stream)]

    def learn(self, t: int) -> None:
        task = self.stream.tasks[t]
        seed = seed_everything(self.config.seed, t + 1)
        self.method.before_task(t, task)
        fit(self.method, self.method.encode(t, task, "train"), task.name, self.config.trainer, seed)
        self.method.after_task(t, task)

    def predicted(self, num_learned: int) -> list[np.ndarray]:
        return [predict(self.method, split, self.config.trainer) for split in self.test[:num_learned]]


def test_it_learns_and_goes_on_the_same_from_its_state(config) -> None:
    check_strategies(config)
    whole = Run(config)
    frozen = {n: p.clone() for n, p in whole.method.model.backbone.named_parameters() if "lora_" not in n}
    whole.learn(0)
    first = whole.predicted(1)[0]
    assert (first == whole.test[0].labels).mean() > 0.34  # three classes
    fresh = Run(config)
    fresh.method.load_state_dict(whole.method.state_dict())
    whole.learn(1)
    fresh.learn(1)
    for ours, theirs in zip(whole.predicted(2), fresh.predicted(2), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for t in range(2):
        state, other = whole.method.state_of(t), fresh.method.state_of(t)
        assert all(torch.equal(state[name], other[name]) for name in state)
    now = dict(whole.method.model.backbone.named_parameters())
    is_same = all(torch.equal(now[name], value) for name, value in frozen.items())
    assert is_same is (config.method.trainable != "all")
    num_classes = 6 if config.scenario == "class_incremental" else 3
    assert np.concatenate(whole.predicted(2)).max() < num_classes  # of seen classes only


def test_a_whole_run_fills_what_the_scenario_defines(scenario: str, tiny) -> None:
    stored = run(tiny("method=clora_gated", f"scenario={scenario}", f"tasks={STREAM[scenario]}"), "", quiet()).read()
    defined = ~np.isnan(stored.matrix.values)
    if scenario == "class_incremental":
        np.testing.assert_array_equal(defined, np.tril(np.ones((4, 3), bool), -1))
        assert stored.metrics["forward_transfer"].value is None
        product = stored.metrics["task_identification"].value * stored.metrics["within_task_accuracy"].value
        assert product == pytest.approx(stored.metrics["average_accuracy"].value)  # the tasks are of one size
    else:
        assert defined.all()
        assert stored.metrics["forward_transfer"].value is not None
        assert "task_identification" not in stored.metrics


@pytest.mark.parametrize("method", ["joint", "lora", "clora_gated"])
def test_all_tasks_at_once_are_learned_in_mixed_batches(method: str, scenario: str, tiny) -> None:
    config = tiny(
        f"method={method}",
        "method.protocol=joint",
        f"scenario={scenario}",
        f"tasks={STREAM[scenario]}",
        "trainer.epochs=6",
        "trainer.learning_rate=1e-2",
    )
    last = run(config, "", quiet()).read().matrix.values[-1]
    assert last.mean() > (0.3 if scenario == "class_incremental" else 0.5)  # of nine classes, of three


def test_each_task_alone_is_no_class_incremental_learning(tiny) -> None:
    with pytest.raises(ConfigError, match=r"method\.protocol=single: each task alone has its own classes only"):
        tiny("method=single", "scenario=class_incremental")


@pytest.mark.parametrize("strategy", ["ewc", "replay", "lwf", "der", "gem"])
@pytest.mark.parametrize("setting", ["clora_gated", "clora_xs", "frozen", "progressive"])
def test_a_strategy_that_would_change_nothing_is_refused_before_work_starts(strategy, setting, tiny) -> None:
    config = tiny(f"method={setting}", f"+method.{strategy}={{}}")
    with pytest.raises(
        ConfigError,
        match=rf"method\.{strategy}: .*(nothing that answers earlier tasks goes on training|nothing to hold)",
    ):
        check_strategies(config)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["method=sdlora", "+method.ewc={}"], r"method\.composition=sum: earlier updates stay as they are"),
        (["method=inflora", "+method.olora={}"], r"method\.inflora fixes every A"),
        (
            ["method=frozen", "scenario=class_incremental", "method.trained_classes=task", "+method.ewc={}"],
            "no later task trains an earlier class",
        ),
        (
            ["method=lora", "method.factor_tasks=2", "+method.ewc={}"],
            r"method\.factor_tasks=2: the factors stop to learn",
        ),
        (
            ["method=clora", "method.inference_routing=snapshot", "+method.replay={}"],
            "inference_routing=snapshot: earl",
        ),
    ],
)
def test_a_strategy_that_would_lose_what_it_holds_is_refused(overrides: list[str], says: str, tiny) -> None:
    with pytest.raises(ConfigError, match=says):
        check_strategies(tiny(*overrides))


def test_ewc_holds_what_trains_where_earlier_classes_do_not(tiny) -> None:
    made = Run(tiny("method=ewc", "scenario=class_incremental", "method.trained_classes=task"))
    for t in range(3):
        made.learn(t)
    assert len(made.predicted(3)) == 3


@pytest.mark.parametrize("setting", ["method.gate=scalar", "method.scale=learned"])
def test_a_task_is_identified_by_the_base_models_features_whatever_has_been_learned(setting: str, tiny) -> None:
    """Where tasks share factors that go on training, what identifies them must not see those."""
    made = Run(tiny("method=lora", setting, "scenario=class_incremental", "trainer.learning_rate=3e-2"))
    rows = list(range(20))
    before = made.method.outputs.frozen_features(made.test[0], rows)
    for t in range(2):
        made.learn(t)
    assert torch.equal(made.method.outputs.frozen_features(made.test[0], rows), before)


def test_one_class_a_session_needs_others_to_compete_with(tiny) -> None:
    one = ["tasks.words.names=[a,b,c]", "+tasks.words.num_labels=1", "scenario=class_incremental"]
    with pytest.raises(ConfigError, match=r"method\.trained_classes=task: task 'a' has one class"):
        Run(tiny("method=inflora", *one))


@pytest.mark.parametrize("strategy", ["olora", "inflora"])
def test_a_strategy_that_defines_its_adapters_says_which(strategy: str, tiny) -> None:
    config = tiny("method=clora", f"+method.{strategy}={{}}")
    with pytest.raises(ConfigError, match=f"method.{strategy}: needs .*method.composition=sum"):
        check_strategies(config)


def test_the_loss_of_new_examples_can_leave_earlier_classes_out(tiny) -> None:
    """trained_classes=task: the earlier classes' weights do not move, and the loss is among the task's own."""
    for competing in ("seen", "task"):
        made = Run(tiny("method=lora", "scenario=class_incremental", f"method.trained_classes={competing}"))
        made.learn(0)
        before = made.method.model.heads[0].weight.clone()
        made.learn(1)
        assert torch.equal(made.method.model.heads[0].weight, before) is (competing == "task")


def test_cosine_heads_answer_the_scaled_cosine(tiny) -> None:
    made = Run(tiny("method=frozen", "scenario=class_incremental", "method.head=cosine", "method.cosine_scale=7.0"))
    made.learn(0)
    made.learn(1)
    batch = made.test[1][[0, 1, 2]]
    features = made.method.model.features(batch.inputs)
    weights = torch.cat([made.method.model.heads[t].weight for t in range(2)])
    expected = 7.0 * torch.nn.functional.cosine_similarity(features[:, None], weights[None], dim=-1)
    found = made.method.logits(batch)
    torch.testing.assert_close(found[:, :6], expected)
    assert found[:, 6:].isneginf().all()


def test_one_class_a_session_is_learned_where_the_head_grows(tiny) -> None:
    one = ["tasks.words.names=[a,b,c]", "+tasks.words.num_labels=1"]
    with pytest.raises(ConfigError, match="all 12 training examples are of one class"):
        run(tiny("method=lora", *one), "", quiet())
    for method in ("clora_xs", "frozen"):
        stored = run(tiny(f"method={method}", "scenario=class_incremental", *one), "", quiet()).read()
        assert stored.matrix.values[1, 0] == 1
        assert not np.isnan(stored.matrix.values[-1]).any()
