"""From a run's folder into a store: the update of each task in its smallest exact form, with a probe of its answers.

Where all tasks share fixed factors A, B a task is its routing with gate and scale folded in, R' = s · g · R (r, r) a
layer, and the factors are kept once (`routed`); else it is a vanilla pair A, B' = s · g · B R a layer (`pairs`). Both
are folded in double precision and rounded once, and the probe, what the run's own model answers, says that nothing was
lost.
"""

import dataclasses
import hashlib
import shlex
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clora_exp.config import ExperimentConfig, MethodConfig
from clora_exp.environment import PACKAGES
from clora_exp.errors import RunError, StoreError, unknown
from clora_exp.runs import StoredRun, read_run
from clora_exp.saved import SavedTask, in_single_precision, load_task
from clora_exp.states import pack_layers
from clora_exp.store.container import pack
from clora_exp.store.encoding import Number, encode
from clora_exp.store.folder import Store
from clora_exp.store.manifest import Base, Manifest, Probe, Source, Weights
from clora_exp.store.starts import data_of, mean_feature
from clora_exp.tasks.stream import Task

ANSWERING = ("weights", "labels", "base", "parent")  # what decides a version's answers
PROBES = 3  # of the words that a task is probed with: they are answered again at every loading


def import_run(store: Store, run: Path, tasks: Iterable[str] | None = None, *, promote: bool = True) -> list[Manifest]:
    """Put tasks of a run, or all that it has learned, into a store as new versions.

    What is there already, to the byte of its weights, is left as it is, whatever the aliases mean.

    Raises:
        RunError, ModelError, ConfigError: no run, no such task, damaged files, or its model is not here.
        StoreError: the store cannot be written.
    """
    stored = read_run(run)
    have = [path.parent.name for path in sorted(run.glob("adapters/*/adapter.json"))]
    have.sort(key=stored.matrix.tasks.index)
    wanted = have if tasks is None else list(tasks)
    if strange := [task for task in wanted if task not in have]:
        raise RunError(f"{run}: " + unknown("task", strange[0], have))
    data: dict[str, Task] = {}  # read once
    return [_import(store, stored, task, data, promote) for task in wanted]


def _import(store: Store, run: StoredRun, task: str, data: dict[str, Task], promote: bool) -> Manifest:
    saved = load_task(run.path, task)
    data.update({} if data else data_of(saved.config))
    tensors, layers, form, basis = folded(saved)
    content, weights = packed(tensors, layers, form, basis_sha256=hashlib.sha256(basis).hexdigest() if basis else None)
    manifest = Manifest(
        task=task,
        version="v1",
        description=saved.manifest["description"],
        documentation=f"Learned by: {run.command}",
        labels=list(saved.manifest["labels"]),
        base=base_of(saved),
        method=saved.manifest["method"],
        weights=weights,
        probe=probe_of(saved),
        stream=stream_of(run.command),
        data_sha256=dict(saved.manifest["data_sha256"]),
        mean_feature=mean_feature(saved, data.get(task)),
        metrics=_metrics(run, task),
        created=now(),
        software=software(),
        parent=_parent(store, saved.config),
    )
    same = _same(store, manifest)
    return same or store.add(manifest, content, basis=basis, promote=promote)


def _parent(store: Store, config: ExperimentConfig) -> Source | None:
    """Return the parent that a run's tasks have beneath their own update; it has to be in this store too.

    Raises:
        StoreError: it is not.
    """
    if config.store.parent is None:
        return None
    task, _, which = config.store.parent.partition("@")
    target = store.resolve(task, which)
    return Source(task, target.version, target.id)


def _same(store: Store, manifest: Manifest) -> Manifest | None:
    """Return the version of a task that has those weights and labels, the newest if there are several."""
    if manifest.task not in store.tasks():
        return None
    for version in reversed(store.versions(manifest.task)):
        found = store.checked(manifest.task, version)
        if all(getattr(found, name) == getattr(manifest, name) for name in ANSWERING):
            return found
    return None


