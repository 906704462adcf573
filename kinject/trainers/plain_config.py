"""Settings of the baselines that see no masked copy."""

from __future__ import annotations

from dataclasses import dataclass, field

from kinject.trainers.document_config import DocumentSFTConfig


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
