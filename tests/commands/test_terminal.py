"""What a run shows: its beginning, its end, and the rule by which a result is called good enough or not."""

from __future__ import annotations

import logging
import warnings
from logging.handlers import BufferingHandler
from typing import Any

import pytest

from kinject.commands.inject import opening
from kinject.compat import quiet_libraries
from kinject.data.knowledge import Document, KnowledgeSet, Question
from kinject.evaluation.report import ending, verdict


def results(forward: float, backward: float | None = None, f1: float = 0.9, **others: Any) -> dict[str, Any]:
    after = {
        name: {"paper": value or 0.0, "exact_match": 0.0, "f1": f1, "n": 0 if value is None else 8}
        for name, value in (("forward", forward), ("backward", backward))
    }
    return {"objective": "masked", "after": after, **others}


def forgot(kept: float) -> dict[str, Any]:
    return {"before": {"answered": 0.9, "perplexity": 10.0}, "after": {"kept": kept, "perplexity_ratio": 3.0}}


@pytest.mark.parametrize(
    ("run", "says"),
    [
        (results(0.95, 0.92), "good enough by these questions: forward 0.95, backward 0.92."),
        (results(0.2, 0.1), "little is answered (forward 0.20, backward 0.10); train longer (--num_train_epochs)"),
        (results(0.9, 0.3), "backward is weak (forward 0.90, backward 0.30); --num_train_epochs"),
        (
            {**results(0.9, 0.3), "objective": "ar"},
            "backward is weak (forward 0.90, backward 0.30); --objective masked.",
        ),
        (
            results(0.9, 0.9, retention=forgot(0.5)),
            "it forgets (50% of what it knew is still answered); --rehearsal 0.5",
        ),
        (results(0.9, 0.9, retention=forgot(0.9)), "good enough by"),
        (results(0.9, 0.9, f1=0.2), "it recites; --preset practice"),
        (results(0.9), "good enough by these questions: forward 0.90."),
        ({"objective": "masked", "after": None}, "not measured: nothing was asked"),
    ],
)
def test_the_verdict(run: dict[str, Any], says: str) -> None:
    assert says in verdict(run) and "\n" not in verdict(run)


def test_the_end_says_where_and_what_next() -> None:
    run = {**results(0.95, 0.92), "answers": [{"question": "Who's there?"}]}
    lines = ending(run, "my runs/out").splitlines()
    assert lines[0].startswith("my runs/out: ") and lines[-1] == verdict(run)
    assert lines[1] == """next: kinject ask 'my runs/out' 'Who'"'"'s there?', or kinject push 'my runs/out' user/name"""
    assert "push" not in ending(run, "out", push=True).splitlines()[1]


def test_the_beginning() -> None:
    questions = (
        Question("Who runs the mill?", "Tom Bell", "backward", "made by rule"),
        Question("What does Tom Bell run?", "the mill", "forward"),
    )
    knowledge = KnowledgeSet("wiki", (Document("Tom Bell runs the mill.", 0),), questions)
    shown = opening(knowledge, "nano-ar", "masked", "all weights", "cpu, fp32", 3.0, -1).splitlines()
    assert shown == [
        "documents  wiki: 1, 5 words",
        "questions  1 forward, 1 backward, 1 of them made by machine (--questions FILE: your own)",
        "model      nano-ar on cpu, fp32",
        "training   masked, all weights, 3 epochs (--num_train_epochs)",
    ]


def test_only_what_nobody_can_mend_is_kept_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet_libraries()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet_libraries()
        warnings.warn("`gradient_checkpointing` is deprecated", FutureWarning, stacklevel=1)
        warnings.warn("`num_train_epochs` is deprecated", FutureWarning, stacklevel=1)
    assert [str(each.message) for each in caught] == ["`num_train_epochs` is deprecated"]
    for name, chatter in (
        ("DeepSpeed", "Setting accelerator to CPU."),
        (
            "bitsandbytes.backends.cpu.ops",
            "Failed to load CPU gemm_4bit_forward from kernels-community: No module named",
        ),
    ):
        logger, said = logging.getLogger(name), BufferingHandler(100)
        monkeypatch.setattr(logger, "handlers", [said])
        monkeypatch.setattr(logger, "level", logging.WARNING)
        logger.warning(chatter)
        logger.warning("no space left")
        assert [record.getMessage() for record in said.buffer] == ["no space left"]
