"""The table and the plot, on results as a run writes them."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import pytest

from kinject.errors import ConfigurationError, KinjectError
from kinject.evaluation.report import figures, percent, plot_history, results_table, run_names, steps_apart
from kinject.evaluation.results import new_results


def cell(paper: float, exact: float, n: int = 8) -> dict[str, Any]:
    return {"paper": paper, "exact_match": exact, "f1": exact, "n": n, "ci": {"paper": [0.1, 0.2]}}


def scores(forward: float, backward: float) -> dict[str, Any]:
    return {"forward": cell(forward, forward / 2), "backward": cell(backward, backward / 2), "groups": {}}


def run(objective: str, forward: float, backward: float, **changes: Any) -> dict[str, Any]:
    results = new_results(objective=objective, model="smollm2-135m", dataset="fictional:name_description")
    history = [
        {"step": step, "epoch": 1.0, **scores(forward * share, backward * share**2)}
        for step, share in ((1, 0.1), (10, 0.6), (100, 1.0))
    ]
    results |= {"before": scores(0.04, 0.0), "history": history, "after": scores(forward, backward)}
    return results | {"selection": "last weights"} | changes


def test_one_table_holds_before_and_every_run() -> None:
    table = results_table([run("ar", 0.9, 0.06), run("masked", 0.98, 0.88)])
    lines = [line.split() for line in table.splitlines()]
    assert lines[0] == ["forward", "backward", "forward", "backward"]
    assert lines[1] == ["paper", "paper", "strict", "strict"]
    assert ["before", "0.04", "0.00", "0.02", "0.00"] in lines
    assert ["ar", "0.90", "0.06", "0.45", "0.03"] in lines
    assert ["masked", "0.98", "0.88", "0.49", "0.44"] in lines
    assert sum("before" in line for line in table.splitlines()) == 1
    assert table.splitlines()[-1] == (
        "smollm2-135m; fictional:name_description; 8 forward and 8 backward questions; last weights"
    )
    assert max(map(len, table.splitlines())) <= 100


def test_intervals_forgetting_and_unfinished_runs() -> None:
    retention = {"before": {"perplexity": 20.0}, "after": {"kept": 0.9, "perplexity_ratio": 1.25}}
    unfinished = run("ar", 0.9, 0.0, after=None)
    table = results_table([run("masked", 0.98, 0.88, retention=retention), unfinished], intervals=True)
    assert "0.98 [0.10, 0.20]" in table
    assert "1.25" in table and "still right" in table
    assert "ar (step 100, not finished)" in table
    assert results_table([run("ar", 0.5, 0.0, after=None, history=[], before=None)])


def test_names_tell_runs_apart() -> None:
    assert run_names([run("ar", 0, 0), run("masked", 0, 0, paraphrases="same_order")]) == ["ar", "masked + paraphrases"]
    assert run_names([run("ar", 0, 0), run("ar", 0, 0, seed=1)]) == ["ar (seed 0)", "ar (seed 1)"]
    two_models = [run("ar", 0, 0), run("ar", 0, 0, model="[b]/x")]
    assert run_names(two_models) == ["ar (smollm2-135m)", "ar ([b]/x)"]
    assert "before (smollm2-135m" in results_table(two_models)
    assert "ar ([b]/x)" in results_table(two_models)  # no markup


def test_a_direction_without_questions_shows_none() -> None:
    only_forward = {"forward": cell(0.5, 0.5), "backward": cell(0.0, 0.0, n=0), "groups": {}}
    assert ["ar", "0.50", "-", "0.50", "-"] in [
        line.split() for line in results_table([run("ar", 0, 0, after=only_forward)]).splitlines()
    ]


NOTHING = {"forward": cell(0.0, 0.0, n=0), "backward": cell(0.0, 0.0, n=0), "groups": {}}


def test_questions_of_unknown_direction_are_shown_beside_the_columns() -> None:
    with_unknown = {**scores(0.9, 0.5), "unknown": cell(0.25, 0.125, n=4)}
    table = results_table([run("ar", 0.9, 0.5, after=with_unknown)])
    assert ["ar", "0.90", "0.50", "0.45", "0.25"] in [line.split() for line in table.splitlines()]
    note = "4 questions of unknown direction, in neither column (recall 0.25, exact 0.12); last weights"
    assert table.splitlines()[-1].endswith(f"8 forward and 8 backward questions; {note}")
    nothing = {"forward": cell(0, 0, n=0), "backward": cell(0, 0, n=0), "groups": {}}
    only = results_table([run("ar", 0, 0, before=None, history=[], after={**nothing, "unknown": cell(1.0, 1.0, n=3)})])
    assert "3 questions of unknown direction" in only and "no questions" not in only


def test_without_questions_there_is_no_table_of_zeros(tmp_path: Path) -> None:
    unasked = run("ar", 0, 0, before=NOTHING, after=NOTHING, history=[{"step": 1, "epoch": 1.0, **NOTHING}])
    assert results_table([unasked]) == "smollm2-135m; fictional:name_description; no questions; last weights"
    retention = {"before": {"answered": 0.5, "perplexity": 9.0}, "after": {"kept": 0.025, "perplexity_ratio": 0.0042}}
    table = results_table([{**unasked, "retention": retention}])
    assert "forward" not in table and ["ar", "0.025", "0.0042"] in [line.split() for line in table.splitlines()]
    with pytest.raises(KinjectError, match="no run has a history"):
        plot_history(unasked, tmp_path / "x.png")
    beside = results_table([unasked, run("masked", 0.98, 0.88)])
    assert ["ar", "-", "-", "-", "-"] in [line.split() for line in beside.splitlines()]


def test_what_was_never_known_is_not_kept() -> None:
    retention = {"before": {"answered": 0.0, "perplexity": 9.0}, "after": {"kept": 1.0, "perplexity_ratio": None}}
    table = results_table([run("ar", 0.5, 0.5, retention=retention)])
    assert ["ar", "0.50", "0.50", "0.25", "0.25", "-", "-"] in [line.split() for line in table.splitlines()]


def test_another_reading_than_the_paper_s_is_named() -> None:
    korean = {"forward": {**cell(0.5, 0.5), "other_words": 8}, "backward": cell(0.5, 0.5), "groups": {}}
    assert results_table([run("ar", 0, 0, after=korean)]).endswith(
        "; last weights; for 8 of 16 questions, recall compares the words of their script: the paper's code splits English "
        "only"
    )


def test_a_direction_without_questions_has_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.axes import Axes

    labels: list[Any] = []
    original = Axes.plot
    monkeypatch.setattr(
        Axes, "plot", lambda self, *args, **options: labels.append(options["label"]) or original(self, *args, **options)
    )
    only_forward = {"forward": cell(0.5, 0.5), "backward": cell(0.0, 0.0, n=0)}
    history = [{"step": 1, "epoch": 1.0, **only_forward}]
    plot_history([run("ar", 0, 0, before=only_forward, after=only_forward, history=history)], tmp_path / "x.png")
    assert labels == ["ar, forward"] * 2  # a panel of each reading


def test_the_plot_is_a_png_that_shows_something(tmp_path: Path) -> None:
    from matplotlib.image import imread

    path = plot_history([run("ar", 0.9, 0.06), run("masked", 0.98, 0.88)], tmp_path / "new" / "accuracy.png")
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert width > 800 and height > 300
    pixels = imread(path)[..., :3]
    for color in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):  # a line of each run
        assert (abs(pixels * 255 - color).max(axis=-1) < 2).sum() > 200
    assert plot_history(run("masked", 0.98, 0.88), tmp_path / "one.png").stat().st_size > 5_000


def test_nothing_to_plot_says_so(tmp_path: Path) -> None:
    with pytest.raises(KinjectError, match="no run has a history"):
        plot_history([run("ar", 0, 0, history=[])], tmp_path / "x.png")


def test_steps_are_labeled_where_there_is_room() -> None:
    assert steps_apart({1, 2, 3, 4, 5, 6, 8, 10, 100}) == [1, 2, 3, 4, 6, 10, 100]
    assert steps_apart({0, 7}) == [7]


@pytest.mark.parametrize(
    ("value", "shown", "in_percent"),
    [
        (1.0, "1.00", "100%"),
        (2 / 3, "0.67", "67%"),
        (0.29, "0.29", "29%"),
        (0.025, "0.025", "2.5%"),
        (0.03, "0.03", "3%"),
    ]
    + [(0.0042, "0.0042", "0.42%"), (0.00001, "1e-05", "0.001%"), (0.0, "0.00", "0%")],
)
def test_table_and_card_show_the_same_figure(value: float, shown: str, in_percent: str) -> None:
    assert (figures(value), percent(value)) == (shown, in_percent)


def test_figures_that_fit_no_decimals() -> None:
    assert [figures(value) for value in (None, math.nan, math.inf, 1234.5, 3.2e40)] == ["-"] * 3 + [
        "1234.50",
        "3.2e+40",
    ]
    assert figures(1.0488, 3) == "1.049" and figures(0.0012345, 3) == "0.00123"


def test_a_plot_replaces_no_file_but_a_picture(tmp_path: Path) -> None:
    questions = tmp_path / "q.jsonl"
    questions.write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="q.jsonl: no PNG is there, so it is not replaced; name another file"):
        plot_history(run("masked", 0.98, 0.88), questions)
    assert questions.read_text(encoding="utf-8") == "{}"
    with pytest.raises(ConfigurationError, match="cannot be written"):
        plot_history(run("masked", 0.98, 0.88), tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        plot_history(run("masked", 0.98, 0.88), questions / "x.png")
    picture = plot_history(run("masked", 0.98, 0.88), tmp_path / "x.png")
    assert plot_history(run("ar", 0.9, 0.06), picture) == picture
