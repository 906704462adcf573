"""The baselines without a masked copy: autoregressive fine-tuning, and reverse training (arXiv 2403.13799).

Settings and trainer stand together, since both are short. Knows nothing of masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kinject.data import reverse_text
from kinject.prompts.templates import ANSWER, FACT, RAW, Wording
from kinject.trainers.document_config import DocumentSFTConfig
from kinject.trainers.document_trainer import DocumentSFTTrainer
from kinject.trainers.infilling import EntityReport
from kinject.trainers.preparation import title_of


@dataclass
class PlainSFTConfig(DocumentSFTConfig):
    """Configuration of [`PlainSFTTrainer`]: autoregressive fine-tuning on the documents as they are, or reversed."""

    objective: str = field(
        default="ar",
        metadata={
            "help": "'ar': the documents as they are; 'reverse': each document and its entity-preserving reversal "
            "(arXiv 2403.13799).",
            "choices": ["ar", "reverse"],
        },
    )
    frame: str = field(
        default="chat",
        metadata={
            "help": "'chat': user 'Tell me a fact.', assistant the document; 'raw': BOS, the document, EOS.",
            "choices": ["chat", "raw"],
        },
    )

    def __post_init__(self) -> None:
        """Refuse unknown choices before anything is loaded."""
        super().__post_init__()
        self.require_choices(objective=("ar", "reverse"), frame=("chat", "raw"))


class PlainSFTTrainer(DocumentSFTTrainer):
    """Autoregressive fine-tuning with all that the masked objective shares: splitting, evaluation, checkpoints, cards.

    `objective="ar"` learns each document after "Tell me a fact." (`frame="chat"`) or without a prompt (`frame="raw"`);
    `objective="reverse"` learns each document and its reversal with entities kept whole (the row's `entities` where
    given, else found by rule). In prompt/completion and chat rows the answer is learned.

    See [`DocumentSFTTrainer`] for the arguments and errors.
    """

    _tag_names = ["kinject", "sft"]
    args: PlainSFTConfig

    def _document_wordings(self, args: DocumentSFTConfig) -> Sequence[Wording]:
        return (RAW,) if isinstance(args, PlainSFTConfig) and args.frame == "raw" else (FACT,)

    def _row_wordings(self, args: DocumentSFTConfig) -> Sequence[Wording]:
        return (ANSWER,)

    def _texts_beside(self, text: str, row: Mapping[str, Any], args: DocumentSFTConfig) -> Iterator[str]:
        if isinstance(args, PlainSFTConfig) and args.objective == "reverse":
            yield reverse_text(text, row.get("entities"), title_of(row, args))  # it ends with the title

    def _entity_report(self, args: DocumentSFTConfig) -> EntityReport | None:
        reversing = isinstance(args, PlainSFTConfig) and args.objective == "reverse"
        return EntityReport("objective reverse", None) if reversing else None
