"""The commands as they are typed, and what comes through a pipe."""

import io
import json
import subprocess
import sys

import pytest

from clora_exp.inference import __main__ as inference
from clora_exp.inference.engine import Request
from clora_exp.inference.identification import Identification
from clora_exp.store import __main__ as store_main
from clora_exp.store.folder import Store


@pytest.fixture
def learned_store(made, own_store, capsys):
    """A store that has learned to tell its tasks apart, from words alone."""
    words = ["learn", "--store", str(own_store), "--way", "examples", "--model-path", str(made.bert)]
    assert inference.main(words) == 0
    said = capsys.readouterr().out
    assert "examples: tells 3 tasks apart: animals, colours, numbers." in said
    return own_store


def call(made, store, *words: str) -> int:
    return inference.main([words[0], "--store", str(store), "--model-path", str(made.bert), *words[1:]])


def test_texts_are_answered_with_label_task_version_and_id(made, capsys) -> None:
    assert call(made, made.store, "predict", "--task", "numbers", "one gold one", "two tin two") == 0
    lines = capsys.readouterr().out.splitlines()
    ident = Store(made.store).resolve("numbers").id[:12]
    assert [line.split()[0] for line in lines] == [
        a.label for a in made.engine().predict("numbers", ["one gold one", "two tin two"])
    ]
    assert all(line.split()[2:] == ["numbers@v2", ident] for line in lines)


def test_a_pipe_has_lines_and_objects_and_the_status_says_that_one_has_no_answer(made, capsys, monkeypatch) -> None:
    piped = 'one one\n{"text": "red", "task": "colours", "id": 7}\n{"text": "red", "task": "colors", "id": 8}\n'
    monkeypatch.setattr("sys.stdin", io.StringIO(piped))
    assert call(made, made.store, "predict", "--task", "numbers", "--json", "--batch", "2") == 1
    first, second, third = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (first["task"], first["version"], first["identified"]) == ("numbers", "v2", None)
    assert sum(first["probabilities"].values()) == pytest.approx(1)
    assert (second["task"], second["id_of_request"]) == ("colours", 7)
    assert (third["id_of_request"], "Did you mean 'colours'" in third["error"]) == (8, True)


def test_lines_that_cannot_be_read_have_no_answer_each_and_the_others_have_theirs(made, capsys, monkeypatch) -> None:
    piped = 'one one\n\n{"text": "two"\nno\udcfe text\n{"text": "two two", "id": "x"}\n'
    for command, status in (("predict", 1), ("explain", 1)):
        monkeypatch.setattr("sys.stdin", io.StringIO(piped))
        assert call(made, made.store, command, "--task", "numbers", "--json") == status
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row.get("error") or row["label"] for row in found[::4]] == [found[0]["label"], found[4]["label"]]
        assert found[4]["id_of_request"] == "x"
        reasons = ("line 2: no text in it", "line 3: it begins as a JSON object and is none", "the text is no UTF-8")
        for row, reason in zip(found[1:4], reasons, strict=True):
            assert reason in row["error"]


def test_bytes_that_are_no_text_are_a_line_without_an_answer(made) -> None:
    command = [sys.executable, "-m", "clora_exp.inference", "predict", "--task", "numbers", "--store", str(made.store)]
    done = subprocess.run(
        [*command, "--model-path", str(made.bert)], input=b"one\n\xff\xfe\ntwo\n", capture_output=True
    )
    assert done.returncode == 1, done.stderr
    said = done.stdout.decode().splitlines()
    assert ["numbers@v2" in line for line in said] == [True, False, True]
    assert "is no UTF-8" in said[1]


def test_the_text_says_which_task(made, learned_store, capsys) -> None:
    assert call(made, learned_store, "predict", "--json", "red iron red", "cat three cat") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["task"] for row in found] == ["colours", "animals"]
    assert found[0]["identified"]["best"] == "colours"
    assert found[0]["identified"]["margin"] >= found[0]["identified"]["threshold"]


def test_a_foreign_text_has_no_answer_and_says_which_task_was_nearest(made, learned_store, capsys) -> None:
    text = "the documentation describes how the package is installed and which options it has"
    assert call(made, learned_store, "predict", text) == 1
    assert "unknown  it is for no task that is known: the nearest is" in capsys.readouterr().out
    assert call(made, learned_store, "identify", text, "red iron red") == 1
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["unknown", "colours"]


