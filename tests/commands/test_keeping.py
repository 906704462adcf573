"""Which earlier documents are kept beside new ones, which are corrected, and what is asked about both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from kinject.commands.keeping import corrections, describe, kept, kept_epochs
from kinject.commands.recipe import train
from kinject.data import Document, KnowledgeSet, Question, load_knowledge
from kinject.errors import ConfigurationError, DataError
from kinject.evaluation.results import new_results, write_results

OLD = "Maren Clifton is the mayor of Lakeside."
NEW = "Maren Clifton is the mayor of Hollow."
OTHER = "Imogen Woodward is the royal fisher of Orchard."


def earlier(*documents: Document) -> KnowledgeSet:
    questions = (
        Question("Which town has Maren Clifton as its mayor?", "Lakeside", "forward", fact=0),
        Question("Who is the mayor?", "Maren Clifton", "backward", fact=0),
        Question("Who is the mayor of Lakeside?", "Maren Clifton", "backward", fact=0),
        Question("Who is the royal fisher of Orchard?", "Imogen Woodward", "backward", fact=1),
    )
    return KnowledgeSet(
        "old", documents or (Document(OLD, 0, source="a.md"), Document(OTHER, 1, source="b.md")), questions
    )


def test_a_file_of_the_same_name_corrects_and_its_questions_are_told_apart() -> None:
    found = kept([Document(NEW, 0, source="a.md")], earlier())
    assert [each.text for each in found.documents] == [OTHER] and found.documents[0].fact == 2
    assert [each.text for each in found.corrected] == [OLD]
    assert [each.answer for each in found.outdated] == ["Lakeside"]
    # "Who is the mayor of Lakeside?" is neither: nothing says who it is now.
    assert [(each.question, each.fact) for each in found.questions] == [
        ("Who is the mayor?", 0),
        ("Who is the royal fisher of Orchard?", 2),
    ]
    assert "a.md" in describe(found) and "--corrects none" in describe(found)


@pytest.mark.parametrize(
    ("new", "old", "corrected"),
    [
        (Document(NEW, 0, title="Maren  CLIFTON"), Document(OLD, 0, title="Maren Clifton"), True),
        (Document(NEW, 0, source="a.md", title="News"), Document(OLD, 0, source="sub/a.md", title="Old"), False),
        (Document(NEW, 0, id="7"), Document(OLD, 0, id="7"), True),
        (Document(OTHER, 0, id="7"), Document(OLD, 0, id="7"), False),
        (Document(NEW, 0, source="rows.jsonl"), Document(OLD, 0, source="rows.jsonl"), False),
        (
            Document("Name: Nora\nRole: baker", 0, source="d.csv"),
            Document("Name: Nora\nRole: shepherd", 0, source="d.csv"),
            True,
        ),
        (Document(OLD, 0, source="a.md"), Document(OLD, 0, source="a.md"), False),
    ],
)
def test_what_corrects_what(new: Document, old: Document, corrected: bool) -> None:
    assert bool(corrections([new], [old])) == corrected


def test_a_title_that_several_documents_have_corrects_none_of_them() -> None:
    old = [Document(OLD, 0, title="Wiki"), Document(OTHER, 1, title="Wiki")]
    assert corrections([Document(NEW, 0, title="Wiki")], old) == {}


def test_the_user_says_what_is_corrected() -> None:
    new = [Document(NEW, 0, source="c.md")]
    assert [each.text for each in kept(new, earlier(), ["a.md"]).corrected] == [OLD]
    assert kept([Document(NEW, 0, source="a.md")], earlier(), ["none"]).corrected == ()
    with pytest.raises(DataError, match=r"--corrects z.md: no earlier document .* there are a.md, b.md"):
        kept(new, earlier(), ["z.md"])


def test_what_is_learned_again_is_not_rehearsed_beside_it_and_still_asked_about() -> None:
    found = kept([Document(OTHER, 0, source="b.md")], earlier())
    assert [each.text for each in found.documents] == [OLD]
    assert [each.fact for each in found.questions] == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("documents", "count", "batch", "per_epoch"), [(10, 10, 5, 10), (10, 40, 5, 10), (1, 30, 5, 4), (3, 2, 1, 2)]
)
def test_earlier_documents_take_turns_evenly(documents: int, count: int, batch: int, per_epoch: int) -> None:
    planned = kept_epochs(documents, 0.5, count, batch, 80)
    shown = [sum(epoch in each for each in planned) for epoch in range(80)]
    assert set(shown) <= {per_epoch, per_epoch - 1} and max(shown) == per_epoch
    times = [len(each) for each in planned]
    assert max(times) - min(times) <= 1


def test_a_share_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="keep_share is 1.0"):
        kept_epochs(10, 1.0, 10, 5, 80)


def recorded(folder: Path, **extra: Any) -> Path:
    results = new_results(objective="masked", model="nano-ar", dataset="old", documents=2, **extra)
    write_results(folder / "results.json", results)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "nano-ar"}', encoding="utf-8")
    save_file({"weight": np.zeros(1)}, folder / "adapter_model.safetensors")
    return folder


def inject(tmp_path: Path, *options: str) -> None:
    (tmp_path / "new").mkdir(exist_ok=True)
    (tmp_path / "new" / "a.md").write_text(NEW, encoding="utf-8")
    train("masked", [str(tmp_path / "new"), "--output_dir", str(tmp_path / "out"), *options])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--keep", "--model", "nano-ar"], "nano-ar holds none. Name the documents themselves: --keep FOLDER"),
        (["--keep", "--model", "{run}"], "texts of 1 of the 2 documents"),
        (["--corrects", "a.md", "--model", "{run}"], "none are kept: add --keep"),
        (["--keep", "nowhere", "--model", "{run}"], "nowhere: there is no such file or folder"),
        (["--keep", "--keep_share", "1", "--model", "{run}"], "keep_share is 1"),
        (["--output_dir", "{run}", "--model", "{run}", "--overwrite"], "holds the model that is trained on"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(tmp_path: Path, options: list[str], said: str) -> None:
    run = recorded(tmp_path / "run", learned=[{"document": 0, "text": OLD}])
    with pytest.raises((ConfigurationError, DataError), match=said):
        inject(tmp_path, *(each.format(run=run) for each in options))


def test_the_texts_of_a_run_come_back_with_their_files_and_what_was_asked(tmp_path: Path) -> None:
    from kinject.commands.inject import InjectionArguments

    answers = [
        {"question": "Where is Maren Clifton mayor?", "direction": "forward", "answer": "x", "expected": "Lakeside"},
        {
            "question": "Who is the royal fisher of Orchard?",
            "direction": "backward",
            "answer": "x",
            "expected": "Imogen",
        },
    ]
    for number, each in enumerate(answers):
        each["document"] = number  # type: ignore[assignment]
    learned = [{"document": 0, "text": OLD, "file": "a.md"}, {"document": 1, "text": OTHER, "title": "Fisher"}]
    run = recorded(tmp_path / "run", learned=learned, answers=answers)
    (tmp_path / "a.md").write_text(NEW, encoding="utf-8")
    arguments = InjectionArguments(documents=str(tmp_path / "a.md"), keep="known")
    found = arguments.load_knowledge(str(run)).kept
    assert found is not None
    assert [(each.text, each.title, each.fact) for each in found.documents] == [(OTHER, "Fisher", 2)]
    assert [each.answer for each in found.outdated] == ["Lakeside"] and len(found.questions) == 1


def test_questions_about_earlier_documents_are_those_that_the_run_recorded(tmp_path: Path) -> None:
    from kinject.commands.inject import InjectionArguments

    old = tmp_path / "old"
    old.mkdir()
    (old / "b.md").write_text(OTHER, encoding="utf-8")
    (tmp_path / "a.md").write_text(NEW, encoding="utf-8")
    asked = {"question": "Who fishes?", "direction": "backward", "answer": "x", "expected": "Imogen", "document": 5}
    run = recorded(tmp_path / "run", learned=[{"document": 5, "text": OTHER}], answers=[asked])
    arguments = InjectionArguments(documents=str(tmp_path / "a.md"), keep=str(old))
    named = arguments.load_knowledge(str(run)).kept
    by_rule = arguments.load_knowledge("nano-ar").kept
    assert named is not None and [each.question for each in named.questions] == ["Who fishes?"]
    assert by_rule is not None and {each.group for each in by_rule.questions} == {"made by rule"}
    file = tmp_path / "q.jsonl"
    file.write_text(json.dumps({"question": "Who is in Orchard?", "answer": "Imogen Woodward"}), encoding="utf-8")
    given = InjectionArguments(documents=str(tmp_path / "a.md"), keep="known", keep_questions=str(file))
    told = given.load_knowledge(str(recorded(run, learned=[{"document": 5, "text": OTHER}] * 2))).kept
    assert told is not None and [each.question for each in told.questions] == ["Who is in Orchard?"]


def test_three_rounds_of_an_adapter_keep_what_each_taught(tmp_path: Path) -> None:
    from kinject.models.loading import load

    world = load_knowledge("fictional:nano", size=3, seed=7)
    before = "nano-ar"
    for document in world.documents[:3]:
        folder = tmp_path / str(document.fact)
        folder.mkdir()
        (folder / f"{document.fact}.md").write_text(document.text, encoding="utf-8")
        out = tmp_path / f"out{document.fact}"
        adapter = (
            ["--use_peft", "--lora_r", "4", "--lora_target_modules", "all-linear"]
            if before == "nano-ar"
            else ["--keep"]
        )
        results = train(
            "masked",
            [str(folder), "--model", before, "--output_dir", str(out), "--num_train_epochs", "2", *adapter]
            + ["--evaluations", "0", "--max_new_tokens", "8", "--retention", "false", "--questions", "rule"],
        )
        assert (out / "adapter_model.safetensors").is_file() and not (out / "model.safetensors").exists()
        assert json.loads((out / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"] == "nano-ar"
        before = str(out)
    assert {each["text"] for each in results["learned"]} == {each.text for each in world.documents[:3]}
    assert results["kept"]["documents"] == 2 and results["kept"]["after"]["forward"]["n"] > 0
    assert results["config"]["lora_r"] == 4
    assert load(before).model.peft_config["default"].r == 4
