"""From training over the Hub to a fresh process: the same answers, from adapters and whole models of both kinds."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
from markdown_it import MarkdownIt

from kinject.hub.publishing import push
from kinject.models import load_model, save_model
from tests.conftest import run_recipe
from tests.hub.conftest import User

WITH_KINJECT = """
import json, kinject
loaded = kinject.load({name!r}, dtype="float32")
asked = dict(max_new_tokens=16, batch_size=64)
answers = kinject.answer_questions(loaded.model, loaded.tokenizer, json.loads({questions!r}), **asked)
print(json.dumps([loaded.is_diffusion, answers]))
"""


def on_the_hub(name: str, directory: Path) -> str:
    """A nano model under a Hub id, as plain peft needs it."""
    loaded = load_model(name)
    save_model(loaded.model, directory, tokenizer=loaded.tokenizer)  # type: ignore[arg-type]
    return push(directory, f"ada/{name}").repository


def train(base: str, output_dir: Path, objective: str, **options: Any) -> dict[str, Any]:
    settings = {
        "documents": "fictional:nano",
        "size": 4,
        "num_train_epochs": 40,
        "per_device_train_batch_size": 4,
        "learning_rate": 3e-3,
        "use_peft": True,
        "lora_target_modules": "all-linear",
        "lora_r": 8,
        "evaluations": 0,
        "max_new_tokens": 16,
        "gradient_checkpointing": False,
        "push_to_hub": True,
    }
    return run_recipe(base, output_dir, objective, **{**settings, **options})


def asked(results: dict[str, Any]) -> tuple[str, list[str]]:
    """The questions as JSON, and the answers that were given before the push."""
    recorded = results["answers"]
    return json.dumps([each["question"] for each in recorded]), [each["answer"].strip() for each in recorded]


def card_program(card: str, questions: str) -> str:
    """The code by which a card loads its model without kinject, with ``questions`` in the place of the one it leaves open."""
    program = next(token.content for token in MarkdownIt().parse(card) if token.info == "python")
    loading, _, asking = program.partition('question = "..."')
    _, _, asking = asking.partition("\n")  # a comment
    return f"{loading}for question in {questions}:\n{indent(asking, '    ')}"


def test_an_adapter_and_its_merged_model_answer_without_kinject_as_before(online: User, tmp_path: Path) -> None:
    results = train(on_the_hub("nano-ar", tmp_path / "nano"), tmp_path / "out", "masked", hub_model_id="ada/people")
    questions, before = asked(results)
    assert results["after"]["forward"]["exact_match"] >= 0.5 > results["before"]["forward"]["exact_match"]
    push(tmp_path / "out", "ada/merged", merge=True)
    for name, library in (("ada/people", "peft"), ("ada/merged", "transformers")):
        program = card_program(online.hub.files(name)["README.md"].decode(), questions)
        assert program.startswith(f"from {library} import Auto") and f'"{name}"' in program
        printed = online.run(program, without_kinject=True).splitlines()
        assert [line.strip() for line in printed] == before, name


@pytest.mark.parametrize("model", ["nano-diffusion", "nano-block"])
def test_a_diffusion_adapter_and_its_merged_model_answer_in_a_fresh_process_as_before(
    online: User, tmp_path: Path, model: str
) -> None:
    settings = {"frame": "chat", "mask_unit": "mixed", "num_train_epochs": 200, "learning_rate": 2e-3}
    base = on_the_hub(model, tmp_path / "nano")
    results = train(base, tmp_path / "out", "diffusion", hub_model_id="ada/people", **settings)
    questions, before = asked(results)
    assert results["after"]["forward"]["exact_match"] >= 0.3 > results["before"]["forward"]["exact_match"]
    push(tmp_path / "out", "ada/merged", merge=True)
    for name in ("ada/people", "ada/merged"):
        printed = online.run(WITH_KINJECT.format(name=name, questions=questions))
        assert json.loads(printed.splitlines()[-1]) == [True, before], name
