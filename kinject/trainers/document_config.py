"""Settings that every objective on documents shares."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import SFTConfig

from kinject.errors import ConfigurationError


@dataclass
class DocumentSFTConfig(SFTConfig):
    """Configuration of [`DocumentSFTTrainer`], on top of [`trl.SFTConfig`].

    Args:
        system_prompt: System message of every prompt. `None` leaves the chat template's own default in place.
    """

    max_length: int | None = field(
        default=1024,
        metadata={
            "help": "Most tokens in a sample, prompt included. Longer documents are split at sentence ends into several "
            "samples; nothing is cut away."
        },
    )
    include_num_input_tokens_seen: str | bool = field(
        default="non_padding", metadata={"help": "Count the tokens that were trained on, padding excluded."}
    )
    system_prompt: str | None = field(
        default=None, metadata={"help": "System message of every prompt. Default: the chat template's own."}
    )

    def __post_init__(self) -> None:
        """Refuse what would leak between documents or cut them."""
        super().__post_init__()
        if self.packing or self.padding_free:
            raise ConfigurationError(
                "packing and padding_free are not supported: documents would attend to each other. "
                "Set --packing false --padding_free false."
            )
