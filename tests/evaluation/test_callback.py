"""The callback inside a real trainer: history, selection, resume, adapters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import Trainer, TrainerCallback

from kinject.data.knowledge import UNKNOWN
from kinject.errors import ConfigurationError
from kinject.evaluation.callback import QuestionAnsweringCallback
from kinject.evaluation.results import new_results, read_results
from tests.evaluation.parts import QUESTIONS, VALIDATION, make_trainer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


class Asked:
    """Answers rightly only the questions that are due at the current evaluation: a plan of scores by evaluation."""

    def __init__(self, plan: Sequence[Sequence[str]]) -> None:
        self.plan, self.calls = plan, 0

    def __call__(self, model: Any, questions: Sequence[str]) -> list[str]:
        right = {each.question: each.answer for each in (*QUESTIONS, *VALIDATION)}
        known = self.plan[self.calls]
        self.calls += 1
        return [right[question] if question in known else "" for question in questions]


def test_history_before_and_after_are_written(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    lines: list[str] = []
    callback = QuestionAnsweringCallback(
        QUESTIONS,
        tiny_tokenizer,
        results=new_results(objective="masked", model="tiny", dataset="d"),
        evaluations=3,
        max_new_tokens=4,
        report=lines.append,
    )
    trainer = make_trainer(tiny_model, tmp_path, [])
    callback.attach(trainer)
    trainer.train()
    results = read_results(tmp_path)
    assert [entry["step"] for entry in results["history"]] == [2, 4, 8]
    assert [entry["tokens"] for entry in results["history"]] == [40, 80, 160]
    last = results["history"][-1]
    assert last["epoch"] == 4.0 and last["loss"] > 0 and last["seconds"] > 0
    multiplied = sum(p.numel() for name, p in tiny_model.named_parameters() if p.dim() > 1 and "embed" not in name)
    assert last["flops"] == 160 * 6 * multiplied
    assert results["before"]["forward"]["n"] == results["after"]["backward"]["n"] == 1
    assert set(results["after"]["groups"]) == {"A/N2D/forward", "A/D2N/backward"}
    assert results["train"]["steps"] == 8 and results["train"]["peak_memory_bytes"] > 0
    assert results["selection"] == "last weights" and "selected" not in results
    assert len(callback.answers) == 2
    assert not callback.restore_best(trainer) and not (tmp_path / "best").exists()
    assert [line.split("  ")[0] for line in lines] == ["step 0/8", "step 2/8", "step 4/8", "step 8/8"]
    assert "forward 0.00 (exact 0.00)" in lines[-1] and "loss" in lines[-1]
    logged = [entry["step"] for entry in trainer.state.log_history if "backward" in entry]
    assert logged == [0, 2, 4, 8]
    # Every step's loss is still logged: logging answers does not swallow it.
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == list(range(1, 9))


def test_the_trainers_own_loggers_see_the_scores(tiny_model: LlamaForCausalLM, tmp_path: Path) -> None:
    class Logger(TrainerCallback):
        seen: list[dict[str, Any]] = []

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            self.seen.append(dict(logs))

    asked = Asked([[], [QUESTIONS[0].question]])
    trainer = make_trainer(tiny_model, tmp_path, [Logger()], steps=2)
    QuestionAnsweringCallback(QUESTIONS, ask=asked, evaluations=1, report=len).attach(trainer)
    trainer.train()
    assert [(log["forward"], log["backward"]) for log in Logger.seen if "forward" in log] == [(0.0, 0.0), (1.0, 0.0)]


def test_validation_selects_and_the_other_half_is_reported(tiny_model: LlamaForCausalLM, tmp_path: Path) -> None:
    forward, backward = (each.question for each in VALIDATION)
    # Best on validation at the second evaluation (step 4), best on the reported questions at the third.
    asked = Asked([[], [forward], [forward, backward], [forward, *(each.question for each in QUESTIONS)]])
    lines: list[str] = []
    callback = QuestionAnsweringCallback(
        QUESTIONS, ask=asked, validation=VALIDATION, evaluations=3, report=lines.append
    )
    weights: dict[int, torch.Tensor] = {}

    class Recorder(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            weights[state.global_step] = model.lm_head.weight.detach().clone()

    trainer = make_trainer(tiny_model, tmp_path, [callback, Recorder()])
    trainer.train()
    results = read_results(tmp_path)
    assert results["selected"] == {"step": 4, "score": 1.0, "metric": "paper"}
    assert results["history"][1]["validation"]["backward"]["paper"] == 1.0
    assert results["history"][2]["forward"]["paper"] == 1.0
    assert results["after"]["forward"]["paper"] == 0.0  # of the selected weights, not of the last
    assert "validation half" in results["selection"]
    assert ["best so far" in line for line in lines] == [False, True, True, False]
    assert not torch.equal(trainer.model.lm_head.weight, weights[4])
    assert callback.restore_best(trainer)
    assert torch.equal(trainer.model.lm_head.weight, weights[4])
    reloaded = type(tiny_model).from_pretrained(tmp_path / "best")
    assert torch.equal(reloaded.lm_head.weight, weights[4])
    assert callback.answers == ["", ""]


def test_best_on_test_says_so(tiny_model: LlamaForCausalLM, tmp_path: Path) -> None:
    asked = Asked([[], [QUESTIONS[0].question], [], []])
    callback = QuestionAnsweringCallback(QUESTIONS, ask=asked, select_on="test", evaluations=3, report=len)
    make_trainer(tiny_model, tmp_path, [callback]).train()
    results = read_results(tmp_path)
    assert results["selection"] == "best on the test questions, as in the paper"
    assert results["selected"]["step"] == 2 and results["selected"]["score"] == 0.5
    assert results["after"]["forward"]["paper"] == 1.0
    assert callback.answers == ["the first programmer", ""]


def test_an_adapter_is_kept_alone_and_restored(
    tiny_model: LlamaForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_model, LoraConfig(r=2, target_modules=["q_proj"]))
    asked = Asked([[], [QUESTIONS[0].question], [], []])
    callback = QuestionAnsweringCallback(
        QUESTIONS, tiny_tokenizer, ask=asked, select_on="test", evaluations=3, report=len
    )
    trainer = make_trainer(model, tmp_path, [])
    callback.attach(trainer)
    trainer.train()
    files = {file.name for file in (tmp_path / "best").iterdir()}
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    lora = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight"
    last = model.state_dict()[lora].clone()
    assert callback.restore_best(model)
    assert not torch.equal(model.state_dict()[lora], last)
    # Adapters train 2 of the 6 operations per multiplied weight fewer where weights are frozen.
    frozen = sum(p.numel() for n, p in model.named_parameters() if p.dim() > 1 and "lora" not in n and "embed" not in n)
    adapter = sum(p.numel() for n, p in model.named_parameters() if "lora" in n)
    assert callback.results["train"]["flops"] == 160 * (4 * frozen + 6 * adapter)


def test_a_killed_run_resumes_its_history_and_selection(tmp_path: Path) -> None:
    from tests.conftest import build_model, build_tokenizer

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                raise KeyboardInterrupt

    class RightByStep:
        """Right at step 4 only; a pure function of the step, as a deterministic run's answers are."""

        trainer: Trainer

        def __call__(self, model: Any, questions: Sequence[str]) -> list[str]:
            right = {each.question: each.answer for each in QUESTIONS}
            return [right[question] if self.trainer.state.global_step == 4 else "" for question in questions]

    def run(folder: Path, resume: bool, *extra: TrainerCallback) -> tuple[Trainer, QuestionAnsweringCallback]:
        asked = RightByStep()
        callback = QuestionAnsweringCallback(QUESTIONS, ask=asked, select_on="test", evaluations=8, report=len)
        trainer = make_trainer(build_model(build_tokenizer()), folder, [callback, *extra], save_steps=3)
        trainer.args.save_strategy = "steps"  # type: ignore[assignment]
        asked.trainer = trainer
        trainer.train(resume_from_checkpoint=resume or None)
        return trainer, callback

    whole, _ = run(tmp_path / "whole", False)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", False, Stop())
    assert [entry["step"] for entry in read_results(tmp_path / "killed")["history"]][-1] >= 4
    resumed, callback = run(tmp_path / "killed", True)
    expected, found = read_results(tmp_path / "whole"), read_results(tmp_path / "killed")
    timed = ("seconds", "peak_memory_bytes")
    for results in (expected, found):
        for entry in (*results["history"], results["train"]):
            for name in timed:
                entry.pop(name, None)
    assert found == expected
    assert found["selected"] == {"step": 4, "score": 1.0, "metric": "paper"}
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert callback.results["train"]["steps"] == 8
    clock = json.loads((tmp_path / "killed" / "checkpoint-6" / "trainer_state.json").read_text())
    assert clock["stateful_callbacks"]["kinject_training_seconds"] > 0


