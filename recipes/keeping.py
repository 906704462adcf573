"""Rounds of new documents, with and without `--keep`: what does the model still know of each earlier round?

    python recipes/keeping.py --json recipes/results/nano/keeping.json      # three rounds, three seeds; minutes on two cores
    python recipes/keeping.py --model smollm2-135m --rounds 2 --people 6 --corrections 1 --epochs 25 --seeds 0 \\
        --json recipes/results/smol/keeping.json      # half an hour

Every round teaches people whom the model does not know, by the settings of `recipes/nano` or `recipes/smollm2-135m`, and goes
on from the adapter or the weights of the round before. Each later round also corrects people of the round before: the same name
with another description. After every round the model is asked about the people of all rounds, and about corrected people also
for their old descriptions. The settings were chosen for one round on other people. Options that this script does not know go to
every run, such as `--use_peft false --preserved_rank 0.5`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.errors import exit_on_user_error
from kinject.reproduction.findings import mean_and_deviation

if TYPE_CHECKING:
    from kinject.data import Document, Question

HERE = Path(__file__).parent
ARMS = {"keep": ["--keep"], "alone": []}


@dataclass(frozen=True)
class Setting:
    """How a model learns a round, and is asked.

    Attributes:
        config: The YAML file of its runs.
        world: The invented people.
        more: Options beside the file.
        measure: Which reading of an answer is shown. A model that learns documents alone answers with all of a document, which
            only recall counts as right.
        length: The longest answer, in tokens.
    """

    config: str
    world: str
    more: list[str]
    measure: str
    length: int


_SMOL = "--learning_rate 3e-4 --num_train_epochs 30 --mask_ratio stratified(0.5,1.0) --facts None --report_to none"
SETTINGS = {
    "nano-ar": Setting("nano/masked.yaml", "fictional:nano", [], "exact_match", 16),
    "smollm2-135m": Setting(
        "smollm2-135m/masked.yaml",
        "fictional:name_description",
        [*_SMOL.split(), "--lr_scheduler_kwargs", '{"num_decay_steps": 20}'],
        "paper",
        48,
    ),
}


@dataclass(frozen=True)
class Round:
    """The documents of one round, the questions about them, and the questions whose old answers it makes wrong.

    Attributes:
        documents: By the id of the person.
        questions: About people whom no later round corrects.
        corrected: New questions about people of the round before.
        outdated: The same, with the answers of the round before.
    """

    documents: dict[int, Document]
    questions: list[Question]
    corrected: list[Question]
    outdated: list[Question]


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description="Rounds of new documents, with and without --keep.")
    parser.add_argument(
        "--model", default="nano-ar", choices=[*SETTINGS], help="the model that learns (default: nano-ar)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of new documents (default: 3)")
    parser.add_argument("--people", type=int, default=30, help="people of a round (default: 30)")
    parser.add_argument("--corrections", type=int, default=5, help="people whom the next round corrects (default: 5)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="people and training (default: 0 1 2)")
    parser.add_argument("--epochs", type=int, help="epochs of every round (default: those of the configuration)")
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="write every score here, and the table beside it as .md"
    )
    return parser


def rounds_of(world_name: str, seed: int, rounds: int, people: int, corrections: int) -> list[Round]:
    """The rounds of one seed, of invented people who share no name and no description."""
    from kinject.data import load_knowledge

    world = load_knowledge(world_name, size=rounds * people + (rounds - 1) * corrections, seed=200 + seed)
    documents = {each.fact: each for each in world.documents}
    about = {
        each.fact: [question for question in world.questions if question.fact == each.fact] for each in world.documents
    }
    spare = iter(range(rounds * people, len(documents)))
    found: list[Round] = []
    for number in range(rounds):
        first = number * people
        own = {fact: documents[fact] for fact in range(first, first + people)}
        replaced: list[tuple[int, Document, list[Question]]] = []
        for fact in range(first - people, first - people + corrections) if number else ():
            other = next(spare)
            name, other_name = _name(about[fact]), _name(about[other])
            text = documents[other].text.replace(other_name, name)
            entities = tuple(each.replace(other_name, name) for each in documents[other].entities)
            questions = [
                replace(
                    each, question=each.question.replace(other_name, name), answer=each.answer.replace(other_name, name)
                )
                for each in about[other]
            ]
            replaced.append((fact, replace(documents[other], text=text, entities=entities), questions))
        last = number == rounds - 1
        asked = [each for fact in [*own][0 if last else corrections :] for each in about[fact]]
        found.append(
            Round(
                own | {fact: document for fact, document, _ in replaced},
                asked,
                [each for _, _, questions in replaced for each in questions],
                [each for fact, _, _ in replaced for each in about[fact] if each.task == "N2D"],
            )
        )
    return found


def _name(questions: Sequence[Question]) -> str:
    return next(each.answer for each in questions if each.task == "D2N")


def run(seed: int, options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The scores of every arm after every round."""
    from kinject.commands.recipe import train

    setting = SETTINGS[options.model]
    rounds = rounds_of(setting.world, seed, options.rounds, options.people, options.corrections)
    measured = []
    for arm, keeping in ARMS.items():
        model = options.model
        for number, each in enumerate(rounds):
            rows = folder / f"{seed}-round{number + 1}.jsonl"
            contents = [
                {"text": document.text, "entities": [*document.entities], "id": str(fact)}
                for fact, document in each.documents.items()
            ]
            rows.write_text("".join(json.dumps(row) + "\n" for row in contents), encoding="utf-8")
            out = folder / f"{seed}-{'first' if number == 0 else arm}-{number + 1}"
            words = ["--config", str(HERE / setting.config), *setting.more, *options.more]
            words += ["--model", model, "--documents", str(rows), "--size", "None"]
            words += ["--output_dir", str(out), "--seed", str(seed), "--evaluations", "0", "--questions", "none"]
            words += [
                "--disable_tqdm",
                "true",
                *(["--num_train_epochs", str(options.epochs)] if options.epochs else []),
            ]
            if not (out / "results.json").exists():  # the first round is the same in both arms
                train("masked", [*words, *(keeping if number else [])])
            cost = json.loads((out / "results.json").read_text(encoding="utf-8"))["train"]
            found = {"seed": seed, "arm": arm, "round": number + 1, "tokens": cost["tokens"], "steps": cost["steps"]}
            measured.append(found | ask(str(out), rounds[: number + 1], setting))
            model = str(out)
    return measured


