"""The figures hold the numbers of the runs, and stay legible when there are many methods."""

import itertools
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from made_runs import known_runs
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from clora_exp.reports import comparison_figures, scatter
from clora_exp.reports.comparison import ComparableSet, compared
from clora_exp.reports.comparison_figures import along, draw_comparison
from clora_exp.reports.evidence import read_evidence
from clora_exp.reports.found import find_runs
from clora_exp.reports.inline_svg import inline_svg, texts_of
from clora_exp.reports.placing import place_labels
from clora_exp.reports.scatter import looks_of, pareto_front


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> ComparableSet:
    root = known_runs(tmp_path_factory.mktemp("runs"))
    return compared([read_evidence(run.path) for run in find_runs([root])]).sets[0]


def test_the_front_has_what_no_other_beats_in_both() -> None:
    points = [(3.0, 0.9), (1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (4.0, 0.8), (3.0, 0.85)]
    assert pareto_front(points) == [(1.0, 0.5), (2.0, 0.7), (3.0, 0.9)]


def test_accuracy_along_is_the_mean_over_the_tasks_seen_by_seed(known: ComparableSet) -> None:
    lora = next(s for s in known.settings if s.label == "lora")
    np.testing.assert_allclose(along(lora), [[0.9, 0.7], [0.9, 0.75], [0.9, 0.65]])
    joint = next(s for s in known.settings if s.label == "joint")
    assert along(joint) is None


def test_points_stand_at_bytes_and_accuracy(known: ComparableSet) -> None:
    figure = scatter.accuracy_bytes(known)
    assert figure is not None
    drawn = {tuple(np.round(line.get_xydata()[0], 6)) for line in figure.axes[0].lines if line.get_marker() != "None"}
    assert {(500.0, 0.9), (1000.0, 0.7), (1000.0, 0.8), (1500.0, 1.0)} <= drawn


@pytest.mark.parametrize("factor", [1, 2, 8, 40, 500])
def test_no_byte_label_stands_on_another(known: ComparableSet, factor: int, monkeypatch) -> None:
    points = scatter._points(known.settings, "bytes_a_task", "average_accuracy")
    low = min(x for _, x, _ in points)
    spread = [(s, low + (x - low) * factor, y) for s, x, y in points]
    monkeypatch.setattr(scatter, "_points", lambda *_: spread)
    figure = scatter.accuracy_bytes(known)
    assert figure is not None
    figure.canvas.draw()
    axes = figure.axes[0]
    boxes = sorted(
        (label.get_window_extent() for label in axes.get_xticklabels(which="both") if label.get_text()),
        key=lambda box: box.x0,
    )
    inside = [box for box in boxes if axes.bbox.x0 - 1 <= (box.x0 + box.x1) / 2 <= axes.bbox.x1 + 1]
    assert len(inside) >= 2
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(inside))


def test_the_mean_matrices_show_every_cell_that_was_evaluated(known: ComparableSet) -> None:
    drawn = draw_comparison(known)
    texts = texts_of(drawn["matrices"])
    assert {"joint", "clora", "ewc", "lora"} <= set(texts)
    # before: 4 × 2, and b after a: 3; a in the end of lora: 1
    assert [texts.count(cell) for cell in ("0.50", "0.90", "0.80", "1.00")] == [12, 6, 2, 2]


def test_equal_runs_give_equal_files_and_a_prefix_where_it_is_asked_for(known: ComparableSet, tmp_path: Path) -> None:
    first = draw_comparison(known, tmp_path / "one", "A_")
    assert draw_comparison(known) == first
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    drawn = comparison_figures.FIGURES.keys() - {"adapter_task"}  # which none of these runs has
    assert names == sorted(f"A_{name}.{suffix}" for name in drawn for suffix in ("png", "svg"))


def test_twenty_three_settings_have_each_a_look_of_their_own(known: ComparableSet) -> None:
    many = replace(known, settings=[replace(known.settings[0], label=f"method {i}") for i in range(23)])
    assert len(set(looks_of(many).values())) == 23


def test_names_of_crowded_points_cover_neither_each_other_nor_a_point() -> None:
    rng = np.random.default_rng(0)
    points = [(f"a_method_{i}", *xy) for i, xy in enumerate(rng.normal(0.5, 0.03, size=(23, 2)))]
    figure = Figure(figsize=(7.4, 5.2))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.scatter(*zip(*(point[1:] for point in points), strict=True))
    axes.set(xlim=(0.35, 0.65), ylim=(0.35, 0.65))
    place_labels(figure, axes, points)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) == 23
    assert not [1 for one, other in itertools.combinations(boxes, 2) if one.overlaps(other)]
    centers = axes.transData.transform([point[1:] for point in points])
    assert not [1 for box, center in itertools.product(boxes, centers) if box.contains(*center)]


def test_a_drawing_inside_a_page_has_no_address_its_own_ids_and_the_pages_black(known: ComparableSet) -> None:
    with matplotlib.rc_context(comparison_figures.STYLE):
        svg = draw_comparison(known)["training_time"]
    inside = inline_svg(svg, "A-", 'of "<b>"')
    assert inside.startswith('<svg viewBox="0 0 ')
    assert 'aria-label="of &quot;&lt;b&gt;&quot;"' in inside
    assert "http" not in inside
    assert "#000000" not in inside
    assert 'id="A-figure_1"' in inside
    assert texts_of(inside) == texts_of(svg)
