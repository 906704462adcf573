"""lm-evaluation-harness runs the tasks of recipes/lm_eval with the figures of kinject's own evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lm_eval", reason="pip install 'kinject[eval]'")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from kinject.data import KnowledgeSet, load_knowledge
from kinject.errors import ConfigurationError
from kinject.evaluation.asking import answer_log_likelihood, answer_questions
from kinject.evaluation.lm_eval import DiffusionLM
from kinject.evaluation.measures import score_answers
from kinject.models import load_model, save_model
from kinject.sampling import SamplingConfig
from tests.conftest import build_model, build_tokenizer

TASKS = Path(__file__).parents[2] / "recipes" / "lm_eval"
NANO = Path(__file__).parents[2] / "kinject" / "models" / "nano"
POPULATION = "fictional:nano_population"


def run(
    model: str, arguments: dict[str, Any], world: dict[str, Any], suffix: str = "", **options: Any
) -> dict[str, Any]:
    names = [f"kinject_{direction}{suffix}" for direction in ("forward", "backward")]
    found = simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=names,
        task_manager=TaskManager(include_path=str(TASKS), include_defaults=False, metadata=world),
        metadata=world,
        batch_size=32,
        gen_kwargs="max_gen_toks=16",
        bootstrap_iters=0,
        **options,
    )
    scores = {}
    for name in names:
        each = found["results"][name]
        measures = {measure: each[f"{measure},none"] for measure in ("paper", "exact_match", "f1")}
        scores[name.removeprefix("kinject_").removesuffix(suffix)] = {
            **measures,
            "n": found["n-samples"][name]["effective"],
        }
    return scores


def own(name: str, knowledge: KnowledgeSet, sampling: SamplingConfig | None = None) -> dict[str, Any]:
    loaded = load_model(name, dtype="float32")
    asked = [question.question for question in knowledge.questions]
    answers = answer_questions(loaded.model, loaded.tokenizer, asked, max_new_tokens=16, sampling=sampling)
    scores = score_answers(knowledge.questions, answers)
    return {
        direction: {measure: scores[direction][measure] for measure in ("paper", "exact_match", "f1", "n")}
        for direction in ("forward", "backward")
    }


def close(scores: dict[str, Any]) -> dict[str, Any]:
    return {direction: pytest.approx(cell, abs=1e-9) for direction, cell in scores.items()}


@pytest.fixture(scope="module", params=["nano-ar", "nano-diffusion"])
def forgetful(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The name of a nano model, and a directory with one that has forgotten about half of what it knew."""
    loaded = load_model(request.param, dtype="float32")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in loaded.model.parameters():
            if weight.dim() > 1:
                weight.add_(torch.randn(weight.shape, generator=generator) * weight.std() * 0.3)
    directory = tmp_path_factory.mktemp("forgetful")
    save_model(loaded.model, directory, tokenizer=loaded.tokenizer)
    return request.param, str(directory)


def test_the_figures_are_those_of_our_evaluation(forgetful: tuple[str, str]) -> None:
    name, directory = forgetful
    expected = own(directory, load_knowledge(POPULATION, size=12))
    assert all(0.3 < cell["exact_match"] < 0.7 for cell in expected.values())  # figures that could differ
    kind, more = ("hf", {"dtype": "float32"}) if name == "nano-ar" else ("kinject-diffusion", {})
    arguments = {"pretrained": directory, "device": "cpu", **more}
    assert run(kind, arguments, {"documents": POPULATION, "size": 12}, apply_chat_template=True) == close(expected)


@pytest.mark.parametrize("name", ["nano-ar", "nano-diffusion"])
def test_the_nano_models_know_their_population(name: str) -> None:
    arguments = {"pretrained": str(NANO / name.removeprefix("nano-")), "device": "cpu"}
    kind, more = ("hf", {"dtype": "float32"}) if name == "nano-ar" else ("kinject-diffusion", {})
    scores = run(kind, {**arguments, **more}, {"documents": POPULATION, "size": 6}, apply_chat_template=True)
    assert min(cell["exact_match"] for cell in scores.values()) > 0.9


def test_a_diffusion_model_can_be_sampled_as_published() -> None:
    knowledge = load_knowledge(POPULATION, size=3)
    expected = own("nano-diffusion", knowledge, SamplingConfig.published(16, 8))
    arguments = {"pretrained": "nano-diffusion", "sampling": "published", "sampling_steps": 8, "device": "cpu"}
    scores = run("kinject-diffusion", arguments, {"documents": POPULATION, "size": 3}, apply_chat_template=True)
    assert scores == close(expected)


def test_models_without_a_chat_template_are_asked_as_we_ask_them(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(chat_template=None)
    save_model(build_model(tokenizer), tmp_path / "ar", tokenizer=tokenizer)
    model = load_model(str(tmp_path / "ar"), to_diffusion=True, mask_token="<reserved_0>").model
    save_model(model, tmp_path / "diffusion", tokenizer=tokenizer)
    world = {"documents": "fictional:name_description", "size": 2}
    knowledge = load_knowledge("fictional:name_description", size=2)
    for name, kind, dtype in (("ar", "hf", {"dtype": "float32"}), ("diffusion", "kinject-diffusion", {})):
        arguments = {"pretrained": str(tmp_path / name), "device": "cpu", **dtype}
        assert run(kind, arguments, world, "_plain") == close(own(str(tmp_path / name), knowledge))


def test_questions_of_a_file_are_asked(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    row = '{"question": "Who is it?", "answer": ["Ada", "the Countess of Lovelace"], "direction": "backward"}\n'
    file.write_text(row, encoding="utf-8")
    manager = TaskManager(include_path=str(TASKS), include_defaults=False, metadata={"questions": str(file)})
    task = manager.load(["kinject_backward"])["tasks"]["kinject_backward"]
    (asked,) = task.test_docs()
    assert (asked["question"], asked["answer"]) == ("Who is it?", "Ada")
    for answer, right in (("Ada", 1), (" the Countess of Lovelace ", 1), ("Eve", 0)):
        assert set(task.process_results(asked, [answer]).values()) == {right}


def instances(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=each, idx=0) for each in arguments]


def test_log_likelihoods_are_our_bound() -> None:
    model = DiffusionLM("nano-diffusion", samples=8, device="cpu", batch_size="auto")
    prompt, answers = "Who is it?", ("the brave baker", "the shy pilot")
    found = model.loglikelihood(instances("loglikelihood", [(prompt, answer) for answer in answers]))
    encoded = [model.tokenizer.encode(text, add_special_tokens=False) for text in (prompt, *answers)]
    expected = answer_log_likelihood(model.model, [encoded[0]] * 2, encoded[1:], samples=8)
    assert [each for each, _ in found] == pytest.approx(expected) and found[0] != found[1]
    (rolling,) = model.loglikelihood_rolling(instances("loglikelihood_rolling", [(answers[0],)]))
    assert rolling < 0


def test_answers_end_where_the_task_says() -> None:
    model = DiffusionLM("nano-diffusion", device="cpu")
    question = load_knowledge(POPULATION, size=2).questions[0]
    prompt = model.apply_chat_template([{"role": "user", "content": question.question}])
    settings: list[dict[str, Any]] = [{"max_gen_toks": 16}, {"max_gen_toks": 16, "until": [" "]}, {"max_gen_toks": 8}]
    whole, word, shorter = model.generate_until(instances("generate_until", [(prompt, each) for each in settings]))
    assert word == whole.split(" ")[0] != whole and shorter.startswith(word)


def test_an_ar_model_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--model hf"):
        DiffusionLM("nano-ar")
