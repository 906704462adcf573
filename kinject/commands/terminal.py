"""What a run shows in a terminal: what it is about to do, one line of progress, how it ended, and what to type next.

What other libraries say of themselves is kept out of it. `results.json` holds all that is shown. Knows nothing of training.
"""

from __future__ import annotations

import logging
import shlex
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.data.knowledge import DIRECTIONS

if TYPE_CHECKING:
    from transformers import Trainer

    from kinject.data import KnowledgeSet

_LEARNED = 0.5  # recall below which a direction counts as not learned
_APART = 0.25  # by which backward may stay behind forward
_KEPT = 0.8  # share of general questions that should still be answered
_WORSE = 1.5  # factor of perplexity of other texts that is much
_WHOLE = 0.4  # F1 below which an answer with the right words is a recital


def quiet_libraries() -> None:
    """Keep out of the terminal what libraries say of themselves and no user of kinject can mend; call it before they load."""
    for name in ("gradient_checkpointing", "activation_checkpointing", "kernels"):
        warnings.filterwarnings("ignore", message=rf".*\b{name}\b", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r".*\bkernels\b", category=UserWarning)
    deepspeed = logging.getLogger("DeepSpeed")
    if not any(isinstance(each, _NoAccelerator) for each in deepspeed.filters):
        deepspeed.addFilter(_NoAccelerator())


class _NoAccelerator(logging.Filter):
    """Lets pass what DeepSpeed says, but for the device that it has found."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether ``record`` is shown."""
        return (
            "Setting accelerator to" not in record.getMessage()
            and "Setting ds_accelerator to" not in record.getMessage()
        )


def show_progress(trainer: Trainer) -> None:
    """Let ``trainer`` show its loss and scores beside its bar, instead of one dictionary of quoted numbers for each log."""
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    class Progress(ProgressCallback):
        """The library's bar, with what was logged last at its end."""

        shown: dict[str, str] = {}

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any
        ) -> None:
            """Put the loss and the scores behind the bar."""
            named = {
                name: logs[name] for name in ("loss", *DIRECTIONS) if logs and isinstance(logs.get(name), (int, float))
            }
            self.shown = {**self.shown, **{name: f"{float(value):.3g}" for name, value in named.items()}}
            if self.training_bar is not None:
                self.training_bar.set_postfix(self.shown, refresh=False)

    bar = any(isinstance(each, ProgressCallback) for each in trainer.callback_handler.callbacks)
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    if bar:
        trainer.add_callback(Progress)


def opening(
    knowledge: KnowledgeSet, model: str, objective: str, weights: str, device: str, epochs: float, max_steps: int
) -> str:
    """What a run is about to do, a few short lines.

    Args:
        knowledge: what is learned and asked.
        model, objective: by name.
        weights: which are trained: ``all weights``, or an adapter.
        device: where, and in which precision.
        epochs, max_steps: how long; ``max_steps`` counts where it is above 0.
    """
    counts = {name: sum(each.direction == name for each in knowledge.questions) for name in DIRECTIONS}
    machine = sum(each.group.startswith("made by ") for each in knowledge.questions)
    asked = (
        f"{counts['forward']} forward, {counts['backward']} backward"
        if knowledge.questions
        else "none: nothing is asked"
    )
    asked += f", {machine} of them made by machine (--questions FILE: your own)" if machine else ""
    words = sum(len(each.titled_text.split()) for each in knowledge.documents)
    length = f"{max_steps} steps" if max_steps > 0 else f"{epochs:g} epochs (--num_train_epochs)"
    lines = {
        "documents": f"{knowledge.name}: {len(knowledge.documents)}, {words:,} words",
        "questions": asked,
        "model": f"{model} on {device}",
        "training": f"{objective}, {weights}, {length}",
    }
    return "\n".join(f"{name:<10} {text}" for name, text in lines.items())


def ending(results: Mapping[str, Any], output_dir: str | Path, push: bool = False) -> str:
    """Where things lie after a run, the next command to type, and in the last line whether the result can be used.

    Args:
        results: content of ``results.json``.
        output_dir: of the run.
        push: whether it was published already.
    """
    place = shlex.quote(str(output_dir))
    answers = results.get("answers") or []
    question = str(answers[0]["question"]).strip() if answers else "..."
    kinds = "model or adapter, results.json (all of this), README.md (card), accuracy.png"
    lines = [f"{output_dir}: {kinds if answers else kinds.replace(', accuracy.png', '')}"]
    publish = "" if push else f", or kinject push {place} user/name"
    lines.append(f"next: kinject ask {place} {shlex.quote(question)}{publish}")
    return "\n".join([*lines, verdict(results)])


def verdict(results: Mapping[str, Any]) -> str:
    """Whether the result is good enough to use; if not, what is wrong and which option mends it, by rule.

    The first that holds of: nothing was asked; forward is not answered; backward stays behind; general knowledge is lost;
    answers are whole passages.
    """
    from kinject.evaluation.retention import percent, perplexity_factor, still_right  # imports numpy

    after = results.get("after") or {}
    asked = [name for name in DIRECTIONS if (after.get(name) or {}).get("n")]
    if not asked:
        return "not measured: nothing was asked, so nobody knows what it learned (--questions FILE, or rule)."
    recall = {name: float(after[name]["paper"]) for name in asked}
    shown = ", ".join(f"{name} {recall[name]:.2f}" for name in asked)
    if max(recall.values()) < _LEARNED:
        return f"not good enough: little is answered ({shown}); train longer (--num_train_epochs) or faster (--learning_rate)."
    if len(asked) == 2 and recall["backward"] < min(recall["forward"] - _APART, 1.0):
        mend = (
            "--num_train_epochs: backward takes two to three times the epochs of forward"
            if results.get("objective") in ("masked", "diffusion")
            else "--objective masked"
        )
        return f"not good enough: backward is weak ({shown}); {mend}."
    kept, factor = still_right(results.get("retention")), perplexity_factor(results.get("retention"))
    if (kept is not None and kept < _KEPT) or (kept is None and factor is not None and factor > _WORSE):
        lost = (
            f"{percent(kept)} of what it knew is still answered" if kept is not None else f"perplexity x {factor:.2f}"
        )
        return f"not good enough for general use: it forgets ({lost}); --rehearsal 0.5 --frozen_modules self_attn."
    exact = [float(after[name].get("f1", 1.0)) for name in asked]
    if min(exact) < _WHOLE:
        return f"answers are right but long ({shown}, F1 {min(exact):.2f}): it recites; --preset practice mends it."
    return f"good enough by these questions: {shown}."
