"""The weights that answered best so far, kept in one folder with their step, score and answers. Knows nothing of questions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.errors import ConfigurationError
from kinject.evaluation.results import write_json
from kinject.models.weights import from_main_process, is_by_zero3, load_weights, writable

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from transformers import PreTrainedTokenizerBase, Trainer

SELECTION_FILE = "selection.json"


class BestWeights:
    """A folder with the best weights: a model or an adapter, with the step, score and answers that belong to it.

    The folder is written under another name and then renamed, so weights and score always belong together, also in a
    run that was killed.

    Args:
        folder: where the weights go; ``<output_dir>/best``.
        writes: whether this process writes, which exactly one process does.
    """

    def __init__(self, folder: Path, writes: bool = True) -> None:
        """Begin without any weights."""
        self.folder = folder
        self.step: int | None = None
        self.score = float("-inf")
        self.answers: list[str] = []
        self._writes = writes

    def forget(self) -> None:
        """Delete the weights that an earlier run left."""
        if self._writes and (self.folder / SELECTION_FILE).is_file():
            shutil.rmtree(self.folder)

    def resume(self, steps: Collection[int]) -> None:
        """Go on with the weights that the resumed run selected, if it did so at one of ``steps``.

        Weights of a later step do not count, since the resumed run takes that step again.
        """
        file = self.folder / SELECTION_FILE
        kept = from_main_process(json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None)
        if kept is not None and kept["step"] in steps:
            self.step, self.score, self.answers = kept["step"], kept["score"], kept["answers"]

    def offer(
        self,
        step: int,
        score: float,
        answers: Sequence[str],
        *,
        model: Any,
        tokenizer: PreTrainedTokenizerBase | None,
        trainer: Trainer | None,
    ) -> bool:
        """Save the current weights if ``score`` is above the best so far; returns whether it is.

        Every process calls this with the same score. ``trainer`` gathers sharded weights; without a trainer, the process
        that writes saves ``model`` itself.
        """
        if score <= self.score:
            return False
        self.step, self.score, self.answers = step, score, list(answers)
        fresh = self.folder.with_name(self.folder.name + ".new")
        if self._writes:
            shutil.rmtree(fresh, ignore_errors=True)
        _wait()
        if trainer is not None:
            trainer.save_model(str(fresh), _internal_call=True)  # an internal call does not push to the Hub
        elif self._writes:
            model.save_pretrained(fresh)
            if tokenizer is not None:
                tokenizer.save_pretrained(fresh)
        _wait()
        if self._writes:
            selection = {"step": step, "score": score, "answers": self.answers}
            write_json(fresh / SELECTION_FILE, selection)
            shutil.rmtree(self.folder, ignore_errors=True)
            fresh.rename(self.folder)
        _wait()
        return True

    def load_into(self, model: Any) -> None:
        """Load the kept weights into ``model``, the one that was trained (wrapped by PEFT, sharded, or not).

        Every process calls this. Only the main process reads the files, so that the host holds one whole model and the other
        processes need not see its disk. Under ZeRO-3 all of them read, and each keeps its shard.

        Raises:
            ConfigurationError: the folder does not hold such weights.
        """
        if not from_main_process((self.folder / SELECTION_FILE).is_file()):
            raise ConfigurationError(f"{self.folder}: expected the best weights of this run; the folder was removed")
        if hasattr(model, "peft_config"):
            from peft import load_peft_weights, set_peft_model_state_dict

            kept = from_main_process(load_peft_weights(str(self.folder), device="cpu") if self._writes else None)
            with writable([parameter for parameter in model.parameters() if parameter.requires_grad]):
                set_peft_model_state_dict(model, kept)
            return
        # By from_pretrained, since saved weights do not always have the names and shapes of the module's.
        reads = self._writes or is_by_zero3(model)
        load_weights(
            model,
            type(model).from_pretrained(self.folder, config=model.config, dtype=model.dtype) if reads else None,
        )


def _wait() -> None:
    from accelerate import PartialState

    PartialState().wait_for_everyone()
