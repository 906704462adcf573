"""What a directory holds: an adapter or a whole model, of which base, autoregressive or diffusion, under which license."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kinject.hub.base_license import base_license
from kinject.hub.card_text import single_line
from kinject.models.adapters import SETTINGS_FILE
from kinject.models.loading import EMBEDDED_HUB_ID, EMBEDDED_MODEL, NANO_MODELS
from kinject.results import public_name

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)


@dataclass(frozen=True)
class Holding:
    """What a directory holds.

    Attributes:
        is_adapter: Whether it holds an adapter, not a whole model.
        is_merged: Whether an adapter was trained and is part of the weights now.
        is_diffusion: Whether it is a masked diffusion model.
        base: The base model as others can name it: a Hub id, or a model that comes with kinject; None for a local one.
        base_name: What the base is called here.
        has_chat_template: Whether it is asked in the turns of a chat.
        license: The card's metadata on the base's license; empty if unknown.
    """

    is_adapter: bool
    is_merged: bool
    is_diffusion: bool
    base: str | None
    base_name: str
    has_chat_template: bool
    license: dict[str, str]

    @property
    def library(self) -> str:
        """The library that loads it, as the Hub names it."""
        if self.is_diffusion or (self.is_adapter and self.base in NANO_MODELS):
            return "kinject"
        return "peft" if self.is_adapter else "transformers"

    @property
    def tags(self) -> list[str]:
        """The tags that follow from it."""
        found = (("peft", self.is_adapter), ("merged-adapter", self.is_merged), ("masked-diffusion", self.is_diffusion))
        return [tag for tag, holds in found if holds]


def holding_of(directory: Path, results: Mapping[str, Any]) -> Holding:
    """What ``directory`` holds, or will hold: before its weights are written, ``results`` say it."""
    adapter, config = (_read(directory / file) for file in ("adapter_config.json", "config.json"))
    trained_adapter = bool(results["config"].get("use_peft"))
    is_adapter = bool(adapter) or (trained_adapter and not config)
    base = _base(public_name(str(adapter.get("base_model_name_or_path") or results["model"])), results)
    template = (directory / "chat_template.jinja").is_file() or "chat_template" in _read(
        directory / "tokenizer_config.json"
    )
    return Holding(
        is_adapter=is_adapter,
        is_merged=trained_adapter and not is_adapter,
        is_diffusion=results["objective"] == "diffusion"
        or (directory / SETTINGS_FILE).is_file()
        or config.get("is_causal") is False
        or config.get("model_type") == "llada",
        base=base,
        base_name=base or single_line(public_name(results["model"])),
        has_chat_template=template or not (directory / "tokenizer_config.json").is_file(),
        license=base_license(base) if base is not None else {},
    )


def _base(name: str, results: Mapping[str, Any]) -> str | None:
    """``name`` as others can load it, or None where it is a directory of the machine that trained."""
    if results.get("model_source") == "directory" and name.split("/")[-1] == results["model"].split("/")[-1]:
        return None
    if name == EMBEDDED_MODEL:
        return EMBEDDED_HUB_ID
    return name if name in NANO_MODELS or HUB_ID.fullmatch(name) else None


def _read(file: Path) -> dict[str, Any]:
    """The content of a JSON file, or nothing where there is none that can be read."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
