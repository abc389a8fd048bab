"""The adapter store from the command line: python -m clora_exp.store list --store FOLDER. See --help."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from clora_exp.errors import status_of
from clora_exp.reports.words import size
from clora_exp.store.aliases import Target
from clora_exp.store.checking import repaired, verify
from clora_exp.store.collect import Garbage, collect, garbage
from clora_exp.store.folder import Store
from clora_exp.store.index import Row, listing

EXAMPLES = """examples:
  python -m clora_exp.store import results/runs/med_legal_code/clora_xs/<hash>-s0 --store adapters
  python -m clora_exp.store list --store adapters
  python -m clora_exp.store compress legal int8 --store adapters --promote
  python -m clora_exp.store rollback legal --store adapters
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(
        prog="python -m clora_exp.store",
        description="Versions of task adapters in a folder: immutable, hashed, compressed, switched by alias.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help_: str, *, has_task: bool = False, has_version: bool = False) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=help_, description=help_)
        found.add_argument("--store", type=Path, default=Path("store"), help="the store's folder (default: store)")
        if has_task:
            found.add_argument("task")
        if has_version:
            found.add_argument(
                "--version", default="current", help="current, previous, best, v3, or an id (default: current)"
            )
        return found

    shown = command("list", "every version: its aliases, method, bytes and accuracy")
    shown.add_argument("--json", action="store_true", help="one JSON object a line")
    command("show", "the manifest of a version", has_task=True, has_version=True)
    command("verify", "read and hash every version, as serving would; status 1 where one is damaged")
    command("promote", "make a version the current one", has_task=True, has_version=True)
    command("rollback", "make the previous version the current one", has_task=True)
    compress = command(
        "compress", "a smaller version, measured beside the one it is made from", has_task=True, has_version=True
    )
    compress.add_argument("scheme", help="int8, bf16, prune0.7, svd8, distil8, plain, zstd19; several: prune0.7+int8")
    compress.add_argument("--promote", action="store_true", help="make it the current version")
    compress.add_argument("--dry-run", action="store_true", help="measure it and keep nothing")
    compress.add_argument("--data", action="append", default=[], metavar="KEY=VALUE", help="e.g. tasks.path=FOLDER")
    export = command(
        "export",
        "a version as a plain PEFT LoRA, reloaded with PEFT alone and certified",
        has_task=True,
        has_version=True,
    )
    for reads_base in (compress, export):
        reads_base.add_argument("--model-path", help="the base model's folder, where its name does not say where it is")
    export.add_argument("out", type=Path, help="the folder to write; it must not exist")
    taken = command("import", "the tasks of a run as new versions; makes the store where there is none")
    taken.add_argument("run", type=Path, help="a run directory")
    taken.add_argument("--task", action="append", help="only this task; may be repeated")
    taken.add_argument("--no-promote", action="store_true", help="leave the current versions as they are")
    gone = command("gc", "what no alias, child or version needs: its bytes, then, with --yes, it is removed")
    gone.add_argument("--yes", action="store_true", help="remove it")
    command("size", "bytes of the store, by task")
    command("reindex", "make the index, and aliases that cannot be read, again from the versions")
    return top


class _Console(Console):
    """Rich's, which leaves it to `status_of` to end where who reads has enough."""

    def on_broken_pipe(self) -> None:
        """Raise what is being handled on."""
        raise BrokenPipeError


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return its exit status: 1 where verify finds damage, 2 after one line about a mistake."""
    options = parser().parse_args(arguments)
    console = _Console(highlight=False, soft_wrap=True, width=1000)
    return status_of(
        lambda: COMMANDS[options.command](Store(options.store, is_new=options.command == "import"), options, console)
    )


def _list(store: Store, options: argparse.Namespace, console: Console) -> int:
    rows = listing(store)
    if options.json:
        for row in rows:
            print(json.dumps(dataclasses.asdict(row), ensure_ascii=False))
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("task", "version", "aliases", "method", "rank", "bytes", "accuracy", "created", "id"):
        table.add_column(head, justify="right" if head in ("rank", "bytes", "accuracy") else "left")
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table if rows else f"{store.path} has no versions; import puts those of a run into it")
    return 0


def _cells(row: Row) -> list[str]:
    if row.problem:
        return [row.task, row.version, ", ".join(row.aliases), f"damaged: {row.problem}", "", "", "", "", ""]
    accuracy = "–" if row.accuracy is None else f"{row.accuracy:.3f}"
    names = ", ".join(row.aliases)
    return [
        row.task,
        row.version,
        names,
        row.method,
        str(row.rank),
        size(row.num_bytes),
        accuracy,
        row.created,
        row.id[:12],
    ]


def _show(store: Store, options: argparse.Namespace, console: Console) -> int:
    manifest = store.manifest(options.task, options.version)
    print(manifest.to_bytes().decode(), end="")
    return 0


def _verify(store: Store, options: argparse.Namespace, console: Console) -> int:
    num, problems = 0, 0
    for found in verify(store):
        num += 1
        if found.problem:
            problems += 1
            print(f"DAMAGED  {found.what}: {found.problem}")
    print(f"{num} versions and aliases read, {problems or 'none'} damaged")
    return 1 if problems else 0


def _promote(store: Store, options: argparse.Namespace, console: Console) -> int:
    return _moved(store, options.task, lambda: store.promote(options.task, options.version))


def _rollback(store: Store, options: argparse.Namespace, console: Console) -> int:
    return _moved(store, options.task, lambda: store.rollback(options.task))


def _moved(store: Store, task: str, move: Callable[[], Target]) -> int:
    before, target = store.aliases(task).targets.get("current"), move()
    print(f"{task}: current was {before.version if before else 'none'}, is {target.version} ({target.id[:12]})")
    return 0


def _compress(store: Store, options: argparse.Namespace, console: Console) -> int:
    from clora_exp.inference.compressing import Compressor
    from clora_exp.inference.places import Place

    made = Compressor(Place(store, options.model_path), options.data).compress(
        options.task, options.scheme, options.version, keep=not options.dry_run, promote=options.promote
    )
    kept = "not kept" if options.dry_run else f"{made.manifest.task}@{made.manifest.version} ({made.manifest.id[:12]})"
    num = made.before.num_examples
    print(
        f"{options.scheme}: {size(made.bytes_before)} → {size(made.bytes_after)}, {made.ratio:.2f} times smaller\n"
        f"accuracy on {num} test examples: {made.before.accuracy:.4f} → {made.after.accuracy:.4f}, "
        f"{made.num_changed} answers changed\n{kept}"
    )
    return 0


def _export(store: Store, options: argparse.Namespace, console: Console) -> int:
    from clora_exp.inference.exporting import export
    from clora_exp.inference.places import Place

    found = export(Place(store, options.model_path), store.read(options.task, options.version), options.out)
    print(
        f"{options.out}: a PEFT LoRA, and how to use it in README.md.\nReloaded without this project: no update of a "
        f"layer differs by more than {found['largest_error_of_an_update']:.1e}, no logit by more than "
        f"{found['largest_error_of_a_logit']:.1e} (certificate.json)."
    )
    return 0


def _import(store: Store, options: argparse.Namespace, console: Console) -> int:
    from clora_exp.store.saving import import_run

    for manifest in import_run(store, options.run, options.task, promote=not options.no_promote):
        print(f"{manifest.task}@{manifest.version}  {size(manifest.weights.num_bytes)}  {manifest.id[:12]}")
    return 0


def _gc(store: Store, options: argparse.Namespace, console: Console) -> int:
    found: Garbage = collect(store) if options.yes else garbage(store)
    for task, version, num_bytes in found.versions:
        print(f"{task}@{version}  {size(num_bytes)}")
    for sha256, num_bytes in found.bases:
        print(f"basis {sha256[:12]}  {size(num_bytes)}")
    what = f"{size(found.num_bytes)} in {len(found.versions)} versions and {len(found.bases)} bases"
    print(f"removed {what}" if options.yes else f"would remove {what}; --yes does")
    return 0


def _size(store: Store, options: argparse.Namespace, console: Console) -> int:
    by_task: dict[str, int] = {}
    for row in listing(store):
        by_task[row.task] = by_task.get(row.task, 0) + row.num_bytes
    bases = sum(file.stat().st_size for file in (store.path / "bases").glob("*.clora"))
    for name, num_bytes in by_task.items():
        print(f"{size(num_bytes):>8}  {name}")
    print(f"{size(bases):>8}  bases that tasks share\n{size(bases + sum(by_task.values())):>8}  in all")
    return 0


def _reindex(store: Store, options: argparse.Namespace, console: Console) -> int:
    again = repaired(store)
    rows = listing(store, is_new=True)
    print(
        f"{len(rows)} versions of {len(store.tasks())} tasks"
        + (f"; aliases made again: {', '.join(again)}" if again else "")
    )
    return 0


COMMANDS: dict[str, Callable[[Store, argparse.Namespace, Console], int]] = {
    "list": _list,
    "show": _show,
    "verify": _verify,
    "promote": _promote,
    "rollback": _rollback,
    "compress": _compress,
    "export": _export,
    "import": _import,
    "gc": _gc,
    "size": _size,
    "reindex": _reindex,
}

if __name__ == "__main__":
    sys.exit(main())
