"""The notebooks run from the top, their numbers are those of the runs, and what is committed is small and clean."""

import base64
import json
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "notebooks"))
from execute import executed, notebooks, workspace  # noqa: E402

PATHS = notebooks()
NAMES = [path.stem for path in PATHS]
FIVE = ["01_first_run", "02_compare_methods", "03_inside_clora", "04_your_own_method", "05_your_own_data"]
ABSOLUTE = re.compile(r"(?<![\w.:/<])/(home|root|tmp|work|Users|usr|opt|var|mnt|private)/|[A-Z]:\\\\|0x[0-9a-f]{8,}")


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def text_of(notebook: Any) -> str:
    found = (o["text"] if o.output_type == "stream" else o["data"].get("text/plain", "") for o in outputs(notebook))
    return "\n".join(found)


def images(notebook: Any) -> list[bytes]:
    pngs = (output.get("data", {}).get("image/png") for output in outputs(notebook))
    return [base64.b64decode(png) for png in pngs if png]


def test_there_are_five() -> None:
    assert NAMES == FIVE


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_what_is_committed_is_run_clean_and_small(path: Path) -> None:
    raw = path.read_text(encoding="utf-8")
    assert len(raw.encode()) <= 400_000
    assert not ABSOLUTE.search(raw)
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run from the top"
    assert all(cell.metadata == {} for cell in notebook.cells)
    assert {output.output_type for output in outputs(notebook)} <= {"stream", "execute_result", "display_data"}
    assert not [o for o in outputs(notebook) if o.get("name") == "stderr"], "warnings"
    assert not re.search(r"%pip|%conda|!pip", raw)
    assert len(images(notebook)) >= 1
    assert all(len(png) <= 60_000 for png in images(notebook))
    long = [cell.source for cell in code if len(cell.source.splitlines()) > 22]
    assert all(source.startswith(("import ", "%%writefile ")) for source in long), "few lines a cell"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What notebooks take for the repository's root; runs are shared among them, as they are for a reader."""
    return workspace(tmp_path_factory.mktemp("notebooks") / "root")


def run(name: str, root: Path, found: str) -> tuple[Any, Any]:
    """Run a notebook and return it, and what the expression is in the end."""
    more = f"import json\nprint('FOUND', json.dumps({found}, default=float))"
    notebook = executed(ROOT / "notebooks" / f"{name}.ipynb", root, more)
    assert not [o for o in outputs(notebook) if o.get("name") == "stderr"]
    *_, last = (line for line in text_of(notebook).splitlines() if line.startswith("FOUND "))
    return notebook, json.loads(last.removeprefix("FOUND "))


@pytest.mark.slow
def test_the_first_run_shows_its_matrix_and_metrics_that_agree(root: Path) -> None:
    notebook, (by_hand, written, values) = run("01_first_run", root, "[by_hand, written, a.tolist()]")
    assert by_hand == pytest.approx(written)
    assert by_hand["learning_accuracy"] > 0.8
    text = text_of(notebook)
    for value in values[-1]:
        assert f"{value:.3f}" in text
    assert "clora learns 0-1 → 2-3 → 4-5 → 6-7 → 8-9 on vit_digits" in text
    assert "the same folder: True\ntrained again: False" in text
    assert len(images(notebook)) == 3


@pytest.mark.slow
def test_methods_are_compared_live_and_from_stored_results(root: Path) -> None:
    numbers = "len(runs), len(differences), int(every_seed.sum().sum())"
    found = f"[live.groupby('method')['forgetting'].max().to_dict(), {numbers}]"
    notebook, (forgetting, num_runs, num_pairs, num_better) = run("02_compare_methods", root, found)
    assert forgetting["clora_gated"] == 0 < forgetting["lora"]
    assert (num_runs, num_pairs) == (6, 4)
    readme = re.search(r"learning, (\d+ of \d+ pairs)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert readme, "the README says how many pairs are better than frozen"
    assert f"better than frozen on every seed, p < 0.05 each: {readme[1]}" in text_of(notebook)
    assert readme[1].startswith(f"{num_better} of")


@pytest.mark.slow
def test_inside_clora_measures_what_the_methods_are(root: Path) -> None:
    found = "[lengths.to_dict(), summary.to_dict(), moved.tolist(), untouched]"
    _, (lengths, summary, routing, untouched) = run("03_inside_clora", root, found)
    assert lengths["clora"]["2-3"] < lengths["lora"]["2-3"]
    assert summary["reads"]["clora_gated"] < summary["reads"]["clora"] <= 1
    assert summary["random"]["clora_gated"] == pytest.approx((10 * 4 / 128 + 2 * 4 / 256) / 12)  # fc2 reads 256
    assert routing[0] > max(routing[1:]) > min(routing[1:]) > 0
    assert untouched == ["pooler.dense"]


@pytest.mark.slow
def test_a_method_of_ones_own_is_verified_and_compared(root: Path) -> None:
    notebook, (is_kept, num_runs, names) = run("04_your_own_method", root, "[is_kept, len(runs), list(METHODS)]")
    assert (is_kept, num_runs, names) == (True, 6, ["lora", "tether", "replay"])
    text = text_of(notebook)
    assert "2 methods: every promise is kept" in text
    assert "at strength 0 it is its bare setting" in text
    assert "Did you mean 'strength'" in text


@pytest.mark.slow
def test_data_of_ones_own_is_described_learned_and_its_mistakes_named(root: Path) -> None:
    found = "[stored.matrix.tasks, len(wrong), len(last), stored.metrics['forgetting'].value]"
    notebook, (names, num_wrong, num_answers, forgetting) = run("05_your_own_data", root, found)
    assert names == ["scipy", "sklearn"]
    assert 0 < num_wrong < num_answers / 2
    assert forgetting == 0
    text = text_of(notebook)
    assert "1. sklearn/train.jsonl" in text
    assert "no column 'text'" in text
    assert "'statistics'" in text
