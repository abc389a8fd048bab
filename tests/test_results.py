"""The run directory: atomic, resumable after any task, never half written."""

import hashlib
import json
import logging
import os
import signal
import subprocess
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from trials import content, quiet

from clora_exp import files, identity, loop
from clora_exp.compose import SECTIONS
from clora_exp.errors import Interrupted, RunError
from clora_exp.loop import run
from clora_exp.runs import FILES, read_run
from clora_exp.session import Session
from clora_exp.states import read_state
from clora_exp.structuring import structure
from clora_exp.tasks.stream import load_stream


def test_a_run_leaves_what_the_design_names(tiny) -> None:
    config = tiny("method=clora_xs", "report=true")
    folder = run(config, "python run.py method=clora_xs", quiet())
    expected = {
        "STATUS",
        "config.yaml",
        "command.txt",
        "environment.json",
        "accuracy_matrix.csv",
        "metrics.json",
        "metrics.csv",
        "predictions.csv.gz",
        "cost.csv",
        "run.log",
        "SHA256SUMS",
        "adapters",
        "report.md",
        "figures",
    }
    others = {"answers.jsonl", "adapter_task.csv"}  # of language models, and what `reports cross` adds
    assert expected | others == set(FILES)  # the folder's map, as a person sees it
    assert {p.name for p in folder.path.iterdir()} == expected
    assert (folder.path / "STATUS").read_text() == "done\n"
    sums = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=folder.path, capture_output=True, text=True)
    assert sums.returncode == 0
    assert "adapters/first/adapter.safetensors: OK" in sums.stdout
    assert (folder.path / "command.txt").read_text() == "python run.py method=clora_xs\n"
    assert structure(yaml.safe_load((folder.path / "config.yaml").read_text()), SECTIONS) == config
    environment = json.loads((folder.path / "environment.json").read_text())
    assert environment["data_sha256"]["first"].keys() == {"train", "validation", "test"}
    assert folder.path.parent.name == "clora_xs"
    assert folder.path.name.endswith("-s0")
    metrics = json.loads((folder.path / "metrics.json").read_text())
    assert metrics["backward_transfer"] == {"value": 0.0, "reason": ""}
    assert metrics["forward_transfer"]["value"] is None


def test_an_adapter_is_few_stacked_tensors_and_says_what_it_is(tiny) -> None:
    folder = run(tiny("method=clora_xs"), "", quiet())
    path = folder.path / "adapters" / "second"
    tensors, manifest = load_file(path / "adapter.safetensors"), json.loads((path / "adapter.json").read_text())
    assert tensors["routing"].shape == (4, 4, 4)  # 2 layers × query, value; r = 4
    assert tensors["gate"].shape == (4,)
    assert set(tensors) == {"routing", "gate", "head.weight", "head.bias"}
    assert len(manifest["layers"]["routing"]) == 4
    assert manifest["labels"] == ["one", "two", "three"]
    assert manifest["sha256"] == hashlib.sha256((path / "adapter.safetensors").read_bytes()).hexdigest()
    assert (folder.path / "adapters" / "basis.safetensors").exists()


def test_a_finished_run_is_printed_and_not_repeated_unless_asked(tiny, monkeypatch) -> None:
    config = tiny("method=frozen")
    first = run(config, "", quiet())
    before = content(first)
    trained = []
    real = loop.fit
    monkeypatch.setattr(loop, "fit", lambda *a, **k: (trained.append(a[2]), real(*a, **k))[1])
    terminal = quiet()
    run(config, "", terminal)
    assert trained == []
    assert "done already" in terminal.console.file.getvalue()
    again = run(tiny("method=frozen", "overwrite=true"), "", quiet())
    assert trained == ["first", "second", "third"]
    assert content(again) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["training_step", "predict_step"])