def test_a_selection_before_the_checkpoint_survives_a_resume(tiny_model: LlamaForCausalLM, tmp_path: Path) -> None:
    from tests.conftest import build_model, build_tokenizer

    asked = Asked([[], [each.question for each in QUESTIONS], *[[]] * 20])
    first = QuestionAnsweringCallback(QUESTIONS, ask=asked, select_on="test", evaluations=8, report=len)
    trainer = make_trainer(tiny_model, tmp_path, [first], save_steps=4)
    trainer.args.save_strategy = "steps"  # type: ignore[assignment]
    trainer.train()
    kept = (tmp_path / "best" / "model.safetensors").read_bytes()
    asked = Asked([[]] * 20)
    again = QuestionAnsweringCallback(QUESTIONS, ask=asked, select_on="test", evaluations=8, report=len)
    resumed = make_trainer(build_model(build_tokenizer(), seed=1), tmp_path, [again])
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert asked.calls == 4  # steps 5 to 8; nothing is asked again before
    assert again.results["selected"]["step"] == 1
    assert again.answers == ["the first programmer", "Ada"]
    assert (tmp_path / "best" / "model.safetensors").read_bytes() == kept


def test_a_new_run_forgets_the_selection_of_the_last(tiny_model: LlamaForCausalLM, tmp_path: Path) -> None:
    for plan in ([[], [QUESTIONS[0].question]], [[], []]):
        callback = QuestionAnsweringCallback(QUESTIONS, ask=Asked(plan), select_on="test", evaluations=1, report=len)
        make_trainer(tiny_model, tmp_path, [callback], steps=2).train()
    assert read_results(tmp_path)["selected"]["score"] == 0.0
    assert len(read_results(tmp_path)["history"]) == 1


