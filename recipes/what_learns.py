"""Which weights should learn? What nano-ar still knows once it answers about new documents, by the weights that are trained.

    python recipes/what_learns.py --json recipes/results/nano/what_learns.json      # an hour on two idle cores

All weights, all but attention or embeddings, a LoRA adapter on every linear layer or on the MLP alone, an orthogonal adapter
(OFT, arXiv 2306.07280), the subspace of small singular values as an adapter (OSF, arXiv 2504.07097) or in the weights
themselves (`--preserved_rank 0.5`) learn the same thirty statements at several rates, with the masks of
`recipes/nano/masked.yaml` and nothing else beside them. Forgetting grows with learning, so ways are compared
at equal knowledge: at the first evaluation whose exact match is `LEARNED` or more in the worse direction. Runs that stand in
the JSON file are not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.errors import exit_on_user_error
from kinject.evaluation.results import write_text
from kinject.reproduction.findings import mean_and_deviation

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import TrainerCallback

    from kinject.models.loading import LoadedModel

LEARNED = 0.9
STEPS, EVALUATIONS, GENERAL = 150, 10, 300
MLP = ["gate_proj", "up_proj", "down_proj"]
RATES = {  # the orders of magnitude at which each way learns within `STEPS`
    "all weights": (3e-4, 1e-3),
    "all but attention": (3e-4, 1e-3),
    "LoRA on all": (1e-3, 3e-3),
    "LoRA on the MLP": (1e-3, 3e-3),
    "OFT on all": (1e-3, 3e-3),
    "OSF on all": (1e-3, 3e-3),
    "all but embeddings": (3e-4, 1e-3),  # what the next leaves of all weights, without keeping any singular value
    "the smaller singular values": (1e-3, 3e-3),
}


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description="What is forgotten at equal knowledge, by the weights that learn.")
    parser.add_argument("--ways", nargs="+", default=[*RATES], choices=[*RATES], help="which weights (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="people and training (default: 1 2 3)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps of each run (default: {STEPS})")
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="write every score here, and the table beside it as .md"
    )
    return parser


def adapter(way: str) -> PeftConfig | None:
    """The adapter of ``way``; None where the model itself learns."""
    from peft import LoraConfig, OFTConfig, OSFConfig

    configs = {
        "LoRA on all": LoraConfig(task_type="CAUSAL_LM", r=64, lora_alpha=64, target_modules="all-linear"),
        "LoRA on the MLP": LoraConfig(task_type="CAUSAL_LM", r=64, lora_alpha=64, target_modules=MLP),
        "OFT on all": OFTConfig(task_type="CAUSAL_LM", r=0, oft_block_size=32, target_modules="all-linear"),
        "OSF on all": OSFConfig(task_type="CAUSAL_LM", effective_rank=0.5, target_modules="all-linear"),
    }
    return configs.get(way)


def run(way: str, rate: float, seed: int, steps: int) -> dict[str, Any]:
    """Exact match and what is still known over the steps of one run."""
    from kinject import MaskedSFTConfig, MaskedSFTTrainer, load_knowledge, load_model

    loaded = load_model("nano-ar")
    knowledge = load_knowledge("fictional:nano", size=30, seed=600 + seed)
    with tempfile.TemporaryDirectory() as folder:
        args = MaskedSFTConfig(
            folder,
            mask_ratio="stratified(0.1, 1.0)",
            mask_unit="entity",
            wordings="rotating",
            infill_share=0.3,
            infill_unit="side",
            frozen_modules={"all but attention": ["attention"], "all but embeddings": ["embed_tokens"]}.get(way),
            preserved_rank=0.5 if way == "the smaller singular values" else 0.0,
            learning_rate=rate,
            max_steps=steps,
            per_device_train_batch_size=15,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=10,
            weight_decay=0.1,
            adam_beta2=0.95,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            logging_steps=steps,
            report_to="none",
            disable_tqdm=True,
            seed=seed,
        )
        trainer = MaskedSFTTrainer(
            loaded.model,
            args,
            train_dataset=knowledge.to_dataset(),
            processing_class=loaded.tokenizer,
            peft_config=adapter(way),
        )
        history: list[dict[str, float]] = []
        trainer.add_callback(asking(loaded, knowledge.questions, history, max(1, steps // EVALUATIONS)))
        trainer.train()
    learning = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    return {"way": way, "rate": rate, "seed": seed, "trained_parameters": learning, "history": history}


def asking(loaded: LoadedModel, questions: Any, history: list[dict[str, float]], every: int) -> TrainerCallback:
    """A callback that asks about the documents and of general knowledge every so many steps, and adds to ``history``."""
    from transformers import TrainerCallback

    from kinject import answer_questions, measure_retention, score_answers
    from kinject.evaluation.retention import held_out

    texts, general, _ = held_out("fictional:nano", GENERAL)

    def still_known(model: Any, reference: dict[str, Any] | None = None) -> dict[str, Any]:
        options = {"texts": texts, "questions": general, "batch_size": 32}
        return measure_retention(model, loaded.tokenizer, reference=reference, **options)

    before = still_known(loaded.model)

    class Asking(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step % every:
                return
            asked = [each.question for each in questions]
            answers = answer_questions(model, loaded.tokenizer, asked, max_new_tokens=16, batch_size=128)
            scores = score_answers(questions, answers)
            after = still_known(model, before)
            history.append(
                {
                    "step": state.global_step,
                    **{way: scores[way]["exact_match"] for way in ("forward", "backward")},
                    **{name: after[name] for name in ("kept", "perplexity_ratio")},
                }
            )
            model.train()

    return Asking()


def at_equal_knowledge(history: Sequence[dict[str, float]]) -> dict[str, float] | None:
    """The first evaluation that reaches `LEARNED` in both directions; None if there is none."""
    return next((each for each in history if min(each["forward"], each["backward"]) >= LEARNED), None)


def table(measured: Sequence[dict[str, Any]]) -> str:
    """What is still known at equal knowledge and at the end: means over seeds with their standard deviations."""
    lines = [
        f"| what learns | rate | weights that learn | steps to {LEARNED:g} both ways | still known there "
        "| at the end: forward / backward | still known |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for way, rate in dict.fromkeys((each["way"], each["rate"]) for each in measured):
        runs = [each for each in measured if (each["way"], each["rate"]) == (way, rate)]
        last = [each["history"][-1] for each in runs]
        there = [found for each in runs if (found := at_equal_knowledge(each["history"])) is not None]
        steps, known = f"not in {last[0]['step']}", "-"
        if there:
            steps = f"{statistics.mean(each['step'] for each in there):.0f}"
            known = mean_and_deviation([each["kept"] for each in there])
            steps += "" if len(there) == len(runs) else f" ({len(there)} of {len(runs)} runs)"
        ends = [mean_and_deviation([each[name] for each in last]) for name in ("forward", "backward", "kept")]
        weights = f"{runs[0]['trained_parameters']:,}"
        lines.append(f"| {way} | {rate:g} | {weights} | {steps} | {known} | {ends[0]} / {ends[1]} | {ends[2]} |")
    return "\n".join(lines)


def main() -> None:
    """Start the missing runs, print the table, and write both."""
    options = build_parser().parse_args()
    with exit_on_user_error():
        written = options.json is not None and options.json.exists()
        measured: list[dict[str, Any]] = json.loads(options.json.read_text(encoding="utf-8"))["runs"] if written else []
        done = {(each["way"], each["rate"], each["seed"]) for each in measured}
        for seed in options.seeds:
            for way, rate in ((each, rate) for each in options.ways for rate in RATES[each]):
                if (way, rate, seed) in done:
                    continue
                measured.append(run(way, rate, seed, options.steps))
                if options.json is not None:  # after every run, in case the rest is stopped
                    content = json.dumps({"steps": options.steps, "runs": measured}, indent=1)
                    write_text(options.json, content + "\n")
                    write_text(options.json.with_suffix(".md"), table(measured) + "\n")
        print(table(measured))


if __name__ == "__main__":
    main()
