"""The report of a comparison, and verify: what is written is what the runs say, and anything else is found."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from made_runs import BEFORE, change_file, crossed, known_runs, learned, made_run, ones

from clora_exp.evaluation import predictions
from clora_exp.reports.__main__ import main
from clora_exp.sums import keep_sums

OUT = ["comparison.csv", "comparison.html", "comparison.md", "figures", "matrices.csv", "runs", "runs.csv",
       "sources.json", "tests.csv"]  # fmt: skip


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report beside its runs, one of which is unfinished."""
    folder = tmp_path_factory.mktemp("reported")
    known_runs(folder / "runs")
    made_run(folder / "runs", "gem", 0, BEFORE, status="interrupted\nstopped by SIGTERM\n")
    assert main(["compare", str(folder / "runs"), "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def report(reported: Path, tmp_path: Path) -> Path:
    """A copy of it, somewhere else."""
    return shutil.copytree(reported, tmp_path / "moved")


class _Page(HTMLParser):
    """Counts tags, so that what is opened is closed, and gathers ids and texts of cells."""

    VOID = ("meta", "br", "link", "img", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_startendtag(self, tag, attrs) -> None:
        self.ids += [value for name, value in attrs if name == "id"]
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        self.texts.append(text.strip())


def test_every_file_is_there_and_the_csv_has_the_known_numbers(report: Path) -> None:
    assert sorted(path.name for path in report.iterdir()) == OUT
    table = pd.read_csv(report / "comparison.csv").set_index(["label", "metric"])
    lora = table.loc[("lora", "average_accuracy")]
    assert (lora["n"], lora["interval"]) == (3, "BCa")
    assert [lora["mean"], lora["sd"]] == pytest.approx([0.7, 0.05])
    assert lora["low"] < 0.7 < lora["high"]
    runs = pd.read_csv(report / "runs.csv").set_index(["label", "seed"])
    assert runs.loc[("lora", 1), "average_accuracy"] == pytest.approx(0.75)
    assert runs.loc[("lora", 1), "run"] == "runs/lora/00000000-s1"
    cells = pd.read_csv(report / "matrices.csv").set_index(["label", "after", "task"])
    assert cells.loc[("lora", "b", "a"), "mean"] == pytest.approx(0.5)
    tests = pd.read_csv(report / "tests.csv")
    seed = tests[(tests["label"] == "lora") & (tests["family"] == "examples") & (tests["seed"] == 2)]
    assert seed[["only_label", "only_against", "p"]].to_numpy().tolist() == [[0.0, 5.0, 0.0625]]


def test_the_page_says_what_there_is_and_what_there_is_not(report: Path) -> None:
    text = (report / "comparison.md").read_text()
    assert "| `lora` | 3 | 0.700 ± 0.050 [0.6" in text
    assert "| `joint` | 1 | 1.000 | – | – |" in text
    assert "The smallest p that can come out: 0.500 with 2 seeds, 0.250 with 3 seeds." in text
    assert "| `runs/gem/00000000-s0` | interrupted | stopped by SIGTERM |" in text
    assert "| full fine-tuning | `full` | – | – | – | – | – | – | – |" in text
    assert (
        "No run here of full, gem, progressive, replay. `python run.py -m method=full,gem,progressive,replay " in text
    )
    assert "trainer.epochs=3 seed=0,1,2` makes them." in text
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (report / target).exists(), target


def test_the_html_is_one_well_formed_file_that_asks_nobody_and_has_every_cell_of_the_markdown(report: Path) -> None:
    text = (report / "comparison.html").read_text()
    page = _Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert "http" not in re.sub(r'http-equiv="Content-Security-Policy"', "", text)
    assert not [value for name, value in page.attributes if name in ("src", "href") and not value.startswith("#")]
    assert not [name for name, _ in page.attributes if name.startswith("on")]  # handlers, which a policy forbids
    assert {value[1:] for name, value in page.attributes if name == "href"} <= set(page.ids)
    assert text.count("<svg") == len(list((report / "figures").glob("*.svg"))) == 6
    cells = [
        cell.strip().strip("`").replace("\\|", "|")
        for line in (report / "comparison.md").read_text().splitlines()
        if line.startswith("| ") and "---" not in line
        for cell in line[2:-2].split(" | ")
    ]
    assert len(cells) > 100
    assert not {cell for cell in cells if cell} - set(page.texts)


def test_what_a_run_calls_itself_cannot_write_html(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    for seed in (0, 1):
        made_run(tmp_path / "runs", "lora", seed, learned(ones(9), ones(9), ones(9)), changes={"tasks.name": evil})
    made_run(tmp_path / "runs", "ewc", 0, BEFORE, status=f"failed\n{evil}\n")
    assert main(["compare", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "comparison.html").read_text()
    assert evil not in text
    assert text.count("&lt;script&gt;alert(1)") == 3  # title, heading, status


def test_one_seed_has_no_interval_and_says_so(tmp_path: Path, capsys) -> None:
    for method, kept in (("lora", 5), ("clora", 9)):
        made_run(tmp_path / "runs", method, 0, learned(ones(9), ones(kept), ones(9)))
    assert main(["compare", str(tmp_path / "runs")]) == 0
    text = (tmp_path / "runs" / "comparison" / "comparison.md").read_text()
    assert "One seed: no standard deviation and no interval." in text
    assert "±" not in text.split("![")[0]
    assert "One seed in common: no test." in text
    assert pd.read_csv(tmp_path / "runs" / "comparison" / "comparison.csv")["low"].isna().all()
    assert main(["verify", str(tmp_path / "runs" / "comparison")]) == 0


def test_a_report_that_is_true_is_verified_wherever_it_lies(report: Path, capsys) -> None:
    assert main(["verify", str(report)]) == 0
    assert "as its 9 runs say: 12 files, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("comparison.csv", "lora,average_accuracy,3,0.7", "lora,average_accuracy,3,0.8",
         r"comparison.csv, A, lora, average_accuracy: mean is 0\.8\d*, the runs give 0\.7\d*"),
        ("runs.csv", ",0.75,", ",0.76,", "runs.csv, A, ewc, 0: average_accuracy is 0.76, the runs give 0.75"),
        ("comparison.md", "0.700 ± 0.050", "0.790 ± 0.050", "comparison.md, line "),
        ("comparison.html", "0.700 ± 0.050", "0.790 ± 0.050", "comparison.html, line "),
        ("figures/matrices.svg", ">0.50<", ">0.90<", "figures/matrices.svg, line "),
        ("tests.csv", ",0.25,0.5\n", ",0.025,0.05\n", "tests.csv, A, lora, seeds: average_accuracy: p is 0.025"),
    ],
)  # fmt: skip
def test_a_tampered_number_of_the_report_is_found_and_named(
    name: str, old: str, new: str, said: str, report: Path, capsys
) -> None:
    change_file(report / name, old, new)
    assert main(["verify", str(report)]) == 1
    assert re.search(said, capsys.readouterr().out)


def test_another_picture_and_a_missing_file_are_found(report: Path, capsys) -> None:
    (report / "figures" / "transfer.png").write_bytes(b"")
    (report / "tests.csv").unlink()
    assert main(["verify", str(report)]) == 1
    out = capsys.readouterr().out
    assert "figures/transfer.png: not the picture that was made" in out
    assert "tests.csv: is missing" in out


def test_a_tampered_number_of_a_run_is_found_by_its_predictions(report: Path, capsys) -> None:
    run = report / "runs" / "lora" / "00000000-s0"
    change_file(run / "metrics.json", '"average_accuracy": {"value": 0.7', '"average_accuracy": {"value": 0.9')
    change_file(run / "accuracy_matrix.csv", "b,0.5,0.9", "b,0.6,0.9")
    assert main(["verify", str(report)]) == 1
    out = capsys.readouterr().out
    assert "its SHA256SUMS is not the one the report was made from" in out
    assert "accuracy_matrix.csv: a after b is 0.6, its answers give 0.5" in out
    assert "metrics.json: average_accuracy is 0.9, its answers give 0.7" in out


def test_tampered_predictions_change_what_the_report_should_say(report: Path, capsys) -> None:
    run = report / "runs" / "clora" / "00000000-s1"
    frame = predictions.read_predictions(run / "predictions.csv.gz")
    frame.loc[frame.index[-1], "predicted"] = frame.loc[frame.index[-1], "label"]
    (run / "predictions.csv.gz").write_bytes(predictions.to_bytes(frame))
    assert main(["verify", str(report)]) == 1
    assert f"{run / 'predictions.csv.gz'} has changed since it was written" in capsys.readouterr().out
    keep_sums(run, [run / "predictions.csv.gz"])
    assert main(["verify", str(report)]) == 1
    assert "comparison.csv, A, clora, average_accuracy: mean is 0.9, the runs give 0.9166" in capsys.readouterr().out


def test_a_run_whose_files_and_answers_disagree_is_not_averaged(tmp_path: Path) -> None:
    runs = known_runs(tmp_path / "runs")
    change_file(runs / "lora" / "00000000-s0" / "accuracy_matrix.csv", "b,0.5,0.9", "b,0.6,0.9")
    assert main(["compare", str(runs), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "| `../runs/lora/00000000-s0` | damaged | its files and its answers disagree: accuracy_matrix.csv: a" in text
    assert "| `lora` | 2 | 0.700 ± 0.071 [" in text


def test_several_sets_have_each_their_tables_and_figures(tmp_path: Path) -> None:
    known_runs(tmp_path / "runs")
    for seed in (0, 1):
        run = learned(ones(9), ones(8), ones(9))
        made_run(tmp_path / "runs", "gem", seed, run, changes={"data_seed": 7})
    assert main(["compare", str(tmp_path / "runs"), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "comparison.md").read_text()
    assert "## Set B: task-incremental, 1 setting, 2 runs" in text
    assert "Not comparable with set A: data seed: 7, not 0." in text
    assert (tmp_path / "figures" / "A_matrices.png").exists()
    assert (tmp_path / "figures" / "B_matrices.png").exists()
    assert set(pd.read_csv(tmp_path / "comparison.csv")["set"]) == {"A", "B"}
    assert main(["verify", str(tmp_path)]) == 0


def test_stripped_runs_give_the_same_report_with_a_fraction_of_the_bytes(report: Path, tmp_path: Path, capsys) -> None:
    (report / "runs" / "lora" / "00000000-s0" / "adapters").mkdir()
    (report / "runs" / "lora" / "00000000-s0" / "adapters" / "adapter.safetensors").write_bytes(bytes(10**6))
    assert main(["strip", str(report / "runs"), str(tmp_path / "small" / "runs")]) == 0
    assert re.search(r"9 runs, 11\d kB → 3\.\d+ kB a run", capsys.readouterr().out)
    assert main(["compare", str(tmp_path / "small" / "runs"), "--out", str(tmp_path / "small")]) == 0
    for name in ("comparison.csv", "runs.csv", "tests.csv", "matrices.csv"):
        assert (tmp_path / "small" / name).read_bytes() == (report / name).read_bytes(), name
    assert main(["verify", str(tmp_path / "small")]) == 0
    copy = tmp_path / "small" / "runs" / "lora" / "00000000-s0"
    assert sum(file.stat().st_size for file in copy.iterdir()) < 8000
    assert "adapters" not in [path.name for path in copy.iterdir()]
    assert "train_loss" not in (copy / "metrics.csv").read_text()
    assert main(["page", str(copy)]) == 0


def test_copies_are_not_put_among_the_runs(report: Path, capsys) -> None:
    assert main(["strip", str(report / "runs"), str(report / "runs" / "small")]) == 2
    assert "lies in" in capsys.readouterr().err


def test_what_is_no_comparison_or_of_another_version_is_one_line(report: Path, tmp_path: Path, capsys) -> None:
    assert main(["verify", str(tmp_path)]) == 2
    assert "no comparison (no sources.json in it)" in capsys.readouterr().err
    change_file(report / "sources.json", '"format": 1', '"format": 9')
    assert main(["verify", str(report)]) == 2
    assert "sources.json cannot be read: format 9, this version reads 1" in capsys.readouterr().err


def test_the_manifest_names_the_runs_as_seen_from_the_report(report: Path) -> None:
    manifest = json.loads((report / "sources.json").read_text())
    assert manifest["runs"][0]["path"] == "runs/clora/00000000-s0"
    assert manifest["left"] == [{"path": "runs/gem/00000000-s0", "status": "interrupted", "why": "stopped by SIGTERM"}]
    assert all(len(run["sums_sha256"]) == 64 for run in manifest["runs"])


def test_list_shows_every_run_with_its_status(report: Path, capsys) -> None:
    assert main(["list", str(report / "runs")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"lora/00000000-s1 +done +task +0\.7500 +0\.3000", out)
    assert re.search(r"gem/00000000-s0 +interrupted", out)
    assert "9 done, 1 interrupted" in out


def test_the_overview_names_every_command_and_a_misspelt_one_the_nearest(capsys) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"    {name}" in out for name in ("list", "page", "compare", "verify", "strip"))
    assert main(["comapre", "runs"]) == 2
    assert "unknown command 'comapre'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def reported_cross(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report whose runs of lora all have adapter_task.csv, of clora one of three."""
    folder = tmp_path_factory.mktemp("crossed")
    runs = known_runs(folder / "runs")
    for seed, a_on_b in enumerate(("0.2", "0.3", "0.7")):
        crossed(runs / "lora" / f"00000000-s{seed}", f"0.9 {a_on_b} 0.1 0.9")
    crossed(runs / "clora" / "00000000-s0", "0.9 0.5 0.5 0.9")
    assert main(["compare", str(folder / "runs"), "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def with_cross(reported_cross: Path, tmp_path: Path) -> Path:
    """A copy of it, somewhere else."""
    return shutil.copytree(reported_cross, tmp_path / "moved")


def test_adapters_on_every_task_are_averaged_where_every_seed_has_them(with_cross: Path, capsys) -> None:
    table = pd.read_csv(with_cross / "adapter_task.csv").set_index(["label", "adapter", "task"])
    assert list(table.index) == [("lora", adapter, task) for adapter in "ab" for task in "ab"]
    cell = table.loc[("lora", "a", "b")]
    assert (cell["n"], cell["mean"], cell["sd"]) == (3, pytest.approx(0.4), pytest.approx(0.07**0.5))
    assert table.loc[("lora", "b", "a"), "mean"] == pytest.approx(0.1)
    svg = (with_cross / "figures" / "adapter_task.svg").read_text()
    assert [re.search(rf">{text}<", svg) is not None for text in ("lora", "clora", r"0\.40", r"0\.10", "before")] == [
        True, False, True, True, False]  # fmt: skip
    text = (with_cross / "comparison.md").read_text()
    assert (
        "Mean accuracy of each task's adapter (rows, as it was when the task had been learned) on every task's" in text
    )
    assert "data is not drawn for clora, ewc: not every seed has it. `python -m clora_exp.reports cross RUN …`" in text
    assert main(["verify", str(with_cross)]) == 0


def test_a_tampered_cell_of_adapters_and_tasks_is_found_in_the_report_and_in_the_run(with_cross: Path, capsys) -> None:
    change_file(with_cross / "adapter_task.csv", "lora,b,a,3,0.1", "lora,b,a,3,0.4")
    assert main(["verify", str(with_cross)]) == 1
    out = capsys.readouterr().out
    assert re.search(r"adapter_task.csv, A, lora, b, a: mean is 0\.4\d*, the runs give 0\.1\d*", out)
    path = with_cross / "runs" / "lora" / "00000000-s2" / "adapter_task.csv"
    sums = (path.parent / "SHA256SUMS").read_bytes()
    change_file(path, "a,b,0.7", "a,b,0.1")
    assert main(["verify", str(with_cross)]) == 1
    out = capsys.readouterr().out
    assert "its SHA256SUMS is not the one the report was made from" in out
    assert re.search(r"adapter_task.csv, A, lora, a, b: mean is 0\.[34]\d*, the runs give 0\.[12]\d*", out)
    (path.parent / "SHA256SUMS").write_bytes(sums)
    assert main(["verify", str(with_cross)]) == 1
    assert f"{path} has changed since it was written" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cells", "n", "said"),
    [
        ("0.8 0.2 0.1 0.9", 10, "a through its own adapter is 0.8, its answers give 0.9"),
        ("0.9 0.2 0.1 0.9", 9, "a has 9 examples, its answers are to 10"),
        ("0.9 0.2 1.1 0.9", 10, "cannot be read: it holds what is no accuracy, 0 to 1"),
        ("0.9 0.2 0.1 many", 10, "cannot be read: could not convert string to float: 'many'"),
    ],
)
def test_a_run_whose_adapters_and_answers_disagree_is_left_out(cells: str, n: int, said: str, tmp_path: Path) -> None:
    runs = known_runs(tmp_path / "runs")
    crossed(runs / "lora" / "00000000-s1", cells, n)
    assert main(["compare", str(runs), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "comparison.md").read_text()
    left = "| `../runs/lora/00000000-s1` | damaged | its files and its answers disagree: adapter_task.csv: "
    assert left + said in text


def test_runs_that_were_measured_since_make_a_comparison_one_of_other_runs(report: Path, capsys) -> None:
    crossed(report / "runs" / "lora" / "00000000-s0", "0.9 0.2 0.1 0.9")
    assert main(["verify", str(report)]) == 1
    assert "00000000-s0: its SHA256SUMS is not the one the report was made from" in capsys.readouterr().out
