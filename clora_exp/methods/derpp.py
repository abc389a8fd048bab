"""Dark experience replay++: DER, and the kept examples' labels too.

Buzzega et al. 2020 (arXiv 2004.07211), eq. 6: L + α E ‖z' − h(x')‖² + β E CE(y'', h(x'')), with two independent draws
from the memory.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from clora_exp.config import NonNegativeFloat
from clora_exp.methods import der


@dataclass(frozen=True)
class Config(der.Config):
    """DER's, and the weight of the labels."""

    alpha: NonNegativeFloat = 0.1  # smaller than DER's, since the labels speak too
    beta: NonNegativeFloat = 0.5  # of the labels' term


class DERpp(der.DER):
    """State: the memory, with logits."""

    step_cost: ClassVar[str] = "flat: two more batches"
    off: ClassVar[dict[str, Any]] = {"alpha": 0.0, "beta": 0.0}

    def _rehearse(self) -> Tensor | None:
        terms = [super()._rehearse()]
        if self.config.beta != 0:
            kept, _ = self._draw()
            terms.append(self.config.beta * self.method.loss(kept, self.method.answer(kept)))
        there = [term for term in terms if term is not None]
        return sum(there[1:], there[0]) if there else None
