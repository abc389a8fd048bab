"""Which layers are adapted: names of modules, as PEFT matches them, checked without a model."""

from collections.abc import Mapping

from clora_exp.config import MethodConfig
from clora_exp.errors import ModelError, nearest


def check_targets(linear: Mapping[str, tuple[int, ...]], targets: list[str], settings: MethodConfig) -> None:
    """Check target modules and rank against the linear layers there are, module name → shape of its weight.

    Raises:
        ModelError: a target that matches no linear layer, with what there is; an SVD basis of more than full rank.
    """
    key = "the model's target_modules" if settings.target_modules is None else "method.target_modules"
    for target in targets:
        if not any(_matches(name, target) for name in linear):
            have = sorted({name.split(".")[-1] for name in linear})
            raise ModelError(
                f"{key}={targets}: {target!r} matches no linear layer; have: {', '.join(have)}." + nearest(target, have)
            )
    for name, shape in linear.items():
        if settings.basis == "svd" and settings.rank > min(shape) and any(_matches(name, t) for t in targets):
            raise ModelError(f"method.rank={settings.rank}: {name} has rank {min(shape)}; the SVD gives no more")


def _matches(name: str, target: str) -> bool:
    """Tell whether PEFT adapts module `name` for `target`: the name itself, or its end after a dot."""
    return name == target or name.endswith(f".{target}")
