"""A comparison as a page, in Markdown and in HTML: the same blocks, cell for cell, and nothing that is not in them."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jinja2
from markupsafe import Markup

from clora_exp.reports.comparison import ComparableSet, Comparison
from clora_exp.reports.comparison_csv import csv_files
from clora_exp.reports.comparison_figures import CAPTIONS
from clora_exp.reports.guide import can_be_crossed
from clora_exp.reports.guide_table import guide_table
from clora_exp.reports.inline_svg import inline_svg
from clora_exp.reports.tables import Cell, Table, best, tables
from clora_exp.reports.words import markdown_row

Figures = Mapping[str, Mapping[str, str]]  # set → figure → SVG text


@dataclass(frozen=True)
class Section:
    """What the page says of one set."""

    name: str
    heading: str
    result: list[str]
    facts: Table
    differs: list[str]
    tables: list[Table]
    figures: list[tuple[str, str]]  # file name without suffix, caption
    remarks: list[str] = field(default_factory=list)


def rendered(comparison: Comparison, looked_up: Mapping[str, Any], figures: Figures) -> dict[str, str]:
    """Return every text file of the report by name: Markdown, CSV and HTML."""
    sections = [_section(found, looked_up, figures[found.name], len(comparison.sets)) for found in comparison.sets]
    title, left = _title(comparison), _left(comparison)
    return {
        "comparison.md": _markdown(title, sections, left),
        "comparison.html": _html(title, sections, left, figures),
        **csv_files(comparison),
    }


def prefix_of(found: ComparableSet, num_sets: int) -> str:
    """Return what the set's figures are called before their own name; nothing where there is one set."""
    return "" if num_sets == 1 else f"{found.name}_".replace(" ", "_")


def _title(comparison: Comparison) -> str:
    first = comparison.sets[0].settings[0].first.run.config
    return f"Comparison on {first['tasks']['name']}, {first['model']['name']}"


def _section(found: ComparableSet, looked_up: Mapping[str, Any], drawn: Mapping[str, str], num_sets: int) -> Section:
    num_runs = sum(len(s.runs) for s in found.settings)
    counted = f"{len(found.settings)} setting{'s' * (len(found.settings) > 1)}, {num_runs} runs"
    heading = f"{found.scenario.replace('_', '-')}, {counted}"
    return Section(
        found.name,
        heading if num_sets == 1 else f"Set {found.name}: {heading}",
        best(found),
        _facts(found),
        found.differs,
        tables(found, guide_table(found, looked_up)),
        [(f"{prefix_of(found, num_sets)}{name}", CAPTIONS[name]) for name in drawn],
        _remarks(found),
    )


def _facts(found: ComparableSet) -> Table:
    rows = [[Cell(name), Cell(value)] for name, value in found.facts.items()]
    for key, values in found.budgets().items():
        rows.append([Cell(f"{key} differs", is_code=True), Cell(", ".join(map(str, values)))])
    note = "What these runs have in common, hashes shortened; only such runs are averaged or tested against each other."
    return Table("What is compared", ["", ""], rows, [note])


def _remarks(found: ComparableSet) -> list[str]:
    """Return what the figures leave out, and why."""
    remarks = []
    if not any("forward_transfer" in s.spread for s in found.settings):
        reasons = {s.reasons.get("forward_transfer", "") for s in found.settings if s.first.run.protocol == "sequence"}
        remarks.append(f"No bars of forward transfer: {'; '.join(sorted(reasons - {''})) or 'it is not defined'}.")
    lacking = [s.label for s in found.settings if can_be_crossed(s) and s.adapter_task() is None]
    if lacking:
        remarks.append(
            f"Each adapter on every task's data is not drawn for {', '.join(lacking)}: not every seed has it. "
            "`python -m clora_exp.reports cross RUN …` measures it from a run's adapters; then compare again."
        )
    return remarks


def _left(comparison: Comparison) -> Table:
    rows = [[Cell(run.path, is_code=True), Cell(run.status), Cell(run.why)] for run in comparison.left]
    return Table("Left out", ["run", "status", "why"], rows, ["None of these is in any number above."])


def _markdown(title: str, sections: list[Section], left: Table) -> str:
    blocks = [f"# {title}"]
    for section in sections:
        blocks += [f"## {section.heading}", *section.result]
        if section.differs:
            blocks.append("Not comparable with set A: " + "; ".join(section.differs) + ".")
        blocks += [_markdown_table(section.facts)]
        for table in section.tables[:1]:
            blocks.append(_markdown_table(table))
        blocks += [f"![{name.replace('_', ' ')}](figures/{name}.png)\n\n*{caption}* ([SVG](figures/{name}.svg))"
                   for name, caption in section.figures]  # fmt: skip
        blocks += section.remarks
        blocks += [_markdown_table(table) for table in section.tables[1:]]
    if left.rows:
        blocks.append(_markdown_table(left))
    blocks.append(FILES)
    return "\n\n".join(blocks) + "\n"


FILES = (
    "Every number is in comparison.csv, each run's in runs.csv, the mean matrices in matrices.csv, those of adapters "
    "on every task's data, where there are any, in adapter_task.csv, the tests in tests.csv; sources.json names the "
    "runs. `python -m clora_exp.reports verify FOLDER` computes all of it again from their answers."
)


def _markdown_table(table: Table) -> str:
    lines = [markdown_row(table.heads), "|" + " --- |" * len(table.heads)]
    for row in table.rows:
        lines.append(markdown_row(f"`{c.text}`" if c.is_code else c.text for c in row))
    return "\n\n".join([f"### {table.title}", "\n".join(lines), *table.notes])


def _html(title: str, sections: list[Section], left: Table, figures: Figures) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clora_exp.reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = environment.get_template("sort.js").render()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    drawings = {
        section.name: [
            (Markup(inline_svg(svg, f"{name}-", caption)), caption)  # nosec B704  # drawn here, names escaped in it
            for (name, caption), svg in zip(section.figures, figures[section.name].values(), strict=True)
        ]
        for section in sections
    }
    page = environment.get_template("comparison.html")
    return page.render(
        title=title,
        sections=sections,
        drawings=drawings,
        left=left,
        files=FILES,
        script=Markup(script),  # nosec B704  # a file of ours
        script_sha256=digest,
    )
