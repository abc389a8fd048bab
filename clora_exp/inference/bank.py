"""Tasks side by side on one frozen base: their tensors in stacks with room to spare, one row a task.

A bank holds versions of one form: pairs A, B of each task, or routings between factors that all share. All banks of a
base have its very weights. Taking a task in writes one row, letting it go clears one: the model is never built again.
A row that nothing owns holds NaN, so that an answer from it could not pass for one.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from clora_exp.adapters.backbone import Adapters
from clora_exp.config import MethodConfig
from clora_exp.errors import ModelError
from clora_exp.models.base import TaskModel

LEAST_ROWS = 4


class Rows:
    """Tensors with a row a task, (rows, …), which grow by doubling and shrink when the last rows are free."""

    def __init__(self, shape: Sequence[int], like: Tensor) -> None:
        self.stack = like.new_full((0, *shape), torch.nan)

    def resize(self, num_rows: int) -> None:
        """Have so many rows; the old ones stay where they are, in another tensor: who reads now reads on."""
        kept = self.stack[:num_rows]
        new = self.stack.new_full((num_rows, *self.stack.shape[1:]), torch.nan)
        new[: len(kept)] = kept
        self.stack = new

    def widen(self, shape: Sequence[int], value: float) -> None:
        """Have rows of this shape, larger nowhere smaller; what is new holds `value`."""
        pads = [n - m for n, m in zip(shape, self.stack.shape[1:], strict=True)]
        if any(pads):
            self.stack = F.pad(self.stack, [x for pad in reversed(pads) for x in (0, pad)], value=value)

    def write(self, row: int, value: Tensor, fill: float = 0.0) -> None:
        """Write a row; where the value is smaller the rest is `fill`."""
        place = self.stack[row]
        pads = [n - m for n, m in zip(place.shape, value.shape, strict=True)]
        place.copy_(F.pad(value, [x for pad in reversed(pads) for x in (0, pad)], value=fill))

    def clear(self, row: int) -> None:
        """Let a row hold NaN."""
        self.stack[row] = torch.nan

    @property
    def num_bytes(self) -> int:
        """Bytes of the whole stack, room to spare included."""
        return self.stack.numel() * self.stack.element_size()


class Bank:
    """The tasks of one form on one copy of the base's modules. Rows are given and taken under the engine's lock."""

    def __init__(self, base: TaskModel, modules: Sequence[str], rank: int, basis: Mapping[str, Tensor] | None) -> None:
        """Adapt the modules.

        Args:
            base: not changed; its weights are shared.
            basis: "A/<module>" (r, in) and "B/<module>" (out, r), for routings; without it tasks have pairs.

        Raises:
            ModelError: the base has no such modules, or the basis does not fit them.
        """
        self.model = sharing_weights(base)
        self.parts = ("routing",) if basis else ("A", "B")
        self.rank = rank
        settings = MethodConfig(
            name="bank",
            rank=rank,
            alpha=float(rank),
            target_modules=list(modules),
            factors="shared" if basis else "per_task",
            factor_tasks=1 if basis else None,
            routing="per_task" if basis else "none",
        )
        self.adapters = Adapters(self.model.backbone, settings, None)
        layers = self.adapters.layers
        if strange := sorted(layers.keys() ^ set(modules)):
            raise ModelError(f"{strange[0]}: the base model has no such layer to adapt, or one more")
        self.model.requires_grad_(False).eval()
        for name, layer in layers.items() if basis else ():
            for part in "AB":
                factor, found = layer.part(part), basis.get(f"{part}/{name}")  # type: ignore[union-attr]
                if found is None or found.shape != factor.shape:
                    raise ModelError(f"the basis has no {part} of {name} that fits the base model")
                with torch.no_grad():
                    factor.copy_(found)
        self._rows = {
            (part, name): Rows(layer.stack(part).shape[1:], layer.stack(part))
            for name, layer in layers.items()
            for part in self.parts
        }
        self._free: list[int] = []
        self._num_rows = 0

    def put(self, task: Mapping[str, Tensor]) -> int:
        """Take a task in: "A/<module>", "B/<module>", or "routing/<module>", float32; return its row.

        Raises:
            ModelError: a tensor that is missing, left over or of a shape that does not fit; nothing has changed then.
        """
        expected = {f"{part}/{name}" for part, name in self._rows}
        if strange := sorted(expected ^ task.keys()):
            raise ModelError(f"{strange[0]!r} is {'missing' if strange[0] in expected else 'left over'}")
        rank = max(self.rank, *(tensor.shape[1 if key[0] == "B" else 0] for key, tensor in task.items()))
        if self.parts == ("routing",) and rank != self.rank:
            raise ModelError(f"a routing of rank {rank} on a basis of rank {self.rank}")
        for (part, name), rows in self._rows.items():
            self._check(part, name, task[f"{part}/{name}"], rows)
        if rank > self.rank:
            self._widen(rank)
        if not self._free:
            self._resize(max(LEAST_ROWS, 2 * self._num_rows))
        row = min(self._free)
        self._free.remove(row)
        for (part, name), rows in self._rows.items():
            rows.write(row, task[f"{part}/{name}"])
        return row

    def _check(self, part: str, name: str, tensor: Tensor, rows: Rows) -> None:
        long = 1 if part == "A" else 0
        if tensor.ndim != 2 or (part != "routing" and tensor.shape[long] != rows.stack.shape[1:][long]):
            raise ModelError(f"{part} of {name} is {tuple(tensor.shape)}; the layer has {tuple(rows.stack.shape[1:])}")

    def clear(self, row: int) -> None:
        """Let a task go; where the last rows are free their memory goes too."""
        for rows in self._rows.values():
            rows.clear(row)
        self._free.append(row)
        used = self._num_rows
        while used and used - 1 in self._free:
            used -= 1
        if max(LEAST_ROWS, 4 * used) <= self._num_rows:
            self._resize(max(LEAST_ROWS, 2 * used) if used else 0)

    def _widen(self, rank: int) -> None:
        self.rank = rank
        for (part, name), rows in self._rows.items():
            shape = list(rows.stack.shape[1:])
            shape[1 if part == "B" else 0] = rank
            rows.widen(shape, 0.0)
            self._show(part, name)

    def _resize(self, num_rows: int) -> None:
        if num_rows < self._num_rows:
            self._set_num(num_rows)
        for (part, name), rows in self._rows.items():
            rows.resize(num_rows)
            self._show(part, name)
        self._set_num(num_rows)
        self._free = [row for row in self._free if row < num_rows] + list(range(self._num_rows, num_rows))
        self._num_rows = num_rows

    def _set_num(self, num_rows: int) -> None:
        for layer in self.adapters.layers.values():
            layer.num_ended = num_rows

    def _show(self, part: str, name: str) -> None:
        """Let the layer answer with the stack as it is now."""
        setattr(self.adapters.layers[name], f"lora_stack_{part}", self._rows[part, name].stack)

    @property
    def num_bytes(self) -> int:
        """Bytes of all rows, room to spare included."""
        return sum(rows.num_bytes for rows in self._rows.values())


class HeadBank:
    """The heads of all tasks of a base, one row each: (rows, c, d + 1), the bias last, zeros beyond a task's labels."""

    def __init__(self, width: int, like: Tensor) -> None:
        self._rows = Rows((1, width + 1), like)
        self._free: list[int] = []

    def put(self, weight: Tensor, bias: Tensor | None) -> int:
        """Take a head in, (c, d) and (c,); return its row.

        Raises:
            ModelError: it reads other features than the base gives.
        """
        width = self._rows.stack.shape[2] - 1
        if weight.shape[1] != width:
            raise ModelError(f"a head of {weight.shape[1]} features; the base model gives {width}")
        bias = weight.new_zeros(len(weight)) if bias is None else bias
        self._rows.widen((max(len(weight), self._rows.stack.shape[1]), width + 1), 0.0)
        if not self._free:
            num_rows = len(self._rows.stack)
            self._rows.resize(max(LEAST_ROWS, 2 * num_rows))
            self._free = list(range(num_rows, len(self._rows.stack)))
        row = self._free.pop()
        self._rows.write(row, torch.cat([weight, bias[:, None]], dim=1))
        return row

    def clear(self, row: int) -> None:
        """Let a head go."""
        self._rows.clear(row)
        self._free.append(row)

    def logits(self, features: Tensor, rows: Tensor) -> Tensor:
        """Return what each example's head answers, (n, c), of features (n, d) and rows (n,); 0 beyond its labels."""
        heads = self._rows.stack[rows]
        return torch.einsum("nd,ncd->nc", features.to(heads.dtype), heads[..., :-1]) + heads[..., -1]

    @property
    def num_bytes(self) -> int:
        """Bytes of all heads."""
        return self._rows.num_bytes


def sharing_weights(model: TaskModel) -> TaskModel:
    """Return a copy of a model's modules with the same weights, tokenizer and settings."""
    same = [*model.parameters(), *model.buffers(), model.tokenizer, model.config]
    return copy.deepcopy(model, {id(found): found for found in same})
