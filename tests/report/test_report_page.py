from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from report_helpers import MakeRun, Reader, kl, page_of, win

from truing.core.errors import InputError, RunError
from truing.report import training, write
from truing.report.front import front
from truing.report.study import gather
from truing.report.trade_offs import trade_offs


def test_the_page_loads_nothing(trial: Path) -> None:
    page = Reader(page_of(trial))
    for tag, attributes in page.elements:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form"}
        assert not {"src", "srcset", "action", "data", "poster", "background"} & set(attributes)
        assert (attributes.get("href") or "#").startswith("#")
    policies = [
        a["content"] for t, a in page.elements if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"]
    style = page_of(trial).split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_every_link_has_its_section(trial: Path) -> None:
    elements = Reader(page_of(trial)).elements
    links = {a["href"] for tag, a in elements if tag == "a"}
    assert links == {f"#{a['id']}" for tag, a in elements if tag == "section"}
    assert len(links) == 6


def test_every_figure_has_its_place_and_plotly_accepts_it(trial: Path) -> None:
    """plotly's own schema is the judge, once the colour tokens are colours."""
    graph = pytest.importorskip("plotly.graph_objects")
    page = Reader(page_of(trial))
    places = [a["data-figure"] for _, a in page.elements if "data-figure" in a]
    assert sorted(filter(None, places)) == sorted(page.figures)
    for figure in page.figures.values():
        text = re.sub(r'"\$[a-z0-9]+"', '"#123456"', json.dumps(figure))
        drawn = json.loads(text)
        graph.Figure(data=drawn["data"], layout=drawn["layout"])
        graph.Figure(layout=drawn["narrow"]["layout"])


def test_every_colour_token_is_in_the_style_for_light_and_dark(trial: Path) -> None:
    page = page_of(trial)
    style = page.split("<style>")[1].split("</style>")[0]
    light, dark = style.split("@media (prefers-color-scheme: dark)")[:2]
    tokens = set(re.findall(r'"\$([a-z0-9]+)"', json.dumps(Reader(page).figures))) | {f"c{i}" for i in range(8)}
    for token in tokens:
        assert f"--{token}:" in light
        assert f"--{token}:" in dark.split("* {")[0]


def contrast(a: str, b: str) -> float:
    """WCAG 2: (L1 + 0.05) / (L2 + 0.05) of relative luminances."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1])
def test_text_and_lines_can_be_read_on_their_ground(trial: Path, scheme: int) -> None:
    style = page_of(trial).split("<style>")[1].split("* {")[0]
    part = style.split("@media (prefers-color-scheme: dark)")[scheme]
    colours = dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6})", part))
    for ground in ("surface", "raised", "strong", "faint"):
        assert contrast(colours["ink"], colours[ground]) >= 7
        assert contrast(colours["muted"], colours[ground]) >= 4.5
    for text in ("accent", *(f"c{i}" for i in range(8))):
        assert contrast(colours[text], colours["surface"]) >= 4.5, text


def test_a_curve_runs_along_its_dial_and_bounds_are_hollow(trial: Path) -> None:
    traces = {trace.get("name"): trace for trace in front(gather([trial]))["data"]}
    assert traces["dpo"]["y"] == [0.71, 0.62]
    assert traces["dpo"]["x"] == pytest.approx([1.8**0.5, 0.9**0.5])
    assert traces["best_of_n"]["marker"]["color"] == ["$surface"]
    assert traces["dpo"]["marker"]["color"] == ["$c0", "$c0"]
    theory = dict(zip(traces["best-of-n in theory"]["x"], traces["best-of-n in theory"]["y"], strict=True))
    assert theory[0.0] == 0.5
    assert any(win == pytest.approx(2 / 3) for win in theory.values())


def test_error_bars_end_at_the_interval_on_the_square_root_axis(trial: Path) -> None:
    trace = next(t for t in front(gather([trial]))["data"] if t.get("name") == "dpo")
    ends = [
        (x - low, x + high)
        for x, low, high in zip(trace["x"], trace["error_x"]["arrayminus"], trace["error_x"]["array"], strict=True)
    ]
    assert [(a * a, b * b) for a, b in ends] == [pytest.approx((1.75, 1.85)), pytest.approx((0.85, 0.95))]


def test_only_panels_with_something_to_show(trial: Path) -> None:
    study = gather([trial])
    assert [heading for heading, _ in trade_offs(study)] == ["Reward", "Length, tokens"]
    headings = [heading for heading, _ in training.curves(study)]
    assert headings[0] == "Loss"
    assert any("chosen (solid), rejected (dashed)" in heading for heading in headings)
    assert not any("demonstrated" in heading for heading in headings)  # that of pairs is their change
    assert "Token accuracy" not in headings


def test_each_trained_arm_has_a_colour_of_its_own(trial: Path) -> None:
    loss = dict(training.curves(gather([trial])))["Loss"]
    assert len({trace["line"]["color"] for trace in loss["data"]}) == len(loss["data"]) == 2


def test_a_long_log_is_averaged_without_changing_its_mean() -> None:
    series = [(float(i), float(i % 7)) for i in range(900)]
    thin = training.averaged(series)
    assert len(thin) <= training.MOST
    assert sum(y for _, y in thin) / len(thin) == pytest.approx(sum(y for _, y in series) / len(series))


def test_equal_input_gives_equal_bytes(trial: Path, tmp_path: Path) -> None:
    pages = [[p.read_bytes() for p in write([trial], tmp_path / name)] for name in ("x", "y")]
    assert pages[0] == pages[1]


def test_it_writes_into_the_first_folder_and_leaves_nothing_else(trial: Path) -> None:
    before = {p.name for p in trial.iterdir()}
    assert write([trial]) == (trial / "report.html", trial / "report.md")
    assert {p.name for p in trial.iterdir()} - before == {"report.html", "report.md"}


def test_a_failed_write_leaves_the_old_page(trial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, _ = write([trial])
    old, before = page.read_bytes(), {p.name for p in trial.iterdir()}

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(RunError, match="no space"):
        write([trial])
    assert page.read_bytes() == old
    assert {p.name for p in trial.iterdir()} == before


def test_half_a_surrogate_pair_in_a_reply_is_survived(make_run: MakeRun) -> None:
    sample = {"chat": [], "replies": [{"arm": "a", "text": "x\ud800y", "score": float("nan"), "finish": "stop"}]}
    page, _ = write([make_run({"base": {}, "a": win(0.6)}, samples=[sample])])
    assert "x?y" in page.read_text(encoding="utf-8")


def test_what_is_infinite_is_told_in_the_table_and_kept_out_of_the_figures(make_run: MakeRun) -> None:
    infinite = {"perplexity": {"value": float("inf"), "low": 9.0, "high": float("inf"), "better": "down"}}
    wide = {"kl": {"value": 1.0, "low": float("nan"), "high": float("inf")}}
    base = {"perplexity": {"value": 9.0, "low": 8.0, "high": 10.0}}
    page = page_of(
        make_run({"base": base, "a": {**win(0.7), **wide, **infinite}, "b": {**win(0.6), **kl(2.0), **infinite}})
    )
    assert "∞" in Reader(page).text
    assert set(Reader(page).figures) == {"front"}
    assert "NaN" not in json.dumps(Reader(page).figures)


def test_only_the_base_still_makes_a_page(make_run: MakeRun) -> None:
    page, markdown = write([make_run({"base": {"length": {"value": 9.0, "unit": "tokens"}}})])
    assert "nothing to compare yet" in page.read_text(encoding="utf-8")
    assert "Pareto" not in markdown.read_text(encoding="utf-8")


def test_faults_of_the_call_are_told(trial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no run folder"):
        write([])
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="is not a folder"):
        write([trial], tmp_path / "file")
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(InputError, match=r"pip install 'truing\[report\]'"):
        write([trial])


def test_it_starts_without_torch_and_without_plotly() -> None:
    code = "import sys, truing.report; print({'torch', 'plotly', 'numpy', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