def folded(saved: SavedTask) -> tuple[dict[str, Tensor], dict[str, list[str]], str, bytes | None]:
    """Return a task's tensors, the layers that they are stacked over, their form, and the basis as a file's content.

    A head's tensors are `head.weight` (c, d) and `head.bias` (c,).
    """
    adapters, settings = saved.adapters, saved.config.method
    heads = {f"head.{n}": t.detach().float() for head in saved.model.heads for n, t in head.state_dict().items()}
    state = adapters.state_of(0)
    basis = adapters.basis()
    if basis and settings.gate != "per_output" and not settings.rank_pattern:
        factors = {name: _factor(state, name, layer.scaling["default"]) for name, layer in adapters.layers.items()}
        routings = {f"R/{name}": (factors[name] * state[f"routing/{name}"].double()).float() for name in factors}
        tensors, layers = pack_layers(routings)
        return tensors | heads, layers, "routed", pack(basis)
    pairs = adapters.own_lora(0)
    tensors, layers = pack_layers({f"A/{name}": A.float() for name, (A, _) in pairs.items()})
    of_b, layers_b = pack_layers({f"B/{name}": B.float() for name, (_, B) in pairs.items()})
    return tensors | of_b | heads, layers | layers_b, "pairs", None


def _factor(state: Mapping[str, Tensor], name: str, scaling: float) -> Tensor:
    """Return s · g of a layer: () or, with a gate a rank, (r, 1)."""
    scale = state.get(f"scale/{name}")
    factor = torch.tensor(scaling, dtype=torch.float64) if scale is None else scale.double()
    gate = state.get(f"gate/{name}")
    if gate is not None:
        g = torch.sigmoid(gate.double())
        factor = factor * (g[:, None] if g.ndim else g)
    return factor


def packed(
    tensors: Mapping[str, Tensor],
    layers: Mapping[str, list[str]],
    form: str,
    *,
    basis_sha256: str | None = None,
    number: Number = "float32",
    sparse: bool = False,
    is_shuffled: bool = True,
    level: int = 9,
) -> tuple[bytes, Weights]:
    """Return a version's file and what its manifest says of it.

    Args:
        number: what the adapter's matrices are written in; a head's bias stays in float32.
        sparse: entries of the adapter's matrices that are zero are left out.
    """
    written: dict[str, Tensor] = {}
    encodings: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        own: Number = "float32" if tensor.ndim < 2 else number
        found, encoding = encode(name, tensor, own, is_sparse=sparse and not name.startswith("head."))
        written |= found
        encodings[name] = encoding.to_plain()
    content = pack(written, is_shuffled=is_shuffled, level=level)
    first = next(name for name in layers)
    rank = tensors[first].shape[2 if first.startswith("B") else 1]
    sha256 = hashlib.sha256(content).hexdigest()
    return content, Weights(sha256, len(content), form, rank, dict(layers), encodings, basis_sha256)


def base_of(saved: SavedTask) -> Base:
    """Return what a version says of the model that it belongs to."""
    model = saved.config.model
    return Base(
        name=model.name,
        kind=model.kind,
        sha256=saved.manifest["model"]["sha256"],
        settings=dataclasses.asdict(in_single_precision(model).settings),  # as the probe was answered
        knows_task=saved.config.scenario == "task_incremental",
    )


def probe_of(saved: SavedTask) -> Probe:
    """Return words and what the run's own model answers them, (n, c); of images, which are drawn, as many of none."""
    examples = saved.probe()[:PROBES]
    logits = saved.logits(examples)
    return Probe([example.text for example in examples], [[float(v) for v in row] for row in logits.double().tolist()])


def stream_of(command: str) -> list[str]:
    """Return the words of a command that name its tasks."""
    kinds = ("experiment=", "tasks=", "tasks.", "+tasks.", "data_seed=")
    return [word for word in shlex.split(command) if word.startswith(kinds)] or ["tasks=med_legal_code"]


def _metrics(run: StoredRun, task: str) -> dict[str, float]:
    """Return what was measured right after the task was learned."""
    j = run.matrix.tasks.index(task)
    row = run.matrix.values[-1 if run.protocol == "joint" else j + 1]
    found = {"accuracy": float(row[j])} if row[j] == row[j] else {}
    return found


def now() -> str:
    """Return this moment in UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def software() -> dict[str, str]:
    """Return the packages that a version was made with."""
    return {name: metadata.version(name) for name in PACKAGES if name in ("clora-exp", "torch", "transformers", "peft")}


def same_task(source: Manifest) -> Source:
    """Return a version as another one names it."""
    return Source(source.task, source.version, source.id)


def settings_of(manifest: Manifest) -> MethodConfig:
    """Return the setting that trained a version.

    Raises:
        StoreError: it is none of this version of the project.
    """
    names = {field.name for field in dataclasses.fields(MethodConfig)}
    try:
        return MethodConfig(**{name: value for name, value in manifest.method.items() if name in names})
    except (TypeError, ValueError) as error:
        raise StoreError(f"{manifest.task}@{manifest.version}: its method cannot be read: {error}") from error
