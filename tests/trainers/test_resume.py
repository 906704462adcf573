"""A run goes on from a checkpoint of its own only, as if it had never stopped."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Features, IterableDataset, Value
from peft import LoraConfig
from transformers import Trainer

from kinject.errors import ConfigurationError
from kinject.trainers.checkpointing import is_whole_checkpoint, last_whole_checkpoint, require_same_inputs, row_tags
from tests.conftest import build_model, build_tokenizer
from tests.trainers.conftest import DOCUMENTS

ROWS = [{"text": text} for text in DOCUMENTS]
SAVING = {"save_strategy": "steps", "save_steps": 3, "num_train_epochs": 4}
LORA = {"peft_config": LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")}


def recorded(checkpoint: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what ``checkpoint`` says of its run."""
    file = checkpoint / "trainer_state.json"
    state = json.loads(file.read_text(encoding="utf-8"))
    change(state)
    checkpoint.mkdir(exist_ok=True)
    file.write_text(json.dumps(state), encoding="utf-8")


def same_weights(one: Any, two: Any) -> bool:
    pairs = zip(one.model.parameters(), two.model.parameters(), strict=True)
    return all(torch.equal(first, second) for first, second in pairs)


def test_rows_are_the_same_wherever_they_were_read() -> None:
    row = {"text": "a", "messages": [{"role": "user", "content": "Who?"}], "fact": 0}
    moved = {**row, "fact": 1, "read_from": "moved.jsonl:7"}
    assert row_tags([moved]) == row_tags([{**row, "read_from": "rows.jsonl:1"}]) == row_tags([row])
    assert row_tags([{**row, "messages": []}]) != row_tags([row])


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ("abXd", "edited: 3"),
        ("abcde", "added: 5"),
        ("zabcd", "added: 1"),
        ("acd", "removed: 2"),
        ("bacd", "in another order"),
        ("aXcdYZ", "removed: 2, added: 2, 5, 6"),
        ("stuvwxabcd", "added: 1, 2, 3, 4, 5 and 1 more"),
    ],
)
def test_the_documents_that_differ_are_named(now: str, said: str, tmp_path: Path) -> None:
    before, after = (row_tags({"text": letter} for letter in letters) for letters in ("abcd", now))
    state = {"stateful_callbacks": {"kinject_inputs": {"documents": before}}}
    (tmp_path / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
    require_same_inputs(tmp_path, {"documents": before, "new in this version": 1})
    with pytest.raises(ConfigurationError, match=f"documents: {said}. Go back .* --output_dir or with --overwrite"):
        require_same_inputs(tmp_path, {"documents": after})


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the checkpoints that `saved` makes once."""
    return tmp_path_factory.mktemp("interrupted")


@pytest.fixture
def saved(interrupted: Path, make_trainer: Callable[..., Any]) -> Path:
    """A checkpoint in the middle of the second of four epochs, two steps long each."""
    if not (interrupted / "checkpoint-3").is_dir():
        make_trainer(output_dir=str(interrupted), **SAVING).train()
    return interrupted / "checkpoint-3"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": [{"text": "Nora Vance maps the caves."}, *ROWS[1:]]}, "documents: edited: 1"),
        ({"rows": [*ROWS, {"text": "Nils Ward feeds the geese."}]}, "documents: added: 9"),
        ({"rows": ROWS[:-1]}, "documents: removed: 8"),
        (
            {"rows": [{**ROWS[0], "entities": ["Ada Vance"]}, *({**row, "entities": []} for row in ROWS[1:])]},
            "edited: 1",
        ),
        ({"plain": True}, "objective: 'masked' then, 'ar' now"),
        (
            {"corruption": "random"},
            "objective: 'masked' then, 'random_token' now; corruption: 'mask' then, 'random' now",
        ),
        ({"seed": 7}, "seed: 42 then, 7 now"),
        ({"data_seed": 7}, "data_seed: None then, 7 now"),
        ({"learning_rate": 1e-3}, "learning_rate: 0.01 then, 0.001 now"),
        ({"lr_scheduler_type": "cosine"}, "lr_scheduler_type: 'linear' then, 'cosine' now"),
        ({"num_train_epochs": 5}, "num_train_epochs: 4 then, 5 now"),
        ({"max_steps": 6}, "max_steps: -1 then, 6 now"),
        ({"per_device_train_batch_size": 2}, "samples of a step .*: 4 then, 2 now"),
        ({"gradient_accumulation_steps": 2}, "samples of a step .*: 4 then, 8 now"),
        ({"mask_ratio": "fixed(0.5)"}, r"mask_ratio: 'uniform\(0.05, 0.95\)' then, 'fixed\(0.5\)' now"),
        ({"mask_unit": "word"}, "mask_unit: 'token' then, 'word' now"),
        ({"max_length": 100}, "max_length: 1024 then, 100 now"),
        (
            {"train_sampling_strategy": "group_by_length"},
            "train_sampling_strategy: 'random' then, 'group_by_length' now",
        ),
        ({"weight_decay": 0.1}, "weight_decay: 0.0 then, 0.1 now"),
        ({"frozen_modules": ["self_attn"]}, r"frozen_modules: None then, \['self_attn'\] now"),
        ({"trainer": LORA}, "adapter: None then, 'LORA' now"),
    ],
)
def test_a_run_with_other_inputs_is_refused_and_the_difference_named(
    saved: Path, make_trainer: Callable[..., Any], change: dict[str, Any], said: str
) -> None:
    trainer = make_trainer(**{"num_train_epochs": 4, **change})
    with pytest.raises(ConfigurationError, match=f"checkpoint-3 is of a run with other inputs.*{said}"):
        trainer.train(resume_from_checkpoint=str(saved))
    assert trainer.state.global_step == 0


def test_a_stream_is_known_by_its_first_rows(make_trainer: Callable[..., Any], tmp_path: Path) -> None:
    def stream(rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "train_dataset": IterableDataset.from_generator(lambda: iter(rows), features=Features(text=Value("string")))
        }

    steps = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    make_trainer(trainer=stream(ROWS), **steps).train()
    checkpoint = str(tmp_path / "run" / "checkpoint-3")
    edited = make_trainer(trainer=stream([{"text": "Nora Vance maps the caves."}, *ROWS[1:]]), **steps)
    with pytest.raises(ConfigurationError, match="documents: edited: 1"):
        edited.train(resume_from_checkpoint=checkpoint)
    make_trainer(trainer=stream(ROWS), **steps).train(resume_from_checkpoint=checkpoint)


def test_another_tokenizer_or_template_is_refused(saved: Path, make_trainer: Callable[..., Any]) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = str(tokenizer.chat_template).replace("\n", " ")
    trainer = make_trainer(num_train_epochs=4, trainer={"model": build_model(tokenizer), "processing_class": tokenizer})
    with pytest.raises(ConfigurationError, match="the tokenized documents .or the chat template. differ"):
        trainer.train(resume_from_checkpoint=str(saved))


def test_an_adapter_goes_on_beside_the_weights_it_was_trained_with_only(
    make_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    make_trainer(output_dir=str(tmp_path / "whole"), trainer=dict(LORA), **SAVING).train()
    checkpoint, tokenizer = str(tmp_path / "whole" / "checkpoint-3"), build_tokenizer()
    other = {"model": build_model(tokenizer, seed=1), "processing_class": tokenizer}
    with pytest.raises(ConfigurationError, match="the weights that are not trained differ"):
        make_trainer(num_train_epochs=4, trainer={**LORA, **other}).train(resume_from_checkpoint=checkpoint)
    wider = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    with pytest.raises(ConfigurationError, match="of the adapter.r: 4 then, 8 now"):
        make_trainer(num_train_epochs=4, trainer={"peft_config": wider}).train(resume_from_checkpoint=checkpoint)
    make_trainer(num_train_epochs=4, trainer=dict(LORA)).train(resume_from_checkpoint=checkpoint)


@pytest.mark.parametrize(
    "change",
    [
        {
            "logging_steps": 5,
            "save_strategy": "epoch",
            "save_total_limit": 1,
            "run_name": "again",
            "log_level": "error",
        },
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        {"dataloader_num_workers": 1, "gradient_checkpointing": True},
        {"trainer": {"eval_dataset": None}, "eval_strategy": "no", "per_device_eval_batch_size": 3},
    ],
)
def test_what_shapes_no_step_may_change(saved: Path, make_trainer: Callable[..., Any], change: dict[str, Any]) -> None:
    trainer = make_trainer(**{"num_train_epochs": 4, **change})
    trainer.train(resume_from_checkpoint=str(saved))
    assert trainer.state.global_step == 8


def test_one_configuration_may_serve_several_trainers(make_trainer: Callable[..., Any], tmp_path: Path) -> None:
    whole = make_trainer(output_dir=str(tmp_path / "whole"), lr_scheduler_type="warmup_stable_decay", **SAVING)
    whole.train()
    again = make_trainer()
    again = type(again)(
        build_model(again.processing_class),
        whole.args,
        train_dataset=make_trainer().train_dataset,
        processing_class=again.processing_class,
    )
    assert again.inputs["lr_scheduler_kwargs"] is None and again.inputs == {
        **whole.inputs,
        "documents": again.inputs["documents"],  # here of rows that were prepared before
    }


def test_a_checkpoint_that_says_nothing_of_its_run_is_taken_up_with_a_warning(
    saved: Path, make_trainer: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = Path(shutil.copytree(saved, tmp_path / "checkpoint-3"))
    recorded(old, lambda state: state["stateful_callbacks"].pop("kinject_inputs"))
    trainer = make_trainer(seed=7, **SAVING)
    with caplog.at_level(logging.WARNING):
        trainer.train(resume_from_checkpoint=str(old))
    assert "checkpoint-3 does not say what it was trained on" in caplog.text
    state = json.loads((tmp_path / "run" / "checkpoint-8" / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["stateful_callbacks"]["kinject_inputs"]["seed"] == 7


def test_a_run_whose_steps_do_not_know_its_length_may_be_prolonged(
    make_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    constant = {**SAVING, "lr_scheduler_type": "constant", "save_steps": 4}
    whole = make_trainer(output_dir=str(tmp_path / "whole"), **constant)
    whole.train()
    make_trainer(output_dir=str(tmp_path / "short"), **{**constant, "num_train_epochs": 2}).train()
    prolonged = make_trainer(output_dir=str(tmp_path / "short"), **constant)
    prolonged.train(resume_from_checkpoint=True)
    assert prolonged.state.global_step == 8 and same_weights(whole, prolonged)
    for steps_count in ({"mask_ratio": "linear(0.1, 0.9)"}, {"lr_scheduler_type": "linear"}):
        make_trainer(output_dir=str(tmp_path / "counts"), **{**constant, **steps_count, "num_train_epochs": 2}).train()
        with pytest.raises(ConfigurationError, match="num_train_epochs: 2 then, 4 now"):
            make_trainer(**{**constant, **steps_count}).train(str(tmp_path / "counts" / "checkpoint-4"))


def test_a_run_that_is_resumed_after_its_last_step_takes_no_other(
    make_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    settings = {"max_steps": 3, "lr_scheduler_type": "constant"}  # in the middle of an epoch
    whole = make_trainer(output_dir=str(tmp_path / "whole"), save_strategy="steps", save_steps=3, **settings)
    whole.train()
    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert resumed.state.global_step == 3 and same_weights(whole, resumed)


@pytest.mark.parametrize(
    ("change", "epochs"),
    [
        ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}, [1, 1, 2, 2, 2, 2, 3, 3, 3, 3]),
        ({"per_device_train_batch_size": 2}, [0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]),  # four steps an epoch
        ({"per_device_train_batch_size": 8}, [3]),  # one step an epoch
    ],
)
def test_the_masks_are_those_of_the_epoch_that_is_trained(
    saved: Path, make_trainer: Callable[..., Any], tmp_path: Path, change: dict[str, int], epochs: list[int]
) -> None:
    old = Path(shutil.copytree(saved, tmp_path / "checkpoint-3"))
    recorded(old, lambda state: state["stateful_callbacks"].pop("kinject_inputs"))
    trainer = make_trainer(**{"num_train_epochs": 4, **change})
    seen: list[int] = []
    step = trainer.training_step

    def training_step(*args: Any, **kwargs: Any) -> torch.Tensor:
        seen.append(trainer.data_collator.epoch)
        return step(*args, **kwargs)

    trainer.training_step = training_step
    trainer.train(resume_from_checkpoint=str(old))
    assert seen == epochs


class _Disk:
    """Stands in for the library's saving: writes a checkpoint in part or whole, and fails."""

    def __init__(self, error: Exception, *, whole: bool) -> None:
        self.error, self.whole = error, whole
        self.real = Trainer._save_checkpoint

    def save(self, trainer: Any, model: Any, trial: Any) -> None:
        if trainer.state.global_step < 6:
            return self.real(trainer, model, trial)
        if self.whole:
            self.real(trainer, model, trial)
        else:
            folder = Path(trainer.args.output_dir) / "checkpoint-6"
            folder.mkdir(exist_ok=True)
            (folder / "optimizer.pt").write_bytes(b"cut")
        raise self.error


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed")])
def test_a_save_that_fails_removes_what_it_wrote_and_nothing_that_was_whole(
    make_trainer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, before: bool
) -> None:
    if before:  # a run that went on from an earlier checkpoint writes a later one anew
        make_trainer(**SAVING).train()
        kept = {path.name: path.read_bytes() for path in (tmp_path / "run" / "checkpoint-6").iterdir()}
    disk = _Disk(error, whole=False)
    monkeypatch.setattr(Trainer, "_save_checkpoint", lambda *arguments: disk.save(*arguments))
    newest = "checkpoint-8" if before else "checkpoint-3"
    with pytest.raises(ConfigurationError, match=f"checkpoint-6: the checkpoint cannot be written .*{newest} is whole"):
        make_trainer(**SAVING).train()
    assert last_whole_checkpoint(tmp_path / "run") == str(tmp_path / "run" / newest)
    assert is_whole_checkpoint(tmp_path / "run" / "checkpoint-3")
    assert (tmp_path / "run" / "checkpoint-6").exists() is before
    assert {path.name for path in (tmp_path / "run").glob(".*")} == set()
    if before:
        assert {path.name: path.read_bytes() for path in (tmp_path / "run" / "checkpoint-6").iterdir()} == kept


@pytest.mark.parametrize("error", [ConnectionError("the Hub is away"), PermissionError(13, "Permission denied")])
def test_what_fails_after_a_checkpoint_was_written_costs_no_checkpoint(
    make_trainer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    disk = _Disk(error, whole=True)
    monkeypatch.setattr(Trainer, "_save_checkpoint", lambda *arguments: disk.save(*arguments))
    with pytest.raises(ConfigurationError, match="what follows a checkpoint failed .*checkpoint-6 is whole"):
        make_trainer(**SAVING).train()
    assert last_whole_checkpoint(tmp_path / "run") == str(tmp_path / "run" / "checkpoint-6")


def test_a_checkpoint_is_found_that_a_killed_run_was_writing_anew(saved: Path, tmp_path: Path) -> None:
    aside = shutil.copytree(saved, tmp_path / ".checkpoint-3.before")
    assert last_whole_checkpoint(tmp_path) == str(aside)
    shutil.copytree(saved, tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3" / "optimizer.pt").write_bytes(b"cut")
    assert last_whole_checkpoint(tmp_path) == str(aside)
    (tmp_path / "checkpoint-3" / "optimizer.pt").unlink()
    shutil.copytree(saved, tmp_path / "checkpoint-3", dirs_exist_ok=True)
    assert last_whole_checkpoint(tmp_path) == str(tmp_path / "checkpoint-3")
