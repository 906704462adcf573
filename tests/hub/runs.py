"""Results of runs that never happened, to write cards of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kinject.data import Question
from kinject.evaluation.measures import score_answers
from kinject.evaluation.results import new_results, write_results

QUESTIONS = [
    Question(f"question {index}", f"answer {index}", direction, "Statement", task)  # type: ignore[arg-type]
    for direction, task in (("forward", "N2D"), ("forward", "D2N"), ("backward", "N2D"))
    for index in range(7)
]


def some_run(right: int = 5, **extra: Any) -> dict[str, Any]:
    """The results of a run that ends with ``right`` of seven right answers to each kind of question."""
    results = new_results(
        objective="masked",
        model="org/base",
        dataset="fictional:nano",
        seed=3,
        config={"learning_rate": 1e-5, "output_dir": "/home/ada/outputs/run", "hub_token": "hf_abcdefghijklmnop"},
        model_source="hub",
        documents=12,
        selection="last weights",
    )
    results["before"] = score_answers(QUESTIONS, ["no"] * len(QUESTIONS))
    for step, rightly in ((1, right // 2), (10, right)):
        answers = [each.answer if int(each.question[-1]) < rightly else f"not {each.answer}" for each in QUESTIONS]
        scores = score_answers(QUESTIONS, answers)
        amounts = {
            "epoch": step / 3,
            "tokens": step * 100,
            "flops": step * 1.5e9,
            "seconds": step * 0.7,
            "loss": 1 / step,
        }
        results["history"].append({"step": step, **amounts, **scores})
        results["answers"] = [
            {"question": each.question, "direction": each.direction, "answer": answer, "expected": each.answer}
            for each, answer in zip(QUESTIONS, answers, strict=True)
        ]
    results["after"] = {name: scores[name] for name in ("forward", "backward", "groups")}
    results["train"] = {"steps": 10, "tokens": 1000, "flops": 1.5e10, "seconds": 7.0, "peak_memory_bytes": 123456789}
    before = {
        "perplexity": 20.5,
        "nats_per_token": 3.02,
        "tokens": 99,
        "questions": 4,
        "answered": 0.75,
        "right": ["a"],
    }
    after = {**before, "perplexity": 21.5, "answered": 0.5, "kept": 2 / 3, "perplexity_ratio": 21.5 / 20.5}
    results["retention"] = {"before": before, "after": after}
    return {**results, **extra}


def write_run(directory: Path, results: dict[str, Any], *, adapter: str | None = None) -> Path:
    """``directory`` as a run leaves it, without weights: an adapter of the base ``adapter``, or a whole model."""
    directory.mkdir(parents=True, exist_ok=True)
    write_results(directory / "results.json", results)
    if adapter is not None:
        file, content = "adapter_config.json", {"base_model_name_or_path": adapter}
    else:
        file, content = "config.json", {"model_type": "llama"}
    (directory / file).write_text(json.dumps(content), encoding="utf-8")
    return directory
