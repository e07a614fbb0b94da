"""benchmarks.harness: report, markdown and chart: tables, the page they go into, drawings."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks.__main__ import NAMES, _find
from benchmarks.harness.benchmark import Benchmark, Column, Stage
from benchmarks.harness.chart import chart
from benchmarks.harness.figures import Figures
from benchmarks.harness.markdown import TIMES, TO, replace
from benchmarks.harness.proxies import ENVOY, NONE, UPROXY, ProxyKind
from benchmarks.harness.report import (
    Result,
    block,
    keep,
    noise,
    render,
    render_summary,
    summary,
    tables,
)

ROUNDS = [
    {"none": {"rate": 9000.0}, "envoy": {"cpu": 10.0, "rate": 1000.0}, "uproxy": {"cpu": 20.0}},
    {"none": {"rate": 8000.0}, "envoy": {"cpu": 12.0, "rate": 1250.0}, "uproxy": {"cpu": 36.0}},
]
PAGE = (
    "intro\n<!-- figures: goals -->\n<!-- end: goals -->\n\n"
    "<!-- figures: all -->\n<!-- end: all -->\n\n"
    "<!-- figures: sample -->\nold <b>\\1</b>\n<!-- end: sample -->\nafterwards\n"
)


def measure(stage: Stage, kind: ProxyKind) -> Figures:
    raise AssertionError("nothing is measured in a test")


SAMPLE = Benchmark(
    name="sample",
    title="Sample",
    columns=(
        Column("cpu", "CPU", 1, ratio=True, summary="CPU µs"),
        Column("rate", "rate", 0, "a table of its own"),
    ),
    kinds=(NONE, ENVOY, UPROXY),
    measure=measure,
    charts=("cpu", "rate"),
    seconds=2,
)
RESULT = Result(
    name="sample",
    command="python -m benchmarks sample",
    machine={"date": "2026-01-02", "CPU": "some"},
    seconds=2,
    observed={"envoy": "TLS 1.3, A, B", "uproxy": "TLS 1.3, A, C"},
    rounds=ROUNDS,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("docs/images", "benchmarks"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "docs" / "benchmarks.md").write_text(PAGE)
    return tmp_path


def test_tables_have_a_row_for_each_kind_with_spread_and_ratio() -> None:
    assert tables(SAMPLE, ROUNDS).splitlines() == [
        "|  | CPU |",
        "| --- | --: |",
        f"| none (direct) | {TO} |",
        f"| Envoy | 11.0 (10.0{TO}12.0) |",
        f"| uProxy | 28.0 (20.0{TO}36.0)<br>{TIMES}2.50 (2.00{TO}3.00) |",
        "",
        "**a table of its own**",
        "",
        "|  | rate |",
        "| --- | --: |",
        f"| none (direct) | 8,500 (8,000{TO}9,000) |",
        f"| Envoy | 1,125 (1,000{TO}1,250) |",
        f"| uProxy | {TO} |",
    ]


def test_noise_is_how_far_envoys_own_rounds_lie_apart() -> None:
    assert noise(SAMPLE, ROUNDS) == "Noise, how far Envoy's own rounds lie apart: CPU 18%."
    assert noise(SAMPLE, ROUNDS[:1]) == ""


def test_ratios_are_to_the_base_that_a_benchmark_names() -> None:
    other = dataclasses.replace(SAMPLE, base=UPROXY, of_base="uProxy's")
    text = block(other, RESULT)
    assert f"| Envoy | 11.0 (10.0{TO}12.0)<br>{TIMES}0.42 (0.33{TO}0.50) |" in text
    assert f"| uProxy | 28.0 (20.0{TO}36.0) |" in text
    assert f"{TIMES} how many times uProxy's of the same round" in text
    assert "how far uProxy's own rounds lie apart: CPU 57%." in text


def test_a_benchmark_without_a_figure_in_the_summary_has_no_rows_there() -> None:
    further = ProxyKind("further", "further")
    columns = tuple(dataclasses.replace(column, summary="") for column in SAMPLE.columns)
    other = dataclasses.replace(SAMPLE, name="other", columns=columns, kinds=(further,))
    assert "further" not in summary([(SAMPLE, RESULT), (other, RESULT)])


def test_a_block_says_machine_rounds_what_was_seen_and_how_to_repeat() -> None:
    text = block(SAMPLE, RESULT)
    assert "Machine: date 2026-01-02; CPU some." in text
    assert "Medians of 2 rounds of 2 s" in text
    assert "Envoy: TLS 1.3, A, B; uProxy: TLS 1.3, A, C." in text
    assert "Made by `python -m benchmarks sample`" in text
    assert "`make bench ARGS=sample`" in text
    assert noise(SAMPLE, ROUNDS) in text


def test_only_the_block_named_is_replaced_and_text_is_taken_literally() -> None:
    changed = replace(PAGE, "sample", r"new \1 \g<0>")
    assert changed == PAGE.replace(r"old <b>\1</b>", "\nnew \\1 \\g<0>\n")


@pytest.mark.parametrize("page", ["", PAGE + PAGE])
def test_a_page_without_one_place_for_the_figures_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="places for the figures of sample"):
        replace(page, "sample", "new")


def test_what_is_kept_can_be_read_again_and_rendered_twice(root: Path) -> None:
    page = root / "docs" / "benchmarks.md"
    keep(SAMPLE, RESULT, root)
    render(SAMPLE, root)
    once = page.read_text()
    render(SAMPLE, root)
    assert page.read_text() == once
    assert tables(SAMPLE, ROUNDS) in once
    kept = (root / "benchmarks" / "results" / "sample.json").read_text()
    assert Result.from_json(kept) == RESULT
    assert (root / "docs" / "images" / "bench-sample.svg").exists()


def test_nothing_kept_changes_nothing(root: Path) -> None:
    render(SAMPLE, root)
    assert (root / "docs" / "benchmarks.md").read_text() == PAGE


def test_the_summary_has_medians_of_what_was_kept(root: Path) -> None:
    keep(SAMPLE, RESULT, root)
    render_summary([SAMPLE], root)
    page = (root / "docs" / "benchmarks.md").read_text()
    expected = [
        "|  | CPU µs |",
        "| --- | --: |",
        f"| none (direct) | {TO} |",
        "| Envoy | 11.0 |",
        f"| uProxy | 28.0 {TIMES}2.50 |",
    ]
    assert "\n".join(expected) in page
    assert "| CPU per request, 16 connections | " in page


def test_a_bar_reaches_as_far_as_its_median() -> None:
    svg = ET.fromstring(chart(SAMPLE, ROUNDS))  # noqa: S314  our own
    bars = [
        (bar.get("class"), float(bar.get("width", "")))
        for bar in svg.iter("{http://www.w3.org/2000/svg}rect")
        if bar.get("class")
    ]
    # none has no CPU figure; the longest line, to 36, fills the width
    (envoy, ours), (direct, envoys_rate) = bars[:2], bars[2:]
    assert [kind for kind, _ in bars] == ["bar", "ours", "bar", "bar"]
    assert ours[1] / envoy[1] == pytest.approx(28 / 11, rel=0.01)
    assert direct[1] / envoys_rate[1] == pytest.approx(8500 / 1125, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_is_found_by_its_name_and_has_a_place_on_its_page(name: str) -> None:
    benchmark = _find(name)
    assert benchmark.name == name
    keys = [column.key for column in benchmark.columns]
    assert len(keys) == len(set(keys))
    assert set(benchmark.charts) <= set(keys)
    assert benchmark.base.key in {kind.key for kind in benchmark.kinds}
    page = (Path(__file__).parents[1] / "docs" / benchmark.page).read_text()
    assert "new" in replace(page, name, "new")


def test_every_question_is_asked_by_make_bench() -> None:
    folder = Path(__file__).parents[1] / "benchmarks"
    asking = {path.stem for path in folder.glob("*.py") if "\nBENCHMARK = " in path.read_text()}
    assert asking == set(NAMES)
