"""Run by test_two_processes.py as one of two processes: a short training run that asks, on every process."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from kinject.evaluation import QuestionAnsweringCallback
from kinject.evaluation.asking import answer_questions
from tests.conftest import build_model, build_tokenizer
from tests.evaluation.parts import QUESTIONS, VALIDATION, make_trainer


def main(folder: Path) -> None:
    model, tokenizer = build_model(build_tokenizer()), build_tokenizer()
    asked: list[int] = []

    def ask(model: Any, questions: Sequence[str]) -> list[str]:
        asked.append(len(questions))
        answers = answer_questions(model, tokenizer, questions, max_new_tokens=4)
        known = ["Ada", "the first programmer"] if trainer.state.global_step == 2 else []
        return [f"{question} {answer} {known}" for question, answer in zip(questions, answers, strict=True)]

    callback = QuestionAnsweringCallback(
        QUESTIONS, ask=ask, validation=VALIDATION[:1], evaluations=3, report=lambda line: print(line, flush=True)
    )
    trainer = make_trainer(model, folder, [], steps=4)
    assert trainer.args.world_size == 2
    callback.attach(trainer)
    trainer.train()
    assert asked == [2] * 4, asked  # half of three questions, rounded up, on either process
    assert all(answer.startswith(each.question) for each, answer in zip(QUESTIONS, callback.answers, strict=True))
    assert callback.results["selected"]["step"] == 2
    last = model.lm_head.weight.detach().clone()
    assert callback.restore_best(trainer)
    assert not model.lm_head.weight.equal(last)
    # A resume takes up the same history and selection on both processes.
    trainer.state.global_step = 3
    callback._resume(3)
    assert [entry["step"] for entry in callback.results["history"]] == [1, 2]
    print(f"process {trainer.args.process_index} done", flush=True)
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
