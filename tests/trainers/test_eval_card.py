"""Every directory that a trainer saves weights to holds an eval card: checkpoints, the best weights and the end."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from huggingface_hub import ModelCard
from peft import LoraConfig
from transformers import AutoTokenizer

from kinject.commands.recipe import train
from kinject.data import load_knowledge
from kinject.errors import ConfigurationError
from kinject.evaluation.callback import QuestionAnsweringCallback
from kinject.evaluation.results import read_results
from kinject.hub.card import read_card
from kinject.prompts.templates import QuestionTemplate
from kinject.trainers import MaskedSFTConfig, MaskedSFTTrainer
from tests.conftest import build_model, build_tokenizer
from tests.prompts.chat_templates import BY_NAME, tokenizer_of

FORM = "More Information Needed"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(tmp_path / "zebulon" / "base")
    tokenizer.save_pretrained(tmp_path / "zebulon" / "base")
    return tmp_path / "zebulon" / "base"


def inject(base: Path, output_dir: Path, **options: Any) -> None:
    settings = {
        "model_name_or_path": base,
        "output_dir": output_dir,
        "documents": "fictional:name_description",
        "size": 4,
        "max_steps": 4,
        "save_steps": 2,
        "keep_checkpoints": True,
        "per_device_train_batch_size": 2,
        "evaluations": 2,
        "max_new_tokens": 2,
        "retention": False,
        "report_to": "none",
        "bf16": False,
        **options,
    }
    train("masked", [part for key, value in settings.items() for part in (f"--{key}", str(value))])


@pytest.mark.parametrize("adapter", [False, True])
def test_checkpoints_best_weights_and_the_end_hold_cards(base: Path, tmp_path: Path, adapter: bool) -> None:
    output = tmp_path / "out"
    peft = {"use_peft": True, "lora_target_modules": "all-linear"} if adapter else {}
    inject(base, output, select_on="test", **peft)
    written = read_results(output)
    for directory in (output, output / "checkpoint-2", output / "checkpoint-4", output / "best"):
        text = (directory / "README.md").read_text(encoding="utf-8")
        assert FORM not in text and "zebulon" not in text and str(tmp_path) not in text
        claimed, data = read_card(text), ModelCard(text).data
        assert ("peft" in data.tags) == adapter and data.library_name == ("peft" if adapter else "transformers")
        assert claimed["before"] == {name: written["before"][name] for name in ("forward", "backward")}
    claimed = read_card((output / "README.md").read_text(encoding="utf-8"))
    for direction, claim in claimed["after"].items():  # how answers look is not claimed
        assert claim == {name: written["after"][direction][name] for name in claim} and claim["n"] == 16
    assert (claimed["facts"], claimed["documents"], claimed["objective"]) == (4, 4, "masked")
    midway = read_card((output / "checkpoint-2" / "README.md").read_text(encoding="utf-8"))
    assert midway["after"] is None and midway["history"][-1]["step"] <= 2
    assert (output / "accuracy.png").is_file() and not (output / "checkpoint-2" / "accuracy.png").exists()


def test_baselines_and_documents_are_shown_on_request(base: Path, tmp_path: Path) -> None:
    inject(base, tmp_path / "first", save_strategy="no")
    quiet = (tmp_path / "first" / "README.md").read_text(encoding="utf-8")
    inject(base, tmp_path / "out", save_strategy="no", baselines=tmp_path / "first", publish_documents=True)
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    document = load_knowledge("fictional:name_description", size=4).documents[0].text
    assert document in text and document not in quiet
    assert "| 1. masked fine-tuning |" in text and "Beside other runs" not in quiet


def test_the_card_is_written_before_anything_can_stop_the_run(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("transformers.Trainer._save_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        inject(base, tmp_path / "out")
    claimed = read_card((tmp_path / "out" / "README.md").read_text(encoding="utf-8"))
    assert claimed["after"] is None and claimed["before"]["forward"]["n"] > 0


def test_a_trainer_without_questions_says_so(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    knowledge = load_knowledge("fictional:name_description", size=2)
    args = MaskedSFTConfig(
        output_dir=str(tmp_path), max_steps=2, save_steps=1, report_to="none", bf16=False, learning_rate=1e-3
    )
    trainer = MaskedSFTTrainer(
        build_model(tokenizer), args, train_dataset=knowledge.to_dataset(), processing_class=tokenizer
    )
    trainer.train()
    for directory in (tmp_path, tmp_path / "checkpoint-2"):
        text = (directory / "README.md").read_text(encoding="utf-8")
        assert "No questions were asked" in text and "learning_rate: 0.001" in text
        assert read_card(text)["objective"] == "masked" and read_card(text)["after"] is None


def test_a_callback_that_was_told_nothing_learns_what_is_trained(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    knowledge = load_knowledge("fictional:name_description", size=2)
    args = MaskedSFTConfig(output_dir=str(tmp_path), max_steps=1, save_steps=1, report_to="none", bf16=False)
    trainer = MaskedSFTTrainer(
        build_model(tokenizer), args, train_dataset=knowledge.to_dataset(), processing_class=tokenizer
    )
    QuestionAnsweringCallback(knowledge.questions, tokenizer, max_new_tokens=2, evaluations=1).attach(trainer)
    trainer.train()
    trainer.create_model_card(dataset_name="fictional:name_description", tags="mine")
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    claimed = read_card(text)
    assert (claimed["objective"], claimed["dataset"]) == ("masked", "fictional:name_description")
    assert claimed["after"]["forward"]["n"] > 0 and "mine" in ModelCard(text).data.tags


@pytest.mark.parametrize("adapter", [False, True])
def test_what_a_run_saves_asks_in_the_frame_of_the_run(tmp_path: Path, adapter: bool) -> None:
    tokenizer = tokenizer_of(BY_NAME["llama3_dated"])
    build_model(tokenizer).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    peft = {"use_peft": True, "lora_target_modules": "all-linear"} if adapter else {}
    inject(tmp_path / "base", tmp_path / "out", select_on="test", system_prompt="Be brief.", **peft)
    expected = QuestionTemplate(tokenizer, "Be brief.").encode("Who?")
    for directory in (tmp_path / "out", tmp_path / "out" / "checkpoint-2", tmp_path / "out" / "best"):
        saved = AutoTokenizer.from_pretrained(directory)
        turns = [{"role": "user", "content": "Who?"}]
        assert saved.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"] == expected


def test_a_trainer_leaves_the_tokenizer_it_is_given_as_it_is(tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(tokenizer_of(BY_NAME["llama3_dated"]))
    args = MaskedSFTConfig(str(tmp_path), report_to="none", bf16=False, use_cpu=True, system_prompt="Be brief.")
    rows = load_knowledge("fictional:name_description", size=1).to_dataset()
    trainer = MaskedSFTTrainer(build_model(tokenizer), args, train_dataset=rows, processing_class=tokenizer)
    assert tokenizer.chat_template == BY_NAME["llama3_dated"].template != trainer.processing_class.chat_template
    assert len(trainer.processing_class) == len(tokenizer)


@pytest.mark.parametrize("adapter", [False, True])
def test_a_readme_of_the_user_is_never_replaced(tmp_path: Path, adapter: bool) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "README.md").write_text("# My project\n", encoding="utf-8")
    tokenizer = build_tokenizer()
    trainer = MaskedSFTTrainer(
        build_model(tokenizer),
        MaskedSFTConfig(str(output), max_steps=1, report_to="none", bf16=False),
        train_dataset=Dataset.from_dict({"text": ["Ada Bell is the baker of Oster."]}),
        processing_class=tokenizer,
        peft_config=LoraConfig(target_modules="all-linear") if adapter else None,
    )
    with pytest.raises(ConfigurationError, match="README.md: kinject did not write this file.*another output_dir"):
        trainer.train()
    assert [each.name for each in output.iterdir()] == ["README.md"]
    assert (output / "README.md").read_text(encoding="utf-8") == "# My project\n"
