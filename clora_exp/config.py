"""The schema of a run: every key is a field here, with its range, its unit and where its default comes from.

Imports no torch. The keys of strategies, data sources, model kinds and loggers are declared beside their code. What
Hydra composed is turned into these dataclasses, or one clear error, in `structuring.py`.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BeforeValidator, ConfigDict, Strict, StringConstraints

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

# Numbers are numbers: no "3" for 3, no true for 1 (an int where a float is wanted is fine).
Count = Annotated[int, Strict(), Gt(0)]
Natural = Annotated[int, Strict(), Ge(0)]
Seed = Annotated[int, Strict(), Ge(0), Le(2**31)]
PositiveFloat = Annotated[float, Strict(), Gt(0)]
Rate = Annotated[float, Strict(), Gt(0), Le(1e6)]  # of learning; far beyond, a step overflows single precision
NonNegativeFloat = Annotated[float, Strict(), Ge(0)]
Fraction = Annotated[float, Strict(), Ge(0), Lt(1)]
OpenFraction = Annotated[float, Strict(), Gt(0), Lt(1)]
Flag = Annotated[bool, Strict()]
ScenarioName = Literal["task_incremental", "class_incremental", "domain_incremental"]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]  # becomes a folder's name


def _targets(value: Any) -> Any:
    is_list = isinstance(value, list) and value and all(isinstance(name, str) for name in value)
    if value is None or value in ("all-linear", "attention") or is_list:
        return value
    raise ValueError("must be a list of names, all-linear or attention")


Targets = Annotated[list[str] | str | None, BeforeValidator(_targets)]


def _order(value: Any) -> Any:
    is_list = isinstance(value, list) and value and all(isinstance(name, str) for name in value)
    if value is None or is_list or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise ValueError("must be a list of task names, or a seed to permute them by, a whole number from 0 on")


Order = Annotated[list[str] | int | None, BeforeValidator(_order)]


def _folder_name(value: Any) -> Any:
    if isinstance(value, str) and (not value.strip() or "\0" in value):
        raise ValueError("must be the name of a folder")
    return value


FolderName = Annotated[str, BeforeValidator(_folder_name)]


@dataclass(frozen=True)
class MethodConfig:
    """How the backbone is adapted, plus the strategies that act on its training."""

    __pydantic_config__ = STRICT
    name: Name
    protocol: Literal["sequence", "joint", "single"] = "sequence"  # in turn, all at once, or each from the same start
    trainable: Literal["adapters", "heads", "all"] = "adapters"  # heads: the backbone stays as it is; all: no adapters
    save_weights: Flag = False  # with trainable=all: keep the whole backbone of every task, not its head alone
    backend: Literal["peft", "plain", "unsloth"] = "peft"  # plain: without PEFT, slow; unsloth: its kernels, on a GPU
    rank: Count = 16  # r of A (r, in) and B (out, r)
    alpha: PositiveFloat = 32.0  # the scale starts at alpha / rank
    dropout: Fraction = 0.0  # on the adapter's input, as in the LoRA paper
    rank_pattern: dict[str, Count] | None = None  # end of a layer's name → its rank, as PEFT's
    target_modules: Targets = None  # layers; all-linear: all but the output; attention: q, k, v, o; null: the model's
    factors: Literal["shared", "per_task"] = "shared"  # one pair A, B for all tasks, or one pair a task
    composition: Literal["own", "sum", "columns"] = "own"  # adapters/composition.py: what of earlier tasks answers too
    magnitudes: Literal["fixed", "learned"] = (
        "fixed"  # of earlier updates in the sum; learned: of unit length times one
    )
    basis: Literal["learned", "svd"] = "learned"  # svd: A and B from the truncated SVD of W0, frozen
    routing: Literal["none", "additive", "per_task"] = "none"  # R: identity, R_old + R_δ, or one a task
    routing_std: NonNegativeFloat = 1e-3  # start of R_δ from the second task on; of R_t on fixed factors 0
    old_path: Literal["detached", "trained"] = "detached"  # of additive routing: whether A, B learn through R_old too
    inference_routing: Literal["latest", "snapshot"] = "latest"  # R as it is now, or as it was when the task ended
    gate: Literal["none", "scalar", "per_rank", "per_output"] = "none"  # sigmoid(γ) on the update
    gate_start: OpenFraction = 0.5  # the gate's value at the start of a task
    scale: Literal["fixed", "learned"] = "fixed"  # alpha / rank, or learned per task from that start
    warm_start: Literal["none", "similar", "stored"] = (
        "none"  # similar: what a task owns starts as the most similar earlier task's; stored: or as one's in store.path
    )
    orthogonality: Literal["none", "routing", "column", "row"] = "none"  # what λ penalises, see adapters/penalty.py
    orthogonality_strength: NonNegativeFloat = 0.01  # λ; Zhang et al. 2025 use 0.01
    factor_tasks: Count | None = None  # shared A and B train in the first k tasks, then stay; null: in all
    factor_optimizer: Literal["adamw", "sgd"] = "adamw"  # what moves A and B from the second task on
    factor_learning_rate: Rate | None = None  # of A and B; null: the method's
    learning_rate: Rate | None = None  # null: the trainer's
    head_learning_rate: Rate | None = None  # null: the trainer's
    head: Literal["linear", "cosine"] = "linear"  # cosine: of feature and class vector, times cosine_scale
    cosine_scale: PositiveFloat = 10.0  # where Gidaris & Komodakis 2018 (arXiv 1804.09458) start theirs
    trained_classes: Literal["all", "seen", "task"] = (
        "seen"  # class-incremental: which compete in training; all: later too
    )
    identifier: Literal["gaussian", "centroid"] = "gaussian"  # finds the task where it is unknown and owns adapters
    strategies: dict[str, Any] = field(default_factory=dict)  # name → its Config; keys of the yaml, not one key

    def __post_init__(self) -> None:
        if self.routing == "additive" and (self.factors != "shared" or self.basis != "learned"):
            raise ValueError("routing=additive needs factors=shared and basis=learned: R_old is in their coordinates")
        if self.basis == "svd" and (self.factors != "shared" or self.routing != "per_task"):
            raise ValueError("basis=svd needs factors=shared and routing=per_task: nothing else of it would train")
        isolated = self.factors == "per_task" or self.basis == "svd" or self.factor_tasks is not None
        if self.routing == "per_task" and not isolated:
            raise ValueError(
                "routing=per_task needs basis=svd, factor_tasks or factors=per_task: factors that go on training "
                "change earlier tasks"
            )
        if self.factor_tasks is not None and (self.factors != "shared" or self.basis != "learned"):
            raise ValueError("factor_tasks needs factors=shared and basis=learned: it is when they stop to learn")
        if self.old_path == "trained" and self.routing != "additive":
            raise ValueError("old_path=trained needs routing=additive: there is no other old path")
        if self.inference_routing == "snapshot" and self.routing != "additive":
            raise ValueError("inference_routing=snapshot needs routing=additive: no other routing changes later")
        if self.warm_start != "none" and self.factors != "per_task" and self.routing != "per_task":
            raise ValueError(
                f"warm_start={self.warm_start} needs factors or routing per_task: there is nothing to start"
            )
        if self.orthogonality != "none" and self.routing != "additive":
            raise ValueError(f"orthogonality={self.orthogonality} needs routing=additive: it compares R_δ with R_old")
        if self.composition != "own" and (
            self.factors != "per_task" or self.routing != "none" or self.gate != "none" or self.warm_start != "none"
        ):
            raise ValueError(f"composition={self.composition} needs factors=per_task, no routing, gate or warm start")
        if self.composition == "columns" and self.scale != "fixed":
            raise ValueError("composition=columns needs scale=fixed: a lateral link scales already")
        if self.magnitudes == "learned" and (self.composition != "sum" or self.scale != "fixed"):
            raise ValueError("magnitudes=learned needs composition=sum and scale=fixed: they are the scales")
        if self.composition == "sum" and self.scale != "fixed":
            raise ValueError("composition=sum needs scale=fixed; magnitudes=learned has a scale a task")
        if self.strategies and self.protocol != "sequence":
            raise ValueError(
                f"protocol={self.protocol} trains the adapter setting alone; leave out {', '.join(self.strategies)}"
            )
        if self.protocol == "joint" and self.trained_classes == "task":
            raise ValueError("trained_classes=task needs protocol=sequence: with joint the classes come together")
        if self.save_weights and self.trainable != "all":
            raise ValueError(f"save_weights=true needs trainable=all: with {self.trainable} the backbone never changes")

    @property
    def forgets(self) -> bool:
        """Whether what answers a task, its head apart, goes on training after it."""
        shared = self.factors == "shared" and self.basis == "learned" and self.factor_tasks != 1
        shared = shared or self.composition == "sum"
        routing_goes_on = self.routing == "additive" and self.inference_routing == "latest"
        return self.trainable == "all" or (self.trainable == "adapters" and (shared or routing_goes_on))


@dataclass(frozen=True)
class TasksConfig:
    """A stream: the tasks in order. Its further keys are sources (`tasks.icd10.train_per_class`)."""

    __pydantic_config__ = STRICT
    name: Name
    description: str = ""  # one line, shown by --help and describe
    order: Order = None  # task names, all or some; a number: permuted by that seed; null: the order of the sources
    path: str | None = None  # the user's own data: a folder or a table for files, local copies for hub data sets
    sources: dict[str, Any] = field(default_factory=dict)  # name → its Config; keys of the yaml, not one key

    def __post_init__(self) -> None:
        """Raises ValueError where two sources give their task the same name."""
        names = [source.name for source in self.sources.values() if hasattr(source, "name")]
        for name in sorted(name for name in set(names) if names.count(name) > 1):
            raise ValueError(f"task name {name!r} is used twice; names must differ")


@dataclass(frozen=True)
class ModelConfig:
    """The frozen backbone. Its one further key is its kind (`model.text_encoder.pooling`)."""

    __pydantic_config__ = STRICT
    name: Name
    path: str | None = None  # a local folder with weights and tokenizer, or a name on the Hub; null: the package
    package: str | None = None  # an installed package that ships them
    subfolder: str = "model"  # the folder in that package
    recipe: str | None = None  # how weights that nobody ships are made here: a file of models/recipes
    hub_id: str | None = None  # what the model is called on the Hub, for exported adapters; null: the name
    kind: str = ""  # taken from the one section
    settings: Any = None  # that section, as its kind's Config

    @property
    def base_name(self) -> str:
        """What an exported adapter calls the model."""
        return self.hub_id or (self.path if self.is_on_hub and self.path else self.name)

    @property
    def is_on_hub(self) -> bool:
        """Whether the path is no folder here but looks like a name on the Hub, org/name."""
        looks = self.path is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", self.path) is not None
        return looks and not Path(str(self.path)).exists() and not str(self.path).startswith(".")


@dataclass(frozen=True)
class TrainerConfig:
    """How one session trains; the same for every method unless the method says otherwise."""

    __pydantic_config__ = STRICT
    epochs: Count = 2  # passes over a task's training examples
    max_steps: Count | None = None  # optimiser steps a session; null: by the epochs
    batch_size: Count = 16  # examples a batch, of similar length
    accumulate: Count = 1  # batches an optimiser step
    max_eval_examples: Count | None = None  # measured of each task, spread evenly over its split; null: all
    eval_batch_size: Count = 32  # on two cores 32 is the fastest: the activations stay in the cache
    learning_rate: Rate = 1e-3  # of adapters; a method may set its own
    head_learning_rate: Rate = 1e-2  # of the heads, unless the method sets its own
    weight_decay: NonNegativeFloat = 0.01  # on what AdamW moves, see optimizers.py
    warmup: Fraction = 0.1  # of a task's steps; then linear decay to zero
    gradient_clip: PositiveFloat | None = 1.0  # norm over all trainable parameters; null: off
    gradient_checkpointing: Flag = False  # compute activations again in the backward pass: less memory, slower
    num_workers: Natural = 0  # processes that make batches; the numbers stay the same
    checkpoint_every: NonNegativeFloat = 30.0  # seconds of a task, and longer where writing takes 2 %; 0: each step
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"  # auto: a GPU when there is one
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    energy: Flag = False  # true: count what learning takes, in joules; needs the extra energy (codecarbon)


@dataclass(frozen=True)
class LoggerConfig:
    """Where a run is followed beside its own folder, whose tables are always written. Its keys are loggers."""

    __pydantic_config__ = STRICT
    loggers: dict[str, Any] = field(default_factory=dict)  # name → its Config; keys of the yaml, not one key


@dataclass(frozen=True)
class StoreConfig:
    """Where what a run learns is kept to answer with."""

    __pydantic_config__ = STRICT
    path: FolderName | None = None  # a store's folder, made where there is none; null: the run's folder is all
    parent: str | None = None  # task@id in it, whose frozen update all tasks have beneath their own

    def __post_init__(self) -> None:
        if self.parent is not None and self.path is None:
            raise ValueError(f"parent={self.parent} needs path, the store that it is in")
        if self.parent is not None and not re.fullmatch(r"[^@]+@[0-9a-f]{12,64}", self.parent):
            raise ValueError(
                f"parent={self.parent} is no task@id; the id, 12 hex digits or more, keeps the run what it is: "
                f"python -m clora_exp.store list --store {self.path}"
            )


@dataclass(frozen=True)
class ExperimentConfig:
    """Everything one run is made of."""

    __pydantic_config__ = STRICT
    method: MethodConfig
    tasks: TasksConfig
    model: ModelConfig
    trainer: TrainerConfig
    logger: LoggerConfig = field(default_factory=LoggerConfig)  # or wandb, tensorboard, mlflow, beside the run's CSV
    store: StoreConfig = field(default_factory=StoreConfig)
    scenario: ScenarioName = "task_incremental"  # or class_incremental, domain_incremental
    seed: Seed = 0  # model and training
    data_seed: Seed = 0  # sampling and splits
    eval_split: Literal["test", "validation"] = "test"  # what the accuracy matrix is measured on
    results_dir: FolderName = "results/runs"  # where runs go
    dry_run: Flag = False  # true: say what would run, and how long it takes
    overwrite: Flag = False  # true: start again where this run exists
    report: Flag = True  # figures and report.md at the end
    reproduce: str | None = None  # a finished run, to be run again and compared

    def __post_init__(self) -> None:
        if self.method.warm_start == "stored" and self.store.path is None:
            raise ValueError("method.warm_start=stored: name the store, store.path=FOLDER")
        if self.scenario == "class_incremental" and self.method.protocol == "single":
            raise ValueError(
                "method.protocol=single: each task alone has its own classes only; scenario=task_incremental is that"
            )
