import io

import numpy as np
from rich.console import Console

from clora_exp.evaluation.matrix import AccuracyMatrix
from clora_exp.evaluation.metrics import metrics_of_run
from clora_exp.loop import run
from clora_exp.reports.terminal import WORDS, Terminal


def _printed(width: int = 80, **options) -> tuple[Terminal, io.StringIO]:
    stream = io.StringIO()
    return Terminal(Console(file=stream, width=width, highlight=False, **options)), stream


def test_drops_carry_sign_and_number(hand_worked) -> None:
    terminal, stream = _printed()
    matrix = AccuracyMatrix(["medical", "legal", "code"], np.array(hand_worked))
    for i in range(4):
        terminal.row(matrix, i)
    lines = stream.getvalue().splitlines()
    assert lines[1].split() == ["accuracy", "medical", "legal", "code"]
    assert lines[2].split() == ["before", "0.100", "0.200", "0.300"]
    assert lines[5].split() == ["after", "code", "0.600", "−0.100", "0.850", "+0.050", "0.700"]


def test_drops_are_red_in_a_terminal_and_plain_with_no_color(hand_worked, monkeypatch) -> None:
    matrix = AccuracyMatrix(["a", "b", "c"], np.array(hand_worked))
    terminal, stream = _printed(force_terminal=True, color_system="standard")
    terminal.row(matrix, 3)
    assert "\x1b[31m −0.100" in stream.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    terminal, stream = _printed(force_terminal=True, color_system="standard")
    terminal.row(matrix, 3)
    assert "\x1b[31m" not in stream.getvalue()


def test_every_metric_has_words(hand_worked) -> None:
    assert set(metrics_of_run(AccuracyMatrix(["a", "b", "c"], np.array(hand_worked)), head_per_task=True)) == set(WORDS)


def test_a_run_shows_what_it_is_how_it_goes_and_how_it_ended(tiny) -> None:
    terminal, stream = _printed()
    terminal.interval_s = 0.0
    folder = run(tiny("method=clora_xs"), "", terminal)
    text = stream.getvalue()
    assert "clora_xs learns first → second → third on tiny" in text
    assert "learning second: step 10/10, loss" in text
    assert "s left" in text
    assert "and has forgotten nothing" in text
    assert str(folder.path) in text
    assert max(len(line) for line in text.splitlines() if not line.startswith("folder")) <= 80
