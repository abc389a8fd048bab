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
        ["+method.gem={}"],
        "gem",
        GEM,
        5,
        "Avalanche adds 1e-3 to the diagonal of the QP's G Gᵀ as it is, here to the one scaled by the largest "
        "gradient: once the memory is learned its gradients are small, and there the constraint loosens. It writes the "
        "projected gradient only where the new task's loss has one, so earlier tasks' heads stay; here, as in the "
        "authors' code, they move too. Which 64 examples are kept is drawn otherwise.",
    ),
    Row(
        "agem",
        ["+method.agem={}"],
        "agem",
        AGEM,
        3,
        "Avalanche's reference batch takes as many examples of each task, in turn, here 64 are drawn from all kept; "
        "earlier tasks' heads as in GEM.",
    ),
    Row(
        "replay",
        ["+method.replay={capacity: 100}"],
        "replay",
        {"mem_size": 100},
        1.5,
        "Avalanche joins both batches and takes the mean, here the two means are added: the same direction but in an "
        "epoch's last, smaller batch, and twice the length, which clipping and AdamW take back. Its memory holds as "
        "many of each task and is gone through in turn, here it is a reservoir and each batch is drawn anew. The order "
        "of its batches of new examples is its own.",
    ),
    Row(
        "lwf",
        ["+method.lwf={}"],
        "lwf",
        {"alpha": 1, "temperature": 2},
        1.5,
        "Avalanche does not multiply by T²: at temperature 2 its α = 1 is a strength of 0.25 here. It asks the old "
        "model again in every step, and the new one twice where tasks have heads of their own, here the old answers "
        "are recorded once a task: that is the difference in time.",
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
        ["+method.gem={}"],
        "gem_matched",
        GEM,
        10,
        "there the same kept examples, the QP scaled, the projection written to every head",
    ),
    Row(
        "agem",
        ["+method.agem={}"],
        "agem_matched",
        AGEM,
        6,
        "there the same kept examples and draws, the projection written to every head",
    ),
    Row("lwf", ["+method.lwf={}"], "lwf", {"alpha": 4, "temperature": 2}, 2, "there α = 4 = T²"),
]
