"""The eval card: its numbers are those of results.json, wherever it stands, and it tells nothing private."""

from __future__ import annotations

import ast
import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from kinject.commands.evaluate import agreement
from kinject.data import Question
from kinject.errors import DataError
from kinject.evaluation.measures import score_answers
from kinject.evaluation.report import plot_history, results_table
from kinject.evaluation.results import read_results
from kinject.hub.card import read_card, write_card
from kinject.prompts.encoding import pin_template
from kinject.prompts.templates import ANSWER, DocumentTemplate, QuestionTemplate
from kinject.sampling.config import SamplingArguments
from tests.hub.runs import some_run, write_run
from tests.prompts.chat_templates import CASES, ChatCase, tokenizer_of

DIRECTIONS = ("forward", "backward")


CLAIMS = ("paper", "exact_match", "f1", "n", "ci")


def card_of(directory: Path, **options: Any) -> str:
    return write_card(directory, **options).read_text(encoding="utf-8")


def claims_of(scores: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a card claims of ``scores``; how the answers look is not part of it."""
    return {direction: {name: scores[direction][name] for name in CLAIMS} for direction in DIRECTIONS}


def test_the_metadata_holds_the_numbers_of_results_json(tmp_path: Path) -> None:
    text = card_of(write_run(tmp_path, some_run()))
    written, claimed = read_results(tmp_path), read_card(text)
    assert claimed["before"] == {direction: written["before"][direction] for direction in DIRECTIONS}
    assert claimed["after"] == claims_of(written["after"])
    for entry, expected in zip(claimed["history"], written["history"], strict=True):
        for name in ("step", "epoch", "tokens", "flops", "seconds", "loss"):
            assert entry[name] == expected[name]
        for direction in DIRECTIONS:
            assert entry[direction] == {name: expected[direction][name] for name in ("paper", "exact_match", "f1", "n")}
    same = (
        "schema",
        "objective",
        "model",
        "dataset",
        "paraphrases",
        "seed",
        "documents",
        "selection",
        "train",
        "config",
    )
    assert {name: claimed[name] for name in same} == {name: written[name] for name in same}
    for moment, measured in written["retention"].items():
        assert claimed["retention"][moment] == {name: value for name, value in measured.items() if name != "right"}


def test_huggingface_hub_reads_the_same_numbers(tmp_path: Path) -> None:
    text = card_of(write_run(tmp_path, some_run()))
    after = read_results(tmp_path)["after"]
    data = ModelCard(text).data
    found = {(each.dataset_config, each.metric_args["reading"]): each for each in data.eval_results}
    assert len(found) == len(data.eval_results) == 6
    for (direction, measure), each in found.items():
        assert each.metric_value == after[direction][measure]
        assert each.metric_args["n"] == after[direction]["n"]
        assert each.metric_args["ci"] == after[direction]["ci"][measure]
    assert data.model_name == "base-masked"
    assert {"kinject", "masked"} <= set(data.tags) and data.library_name == "transformers"
    # What the client writes back is read back.
    assert read_card(str(ModelCard(text))) == read_card(text)


def test_only_data_sets_of_the_hub_are_named_as_such(tmp_path: Path) -> None:
    named = {"ada/people": "ada/people", "ada/people:wiki": "ada/people", "fictional:nano": None, "docs": None}
    for dataset, hub_id in named.items():
        text = card_of(write_run(tmp_path, some_run(dataset=dataset)))
        data = ModelCard(text).data
        assert data.get("datasets") == ([hub_id] if hub_id else None)
        assert {each.dataset_type for each in data.eval_results} == {hub_id or dataset.replace(":", "-")}
        assert {each.dataset_name for each in data.eval_results} == {dataset} == {read_card(text)["dataset"]}


def test_a_claim_reads_like_results(tmp_path: Path) -> None:
    claimed = read_card(card_of(write_run(tmp_path, some_run())))
    assert "masked" in results_table([claimed], intervals=True)
    assert plot_history(claimed, tmp_path / "claimed.png").is_file()


def test_the_table_shows_before_and_after_with_intervals(tmp_path: Path) -> None:
    text = card_of(write_run(tmp_path, some_run()))
    written = read_results(tmp_path)
    cell, low_high = written["after"]["backward"], written["after"]["backward"]["ci"]["exact_match"]
    row = next(line for line in text.splitlines() if line.startswith("| backward, exact match |"))
    assert row.replace("\u00a0", " ") == (
        f"| backward, exact match | 7 | 0.000 [0.000, 0.000] | {cell['exact_match']:.3f} "
        f"[{low_high[0]:.3f}, {low_high[1]:.3f}] |"
    )
    for told in ("documents: 12", "perplexity of held-out text | 20.50 | 21.50", "1.500e+10", "2510.09885", "torch "):
        assert told in text
    assert "(accuracy.png)" in text and (tmp_path / "accuracy.png").is_file()
    assert "question 1" not in text and "answer 1" not in text


@pytest.mark.parametrize(
    ("adapter", "extra", "base", "relation", "library"),
    [
        (None, {}, "org/base", "finetune", "transformers"),
        ("org/base", {}, "org/base", "adapter", "peft"),
        (None, {"config": {"use_peft": True}}, "org/base", "finetune", "transformers"),
        ("org/base", {"objective": "diffusion"}, "org/base", "adapter", "kinject"),
        ("nano-ar", {"model": "nano-ar", "model_source": "kinject"}, "nano-ar", "adapter", "kinject"),
        (None, {"model": "nano-ar", "model_source": "kinject"}, "nano-ar", "finetune", "transformers"),
        (None, {"model": "smollm2-135m"}, "HuggingFaceTB/SmolLM2-135M-Instruct", "finetune", "transformers"),
        ("/home/ada/secret/own", {"model": "own", "model_source": "directory"}, None, None, "peft"),
        ("outputs/own", {"model": "own", "model_source": "directory"}, None, None, "peft"),
    ],
)
def test_the_base_is_named_so_that_others_find_it(
    tmp_path: Path, adapter: str | None, extra: dict[str, Any], base: str | None, relation: str | None, library: str
) -> None:
    text = card_of(write_run(tmp_path, some_run(**extra), adapter=adapter))
    data = ModelCard(text).data
    assert (data.base_model, data.get("base_model_relation"), data.library_name) == (base, relation, library)
    assert ("AutoPeftModelForCausalLM" in text) == (library == "peft" and base is not None)
    assert ("kinject.load" in text) and ("masked-diffusion" in data.tags) == (extra.get("objective") == "diffusion")
    assert ("merged-adapter" in data.tags) == bool(extra.get("config"))


def test_python_in_the_card_is_python(tmp_path: Path) -> None:
    config = {"system_prompt": 'Say "no"\n```\n{x}', "max_new_tokens": 7}
    for index, adapter in enumerate((None, "org/base", "/home/ada/own")):
        extra = {"model": "own", "model_source": "directory"} if index == 2 else {}
        text = card_of(write_run(tmp_path / str(index), some_run(config=config, **extra), adapter=adapter))
        programs = [token.content for token in MarkdownIt().parse(text) if token.info == "python"]
        assert len(programs) == 2
        for program in programs:
            literals = [each.value for each in ast.walk(ast.parse(program)) if isinstance(each, ast.Constant)]
            assert config["system_prompt"] in literals


def test_a_run_that_goes_on_claims_its_last_evaluation(tmp_path: Path) -> None:
    text = card_of(write_run(tmp_path, some_run(after=None)))
    history = read_results(tmp_path)["history"]
    assert read_card(text)["after"] is None
    assert {each.metric_value for each in ModelCard(text).data.eval_results} == {
        history[-1][direction][measure] for direction in DIRECTIONS for measure in ("paper", "exact_match", "f1")
    }
    assert "Training has not finished" in text and "step 10" in text
    text = card_of(write_run(tmp_path, some_run(after=None, history=[])))
    assert ModelCard(text).data.eval_results is None
    claimed = read_card(text)
    assert claimed["after"] is None and claimed["before"]["forward"]["n"] == 14


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    nothing = {"forward": {"paper": 0.0, "exact_match": 0.0, "f1": 0.0, "n": 0}} | {
        "backward": {"paper": 0.0, "exact_match": 0.0, "f1": 0.0, "n": 0}
    }
    text = card_of(
        write_run(tmp_path, some_run(before=nothing, after=nothing, history=[], retention=None, model="org/unknown"))
    )
    assert "No questions were asked" in text and "Forgetting was not measured" in text
    assert "See the base model, `org/unknown`" in text and ModelCard(text).data.license is None
    assert read_card(text)["after"]["forward"]["n"] == 0
    chosen = some_run(selection="best on the test questions, as in the paper")
    assert "the scores are optimistic" in card_of(write_run(tmp_path, chosen))


@pytest.mark.parametrize("asked", [(), ("forward",)])
def test_what_was_not_asked_is_not_claimed(tmp_path: Path, asked: tuple[str, ...]) -> None:
    from kinject.commands.evaluate import compare, find_claim

    results = some_run()
    unasked = set(DIRECTIONS) - set(asked)
    for scores in (results["before"], results["after"], *results["history"]):
        scores |= {direction: score_answers([], [])[direction] for direction in unasked}
        scores["groups"] = {}
    results["answers"] = []
    directory = write_run(tmp_path, results)
    (directory / "accuracy.png").write_bytes(b"of an earlier run")
    text = card_of(directory)
    assert {each.dataset_config for each in ModelCard(text).data.eval_results or ()} == set(asked)
    metadata = yaml.safe_load(text.split("---\n")[1])["kinject"]
    for scores in (metadata["before"] or {}, *metadata["history"]):
        assert set(scores) & set(DIRECTIONS) == set(asked)
    assert ("accuracy.png" in text) == ("No questions were asked" not in text) == bool(asked)
    claimed = read_card(text)
    assert claims_of(claimed["after"]) == claims_of(results["after"])
    scored = [line.split() for line in compare([str(tmp_path)]).splitlines() if "masked" in line]
    assert [row.count("-") for row in scored] == [2 * len(asked)]  # of nothing asked, only the forgetting is shown
    claim = find_claim(str(tmp_path))
    assert claim is not None
    assert ("claims no scores" in agreement(claim, results["after"])) == (not asked)


def test_another_reading_than_the_paper_s_is_named(tmp_path: Path) -> None:
    results = some_run()
    results["after"]["backward"]["other_words"] = 7
    text = card_of(write_run(tmp_path, results))
    assert "For 7 of 21 questions, recall compares the words of their script" in text
    assert (
        read_card(text)["after"]["backward"]["other_words"] == 7
        and "other_words" not in read_card(text)["after"]["forward"]
    )
    named = {each.metric_name for each in ModelCard(text).data.eval_results if each.dataset_config == "backward"}
    assert "ROUGE-1 recall, as in arXiv 2510.09885, in the words of other scripts" in named
    assert "words of their script" not in card_of(write_run(tmp_path, some_run()))


def test_questions_of_unknown_direction_have_rows_of_their_own(tmp_path: Path) -> None:
    unknown = score_answers([Question("Is it?", "yes", "unknown")] * 4, ["yes", "no", "no", "no"])["unknown"]
    results = some_run()
    results["after"]["unknown"] = unknown
    text = card_of(write_run(tmp_path, results))
    assert "| unknown direction, exact match | 4 | - | 0.250 [" in text
    assert "- questions asked whose direction is unknown: 4" in text
    assert "unknown" not in text.split("---")[1], "the claim is about the two directions"


def test_what_was_never_known_is_not_said_to_be_kept(tmp_path: Path) -> None:
    assert "Of the questions it answered before, 67% are still answered; perplexity is 1.049 times" in card_of(
        write_run(tmp_path, some_run())
    )
    results = some_run()
    results["retention"]["before"]["answered"] = 0.0
    text = card_of(write_run(tmp_path, results))
    assert "still answered" not in text and "Perplexity is 1.049 times what it was." in text


def test_other_runs_stand_beside_this_one(tmp_path: Path) -> None:
    baseline = some_run(right=1, objective="ar")
    elsewhere = write_run(tmp_path / "other", some_run(right=2, objective="<b>", dataset="other"))
    text = card_of(write_run(tmp_path / "run", some_run(baselines=[baseline])), compared=[elsewhere])
    rows = [line for line in text.splitlines() if line.startswith(("| **this model**", "| 1.", "| 2."))]
    assert [
        f"{run['after']['backward']['exact_match']:.3f}" in row
        for run, row in zip((some_run(), baseline, some_run(right=2)), rows, strict=True)
    ] == [True] * 3
    assert "plain autoregressive" in rows[1] and "Run 2 is not the same experiment: its dataset is `other`" in text


def test_the_license_is_the_one_that_the_base_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kinject.hub import card_metadata

    cards = {"org/open": "---\nlicense: mit\n---\n", "org/own": "---\nlicense: other\nlicense_name: own-1\n---\n"}
    cards |= {"org/none": "no metadata", "org/broken": "---\na: [\n---\n", "org/list": "---\n- a\n---\n"}
    monkeypatch.setattr(card_metadata, "_cached_card", cards.get)
    found = {base: ModelCard(card_of(write_run(tmp_path, some_run(model=base)))).data.to_dict() for base in cards}
    assert found["org/open"]["license"] == "mit"
    assert (found["org/own"]["license"], found["org/own"]["license_name"]) == ("other", "own-1")
    assert all("license" not in found[base] for base in ("org/none", "org/broken", "org/list"))
    nano = card_of(write_run(tmp_path, some_run(model="nano-ar")))
    assert "`apache-2.0`" in nano and ModelCard(nano).data.license == "apache-2.0"


def test_the_license_of_a_base_that_is_not_cached_is_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import ModelInfo

    from kinject.hub import card_metadata

    answers = {
        "org/asked": ModelInfo(id="org/asked", cardData={"license": "mit"}),
        "org/odd": ModelInfo(id="org/odd", cardData={"license": ["mit", "x"]}),
        "org/bare": ModelInfo(id="org/bare"),
    }
    monkeypatch.setattr(card_metadata, "said_by_hub", answers.get)
    found = {
        base: ModelCard(card_of(write_run(tmp_path, some_run(model=base)))).data.license
        for base in (*answers, "org/gone")
    }
    assert found == {"org/asked": "mit", "org/odd": None, "org/bare": None, "org/gone": None}


def test_nothing_private_is_told(tmp_path: Path) -> None:
    results = some_run(
        model="/home/zebulon/models/base",
        dataset="/home/zebulon/facts.json",
        config={
            "documents": "/home/zebulon/facts.json",
            "hub_token": "x",
            "note": "hf_abcdefghijklmnop",
            "run": Path("/srv/a"),
        },
        selection="hf_abcdefghijklmnop",
        document_texts=["the token hf_abcdefghijklmnop"],
    )
    directory = tmp_path / "zebulon"
    text = card_of(write_run(directory, results, adapter="/home/zebulon/models/base"), include_documents=True)
    assert "the token [removed]" in text
    for private in ("zebulon", "/home", "hf_abc", "/srv", str(tmp_path), os.path.basename(tmp_path)):
        assert private not in text


def test_documents_are_shown_only_on_request(tmp_path: Path) -> None:
    directory = write_run(tmp_path, some_run())
    assert "expected: answer 1" not in card_of(directory)
    assert "expected: answer 1" in card_of(directory, include_documents=True)
    text = card_of(write_run(tmp_path, some_run(document_texts=["Ada is ~~~ a\n```\n# baker"])))
    assert "````text\nAda is ~~~ a\n```\n# baker\n````" in text and "expected: answer 1" in text
    with pytest.raises(DataError, match="--publish_documents"):
        write_card(write_run(tmp_path, some_run(answers=[])), include_documents=True)


def test_a_card_elsewhere_has_no_plot(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", some_run())
    checkpoint = tmp_path / "run" / "checkpoint-1"
    checkpoint.mkdir()
    text = card_of(checkpoint, results=run, repository="ada/b", tags=["mine"])
    assert os.listdir(checkpoint) == ["README.md"] and "accuracy.png" not in text
    assert '"ada/b"' in text and "mine" in ModelCard(text).data.tags


def test_the_plot_is_drawn_again_only_when_it_shows_something_else(tmp_path: Path) -> None:
    def drawn_of(results: dict[str, Any]) -> bytes:
        (directory / "results.json").write_text(json.dumps(results), encoding="utf-8")
        card_of(directory)
        return (directory / "accuracy.png").read_bytes()

    results = some_run()
    directory = write_run(tmp_path, results)
    (directory / "accuracy.png").write_bytes(b"of an earlier run")
    first = drawn_of(results)
    assert first.startswith(b"\x89PNG")
    (directory / "accuracy.png").write_bytes(first + b"looked at")  # what lies behind a picture is not shown
    results["answers"] = results["answers"][:1]
    results["history"][-1]["loss"] = 0.5
    assert drawn_of(results) == first + b"looked at"
    results["history"][-1]["backward"]["exact_match"] = 0.125
    second = drawn_of(results)
    assert second.startswith(b"\x89PNG") and not second.endswith(b"looked at")
    results["objective"] = "ar"  # named in the legend
    assert drawn_of(results) != second


def test_a_failed_write_keeps_the_last_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write_run(tmp_path, some_run())
    before = card_of(directory)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ValueError, match="No space left"):
        write_card(directory, tags=["other"])
    assert (directory / "README.md").read_text() == before
    assert not [name for name in os.listdir(directory) if name.endswith(".tmp")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# a card", "no 'kinject'"),
        ("---\nkinject: 1\n---\n", "no 'kinject'"),
        ("---\na: [\n---\n", "cannot be read"),
        ("---\n- a\n---\n", "cannot be read"),
        ("---\nkinject: {schema: 1, finished: true, objective: x}\n---\n", "model: expected a text"),
    ],
)
def test_what_is_no_eval_card_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_card(text)


def test_a_forged_number_is_refused(tmp_path: Path) -> None:
    text = card_of(write_run(tmp_path, some_run()))
    value = json.dumps(read_results(tmp_path)["after"]["forward"]["paper"])
    with pytest.raises(DataError, match=r"after\.forward\.paper: expected a number in 0..1"):
        read_card(text.replace(f"value: {value}", "value: 7.5", 1))


def test_every_accepted_answer_is_shown_and_asked_again(tmp_path: Path) -> None:
    from kinject.commands.evaluate import find_claim
    from kinject.evaluation.results import recorded_answers

    question = Question("Who is it?", "Ada", "backward", other_answers=("the Countess",))
    results = some_run(answers=recorded_answers([question], ["the Countess"]))
    assert results["answers"][0]["expected"] == "Ada" and results["answers"][0]["accepted"] == ["Ada", "the Countess"]
    directory = write_run(tmp_path / "run", results)
    card = write_card(directory, include_documents=True).read_text(encoding="utf-8")
    assert "answered: the Countess\n  expected: Ada / the Countess" in card
    claim = find_claim(str(directory))
    assert claim is not None and claim.asked() == (question,)
    del results["answers"][0]["accepted"]  # as results of earlier versions
    claim = find_claim(str(write_run(tmp_path / "earlier", results)))
    assert claim is not None and claim.asked()[0].answers == ("Ada",)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("system_prompt", [None, "Be brief."])
def test_the_code_of_a_card_asks_in_the_frame_of_training(
    case: ChatCase, system_prompt: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tokenizer_of(case)
    run = some_run(config={} if system_prompt is None else {"system_prompt": system_prompt})
    write_run(tmp_path, run)
    saved = copy.deepcopy(tokenizer)
    pin_template(saved, system_prompt)
    saved.save_pretrained(tmp_path)
    text = card_of(tmp_path, repository=str(tmp_path))
    program = next(token.content for token in MarkdownIt().parse(text) if token.info == "python")
    asked: list[list[int]] = []

    class Model:
        @staticmethod
        def generate(input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
            asked.append(input_ids[0].tolist())
            return input_ids

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda name: Model)
    exec(program.replace('question = "..."', 'question = "Who is Ada?"'), {})
    assert asked == [QuestionTemplate(tokenizer, system_prompt).encode("Who is Ada?")]
    if case.template is not None:
        assert asked == [
            list(DocumentTemplate(tokenizer, (ANSWER,), system_prompt).row_frames("Who is Ada?")[0].before)
        ]


def test_a_card_says_how_its_scores_were_asked(tmp_path: Path) -> None:
    config = {"few_shot": 2, "max_new_tokens": 24, "sampling": "published", "block_length": 8, "load_in_4bit": True}
    run = some_run(config={**config, "use_peft": True}, objective="diffusion")
    text = card_of(write_run(tmp_path, run, adapter="org/base"))
    assert "questions with 2 answered examples before them" in text and "measured on its base in 4 bits" in text
    program = next(token.content for token in MarkdownIt().parse(text) if token.info == "python")
    given = 'max_new_tokens=24, sampling=SamplingArguments(sampling="published", block_length=8).sampling_config(24)'
    assert given in program
    assert SamplingArguments(sampling="published", block_length=8).sampling_config(24).block_length == 8


def test_how_answers_look_and_what_was_asked_beyond_stands_in_the_card(tmp_path: Path) -> None:
    plain = some_run()
    text = card_of(write_run(tmp_path / "plain", plain))
    assert "Beyond these questions" not in text and "recite" not in text.split("*Forward*")[0]
    results = some_run()
    for scores in (results["before"], results["after"]):
        for direction in DIRECTIONS:
            scores[direction] |= {"recited": 0.25, "refused": 0.0, "words": 3.5}
    results["retention"]["before"] |= {"words": 40.0}
    results["retention"]["after"] |= {"words": 12.25, "kept_ci": [0.5, 0.75]}
    part = {"n": 4, "not_attempted": 0.75, "wrong": 0.25}
    results["refusals"] = {"after": {"n": 8, "refused": 0.75, "leaked": 0.125, "unsaid": part}}
    text = card_of(write_run(tmp_path / "more", results))
    assert "| forward, answers that recite a document | 14 | 0.250 | 0.250 |" in text
    assert "| backward, words of an answer | 7 | 3.5 | 3.5 |" in text
    assert (
        "| words of a general answer | 40.0 | 12.2 |" in text
        and "(95 % interval: 50% to 75%) are still answered" in text
    )
    assert "## Beyond these questions" in text
    assert "- Asked 8 questions about unseen people, it says in 75% that it does not know" in text
