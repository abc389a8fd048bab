"""Answers of stored tasks from the command line: python -m clora_exp.inference predict --task auto. See --help."""

import argparse
import dataclasses
import io
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clora_exp.errors import CloraError, ConfigError, status_of
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

    if options.texts:
        return read_lines(options.texts, options.task, options.version)
    if sys.stdin.isatty():
        raise ConfigError("no texts: name them, or send them through a pipe, one a line")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")  # a line that is none is one without answer
    return read_lines(sys.stdin, options.task, options.version)


def _shown(line: Any, answer: Any, plain: dict[str, Any], said: str, as_json: bool) -> bool:
    """Print an answer, or why there is none, a line each; tell whether there is one."""
    from clora_exp.inference.engine import Failure

    if as_json:
        print(json.dumps(plain | ({"id_of_request": line.id} if line.id is not None else {})), flush=True)
    else:
        print(f"{'–':24} {answer.task}  {answer.error}" if isinstance(answer, Failure) else said, flush=True)
    return not isinstance(answer, Failure)


def _predict(options: argparse.Namespace) -> int:
    from clora_exp.inference.engine import Answer, Failure, TaskEngine

    if options.batch < 1:
        raise ConfigError(f"--batch {options.batch}: at least 1")
    engine, num_failed = TaskEngine.load(options.store, model_path=options.model_path), 0
    lines = _lines(options)
    while part := list(itertools.islice(lines, options.batch)):
        answers = iter(engine.batch([line.request for line in part if not line.problem]))
        for line in part:
            answer = Failure(line.request.task, line.problem) if line.problem else next(answers)
            said = ""
            if isinstance(answer, Answer):
                name = f"{answer.task}@{answer.version}"
                said = f"{answer.label:24} {answer.probability:.3f}  {name:20} {answer.id[:12]}"
            num_failed += not _shown(line, answer, _plain(answer), said, options.json)
    return 1 if num_failed else 0


def _plain(answer: Any) -> dict[str, Any]:
    found = dataclasses.asdict(answer)
    return found | ({"identified": as_plain(answer.identified)} if found.get("identified") else {})


def _generate(options: argparse.Namespace) -> int:
    import torch

    from clora_exp.inference.engine import Failure, TaskEngine

    if options.max_new_tokens < 1:
        raise ConfigError(f"--max-new-tokens {options.max_new_tokens}: at least 1")
    if options.temperature is not None and options.temperature <= 0:
        raise ConfigError(f"--temperature {options.temperature}: above 0; without it the likeliest token is taken")
    engine, num_failed = TaskEngine.load(options.store, model_path=options.model_path), 0
    drawing = {"do_sample": True, "temperature": options.temperature} if options.temperature else {"do_sample": False}
    torch.manual_seed(options.seed)
    for line in _lines(options):
        request = line.request
        answer: Any = Failure(request.task, line.problem)
        try:
            if not line.problem:
                task = engine.identify([request.text])[0].task if request.task == "auto" else request.task
                if task == UNKNOWN:
                    raise ConfigError(f"{request.text[:40]!r} is for no task that is known; name one with --task")
                answer = engine.generate(
                    task, request.text, request.version, max_new_tokens=options.max_new_tokens, **drawing
                )
        except CloraError as error:
            answer = Failure(request.task, str(error))
        num_failed += not _shown(line, answer, _plain(answer), getattr(answer, "text", ""), options.json)
    return 1 if num_failed else 0


def _identify(options: argparse.Namespace) -> int:
    from clora_exp.inference.engine import Failure, TaskEngine

    engine, num_unknown = TaskEngine.load(options.store, model_path=options.model_path), 0
    for line in _lines(options):
        if line.problem:
            answer: Any = Failure(line.request.task, line.problem)
            num_unknown += not _shown(line, answer, _plain(answer), "", options.json)
            continue
        found = engine.identify([line.request.text])[0]
        num_unknown += found.task == UNKNOWN
        _shown(line, found, as_plain(found), _said(found), options.json)
    return 1 if num_unknown else 0


def _said(found: Found) -> str:
    others = ", ".join(f"{task} {p:.3f}" for task, p in itertools.islice(found.probabilities.items(), 3))
    return f"{found.task:24} margin {found.margin:+.2f}, {found.threshold:+.2f} is needed  ({others})"


def _explain(options: argparse.Namespace) -> int:
    from clora_exp.inference.engine import Failure, TaskEngine
    from clora_exp.inference.explaining import explained

    engine, num_failed = TaskEngine.load(options.store, model_path=options.model_path), 0
    for line in _lines(options):
        if line.problem:
            answer = Failure(line.request.task, line.problem)
            num_failed += not _shown(line, answer, _plain(answer), "", options.json)
            continue
        found = explained(engine, line.request)
        num_failed += found["error"] is not None
        _shown(line, None, found, _told(found), options.json)
    return 1 if num_failed else 0


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
