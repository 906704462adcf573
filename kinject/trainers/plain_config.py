"""Settings of the baselines that see no masked copy."""

from __future__ import annotations

from dataclasses import dataclass, field

from kinject.errors import ConfigurationError
from kinject.trainers.document_config import DocumentSFTConfig


@dataclass
class PlainSFTConfig(DocumentSFTConfig):
    """Configuration of [`PlainSFTTrainer`]: autoregressive fine-tuning on the documents as they are, or reversed."""

    objective: str = field(
        default="ar",
        metadata={
            "help": "'ar': the documents as they are; 'reverse': each document and its entity-preserving reversal "
            "(arXiv 2403.13799)."
        },
    )
    frame: str = field(
        default="chat",
        metadata={"help": "'chat': user 'Tell me a fact.', assistant the document; 'raw': BOS, the document, EOS."},
    )

    def __post_init__(self) -> None:
        """Refuse unknown choices before anything is loaded."""
        super().__post_init__()
        for name, choices in (("objective", ("ar", "reverse")), ("frame", ("chat", "raw"))):
            if getattr(self, name) not in choices:
                raise ConfigurationError(f"{name} is '{getattr(self, name)}'; expected one of {', '.join(choices)}.")
