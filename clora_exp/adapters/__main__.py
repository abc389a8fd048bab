"""What a task costs in each setting of the family, and a learned task for other software.

python -m clora_exp.adapters sizes model=minilm
python -m clora_exp.adapters export RUN TASK FOLDER
python -m clora_exp.adapters merge RUN TASK FOLDER
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console, Group
from rich.progress import Progress
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

from clora_exp import discovery
from clora_exp.adapters.backbone import Adapters
from clora_exp.adapters.certificate import NAME, certify
from clora_exp.adapters.export import write_merged, write_peft
from clora_exp.compose import CONF, compose_experiment
from clora_exp.config import ExperimentConfig
from clora_exp.errors import CloraError, RunError
from clora_exp.files import folder_written_atomically
from clora_exp.models.weights import weights_folder
from clora_exp.reports.words import size
from clora_exp.saved import load_task
from clora_exp.states import pack_layers


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters, and bytes of the files that hold them; heads apart."""

    method: str
    shared_parameters: int
    shared_bytes: int
    task_parameters: int
    task_bytes: int


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m clora_exp.adapters", description="What adapters cost, and adapters for other software."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    sizes_parser = commands.add_parser("sizes", help="parameters and bytes a task in each setting, measured from files")
    sizes_parser.add_argument("overrides", nargs="*", help="as on run.py, e.g. model=minilm method.rank=8")
    for name, help_ in (
        ("export", "a task of a run as a plain PEFT LoRA folder, reloaded with PEFT alone and certified"),
        ("merge", "a task of a run merged into the weights, as a plain transformers checkpoint, certified too"),
    ):
        command = commands.add_parser(name, help=help_, description=help_)
        command.add_argument("run", type=Path, help="a run directory, e.g. results/runs/med_legal_code/clora/<hash>-s0")
        command.add_argument("task", help="the name of a task in it")
        command.add_argument("out", type=Path, help="the folder to write; it must not exist")
    options = parser.parse_args(arguments)
    console, progress = Console(highlight=False, soft_wrap=True), Progress(console=Console(stderr=True), transient=True)
    try:
        with progress:
            result: Group | str
            if options.command == "sizes":
                result = table([measure(config) for config in progress.track(settings(options.overrides))])
            else:
                result = export(options.run, options.task, options.out, options.command == "merge", progress)
        console.print(result)
    except CloraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def export(run: Path, task: str, out: Path, is_merged: bool, progress: Progress) -> str:
    """Write a task of a run for other software, with its certificate; return what was measured, in words.

    Raises:
        RunError, ModelError, ConfigError: no such run, task or model, or the folder is there, or does not reload.
    """
    if out.exists():
        raise RunError(f"{out} exists; name a new folder")
    steps = progress.add_task("reading the task", total=3)
    saved = load_task(run, task)
    probe = saved.probe()
    logits, exported = saved.logits(probe), saved.exported(is_merged)
    progress.update(steps, advance=1, description="writing the folder")
    with folder_written_atomically(out) as new:
        if is_merged:
            plain = discovery.model_kinds.load(saved.config.model.kind).build(saved.config.model)
            write_merged(new, exported, plain.backbone, plain.tokenizer)
        else:
            write_peft(new, exported)
        progress.update(steps, advance=1, description="reloading it in a process of its own")
        base = weights_folder(saved.config.model)
        found = certify(new, exported, base, probe, logits, is_merged=is_merged)
    return (
        f"{out}: {'a transformers checkpoint' if is_merged else 'a PEFT LoRA'} of task {task}, and how to use it in "
        f"README.md.\nReloaded without this project: no update of a layer differs by more than "
        f"{found['largest_error_of_an_update']:.1e}, no logit of {len(probe)} texts by more than "
        f"{found['largest_error_of_a_logit']:.1e} ({NAME})."
    )


def settings(overrides: list[str]) -> list[ExperimentConfig]:
    """Return every method that adapts layers for one task after another, composed with the overrides."""
    names = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
    configs = [compose_experiment([f"method={name}", *overrides]) for name in names]
    return [c for c in configs if c.method.trainable == "adapters" and c.method.protocol == "sequence"]


def measure(config: ExperimentConfig) -> Sizes:
    """Adapt the model, end a task, and measure what is shared and what the task owns."""
    model = discovery.model_kinds.load(config.model.kind).build(config.model)
    adapters = Adapters(model.backbone, config.method, config.model.settings.target_modules)
    adapters.start_task(0)
    adapters.finish_task()
    (shared, shared_bytes), (own, own_bytes) = _of_file(adapters.shared()), _of_file(adapters.owned_by(0))
    return Sizes(config.method.name, shared, shared_bytes, own, own_bytes)


def _of_file(state: dict[str, Tensor]) -> tuple[int, int]:
    """Return the numbers and the bytes of the file that holds them, one stacked tensor a part and shape."""
    if not state:
        return 0, 0
    tensors, _ = pack_layers(state)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.safetensors"
        save_file(tensors, path)
        return sum(tensor.numel() for tensor in tensors.values()), path.stat().st_size


def table(rows: list[Sizes]) -> Group:
    """Return the table, the smallest task first."""
    shown = Table(box=None, pad_edge=False)
    for heading in ("method", "all tasks share", "bytes", "a task owns", "bytes", "than a LoRA's"):
        shown.add_column(heading, justify="left" if heading == "method" else "right")
    whole = max(row.task_bytes for row in rows)
    for row in sorted(rows, key=lambda row: row.task_bytes):
        times = whole / row.task_bytes if row.task_bytes else 0.0
        shown.add_row(
            row.method,
            f"{row.shared_parameters:,}",
            size(row.shared_bytes),
            f"{row.task_parameters:,}",
            size(row.task_bytes),
            f"{times:.1f} × smaller" if times >= 1.05 else "as large" if times else "nothing",
        )
    return Group(shown, "Parameters, and bytes of the safetensors file that holds them; heads apart.")


if __name__ == "__main__":
    sys.exit(main())
