"""Runs whose files are damaged, swapped or of another version: shown, gone on with, drawn again, exported."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from bad_cases import DAMAGES, Case, Place, Words, edit, without_privileges

FINISHED = (
    "accuracy_matrix.csv",
    "metrics.json",
    "metrics.csv",
    "cost.csv",
    "predictions.csv.gz",
    "config.yaml",
    "environment.json",
    "command.txt",
    "STATUS",
    "SHA256SUMS",
    "adapters/basis.safetensors",
    "adapters/a/adapter.json",
    "adapters/a/adapter.safetensors",
    "adapters/a/peft/adapter_model.safetensors",
    "adapters/b/peft/labels.json",
)
EXPORTED = ("config.yaml", "adapters/basis.safetensors", "adapters/a/adapter.json", "adapters/a/adapter.safetensors")
UNFINISHED = (
    "checkpoint/state.safetensors",
    "checkpoint/session.safetensors",
    "adapters/basis.safetensors",
    "adapters/a/adapter.json",
    "adapters/a/adapter.safetensors",
    "SHA256SUMS",
)
MADE_AGAIN = (
    "accuracy_matrix.csv",
    "metrics.json",
    "metrics.csv",
    "predictions.csv.gz",
    "config.yaml",
    "environment.json",
    "STATUS",
)
RESUMED = "its tables are written again from the checkpoint"
Damage = Callable[[Path], object]


def _report(place: Place, run: Path) -> Words:
    return ["clora_exp.reports", str(run)]


def _export(place: Place, run: Path) -> Words:
    place.copy("model")
    return ["clora_exp.adapters", "export", str(run), "a", str(place.folder / "out")]


def _merge(place: Place, run: Path) -> Words:
    return ["clora_exp.adapters", "merge", str(run), "a", str(place.folder / "out")]


def _again(place: Place, run: Path) -> Words:
    return place.run_py()


def _damaged(kind: str, name: str, damage: Damage, command: Callable[[Place, Path], Words]) -> Callable[[Place], Words]:
    def make(place: Place) -> Words:
        run = place.run(kind)
        damage(run / name)
        return command(place, run)

    return make


def _sealed(change: Callable[[Path], object], *names: str) -> Damage:
    """Return a change after which the sums are right again: an old or an edited run, whose files agree."""

    def damage(run: Path) -> None:
        change(run)
        from clora_exp.sums import keep_sums

        lines = (run / "SHA256SUMS").read_text().splitlines()[1:]
        keep_sums(run, [path for line in lines if (path := run / line.partition("  ")[2]).is_file()])

    return damage


def _without_sums(change: Callable[[Path], object]) -> Damage:
    def damage(run: Path) -> None:
        change(run)
        (run / "SHA256SUMS").unlink()

    return damage


def _tensors(change: Callable[[dict], object], name: str = "adapters/a/adapter.safetensors") -> Damage:
    """Return a change of an adapter's tensors that its manifest agrees with."""

    def of_run(run: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = run / name
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        edit(path.parent / "adapter.json", lambda manifest: manifest | {"sha256": digest})

    return _sealed(of_run)


def _manifest(**values: object) -> Damage:
    return _sealed(lambda run: edit(run / "adapters/a/adapter.json", lambda manifest: manifest | values))


def _first(tensors: dict) -> str:
    return min(name for name in tensors if not name.startswith("head"))


def _nan(tensors: dict) -> None:
    tensors[_first(tensors)] = tensors[_first(tensors)] * float("nan")


def _wider(tensors: dict) -> None:
    tensors["head.weight"] = tensors["head.weight"].repeat(1, 2)


def _half(tensors: dict) -> None:
    tensors["head.weight"] = tensors["head.weight"].half()


def _integers(tensors: dict) -> None:
    tensors[_first(tensors)] = tensors[_first(tensors)].int()


def _state(change: Callable[[dict], object]) -> Damage:
    def damage(run: Path) -> None:
        from clora_exp.states import read_state, write_state

        path = run / "checkpoint" / "state.safetensors"
        state = read_state(path)
        write_state(path, change(state) or state)

    return damage


def _swapped(name: str, command: Callable[[Place, Path], Words], kind: str = "done") -> Callable[[Place], Words]:
    """Return what puts a file or a folder of the run with another seed in the place of this one's."""

    def make(place: Place) -> Words:
        run, other = place.run(kind), next((place.ready / "other").rglob("config.yaml")).parent
        if (other / name).is_dir():
            shutil.rmtree(run / name)
            shutil.copytree(other / name, run / name)
        else:
            shutil.copy(other / name, run / name)
        return command(place, run)

    return make


def _matrix(old: str, new: str) -> Damage:
    def damage(run: Path) -> None:
        path = run / "accuracy_matrix.csv"
        path.write_text(path.read_text().replace(old, new))

    return damage


def _write(name: str, text: str) -> Damage:
    return lambda run: (run / name).write_text(text)


def _of_run(kind: str, damage: Damage, command: Callable[[Place, Path], Words]) -> Callable[[Place], Words]:
    return _damaged(kind, "", lambda run: damage(run), command)


def _unreadable(place: Place) -> Words:
    run = place.run("done")
    words = _report(place, run)
    (run / "metrics.json").chmod(0)
    without_privileges()
    return words


def _json_of(name: str, change: Callable[[object], object]) -> Damage:
    return _without_sums(lambda run: (run / name).write_text(json.dumps(change(json.loads((run / name).read_text())))))


EDITED: tuple[tuple[str, str, Damage, Callable[[Place, Path], Words], str], ...] = (
    ("adapter.json of format 2", "done", _manifest(format=2), _export, "format 2, this version reads 1"),
    ("adapter.json without a format", "done", _manifest(format=None), _export, "format None, this version reads 1"),
    ("adapter.json with a label less", "done", _manifest(labels=["cat", "dog"]), _export, "adapters/a"),
    ("adapter.json with no labels", "done", _manifest(labels=None), _export, "adapters/a"),
    ("adapter.json of another model", "done", _manifest(model={"name": "x", "sha256": "0"}), _export, "other weights"),
    ("adapter.json with other layers", "done", _manifest(layers={"routing": ["x"]}), _export, "adapters/a"),
    ("adapter.json is a list", "done", _sealed(_write("adapters/a/adapter.json", "[]")), _export, "adapters/a"),
    ("a tensor too many", "done", _tensors(lambda t: t.update(more=t["head.bias"].clone())), _export, "adapters/a"),
    ("a tensor too few", "done", _tensors(lambda t: t.pop(_first(t))), _export, "adapters/a"),
    ("no head", "done", _tensors(lambda t: (t.pop("head.weight"), t.pop("head.bias"))), _export, "adapters/a"),
    ("NaN in an adapter", "done", _tensors(_nan), _export, "NaN"),
    ("a head of another width", "done", _tensors(_wider), _export, "adapters/a"),
    ("a head in half precision", "done", _tensors(_half), _export, "adapters/a"),
    ("an adapter of integers", "done", _tensors(_integers), _merge, "adapters/a"),
    ("checkpoint of format 4", "cut", _state(lambda s: s.update(format=4)), _again, "format 4, this version reads 3"),
    ("checkpoint without a format", "cut", _state(lambda s: s.pop("format") and None), _again, "state.safetensors"),
    ("checkpoint is a list", "cut", _state(lambda s: [s]), _again, "state.safetensors cannot be read"),
    ("checkpoint without progress", "cut", _state(lambda s: s.pop("progress") and None), _again, "state.safetensors"),
    ("checkpoint of more tasks", "cut", _state(lambda s: s["progress"].update(num_tasks_done=3)), _again,
     "3 tasks done"),
    ("checkpoint of no whole number", "cut", _state(lambda s: s["progress"].update(num_tasks_done=1.5)), _again,
     "state.safetensors"),
    ("checkpoint without adapters", "cut", _state(lambda s: s["method"].clear()), _again, "state.safetensors"),
    ("STATUS says done too early", "cut", _write("STATUS", "done\n"), _again, "STATUS says done"),
    ("STATUS says done too early", "cut", _write("STATUS", "done\n"), _report, "STATUS says done"),
    ("STATUS says what is none", "cut", _write("STATUS", "dome\n"), _report, "STATUS"),
    ("no sums: an accuracy of 7", "done", _without_sums(_matrix("0.6", "7.6")), _report, "accuracy_matrix.csv"),
    ("no sums: an accuracy in words", "done", _without_sums(_matrix("0.6", "good")), _report, "cannot be read"),
    ("no sums: another task in the matrix", "done", _without_sums(_matrix(",b\n", ",c\n")), _report,
     "an accuracy matrix has"),
    ("no sums: a matrix that is none", "done", _without_sums(_write("accuracy_matrix.csv", "x\n")), _report, "cannot"),
    ("no sums: config.yaml is a list", "done", _without_sums(_write("config.yaml", "[1]\n")), _report, "config.yaml"),
    ("no sums: config.yaml is a word", "done", _without_sums(_write("config.yaml", "x\n")), _report, "config.yaml"),
    ("no sums: config.yaml without a method", "done", _without_sums(_write("config.yaml", "seed: 0\n")), _export,
     "method"),
    ("no sums: config.yaml without a method", "done", _without_sums(_write("config.yaml", "seed: 0\n")), _report,
     "config.yaml"),
    ("no sums: config.yaml with a key too many", "done", _without_sums(
        lambda run: (run / "config.yaml").open("a").write("more: 1\n")), _export, "more"),
    ("no sums: metrics.json is a list", "done", _json_of("metrics.json", lambda m: [m]), _report, "cannot be read"),
    ("no sums: an unknown metric", "done", _json_of("metrics.json", lambda m: m | {"x": {"value": 1, "reason": ""}}),
     _report, "metrics.json"),
    ("no sums: a metric in words", "done", _json_of("metrics.json", lambda m: {k: {"value": "good", "reason": ""}
     for k in m}), _report, "metrics.json"),
    ("no sums: environment.json is empty", "done", _json_of("environment.json", lambda e: {}), _report, "environment"),
    ("no sums: cost.csv has no columns", "done", _without_sums(_write("cost.csv", "x\n1\n")), _report, "cost.csv"),
    ("no sums: cost.csv in words", "done", _without_sums(
        lambda run: (run / "cost.csv").write_text((run / "cost.csv").read_text().replace("a,", "a,much", 1))),
     _report, "cost.csv"),
    ("no sums: metrics.csv has no columns", "done", _without_sums(_write("metrics.csv", "x\n1\n")), _report, "metrics"),
)  # fmt: skip


def cases() -> list[Case]:
    """Return the cases."""
    found = []
    for i, name in enumerate(FINISHED):
        for j, (what, damage) in enumerate(DAMAGES.items()):
            if name == "SHA256SUMS" and what == "missing":
                continue
            command, said = ((_again, "run.py"), (_report, "reports"))[(i + j) % 2]
            make = _damaged("done", name, damage, command)
            found.append(Case("finished runs", f"{name}: {what}, {said}", f"{name} is {what}", make, Path(name).name))
    for name in EXPORTED:
        for i, (what, damage) in enumerate(DAMAGES.items()):
            command, said = ((_export, "export"), (_merge, "merge"))[i % 2]
            make = _damaged("done", name, damage, command)
            found.append(Case("finished runs", f"{name}: {what}, {said}", f"{name} is {what}", make, Path(name).name))
    for name in UNFINISHED:
        for what, damage in DAMAGES.items():
            if what == "missing" and name == "checkpoint/session.safetensors":
                continue
            make = _damaged("cut", name, damage, _again)
            says = "no checkpoint" if (name, what) == (UNFINISHED[0], "missing") else Path(name).name[:5]
            found.append(Case("unfinished runs", f"{name}: {what}", f"{name} is {what}", make, says))
    for name in MADE_AGAIN:
        for what, damage in DAMAGES.items():
            if what != "a folder in its place":
                make = _damaged("cut", name, damage, _again)
                found.append(Case("unfinished runs", f"{name}: {what}", f"{name} is {what}", make, RESUMED, True))
    for name in ("accuracy_matrix.csv", "metrics.json", "config.yaml", "predictions.csv.gz", "adapters/a"):
        says = Path(name).name
        found.append(Case("finished runs", f"{name}: another run's", "of another seed", _swapped(name, _again), says))
        found.append(
            Case("finished runs", f"{name}: another run's, reports", "of another seed", _swapped(name, _report), says)
        )
    found.append(Case("finished runs", "adapters/a: another run's, export", "of another seed",
                      _swapped("adapters/a", _export), "adapters/a"))  # fmt: skip
    found.append(Case("unfinished runs", "adapters/a: another run's", "of another seed",
                      _swapped("adapters/a", _again, "cut"), "adapters/a"))  # fmt: skip
    found.append(
        Case("finished runs", "metrics.json: no permission", "nobody may read it", _unreadable, "metrics.json")
    )
    for what, kind, damage, command, says in EDITED:
        said = command.__name__.strip("_")
        subject = "finished runs" if kind == "done" else "unfinished runs"
        found.append(Case(subject, f"{what}, {said}", what, _of_run(kind, damage, command), says))
    return found
