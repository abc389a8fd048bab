import io
import re

import numpy as np
import pytest
from rich.console import Console

from clora_exp.evaluation.matrix import AccuracyMatrix
from clora_exp.evaluation.metrics import metrics_of_run
from clora_exp.loop import run
from clora_exp.reports.notices import collected_notices
from clora_exp.reports.rows import Rows
from clora_exp.reports.terminal import Terminal
from clora_exp.reports.words import METRICS, duration, signed, size
from clora_exp.runs import FILES


def _printed(width: int = 80, **options) -> tuple[Terminal, io.StringIO]:
    stream = io.StringIO()
    return Terminal(Console(file=stream, width=width, highlight=False, **options)), stream


def _rows(hand_worked, width: int = 80, protocol: str = "sequence", names=("medical", "legal", "code")) -> list[str]:
    rows = Rows(AccuracyMatrix(list(names), np.array(hand_worked)), width, protocol)
    return [rows.heading().plain, *(rows.line(i).plain for i in range(len(names) + 1))]


def test_the_new_cell_stands_in_brackets_and_changes_carry_sign_and_number(hand_worked) -> None:
    lines = _rows(hand_worked)
    assert lines[0].split() == ["accuracy", "medical", "legal", "code"]
    assert lines[1].split() == ["before", "0.100", "0.200", "0.300"]
    assert lines[2].split() == ["after", "medical", "[0.900]", "0.250", "0.200"]
    assert lines[4].split() == ["after", "code", "0.600", "−0.100", "0.850", "+0.050", "[0.700]"]


def test_where_columns_are_narrow_a_cell_is_a_percentage(hand_worked) -> None:
    lines = _rows(hand_worked, width=56)
    assert lines[0].split()[:2] == ["accuracy", "%"]
    assert lines[4].split() == ["after", "code", "60.0", "−10.0", "85.0", "+5.0", "[70.0]"]
    assert max(map(len, lines)) <= 56


@pytest.mark.parametrize("num_tasks", [2, 5, 6, 20])
def test_no_row_is_wider_than_the_terminal(num_tasks: int) -> None:
    values = np.random.default_rng(0).uniform(size=(num_tasks + 1, num_tasks))
    lines = _rows(values, names=[f"task number {i:02}" for i in range(num_tasks)])
    assert max(map(len, lines)) <= 80


def test_where_not_even_percentages_fit_a_row_says_new_mean_and_largest_drop(hand_worked) -> None:
    lines = _rows(hand_worked, width=30)
    assert lines[4].split() == ["after", "code", "[0.700]", "0.717", "over", "3", "−0.100", "medical"]
    assert lines[2].split() == ["after", "medical", "[0.900]", "0.900", "over", "1", "none"]


def test_cells_of_joint_and_single_that_were_not_measured_are_dots(hand_worked) -> None:
    values = np.array(hand_worked)
    values[1:3] = np.nan
    lines = _rows(values, protocol="joint")
    assert lines[4].split() == ["after", "all", "tasks", "[0.600]", "[0.850]", "[0.700]"]
    assert lines[4].index("[0.850]") == lines[0].index("legal")
    values = np.array(hand_worked)
    values[2, [0, 2]] = np.nan
    assert _rows(values, protocol="single")[3].split() == ["after", "legal", "·", "[0.800]", "·"]


def test_drops_are_red_in_a_terminal_and_plain_with_no_color(hand_worked, monkeypatch) -> None:
    matrix = AccuracyMatrix(["a", "b", "c"], np.array(hand_worked))
    terminal, stream = _printed(force_terminal=True, color_system="standard")
    terminal.row(matrix, 3)
    assert "\x1b[31m−0.100" in stream.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    terminal, stream = _printed(force_terminal=True, color_system="standard")
    terminal.row(matrix, 3)
    assert "\x1b[31m" not in stream.getvalue()
    assert "−0.100" in stream.getvalue()


def test_every_metric_has_words(hand_worked) -> None:
    matrix = AccuracyMatrix(["a", "b", "c"], np.array(hand_worked))
    written = dict.fromkeys(["exact_match", "token_f1", "rouge_l", "answer_perplexity"], 0.5)
    assert set(metrics_of_run(matrix, scenario="class_incremental", written=written)) == set(METRICS)


