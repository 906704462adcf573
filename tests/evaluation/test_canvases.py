"""A DiffusionGemma is loaded and asked by its own `generate`, and whatever else is asked of it is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import (
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    DiffusionGemmaGenerationConfig,
    DiffusionGemmaTextConfig,
)
from transformers.models.diffusion_gemma.generation_diffusion_gemma import EntropyBoundSamplerConfig

from kinject.errors import ConfigurationError
from kinject.evaluation.asking import answer_questions
from kinject.evaluation.retention import negative_log_likelihood
from kinject.models import load_model
from kinject.sampling import SamplingConfig
from kinject.trainers import DiffusionSFTConfig, DiffusionSFTTrainer, MaskedSFTConfig, MaskedSFTTrainer
from tests.conftest import build_tokenizer

QUESTIONS = ["Who is Ada?", "What did the tall baker of Ravenna invent?", "Who?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, tokenizer = tmp_path_factory.mktemp("gemma"), build_tokenizer()
    text = DiffusionGemmaTextConfig(
        **{"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "global_head_dim": 16},
        **{"sliding_window": 64, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16},
        **{
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "max_position_embeddings": 512,
        },
    )
    vision = {"model_type": "gemma4_vision", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 16}
    torch.manual_seed(0)
    model = DiffusionGemmaForBlockDiffusion(
        DiffusionGemmaConfig(text_config=text, vision_config=vision, canvas_length=16)
    )
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(8)
    model.generation_config = DiffusionGemmaGenerationConfig(
        **{"max_denoising_steps": 6, "sampler_config": EntropyBoundSamplerConfig(entropy_bound=0.1), "t_min": 0.4},
        **{"t_max": 0.8, "stability_threshold": 1, "confidence_threshold": 0.005},
    )
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    return load_model(str(folder))


def test_answers_are_those_of_its_own_generate_whatever_is_asked_beside(loaded: Any) -> None:
    assert type(loaded.model).__name__ == "DiffusionGemmaForBlockDiffusion" and not loaded.is_diffusion
    state = torch.get_rng_state()
    together = answer_questions(loaded.model, loaded.tokenizer, QUESTIONS, max_new_tokens=20)
    assert torch.equal(torch.get_rng_state(), state)
    alone = [answer_questions(loaded.model, loaded.tokenizer, [each], max_new_tokens=20)[0] for each in QUESTIONS]
    assert together == alone and len(set(together)) == len(QUESTIONS)


def test_whatever_else_is_refused_by_name(loaded: Any, folder: Path, tmp_path: Path) -> None:
    said = "the model is a DiffusionGemma, which kinject asks by its own generate and does not "
    with pytest.raises(ConfigurationError, match=said + "draw by a temperature"):
        answer_questions(loaded.model, loaded.tokenizer, QUESTIONS, sampling=SamplingConfig.fast(8))
    with pytest.raises(ConfigurationError, match=said + "measure by likelihood"):
        negative_log_likelihood(loaded.model, loaded.tokenizer, ["A text."])
    with pytest.raises(ConfigurationError, match=said + "convert"):
        load_model(str(folder), to_diffusion="block")
    rows = Dataset.from_list([{"text": "Ada Vance mapped the salt caves of Orrin."}])
    trainers: Any = ((MaskedSFTConfig, MaskedSFTTrainer), (DiffusionSFTConfig, DiffusionSFTTrainer))
    for settings, trainer in trainers:
        args = settings(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none")
        with pytest.raises(ConfigurationError, match=said + "train"):
            trainer(loaded.model, args, train_dataset=rows, processing_class=loaded.tokenizer)
