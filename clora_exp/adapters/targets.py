"""Which layers are adapted: names of modules, as PEFT matches them, checked without a model."""

from collections.abc import Iterable, Mapping

from clora_exp.config import MethodConfig
from clora_exp.errors import ModelError, nearest

ATTENTION = (  # what architectures call the projections of query, key, value and output; the first that is there
    ["q_proj", "k_proj", "v_proj", "o_proj"],  # Llama, Qwen, Mistral, Gemma, ViT, DINOv2
    ["q_proj", "k_proj", "v_proj", "out_proj"],  # BART, OPT, CLIP
    ["query", "key", "value", "attention.output.dense"],  # BERT, RoBERTa, ELECTRA
    ["query_proj", "key_proj", "value_proj", "attention.output.dense"],  # DeBERTa
    ["q_lin", "k_lin", "v_lin", "out_lin"],  # DistilBERT
    ["q", "k", "v", "o"],  # T5, MPNet
    ["c_attn", "attn.c_proj"],  # GPT-2, which has the three in one
    ["query_key_value", "attention.dense"],  # GPT-NeoX, Pythia
    ["Wqkv", "attn.Wo"],  # ModernBERT
)


def wanted(settings: MethodConfig, of_model: list[str] | str | None) -> list[str] | str:
    """Return the target modules that are asked for: the method's, else the model's, else attention."""
    return settings.target_modules or of_model or "attention"


def targets_of(linear: Iterable[str], targets: list[str] | str) -> list[str] | str:
    """Return the target modules that are meant, given the names of the linear layers there are.

    `attention` becomes the names of this architecture; a list of names, and all-linear, stay.

    Raises:
        ModelError: none of the known names of attention projections is there.
    """
    if targets != "attention":
        return targets
    names = list(linear)
    for projections in ATTENTION:
        if all(any(matches(name, target) for name in names) for target in projections):
            return list(projections)
    have = sorted({name.split(".")[-1] for name in names})
    raise ModelError(
        f"target_modules=attention: no attention projections known here; set method.target_modules to some of: "
        f"{', '.join(have)}"
    )


def check_targets(linear: Mapping[str, tuple[int, ...]], targets: list[str] | str, settings: MethodConfig) -> None:
    """Check target modules and rank against the linear layers there are, module name → shape of its weight.

    Raises:
        ModelError: a target that matches no linear layer, with what there is; a rank above the matrix or the SVD basis.
    """
    key = "the model's target_modules" if settings.target_modules is None else "method.target_modules"
    targets = targets_of(linear, targets)
    named = [] if isinstance(targets, str) else targets  # all-linear: PEFT finds them
    for target in named:
        if not any(matches(name, target) for name in linear):
            have = sorted({name.split(".")[-1] for name in linear})
            raise ModelError(
                f"{key}={named}: {target!r} matches no linear layer; have: {', '.join(have)}." + nearest(target, have)
            )
    adapted = [name for name in linear if not named or any(matches(name, target) for target in named)]
    for end in settings.rank_pattern or ():
        if not any(matches(name, end) for name in adapted):
            raise ModelError(f"method.rank_pattern: {end!r} is the end of no adapted layer's name; e.g. {min(adapted)}")
    for name in adapted:
        rank, shape = rank_of(name, settings), linear[name]
        if settings.basis == "svd" and rank > min(shape):
            raise ModelError(f"method.rank={rank}: {name} has rank {min(shape)}; the SVD gives no more")
        if rank > max(shape):
            size = f"{shape[0]:,} × {shape[1]:,}"
            raise ModelError(f"method.rank={rank}: {name} is {size}; a rank above {min(shape):,} adds nothing to it")


def matches(name: str, target: str) -> bool:
    """Tell whether PEFT adapts module `name` for `target`: the name itself, or its end after a dot."""
    return name == target or name.endswith(f".{target}")


def rank_of(name: str, settings: MethodConfig) -> int:
    """Return the rank of a module: the pattern's first that fits, as PEFT chooses, or the setting's."""
    pattern = settings.rank_pattern or {}
    return next((rank for end, rank in pattern.items() if matches(name, end)), settings.rank)
