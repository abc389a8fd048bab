"""Children: trained over a frozen parent, answered as they were trained, whatever becomes of the parent's aliases."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModel, AutoTokenizer
from trials import quiet

from clora_exp.compose import compose_experiment
from clora_exp.errors import ConfigError, StoreError
from clora_exp.identity import run_hash
from clora_exp.inference.exporting import export
from clora_exp.loop import run
from clora_exp.saved import load_task
from clora_exp.store.collect import collect
from clora_exp.store.folder import Store
from clora_exp.store.parents import beneath, own_pairs, pairs_of
from clora_exp.tasks.stream import Example, load_stream

TEXTS = ["red iron red", "one gold", "cat three cat", "two tin two"]


def words_of(made, store, parent: str | None, method: str) -> list[str]:
    command = made.command("lora_per_task")
    changed = [word for word in command if not word.startswith(("method", "results_dir"))]
    mine = [f"method={method}", "method.rank=2", f"results_dir={store.parent / 'runs'}", f"store.path={store}"]
    return [*changed, *mine, *([f"store.parent={parent}"] if parent else [])]


@pytest.fixture(params=["lora_per_task", "clora_gated", "clora_xs"])
def family(request, made, own_store):
    """A store whose `animals` have a child, learned over `colours`; and the child's run."""
    parent = Store(own_store).resolve("colours")
    words = words_of(made, own_store, f"colours@{parent.id[:16]}", request.param)
    return own_store, run(compose_experiment(words), " ".join(["python run.py", *words]), quiet()).path


def test_a_child_answers_through_the_store_as_in_its_run(made, family) -> None:
    """Two ways: the run adds the parent to the weights, the engine puts both updates side by side."""
    store, path = family
    manifest = Store(store).manifest("animals")
    assert (manifest.parent.task, manifest.parent.id) == ("colours", Store(store).resolve("colours", "v1").id)
    saved = load_task(path, "animals")
    expected = torch.softmax(saved.logits([Example(str(i), text, "", str(i)) for i, text in enumerate(TEXTS)]), -1)
    answers = made.engine(store).predict("animals", TEXTS)
    found = torch.tensor([list(answer.probabilities.values()) for answer in answers])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert answers[0].id == manifest.id
    alone = Store(store).read("animals")
    assert beneath(Store(store), alone.manifest).keys() == own_pairs(Store(store), alone).keys()


def test_a_childs_update_is_the_parents_and_its_own(made, family) -> None:
    store, path = Store(family[0]), family[1]
    child, parent = store.read("animals"), store.read("colours", "v1")
    plain = AutoModel.from_pretrained(made.bert).state_dict()
    adapted = load_task(path, "animals").adapters
    own, under, whole = own_pairs(store, child), own_pairs(store, parent), pairs_of(store, child)
    for name, layer in adapted.layers.items():
        of = {key: B @ A for key, (A, B) in {"own": own[name], "parent": under[name], "all": whole[name]}.items()}
        torch.testing.assert_close(of["all"], of["own"] + of["parent"], rtol=1e-6, atol=1e-6)
        base = layer.base_layer.weight.double() - plain[f"{name}.weight"].double()
        torch.testing.assert_close(base, of["parent"], rtol=1e-4, atol=1e-6)  # what trained, it was frozen beneath


def test_a_child_leaves_as_a_plain_lora_with_its_parents_update_in_it(made, family, tmp_path) -> None:
    store, path = family
    certificate = export(made.place(store), Store(store).read("animals"), tmp_path / "out")
    assert certificate["largest_error_of_a_logit"] < 1e-4
    tokenizer = AutoTokenizer.from_pretrained(made.bert)
    inputs = tokenizer(TEXTS, return_tensors="pt", padding=True)
    found = []
    for folder in (tmp_path / "out", path / "adapters" / "animals" / "peft"):
        model = PeftModel.from_pretrained(AutoModel.from_pretrained(made.bert), folder).eval()
        with torch.no_grad():
            found.append(model(**inputs).last_hidden_state)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        base = AutoModel.from_pretrained(made.bert).eval()(**inputs).last_hidden_state
    assert float((base - found[0]).abs().max()) > 0.01


def test_what_becomes_of_the_parents_aliases_changes_no_child(made, family) -> None:
    path = family[0]
    before = made.engine(path).predict("animals", TEXTS)
    store = Store(path)
    assert store.resolve("colours").version == "v2"  # the child's run has learned colours anew
    store.promote("colours", "v2")
    collect(store)
    assert "v1" in store.versions("colours")
    assert made.engine(path).predict("animals", TEXTS) == before


def test_a_parent_is_part_of_what_a_run_is(made, own_store) -> None:
    ids = [Store(own_store).resolve(task, "v1").id for task in ("colours", "numbers")]
    names = [None, f"colours@{ids[0][:12]}", f"numbers@{ids[1][:12]}"]
    configs = [compose_experiment(words_of(made, own_store, name, "lora_per_task")) for name in names]
    stream = load_stream(configs[0].tasks, 0)
    assert len({run_hash(config, stream, "m") for config in configs}) == 3


@pytest.mark.parametrize("parent", ["colours", "colours@v1", "colours@current", "colours@12ab", "@" + "1" * 12])
def test_a_parent_is_named_by_its_id(made, own_store, parent: str) -> None:
    with pytest.raises(ConfigError, match=r"is no task@id; the id, 12 hex digits or more"):
        compose_experiment(words_of(made, own_store, parent, "lora_per_task"))


def test_a_parent_that_is_not_there_is_refused_before_anything_is_learned(made, own_store) -> None:
    words = words_of(made, own_store, "colours@" + "0" * 12, "lora_per_task")
    with pytest.raises(StoreError, match="unknown version '000000000000'"):
        run(compose_experiment(words), "", quiet())
    assert not list((own_store.parent / "runs").rglob("STATUS"))