def test_a_signal_ends_the_run_in_order_as_interrupted(number: int, where: str, tiny, monkeypatch) -> None:
    config = tiny("method=lora")
    real, calls = getattr(Session, where), []
    before = signal.getsignal(number)

    def step_and_signal(self, batch, index):
        calls.append(self.t)
        if len(calls) == 13:
            os.kill(os.getpid(), number)
        return real(self, batch, index)

    monkeypatch.setattr(Session, where, step_and_signal)
    with pytest.raises(Interrupted) as caught:
        run(config, "", quiet())
    assert caught.value.signal_number == number
    assert len(calls) <= 14
    if where == "training_step":  # saved at once, long before the thirty seconds are over
        (session,) = Path(config.results_dir).rglob("session.safetensors")
        assert len(read_state(session)["session"]["losses"]) == len(calls) % 10
    assert signal.getsignal(number) == before
    (status,) = Path(config.results_dir).rglob("STATUS")
    assert status.read_text() == f"interrupted\nstopped by {signal.Signals(number).name}\n"
    monkeypatch.undo()
    assert run(config, "", quiet()).status == "done"


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_what_was_finished(tiny, monkeypatch) -> None:
    config = tiny("method=lora", "trainer.gradient_clip=null")
    real = loop.fit

    def broken(method, split, task_name, *rest):
        if task_name == "second":
            method.model.heads[1].weight.data.fill_(float("nan"))
        return real(method, split, task_name, *rest)

    monkeypatch.setattr(loop, "fit", broken)
    with pytest.raises(RunError, match=r"became nan in step 1 of task 'second'"):
        run(config, "", quiet())
    (status,) = Path(config.results_dir).rglob("STATUS")
    assert status.read_text().startswith("failed\nRunError: the loss became nan in step 1 of task 'second'")
    assert (status.parent / "adapters" / "first" / "adapter.json").exists()


def test_a_folder_that_cannot_be_written_is_one_clear_error(tiny, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"results_dir=.*file: cannot be written: Not a directory"):
        run(tiny(f"results_dir={tmp_path / 'file'}"), "", quiet())


def test_a_damaged_checkpoint_is_one_clear_error(tiny, monkeypatch) -> None:
    config = tiny("method=lora")
    monkeypatch.setattr(loop, "fit", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(Interrupted):
        run(config, "", quiet())
    (checkpoint,) = Path(config.results_dir).rglob("state.safetensors")
    checkpoint.write_bytes(checkpoint.read_bytes()[:100])
    with pytest.raises(RunError, match="overwrite=true starts again"):
        run(config, "", quiet())


def _stopped_in_the_second_task(config, monkeypatch) -> Path:
    """Return the folder of a run that was stopped after its first task."""
    real = loop.fit

    def stopped(method, split, task_name, *rest):
        if task_name == "second":
            raise KeyboardInterrupt
        return real(method, split, task_name, *rest)

    monkeypatch.setattr(loop, "fit", stopped)
    with pytest.raises(Interrupted):
        run(config, "", quiet())
    monkeypatch.setattr(loop, "fit", real)
    return next(Path(config.results_dir).rglob("STATUS")).parent


def test_a_flipped_bit_or_another_run_s_checkpoint_is_refused(tiny, monkeypatch) -> None:
    checkpoints = []
    for seed in (0, 1):
        config = tiny("method=lora", f"seed={seed}")
        folder = next(
            p for p in (_stopped_in_the_second_task(config, monkeypatch).parent).iterdir() if p.name[-1] == f"{seed}"
        )
        checkpoints.append(folder / "checkpoint" / "state.safetensors")
    whole = checkpoints[1].read_bytes()
    checkpoints[1].write_bytes(checkpoints[0].read_bytes())
    with pytest.raises(RunError, match=r"state\.safetensors cannot be read \(it is of the run .*-s0\)"):
        run(config, "", quiet())
    checkpoints[1].write_bytes(whole[:-5] + bytes([whole[-5] ^ 16]) + whole[-4:])
    with pytest.raises(RunError, match="it has changed since it was written"):
        run(config, "", quiet())


@pytest.mark.parametrize("name", ["basis.safetensors", "first/adapter.safetensors", "first/peft/adapter_config.json"])
def test_a_run_does_not_go_on_over_a_damaged_adapter(name: str, tiny, monkeypatch) -> None:
    config = tiny("method=clora_xs")
    folder = _stopped_in_the_second_task(config, monkeypatch)
    path = folder / "adapters" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match=f"{name} has changed since it was written"):
        run(config, "", quiet())