def test_without_evaluations_only_before_and_after(tiny_model: LlamaForCausalLM, tmp_path: Path) -> None:
    asked = Asked([[], []])
    callback = QuestionAnsweringCallback(QUESTIONS, ask=asked, evaluations=0, report=len)
    make_trainer(tiny_model, tmp_path, [callback], steps=3).train()
    assert asked.calls == 2 and [entry["step"] for entry in read_results(tmp_path)["history"]] == [3]


def test_training_without_questions(tiny_model: LlamaForCausalLM, tmp_path: Path) -> None:
    callback = QuestionAnsweringCallback((), ask=Asked([]), evaluations=2, report=len)
    make_trainer(tiny_model, tmp_path, [callback], steps=2).train()
    assert read_results(tmp_path)["after"]["forward"]["n"] == 0


OF_NO_DIRECTION = tuple(replace(each, direction=UNKNOWN) for each in QUESTIONS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"select_on": "luck"}, "select_on: expected one of validation, test, practice, none"),
        ({"metric": "bleu"}, "metric: expected one of paper"),
        ({"evaluations": -1}, "evaluations: expected 0 or more"),
        ({"select_on": "validation"}, "no questions to select on"),
        ({"questions": (), "select_on": "test"}, "no questions to select on"),
        ({"questions": OF_NO_DIRECTION, "select_on": "test"}, "no questions to select on whose direction is known"),
        ({"ask": None}, "pass the tokenizer"),
    ],
)
def test_bad_settings_name_themselves(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        QuestionAnsweringCallback(**{"questions": QUESTIONS, "ask": Asked([]), **settings})
