import hashlib
import json

import pytest

import clora_exp.tasks.__main__ as tasks_main
from clora_exp.compose import CONF, compose_experiment
from clora_exp.tasks.stream import load_stream

pytestmark = pytest.mark.slow  # the real stream


def test_describe_shows_sizes_counts_licences_fingerprints_and_examples(capsys) -> None:
    assert tasks_main.main(["describe", "med_legal_code"]) == 0
    shown = capsys.readouterr().out
    stream = load_stream(compose_experiment([]).tasks, 0)
    for task in stream:
        assert task.licence in shown
        for split in ("train", "validation", "test"):
            assert task.sha256[split] in shown
        assert all(label in shown for label in task.labels)
        assert shown.count(f"[{task.train[0].label}]") >= 1


def test_export_writes_files_whose_hash_is_the_fingerprint(tmp_path, capsys) -> None:
    assert tasks_main.main(["export", "med_legal_code", str(tmp_path)]) == 0
    stream = load_stream(compose_experiment([]).tasks, 0)
    for task in stream:
        for split in ("train", "validation", "test"):
            content = (tmp_path / task.name / f"{split}.jsonl").read_bytes()
            assert hashlib.sha256(content).hexdigest() == task.sha256[split]
            rows = [json.loads(line) for line in content.decode().splitlines()]
            assert [row["label"] for row in rows] == [example.label for example in task.split(split)]
            assert set(rows[0]) == {"id", "text", "label"}


def test_an_unknown_stream_is_one_line_and_status_2(capsys) -> None:
    have = ", ".join(sorted(path.stem for path in (CONF / "tasks").glob("*.yaml")))
    assert tasks_main.main(["describe", "med_legal"]) == 2
    line = f"error: unknown tasks 'med_legal'; have: {have}. Did you mean 'med_legal_code'?\n"
    assert capsys.readouterr().err == line