def test_what_was_learned_is_not_written_over_where_status_and_checkpoint_are_lost(tiny) -> None:
    config = tiny("method=lora")
    folder = run(config, "", quiet()).path
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for status in ("dome\n", "", "interrupted\n"):
        (folder / "STATUS").write_text(status)
        with pytest.raises(RunError, match=r"STATUS says .*, not done, and there is no checkpoint to go on from"):
            run(config, "", quiet())
    (folder / "STATUS").write_text("done\n")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_whose_checkpoint_is_not_the_end_is_not_done(tiny, monkeypatch) -> None:
    config = tiny("method=lora")
    folder = _stopped_in_the_second_task(config, monkeypatch)
    (folder / "STATUS").write_text("done\n")
    with pytest.raises(RunError, match="STATUS says done, and its checkpoint has 1 of 3 tasks"):
        run(config, "", quiet())


@pytest.mark.parametrize(
    "name", ["accuracy_matrix.csv", "metrics.json", "predictions.csv.gz", "adapters/first/adapter.json"]
)
def test_a_finished_run_is_not_shown_with_a_file_that_has_changed(name: str, tiny) -> None:
    config = tiny("method=lora")
    path = run(config, "", quiet()).path / name
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1) + b"\n")
    with pytest.raises(RunError, match=f"{path.name} has changed since it was written"):
        run(config, "", quiet())


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("accuracy_matrix.csv", "init,", "init,7", "no accuracy, 0 to 1"),
        ("accuracy_matrix.csv", "init,", "start,", "an accuracy matrix has the rows init and first, second, third"),
        ("STATUS", "done", "dome", "STATUS says 'dome', none of running, interrupted, done, failed"),
        ("config.yaml", "method:", "methud:", "config.yaml has no method.name"),
        ("environment.json", "device", "devize", "environment.json has no device"),
        ("metrics.json", '"value": 0.0', '"value": "good"', "is 'good', no number"),
        ("metrics.csv", "task,metric", "tusk,metric", "metrics.csv has no column 'task'"),
        ("cost.csv", "first,", "first,much", "cost.csv: column 'trainable_parameters' holds what is no number"),
    ],
)
def test_what_an_older_run_without_sums_lacks_is_named(name: str, old: str, new: str, says: str, tiny) -> None:
    folder = run(tiny("method=lora_per_task"), "", quiet()).path
    (folder / "SHA256SUMS").unlink()
    assert old in (folder / name).read_text()
    (folder / name).write_text((folder / name).read_text().replace(old, new, 1))
    with pytest.raises(RunError, match=says):
        read_run(folder)