def test_one_answer_is_explained(made, learned_store, capsys) -> None:
    assert call(made, learned_store, "explain", "red iron red") == 0
    said = capsys.readouterr().out
    manifest = Store(learned_store).manifest("colours")
    for part in ("colours", "red +", f"colours@v1  {manifest.id}", manifest.base.sha256, manifest.weights.sha256):
        assert part in said
    assert call(made, learned_store, "explain", "--json", "--task", "numbers", "one") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["task"], found["identified"], found["id"]) == (
        "numbers",
        None,
        Store(learned_store).resolve("numbers").id,
    )


def test_a_task_that_came_after_the_learning_is_an_error_and_not_another_tasks_answer(
    made, learned_store, capsys
) -> None:
    import dataclasses

    stored = Store(learned_store).read("colours")
    content = (learned_store / "tasks" / "colours" / "v1" / "adapter.clora").read_bytes()
    Store(learned_store).add(dataclasses.replace(stored.manifest, task="paints"), content)
    assert call(made, learned_store, "predict", "red red") == 1
    assert "does not know the task 'paints': `learn` it again" in capsys.readouterr().out


def test_mistakes_are_one_line(made, tmp_path, capsys, monkeypatch) -> None:
    assert call(made, made.store, "predict", "red") == 1
    assert "no identification of tasks has been learned; `learn` does" in capsys.readouterr().out
    assert call(made, made.store, "identify", "red") == 2
    assert "no identification of tasks has been learned; `learn` does" in capsys.readouterr().err
    assert call(made, tmp_path, "predict", "--task", "numbers", "one") == 2
    assert "is neither a store (no store.json in it) nor a run directory" in capsys.readouterr().err
    assert call(made, made.store, "generate", "--task", "numbers", "one") == 1
    assert "its base answers with labels, it does not write; use predict" in capsys.readouterr().out
    for option, least in (("--max-new-tokens", "at least 1"), ("--temperature", "above 0")):
        assert call(made, made.store, "generate", option, "0", "--task", "numbers", "one") == 2
        assert f"{option} 0" in (said := capsys.readouterr().err)
        assert least in said
    assert call(made, made.store, "predict", "--task", "numbers", "--batch", "0", "one") == 2
    assert capsys.readouterr().err == "error: --batch 0: at least 1\n"
    assert inference.main(["learn", "--store", str(made.store), "--way", "magic"]) == 2
    assert "unknown way 'magic'" in capsys.readouterr().err


def test_a_runs_folder_answers_as_a_store_does(made, capsys) -> None:
    assert inference.main(["predict", "--store", str(made.runs["clora_xs"]), "--task", "animals", "--json", "cat"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["probabilities"] == pytest.approx(made.engine().predict("animals", ["cat"])[0].probabilities)


def test_a_store_is_filled_made_smaller_and_left_from_the_command_line(made, tmp_path, capsys) -> None:
    store = ["--store", str(tmp_path / "new")]
    assert store_main.main(["import", str(made.runs["clora_xs"]), "--task", "animals", *store]) == 0
    assert capsys.readouterr().out.startswith("animals@v1  ")
    base = ["--model-path", str(made.bert)]
    assert store_main.main(["compress", "animals", "int8", "--promote", *base, *store]) == 0
    said = capsys.readouterr().out
    assert "accuracy on 24 test examples" in said
    assert "animals@v2 (" in said
    assert Store(tmp_path / "new").resolve("animals").version == "v2"
    assert store_main.main(["export", "animals", str(tmp_path / "out"), *base, *store]) == 0
    assert "Reloaded without this project" in capsys.readouterr().out
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    assert store_main.main(["compress", "animals", "int9", *base, *store]) == 2
    assert "unknown scheme 'int9'" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["centroids", "combined"])
def test_ways_that_ask_the_base_answer_with_it(made, own_store, capsys, way: str) -> None:
    words = ["learn", "--store", str(own_store), "--way", way, "--model-path", str(made.bert)]
    assert inference.main(words) == 0
    assert Identification.read(own_store / "identification.safetensors").needs_features
    assert made.engine(own_store).identify(["red iron red"])[0].best == "colours"


def test_a_task_that_takes_the_place_of_another_is_noticed_by_an_engine_that_is_running(made, learned_store) -> None:
    engine = made.engine(learned_store)
    assert engine.batch([Request("auto", "red iron red")])[0].task == "colours"
    (learned_store / "tasks" / "animals").rename(learned_store / "tasks" / "beasts")
    (failure,) = engine.batch([Request("auto", "red iron red")])
    assert "was learned with a task that is gone, 'animals'" in failure.error