def test_numbers_in_words() -> None:
    assert [signed(-0.01, 3), signed(0.01, 3), signed(-0.0001, 3)] == ["−0.010", "+0.010", "0.000"]
    assert [size(7), size(1500), size(903_512), size(2.5e9)] == ["7 B", "1.5 kB", "904 kB", "2.5 GB"]
    assert [size(999), size(999_400), size(999_600)] == ["999 B", "999 kB", "1 MB"]
    assert [duration(9.31), duration(59.6), duration(125), duration(3725)] == [
        "9.3 s",
        "1 m 00 s",
        "2 m 05 s",
        "1 h 02 m",
    ]


def test_a_run_shows_what_it_is_how_it_goes_how_it_ended_and_what_comes_next(tiny) -> None:
    terminal, stream = _printed()
    terminal.interval_s = 0.0
    command = "python run.py method=clora_xs tasks=words"
    folder = run(tiny("method=clora_xs", "report=true"), command, terminal)
    text = stream.getvalue()
    assert "clora_xs learns first → second → third on tiny" in text
    assert "trains   68 parameters in 4 layers (0.34% of 19,840), heads 297\n" in text
    assert re.search(r"learning second: step 10/10, loss \d\.\d{3}, 0 s left; whole run \d+%, \d+ s left", text)
    assert re.search(r"measuring third: batch \d/\d", text)
    assert "clora_xs ends at" in text
    assert "and has forgotten nothing" in text
    assert text.count(str(folder.path)) == 2
    for name in set(FILES) - {"answers.jsonl", "adapter_task.csv"}:  # a language model's; what `cross` adds
        assert f"  {name}" in text
    assert "  python run.py method=frozen tasks=words\n" in text
    assert "  python run.py -m method=clora_xs seed=0,1,2 tasks=words\n" in text
    lines = [line for line in text.splitlines() if str(folder.path) not in line and "whole run" not in line]
    assert max(map(len, lines)) <= 80


def test_commands_worth_typing_keep_lists_and_drop_settings_of_another_method(tiny) -> None:
    terminal, stream = _printed()
    command = "python run.py method=clora method.protocol=joint 'method.target_modules=[query]' seed=1"
    run(tiny("method=clora", "method.protocol=joint", "method.target_modules=[query]", "seed=1"), command, terminal)
    text = stream.getvalue()
    assert "  python run.py method=frozen seed=1\n" in text
    assert "  python run.py method=clora method.protocol=sequence 'method.target_modules=[query]' seed=1\n" in text
    assert "  python run.py -m method=clora seed=0,1,2 method.protocol=joint 'method.target_modules=[query]'\n" in text


def test_bars_of_task_and_run_go_when_the_run_ends(tiny) -> None:
    terminal, stream = _printed(force_terminal=True, color_system=None)
    run(tiny("method=lora"), "", terminal)
    text = stream.getvalue()
    assert "learning first" in text
    assert "whole run" in text
    assert re.search(r"\d+/10 step", text)
    after_the_last_bar = text[text.rindex("whole run") :]
    assert after_the_last_bar.count("\x1b[2K") == 2  # both lines are erased


def test_the_whole_run_reaches_its_end_though_answers_were_carried_over(tiny) -> None:
    shares = {}
    for method in ("clora_gated", "lora", "joint", "single"):
        terminal, stream = _printed()
        terminal.interval_s = 0.0
        run(tiny(f"method={method}"), "", terminal)
        shares[method] = re.findall(r"whole run (\d+)%", stream.getvalue())
        assert [int(s) for s in shares[method]] == sorted(int(s) for s in shares[method])
    assert {found[-1] for found in shares.values()} == {"100"}


def test_library_warnings_are_collected_once_each_and_shown_at_the_end(tiny) -> None:
    import logging
    import warnings

    notices: list[str] = []
    with collected_notices(notices.extend):
        for _ in range(3):
            warnings.warn("this will go", FutureWarning, stacklevel=1)
            logging.getLogger("transformers.modeling").warning("%s is slow", "it")
        logging.getLogger("transformers.modeling").info("not said")
    assert notices == ["FutureWarning: this will go", "transformers.modeling: it is slow"]
    terminal, stream = _printed()
    terminal.notices(notices)
    assert stream.getvalue().count("this will go") == 1
    terminal, stream = _printed()
    terminal.notices([])
    assert stream.getvalue() == ""
