"""Directories to publish: tiny models and adapters, as a run leaves them, with what must not travel beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.conftest import build_model, build_tokenizer

MASK_TOKEN = "<reserved_0>"
SECRET_FILES = (
    "training_args.bin",
    "optimizer.pt",
    "trainer_state.json",
    "events.out.tfevents.1",
    "checkpoint-2/optimizer.pt",
)


def whole_model(directory: Path, *, diffusion: bool = False, seed: int = 0, tied: bool = False) -> Path:
    """A causal model, or a diffusion model; with one tensor for embedding and output head if ``tied``."""
    from kinject.models import to_diffusion

    tokenizer = build_tokenizer()
    model: Any = build_model(tokenizer, seed)
    if tied:
        model.config.tie_word_embeddings = True
        model.tie_weights()
    if diffusion:
        to_diffusion(model, int(tokenizer.convert_tokens_to_ids(MASK_TOKEN)))  # type: ignore[arg-type]
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return _with_secrets(directory)


def adapter(
    directory: Path, base: Path, base_id: str, *, diffusion: bool = False, targets: str | list[str] = "all-linear"
) -> Path:
    """An adapter on ``base``, which is called ``base_id`` on the Hub, with weights that matter."""
    import torch
    from peft import LoraConfig, get_peft_model

    from kinject.models import load_model, write_diffusion_settings

    loaded = load_model(str(base), to_diffusion=diffusion, mask_token=MASK_TOKEN if diffusion else None)
    adapted = get_peft_model(loaded.model, LoraConfig(r=4, target_modules=targets))  # type: ignore[arg-type]
    torch.manual_seed(1)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name or "lora_embedding" in name:
            torch.nn.init.normal_(weight, std=0.2)
    adapted.save_pretrained(str(directory))
    loaded.tokenizer.save_pretrained(directory)
    if diffusion:
        write_diffusion_settings(directory, adapted)
    edit(directory / "adapter_config.json", base_model_name_or_path=base_id)
    return _with_secrets(directory)


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below ``directory``."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def _with_secrets(directory: Path) -> Path:
    for name in SECRET_FILES:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(b"not for the world")
    return directory