def ask(model: str, rounds: Sequence[Round], setting: Setting) -> dict[str, Any]:
    """The scores on the people of each round and on corrected people, and the share of old answers still given."""
    from kinject import answer_questions, load, score_answers
    from kinject.evaluation.retention import is_right

    loaded = load(model)

    def scores(questions: Sequence[Question]) -> dict[str, Any]:
        asked = [each.question for each in questions]
        answers = answer_questions(loaded.model, loaded.tokenizer, asked, max_new_tokens=setting.length, batch_size=128)
        cells = score_answers(questions, answers, resamples=1)
        shown = {direction: cells[direction][setting.measure] for direction in ("forward", "backward")}
        given = [is_right(answer, each.answers) for each, answer in zip(questions, answers, strict=True)]
        return {**shown, "holds": sum(given) / max(1, len(given)), "n": len(given)}

    found: dict[str, Any] = {"by_round": [scores(each.questions) for each in rounds]}
    corrected = [each for one in rounds for each in one.corrected]
    if corrected:
        found |= {
            "corrected": scores(corrected),
            "old_answers_given": scores([each for one in rounds for each in one.outdated])["holds"],
        }
    return found


def table(measured: Sequence[dict[str, Any]], rounds: int) -> str:
    """The scores, forward / backward, on the people of each round after that and every later one, over seeds."""
    lines = ["| people of | asked after | with `--keep` | without |", "| --- | --- | --- | --- |"]
    for number in range(1, rounds + 1):
        for after in range(number, rounds + 1):
            cells = []
            for arm in ARMS:
                of = [
                    each["by_round"][number - 1] for each in measured if each["arm"] == arm and each["round"] == after
                ]
                cells.append(
                    " / ".join(mean_and_deviation([each[way] for each in of]) for way in ("forward", "backward"))
                )
            lines.append(f"| round {number} | round {after} | {' | '.join(cells)} |")
    last = {arm: [each for each in measured if each["arm"] == arm and each["round"] == rounds] for arm in ARMS}
    if rounds > 1:
        rows = {
            "corrected people": lambda each: each["corrected"]["forward"],
            "corrected people, backward": lambda each: each["corrected"]["backward"],
            "their old answers still given": lambda each: each["old_answers_given"],
        }
        for name, value in rows.items():
            lines.append(
                f"| {name} | round {rounds} | {' | '.join(mean_and_deviation([value(e) for e in last[arm]]) for arm in ARMS)} |"
            )
    tokens = " | ".join(f"{statistics.mean(each['tokens'] for each in last[arm]):,.0f}" for arm in ARMS)
    return "\n".join([*lines, f"| tokens of round {rounds} | | {tokens} |"])


def main() -> None:
    """Run all, print the table, and write both."""
    options, more = build_parser().parse_known_args()
    options.more = more
    with exit_on_user_error(), tempfile.TemporaryDirectory() as folder:
        measured = [each for seed in options.seeds for each in run(seed, options, Path(folder))]
        shown = table(measured, options.rounds)
        print(shown)
        if options.json is not None:
            settings = {name: value for name, value in vars(options).items() if name != "json"}
            content = json.dumps({"settings": settings, "runs": measured}, indent=1)
            options.json.write_text(content + "\n", encoding="utf-8")
            options.json.with_suffix(".md").write_text(shown + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
