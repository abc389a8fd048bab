"""Answers of stored tasks from the command line: python -m clora_exp.inference predict --task auto. See --help."""

import argparse
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clora_exp.errors import ConfigError, status_of
from clora_exp.inference.identification import UNKNOWN, WAYS, Found, as_plain, check_way
from clora_exp.reports.time_left import TimeLeft

EXAMPLES = """examples:
  python -m clora_exp.inference predict --store adapters --task medical "Type 2 diabetes mellitus"
  python -m clora_exp.inference learn --store adapters
  cat lines.txt | python -m clora_exp.inference predict --store adapters --task auto --json
  python -m clora_exp.inference explain --store adapters "Redistribution is permitted provided that"
"""
FOREIGN = 10_000  # texts of no task that are learned from, at most


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(
        prog="python -m clora_exp.inference",
        description="Answers of the tasks in a store, or of a run; each says which version answered.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help_: str, *, has_texts: bool = True) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=help_, description=help_)
        found.add_argument(
            "--store", type=Path, default=Path("store"), help="a store's folder, or a run's (default: store)"
        )
        found.add_argument("--model-path", help="the base model's folder, where its name does not say where it is")
        if has_texts:
            found.add_argument("texts", nargs="*", help="texts; without any they are read from a pipe, one a line")
            found.add_argument("--task", default="auto", help="a task, or auto: the text says which (default: auto)")
            found.add_argument(
                "--version", default="current", help="current, previous, best, v3, or an id (default: current)"
            )
            found.add_argument("--json", action="store_true", help="one JSON object a line")
        return found

    predict = command("predict", "the label of each text; lines of a pipe may be JSON: text, task, version, id")
    predict.add_argument("--batch", type=int, default=64, help="lines that are answered together (default: 64)")
    generate = command("generate", "what a task of a language model writes on from each text")
    generate.add_argument("--max-new-tokens", type=int, default=64, help="(default: 64)")
    generate.add_argument("--temperature", type=float, help="draw instead of taking the likeliest token")
    generate.add_argument("--seed", type=int, default=0, help="of what is drawn (default: 0)")
    command("identify", "which task each text is for, or that it is for none")
    command("explain", "one answer: its task and why, its version and hashes, all its labels' probabilities")
    learned = command("learn", "learn to tell the store's tasks apart, from their data", has_texts=False)
    learned.add_argument("--way", default="examples", help=f"{', '.join(WAYS)} (default: examples)")
    learned.add_argument(
        "--foreign", type=Path, help="a file of texts of no task (default: what packages say of themselves)"
    )
    learned.add_argument("--data", action="append", default=[], metavar="KEY=VALUE", help="e.g. tasks.path=FOLDER")
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return its exit status: 1 where a text has no answer, 2 after one line about a mistake."""
    options = parser().parse_args(arguments)
    return status_of(lambda: COMMANDS[options.command](options))


def _lines(options: argparse.Namespace) -> Iterator[Any]:
    from clora_exp.inference.requests import read_lines

    if not options.texts and sys.stdin.isatty():
        raise ConfigError("no texts: name them, or send them through a pipe, one a line")
    return read_lines(options.texts or sys.stdin, options.task, options.version)


def _predict(options: argparse.Namespace) -> int:
    from clora_exp.inference.engine import Failure, TaskEngine

    if options.batch < 1:
        raise ConfigError(f"--batch {options.batch}: at least 1")
    engine, num_failed = TaskEngine.load(options.store, model_path=options.model_path), 0
    lines = _lines(options)
    while part := list(itertools.islice(lines, options.batch)):
        for line, answer in zip(part, engine.batch([line.request for line in part]), strict=True):
            is_failure = isinstance(answer, Failure)
            num_failed += is_failure
            if options.json:
                print(json.dumps(_plain(answer) | ({"id_of_request": line.id} if line.id is not None else {})))
            elif isinstance(answer, Failure):
                print(f"{'–':24} {answer.task}  {answer.error}")
            else:
                name = f"{answer.task}@{answer.version}"
                print(f"{answer.label:24} {answer.probability:.3f}  {name:20} {answer.id[:12]}")
        sys.stdout.flush()
    return 1 if num_failed else 0


def _plain(answer: Any) -> dict[str, Any]:
    found = dataclasses.asdict(answer)
    found["identified"] = as_plain(answer.identified) if answer.identified else None
    return found


def _generate(options: argparse.Namespace) -> int:
    import torch

    from clora_exp.inference.engine import TaskEngine

    engine = TaskEngine.load(options.store, model_path=options.model_path)
    drawing = {"do_sample": True, "temperature": options.temperature} if options.temperature else {"do_sample": False}
    torch.manual_seed(options.seed)
    for line in _lines(options):
        request = line.request
        task = request.task
        if task == "auto":
            found = engine.identify([request.text])[0]
            if found.task == UNKNOWN:
                raise ConfigError(f"{request.text[:40]!r} is for no task that is known; name one with --task")
            task = found.task
        written = engine.generate(task, request.text, request.version, max_new_tokens=options.max_new_tokens, **drawing)
        target = engine.load_task(task, request.version)
        if options.json:
            print(json.dumps({"task": task, "version": target.version, "id": target.id, "text": written}))
        else:
            print(written)
    return 0


def _identify(options: argparse.Namespace) -> int:
    from clora_exp.inference.engine import TaskEngine

    engine, num_unknown = TaskEngine.load(options.store, model_path=options.model_path), 0
    for line in _lines(options):
        found = engine.identify([line.request.text])[0]
        num_unknown += found.task == UNKNOWN
        print(json.dumps(as_plain(found)) if options.json else _said(found))
    return 1 if num_unknown else 0


def _said(found: Found) -> str:
    others = ", ".join(f"{task} {p:.3f}" for task, p in itertools.islice(found.probabilities.items(), 3))
    return f"{found.task:24} margin {found.margin:+.2f}, {found.threshold:+.2f} is needed  ({others})"


def _explain(options: argparse.Namespace) -> int:
    from clora_exp.inference.engine import TaskEngine
    from clora_exp.inference.explaining import explained

    engine = TaskEngine.load(options.store, model_path=options.model_path)
    for line in _lines(options):
        found = explained(engine, line.request)
        print(json.dumps(found) if options.json else _told(found))
    return 0


def _told(found: dict[str, Any]) -> str:
    lines = [f"text       {found['text']}"]
    if found["identified"]:
        terms = ", ".join(f"{term} {amount:+.2f}" for term, amount in found["why"]) or "no words of it"
        lines += [f"task       {_said(Found(**found['identified']))}", f"why        {terms}"]
    if found["error"]:
        return "\n".join([*lines, f"no answer  {found['error']}"])
    labels = sorted(found["probabilities"].items(), key=lambda entry: -entry[1])[:5]
    return "\n".join(
        [
            *lines,
            f"answer     {found['label']}",
            f"labels     {', '.join(f'{label} {p:.3f}' for label, p in labels)}",
            f"version    {found['task']}@{found['version']}  {found['id']}",
            f"made by    {found['method']}, rank {found['rank']}, {found['created']}",
            f"base       {found['base']}  {found['base_sha256']}",
            f"weights    {found['weights_sha256']}",
        ]
    )


def _learn(options: argparse.Namespace) -> int:
    from clora_exp.inference.background import package_texts, texts_of
    from clora_exp.inference.finding import file_of, learn
    from clora_exp.inference.places import Place
    from clora_exp.reports.words import size
    from clora_exp.store.folder import Store

    way = check_way(options.way)
    foreign = texts_of(options.foreign) if options.foreign else package_texts(FOREIGN)
    place = Place(Store(options.store), options.model_path)
    with TimeLeft("reading the tasks' texts") as bar:
        found = learn(place, way, foreign, options.data, bar)
    print(
        f"{way}: tells {len(found.tasks)} tasks apart: {', '.join(found.tasks)}.\n"
        f"Below a margin of {found.threshold:.2f} a text is for none of them.\n"
        f"{file_of(place)}  {size(file_of(place).stat().st_size)}"
    )
    return 0


COMMANDS = {"predict": _predict, "generate": _generate, "identify": _identify, "explain": _explain, "learn": _learn}

if __name__ == "__main__":
    sys.exit(main())
