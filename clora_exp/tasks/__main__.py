"""Look at a stream, or take its data elsewhere.

python -m clora_exp.tasks describe med_legal_code
python -m clora_exp.tasks export med_legal_code FOLDER
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from clora_exp.compose import compose_experiment
from clora_exp.errors import CloraError, DataError
from clora_exp.files import write_atomically
from clora_exp.tasks.stream import SPLITS, Example, Task, TaskStream, json_lines, load_stream


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m clora_exp.tasks", description="Look at a task stream, or export it."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    describe_parser = commands.add_parser(
        "describe", help="sizes, class counts, notes, licences, fingerprints, examples"
    )
    export_parser = commands.add_parser("export", help="write every split as JSON Lines (id, text, label)")
    for command in (describe_parser, export_parser):
        command.add_argument("stream", help="a stream's name, e.g. med_legal_code (the files of conf/tasks)")
    export_parser.add_argument("folder", type=Path, help="becomes FOLDER/<task>/<split>.jsonl")
    for command in (describe_parser, export_parser):
        command.add_argument("overrides", nargs="*", help="as on run.py, e.g. data_seed=1")
    options = parser.parse_args(arguments)
    try:
        config = compose_experiment([f"tasks={options.stream}", *options.overrides])
        stream = load_stream(config.tasks, config.data_seed)
        if options.command == "describe":
            describe(stream, config.tasks.description, Console(highlight=False))
        else:
            export(stream, options.folder)
    except CloraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def describe(stream: TaskStream, description: str, console: Console) -> None:
    """Print what the stream holds, with three training examples a task."""
    console.print(Text(stream.name, style="bold"), Text(description, style="dim"))
    for number, task in enumerate(stream, 1):
        console.print()
        console.print(Text(f"{number}. {task.name}", style="bold"), Text(task.description))
        console.print(Text(f"   {task.summary}"), soft_wrap=True)
        for note in task.notes:
            console.print(Text(f"   {note}", style="yellow" if note.startswith("warning: ") else "dim"), soft_wrap=True)
        if task.licence or task.attribution:
            console.print(Text(f"   {task.licence} · {task.attribution}", style="dim"))
        console.print(_table(task))
        for split in SPLITS:
            console.print(Text(f"   {split:<11}sha256 {task.sha256[split]}", style="dim"), soft_wrap=True)
        for example in task.train[:3]:
            console.print(_shown(example, task))


def _shown(example: Example, task: Task) -> Text:
    """Return an example in one or two lines: its label and its input, or a prompt and its response."""
    given = "an image in the data" if example.image.startswith("data:") else example.image
    text = given or _short(example.text)
    if task.is_free_form:
        return Text(f"   {text} ").append(f"→ {_short(example.label)}", style="cyan")
    return Text(f"   [{example.label}] ", style="cyan").append(text, style="default")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 160 else text[:157] + "..."


def _table(task: Task) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("   label")
    counts = {split: task.label_counts(split) for split in SPLITS}
    for split in SPLITS:
        table.add_column(split, justify="right")
    for label in task.labels:
        table.add_row(f"   {label}", *(str(counts[split][label]) for split in SPLITS))
    table.add_row("   all", *(str(len(task.split(split))) for split in SPLITS), style="bold")
    groups = (str(len({example.group for example in task.split(split)})) for split in SPLITS)
    table.add_row("   groups", *groups, style="dim")
    return table


def export(stream: TaskStream, folder: Path) -> None:
    """Write `folder/<task>/<split>.jsonl`; a file's SHA-256 is the split's fingerprint.

    Raises:
        DataError: the folder cannot be written.
    """
    try:
        for task in stream:
            (folder / task.name).mkdir(parents=True, exist_ok=True)
            for split in SPLITS:
                write_atomically(folder / task.name / f"{split}.jsonl", json_lines(task.split(split)).encode())
                print(f"{task.sha256[split]}  {folder / task.name / split}.jsonl")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