def test_the_hash_names_what_decides_the_numbers_and_nothing_else(tiny, tmp_path) -> None:
    from clora_exp.tasks.stream import load_stream

    def name(*overrides: str, model: str = "m") -> str:
        config = tiny(*overrides)
        return identity.run_hash(config, load_stream(config.tasks, config.data_seed), model)

    same = name()
    assert name("seed=5") == same
    assert name(f"results_dir={tmp_path}") == same
    assert name("overwrite=true") == same
    assert name("model.path=/elsewhere") == same
    different = {
        name("data_seed=1"),
        name("method.rank=2"),
        name("trainer.epochs=3"),
        name(model="other"),
        name("+tasks.order=[second,first,third]"),
        same,
    }
    assert len(different) == 6


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch) -> None:
    target = tmp_path / "accuracy_matrix.csv"
    files.write_atomically(target, b"old")
    monkeypatch.setattr(files.os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        files.write_atomically(target, b"new and longer")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["accuracy_matrix.csv"]


def test_an_interrupted_folder_leaves_the_old_one_and_no_other(tmp_path) -> None:
    target = tmp_path / "medical"
    with files.folder_written_atomically(target) as new:
        (new / "a").write_text("old")

    def fill_and_die() -> None:
        with files.folder_written_atomically(target) as new:
            (new / "a").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill_and_die()
    assert (target / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["medical"]
    with files.folder_written_atomically(target) as new:
        (new / "b").write_text("new")
    assert [p.name for p in target.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["medical"]


def test_the_log_handler_goes_when_the_run_ends(tiny) -> None:
    run(tiny("method=frozen"), "", quiet())
    assert logging.getLogger("clora_exp").handlers == []


def test_a_field_that_came_later_orphans_no_run_and_a_changed_value_is_another_run(tiny, monkeypatch) -> None:
    """What is hashed is every value, but for fields that came later, at what runs did without them."""
    stream = load_stream(tiny().tasks, 0)
    hash_of = lambda *overrides: identity.run_hash(tiny(*overrides), stream, "m")  # noqa: E731
    plain = identity.plain_config(tiny())
    plain["method.gem"], plain["method.agem"] = (
        identity.plain_config(tiny(f"method={n}"))["method"][n] for n in ("gem", "agem")
    )
    for key in identity.SINCE:
        section, _, name = key.rpartition(".")
        assert section == "tasks.icd10" or name in (plain[section] if section else plain), key
    today = hash_of("method=lora")
    monkeypatch.setitem(identity.SINCE, "method.rank", 4)  # as if the rank had come later, and had been 4 before
    assert hash_of("method=lora") != today
    assert hash_of("method=lora", "method.rank=5") != hash_of("method=lora")
    monkeypatch.undo()
    assert hash_of("method=ewc", "method.ewc.strength=100.0") != hash_of("method=ewc", "method.ewc.strength=1000.0")
    for other in ("scenario=domain_incremental", "method.head=cosine", "+method.ewc={}"):
        assert hash_of("method=lora", other) != today


def test_a_finished_run_that_was_changed_is_not_believed(tiny) -> None:
    path = run(tiny("method=lora"), "", quiet()).path
    for name, old, new in (
        ("accuracy_matrix.csv", "0.", "1."),
        ("metrics.json", "null", "0.75"),
        ("cost.csv", "7", "8"),
    ):
        before = (path / name).read_text()
        (path / name).write_text(before.replace(old, new, 1))
        with pytest.raises(RunError, match=rf"{name} has changed since it was written"):
            run(tiny("method=lora"), "", quiet())
        (path / name).write_text(before)
    (path / "metrics.csv").rename(path / "elsewhere")
    with pytest.raises(RunError, match=r"metrics\.csv cannot be read \(No such file"):
        run(tiny("method=lora"), "", quiet())
    (path / "elsewhere").rename(path / "metrics.csv")
    for text in ("", "dome\n"):  # it may have been done: nothing is overwritten
        (path / "STATUS").write_text(text)
        with pytest.raises(RunError, match=r"not done, and there is no checkpoint to go on from"):
            run(tiny("method=lora"), "", quiet())


def test_a_checkpoint_of_another_run_is_refused(tiny, monkeypatch) -> None:
    found = []
    monkeypatch.setattr(loop, "fit", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    for seed in (0, 1):
        with pytest.raises(Interrupted):
            run(tiny("method=lora", f"seed={seed}"), "", quiet())
        (checkpoint,) = Path(tiny().results_dir).rglob(f"*-s{seed}/checkpoint/state.safetensors")
        found.append(checkpoint)
    found[1].write_bytes(found[0].read_bytes())
    with pytest.raises(RunError, match=r"it is of the run \w{8}-s0\); overwrite=true starts again"):
        run(tiny("method=lora", "seed=1"), "", quiet())


def test_what_a_process_left_that_was_killed_in_the_very_end_is_tidied_away(tiny) -> None:
    path = run(tiny("method=lora"), "", quiet()).path
    before = sorted(path.rglob("*"))
    for name in (".lock", ".holder.json", ".metrics.json.abcd1234", "adapters/.first.abcd1234"):
        (path / name).write_text("{}")
    assert run(tiny("method=lora"), "", quiet()).status == "done"
    assert sorted(path.rglob("*")) == before
