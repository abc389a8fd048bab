"""Which strategies stand beside which of Avalanche's, what differs, and what makes them equal; see `beside.py`."""

from typing import Any, NamedTuple


class Row(NamedTuple):
    """A strategy here and there."""

    name: str
    words: list[str]  # here
    method: str  # there
    arguments: dict[str, Any]
    weight: float  # how long it takes, roughly
    what: str  # differs, or was changed so that nothing does


GEM = {"patterns_per_experience": 64, "memory_strength": 0.5}
AGEM = {"patterns_per_experience": 64, "sample_size": 64}
EACH = [
    Row(
        "naive",
        [],
        "naive",
        {},
        1,
        "Nothing, so what follows is like for like: largest difference of any task {naive:.3f}.",
    ),
    Row(
        "ewc",
        ["+method.ewc={strength: 100}"],
        "ewc",
        {"ewc_lambda": 100},
        1.5,
        "Avalanche's importances are squares of batch-mean gradients, here the mean of single examples' squares, which "
        "are {importance_ratio:.1f} times as large (batches of 16, after the first task). Its penalty is "
        "λ Σ F (θ − θ*)², here λ/2 Σ …. So its λ = 100 holds like {as_ours:.0f} here. Its labels are the data's "
        "(empirical F), here drawn from the model; it protects heads too, which changes nothing "
        "where tasks have their own.",
    ),
    Row(
        "gem",
        ["+method.gem={earlier_heads: trained}"],
        "gem",
        GEM,
        5,
        "Which 64 examples are kept is drawn otherwise. Avalanche writes the projected gradient only where the new "
        "task's loss has one, so heads of earlier tasks stay; here, with `earlier_heads: trained`, they move too, as "
        "in the authors' code, whose output layer is one for all tasks. It adds 1e-3 to the diagonal of the QP's G Gᵀ "
        "as it is, here to the one scaled by the largest gradient.",
    ),
    Row(
        "agem",
        ["+method.agem={earlier_heads: trained}"],
        "agem",
        AGEM,
        3,
        "Avalanche's reference batch takes as many examples of each task, in turn, here 64 are drawn from all kept; "
        "earlier tasks' heads as in GEM.",
    ),
    Row(
        "replay",
        ["+method.replay={capacity: 96}"],
        "replay",
        {"mem_size": 96},
        1.5,
        "Which examples are kept and drawn: Avalanche's memory holds as many of each task and is gone through in turn, "
        "here it is a reservoir and each batch is drawn anew; the order of its batches of new examples is its own too. "
        "It takes the mean over both batches, here their means are added: twice the length, most of which AdamW takes "
        "back.",
    ),
    Row(
        "replay_100",
        ["+method.replay={capacity: 100}"],
        "replay",
        {"mem_size": 100},
        1.5,
        "As `replay`, with a memory that batches of 16 do not divide: Avalanche's last batch of each pass through it "
        "is what is left, 4 examples of 100, here every batch has 16.",
    ),
    Row(
        "lwf",
        ["+method.lwf={}"],
        "lwf",
        {"alpha": 1, "temperature": 2},
        1.5,
        "Avalanche does not multiply by T²: at temperature 2 its α = 1 is a strength of 0.25 here. It asks the old "
        "model again in every step, and the new one twice where tasks have heads of their own, here the old answers "
        "are recorded once a task, which saves these passes.",
    ),
]
MATCHED = [
    Row(
        "ewc",
        ["+method.ewc={strength: 100, fisher: empirical, examples: null}"],
        "ewc_per_example",
        {"ewc_lambda": 50},
        3,
        "here `fisher: empirical`; there importances from batches of one, λ = 50 for 100",
    ),
    Row(
        "gem",
        ["+method.gem={earlier_heads: trained}"],
        "gem_matched",
        GEM,
        10,
        "there the same kept examples, the QP scaled, the projection written to every head",
    ),
    Row(
        "agem",
        ["+method.agem={earlier_heads: trained}"],
        "agem_matched",
        AGEM,
        6,
        "there the same kept examples and draws, the projection written to every head",
    ),
    Row(
        "replay",
        ["+method.replay={capacity: 96}"],
        "replay_matched",
        {"mem_size": 96},
        2,
        "there the same batches, kept examples and draws, the two means added: another plugin",
    ),
    Row("lwf", ["+method.lwf={}"], "lwf", {"alpha": 4, "temperature": 2}, 2, "there α = 4 = T²"),
]
