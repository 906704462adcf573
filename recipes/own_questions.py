"""Do questions that kinject makes by rule rank runs in the same order as the questions of people or a benchmark?

    python recipes/own_questions.py --json recipes/results/nano/own_questions.json      # twelve runs on nano, minutes
    python recipes/own_questions.py --model smollm2-135m --documents data/name_description --facts 10-19,40-49 \\
        --objectives masked ar reverse --epochs 5 10 20 --json recipes/results/smol/own_questions.json      # nine runs, an hour

Every run (objective x epochs, by the settings of `recipes/nano` or `recipes/smollm2-135m`) learns the same statements. It is
asked the questions that come with them, published ones or those of the invented world, and those that `kinject questions` makes
from the documents alone. Spearman's rank correlation over the runs shows whether the two agree on which run is better, forward
and backward. It is also given without the rule-made questions that equal a published one, which agree trivially. Accuracy is
the paper's recall.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.errors import exit_on_user_error

if TYPE_CHECKING:
    from kinject.data import Question

HERE = Path(__file__).parent
WAYS = ("forward", "backward")
CONFIGS = {"masked": "masked", "random_token": "masked", "ar": "ar", "reverse": "ar"}
SETTINGS = {  # of the runs of each model, beside its YAML files
    "nano-ar": ("nano", []),
    # The decay of the YAML file is as long as its eighty epochs; all runs here learn at one rate, as long as each lasts.
    "smollm2-135m": (
        "smollm2-135m",
        ["--learning_rate", "3e-4", "--lr_scheduler_type", "constant_with_warmup", "--lr_scheduler_kwargs", "None"],
    ),
}
SETS = ("published", "made", "made_otherwise")


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description="Rank correlation of rule-made with published questions over runs.")
    parser.add_argument(
        "--objectives", nargs="+", default=[*CONFIGS], choices=[*CONFIGS], help=f"default: {' '.join(CONFIGS)}"
    )
    parser.add_argument("--epochs", type=int, nargs="+", default=[8, 20, 60], help="epochs of a run (default: 8 20 60)")
    parser.add_argument(
        "--model", default="nano-ar", choices=[*SETTINGS], help="the model that learns (default: nano-ar)"
    )
    parser.add_argument(
        "--documents",
        default="fictional:nano",
        help="documents with questions (default: invented people that nano-ar reads)",
    )
    parser.add_argument("--facts", help="which facts of the documents, such as 10-19,40-49 (default: all)")
    parser.add_argument("--size", type=int, default=30, help="statements of an invented world (default: 30)")
    parser.add_argument("--seed", type=int, default=1, help="people and training (default: 1)")
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="write every score here, and the table beside it as .md"
    )
    return parser


def question_sets(options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, list[Question]]]:
    """The documents as rows, and the sets of questions about them."""
    from kinject.data import load_knowledge
    from kinject.data.made_questions import make_questions

    invented = {"size": options.size, "seed": 400 + options.seed} if options.documents.startswith("fictional:") else {}
    world = load_knowledge(options.documents, facts=options.facts, **invented)
    made = make_questions(world.documents)
    published = {each.question for each in world.questions}
    rows = [{"text": each.text, "entities": [*each.entities], "fact": each.fact} for each in world.documents]
    sets = (world.questions, made, [each for each in made if each.question not in published])
    return rows, {name: list(each) for name, each in zip(SETS, sets, strict=True)}


def run(objective: str, epochs: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The recall of one run on each set, forward and backward."""
    from kinject import answer_questions, load
    from kinject.commands.recipe import train
    from kinject.evaluation import score_answers

    rows, sets = question_sets(options)
    documents, out = folder / "documents.jsonl", folder / f"{objective}-{epochs}"
    documents.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    where, more = SETTINGS[options.model]
    words = ["--config", str(HERE / where / f"{CONFIGS[objective]}.yaml"), *more]
    words += ["--documents", str(documents), "--size", "None", "--facts", "None"]  # the file has no more than these
    words += ["--questions", "none", "--evaluations", "0", "--disable_tqdm", "true", "--report_to", "none"]
    words += ["--num_train_epochs", str(epochs), "--seed", str(options.seed)]
    words += ["--infill_share", "0"] if objective == "random_token" else []  # it has no masks for the missing part
    results = train(objective, [*words, "--output_dir", str(out)])
    trained = load(str(out))
    asked = [*dict.fromkeys(each.question for name in SETS for each in sets[name])]
    length = int(results["config"]["max_new_tokens"])
    said = answer_questions(trained.model, trained.tokenizer, asked, max_new_tokens=length, batch_size=32)
    answers = dict(zip(asked, said, strict=True))
    found: dict[str, Any] = {"objective": objective, "epochs": epochs, "tokens": results["train"]["tokens"]}
    for name, questions in sets.items():
        cells = score_answers(questions, [answers[each.question] for each in questions], resamples=1)
        found[name] = {way: {"paper": cells[way]["paper"], "n": cells[way]["n"]} for way in WAYS}
    shutil.rmtree(out)  # half a gigabyte each
    return found


def correlations(measured: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Spearman's rho of each set with the published questions over runs, by direction."""
    from scipy.stats import spearmanr

    def scores(name: str, way: str) -> list[float]:
        return [each[name][way]["paper"] for each in measured]

    return {
        name: {way: float(spearmanr(scores("published", way), scores(name, way)).statistic) for way in WAYS}
        for name in SETS[1:]
    }


def table(measured: Sequence[dict[str, Any]]) -> str:
    """Accuracy of every run by each set, and the rank correlations below."""
    lines = [
        "| objective | epochs | published | made by rule | of them worded otherwise |",
        "| --- | --- | --- | --- | --- |",
    ]
    for each in measured:
        cells = [" / ".join(f"{each[name][way]['paper']:.2f}" for way in WAYS) for name in SETS]
        lines.append(f"| `{each['objective']}` | {each['epochs']} | {' | '.join(cells)} |")
    counts = [" / ".join(str(measured[0][name][way]["n"]) for way in WAYS) for name in SETS]
    lines.append(f"| questions | | {' | '.join(counts)} |")
    found = correlations(measured)
    rho = [" / ".join(f"{found[name][way]:.2f}" for way in WAYS) for name in SETS[1:]]
    return "\n".join([*lines, f"| Spearman's rho | {len(measured)} runs | | {' | '.join(rho)} |"])


def main() -> None:
    """Run all, print the table, and write both."""
    options = build_parser().parse_args()
    with exit_on_user_error(), tempfile.TemporaryDirectory() as folder:
        measured: list[dict[str, Any]] = []
        for name, epochs in ((name, epochs) for epochs in options.epochs for name in options.objectives):
            measured.append(run(name, epochs, options, Path(folder)))
            if options.json is not None:  # after every run, in case the rest is stopped
                settings = {key: value for key, value in vars(options).items() if key != "json"}
                content = {"settings": settings, "runs": measured, "spearman": correlations(measured)}
                options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
                options.json.with_suffix(".md").write_text(table(measured) + "\n", encoding="utf-8")
        print(table(measured))


if __name__ == "__main__":
    main()
