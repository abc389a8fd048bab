"""`method.warm_start=stored`: a new task starts from the most similar one, earlier in the run or in the store."""

import dataclasses
import logging

import pytest
import torch
from trials import quiet

from clora_exp.adapters.pairs import of_rank, routing_nearest
from clora_exp.compose import compose_experiment
from clora_exp.config import MethodConfig
from clora_exp.errors import ConfigError
from clora_exp.loop import run
from clora_exp.store.folder import Store
from clora_exp.store.parents import own_pairs
from clora_exp.store.starts import configured_starts

PAIRS = MethodConfig(name="pairs", rank=4, alpha=6.0, factors="per_task")
ROUTED = MethodConfig(name="routed", rank=4, alpha=6.0, basis="svd", routing="per_task", gate="scalar")


def config_of(made, store, method: str, *overrides: str):
    kept = [word for word in made.command("lora_per_task") if not word.startswith(("method", "results_dir"))]
    mine = [f"method={method}", f"results_dir={store.parent / 'runs'}", f"store.path={store}"]
    return compose_experiment([*kept, *mine, "method.warm_start=stored", "method.rank=4", *overrides])


def test_a_version_knows_the_mean_feature_of_its_training_texts(made) -> None:
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(made.bert), AutoModel.from_pretrained(made.bert).eval()
    from clora_exp.inference.measuring import StoredData

    manifest = Store(made.store).manifest("colours")
    rows = []
    for example in StoredData().task(manifest).train:
        with torch.no_grad():
            hidden = model(**tokenizer(example.text, return_tensors="pt", truncation=True, max_length=16))
        rows.append(hidden.last_hidden_state[0].mean(0))
    torch.testing.assert_close(torch.tensor(manifest.mean_feature), torch.stack(rows).mean(0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["lora_per_task", "clora_gated", "clora_xs"])
def test_a_task_starts_from_the_nearest_that_was_not_learned_on_its_own_texts(made, own_store, method, caplog) -> None:
    """The store has the run's own three tasks, which do not count, and one that is said to be of other texts."""
    store = Store(own_store)
    stored = store.read("colours", "v1")
    other = dataclasses.replace(
        stored.manifest, task="paints", data_sha256=stored.manifest.data_sha256 | {"train": "0" * 64}
    )
    store.add(other, (own_store / "tasks" / "colours" / "v1" / "adapter.clora").read_bytes())
    with caplog.at_level(logging.INFO, "clora_exp"):
        run(config_of(made, own_store, method, "tasks.order=[colours,animals]"), "", quiet())
    said = [record.message for record in caplog.records if " starts from " in record.message]
    assert said[0].startswith("colours starts from paints@v1, cosine 1.000")
    assert "animals starts from" in said[1]


def test_nothing_is_started_from_what_has_no_mean_another_base_or_a_parent(made, own_store) -> None:
    store = Store(own_store)
    config = config_of(made, own_store, "lora_per_task")
    base = store.manifest("colours").base.sha256
    assert [start.label for start in configured_starts(config, base)] == ["animals@v1", "colours@v1", "numbers@v2"]
    assert configured_starts(config, "f" * 64) == []
    stored = store.read("colours", "v1")
    content = (own_store / "tasks" / "colours" / "v1" / "adapter.clora").read_bytes()
    store.add(dataclasses.replace(stored.manifest, mean_feature=[]), content)
    assert [start.label for start in configured_starts(config, base)] == ["animals@v1", "numbers@v2"]
    start = configured_starts(config, base)[1]
    for name, (A, B) in start.pairs().items():
        expected = own_pairs(store, store.read("numbers", "v2"))[name]
        torch.testing.assert_close(B @ A, expected[1] @ expected[0])


def test_the_store_has_to_be_named(made, own_store) -> None:
    with pytest.raises(ConfigError, match=r"warm_start=stored: name the store"):
        config_of(made, own_store, "lora_per_task", "store.path=null")


@pytest.mark.parametrize("rank", [2, 4, 6])
def test_the_best_of_a_rank_is_numpys(rank: int) -> None:
    generator = torch.Generator().manual_seed(0)
    A, B = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((6, 20), (15, 6)))
    small = of_rank(A, B, rank)
    U, S, Vh = torch.linalg.svd(B @ A)
    torch.testing.assert_close(small[1] @ small[0], U[:, :rank] @ torch.diag(S[:rank]) @ Vh[:rank])
    assert len(small[0]) == rank


def test_the_nearest_routing_is_the_least_squares_one() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, 20), (15, 4), (3, 20), (15, 3))
    A, B, A2, B2 = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    R = routing_nearest(A, B, (A2, B2))
    design = torch.kron(B, A.T.contiguous())  # vec(B R A), row by row
    expected = torch.linalg.lstsq(design, (B2 @ A2).reshape(-1, 1)).solution.reshape(4, 4)
    torch.testing.assert_close(R, expected)
    torch.testing.assert_close(routing_nearest(A, B, (A, B @ R)), R)  # what lies in the basis comes back exactly


@pytest.mark.parametrize("settings", [PAIRS, ROUTED], ids=lambda s: s.name)
def test_a_layer_that_starts_near_has_the_stored_update(settings: MethodConfig, tiny_bert) -> None:
    from transformers import AutoModel

    from clora_exp.adapters.backbone import Adapters

    first = Adapters(AutoModel.from_pretrained(tiny_bert), settings, ["query", "value"])
    first.start_task(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in first.layers.values():
            part = layer.part("routing" if settings is ROUTED else "B")
            part.copy_(torch.randn(part.shape, generator=generator))
    first.finish_task()
    pairs = first.as_lora(0)
    second = Adapters(AutoModel.from_pretrained(tiny_bert), settings, ["query", "value"])
    second.start_task(0)
    second.start_near(pairs)
    for name, (A, B) in second.as_lora(0).items():
        torch.testing.assert_close(B @ A, pairs[name][1] @ pairs[name][0], rtol=1e-4, atol=1e-4)
