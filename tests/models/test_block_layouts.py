"""Block diffusion checkpoints under names of their own load into native classes, with the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kinject.errors import ConfigurationError
from kinject.models import DiffusionSettings, diffusion_settings, load_model, save_model, to_diffusion
from tests.conftest import build_tokenizer
from tests.models.architectures import random_model

OTHERS = {"auto_map": {"AutoModel": "modeling.X"}, "fuse_cross_entropy": True, "attn_implementation": "flex_attention"}


def write(directory: Path, name: str, model_type: str, **fields: Any) -> Any:
    tokenizer = build_tokenizer()
    model = random_model(name, tokenizer)
    save_model(model, directory, tokenizer=tokenizer)
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": model_type, **OTHERS, **fields}))
    return model.eval()


@pytest.mark.parametrize(
    ("name", "model_type", "fields", "expected"),
    [
        ("qwen3", "sdar", {"mask_token_id": 260, "block_size": 8}, DiffusionSettings(260, False, 8)),
        ("qwen3", "sdar", {"mask_token_id": 260}, DiffusionSettings(260, False, 4)),
        ("qwen2", "Fast_dLLM_Qwen", {"mask_token_id": 260, "bd_size": 16}, DiffusionSettings(260, True, 16)),
        ("qwen3_moe", "sdar_moe", {"mask_token_id": 260}, DiffusionSettings(260, False, 4)),
        ("llama", "a2d-llama", {"mask_token_id": 260}, DiffusionSettings(260, False)),
        ("qwen3", "a2d-qwen3", {"mask_token_id": 260, "block_size": 32}, DiffusionSettings(260, False, 32)),
    ],
)
def test_foreign_layouts_load_and_are_saved_as_native(
    tmp_path: Path, name: str, model_type: str, fields: dict[str, Any], expected: DiffusionSettings
) -> None:
    theirs = write(tmp_path / "theirs", name, model_type, **fields)
    loaded = load_model(str(tmp_path / "theirs"))
    assert diffusion_settings(loaded.model) == expected
    save_model(loaded.model, tmp_path / "ours", tokenizer=loaded.tokenizer)  # type: ignore[arg-type]
    again = load_model(str(tmp_path / "ours"))
    assert diffusion_settings(again.model) == expected
    ids = torch.tensor([[5, 6, 7, 8]])
    mask = torch.zeros(1, 1, 4, 4).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf)
    for model in (loaded.model, again.model):
        with torch.no_grad():
            found, wanted = (each.eval()(input_ids=ids, attention_mask=mask).logits for each in (model, theirs))
        assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("name", "tied", "architecture", "model_type"),
    [
        ("qwen3", False, "SDARForCausalLM", "sdar"),
        ("qwen3", True, "SDARForCausalLM", "sdar"),
        ("qwen3_moe", False, "SDARMoeForCausalLM", "sdar_moe"),
    ],
)
def test_a_block_model_is_saved_in_the_layout_of_sdar(
    tmp_path: Path, name: str, tied: bool, architecture: str, model_type: str
) -> None:
    tokenizer = build_tokenizer()
    model = to_diffusion(random_model(name, tokenizer, tied=tied), 260, shifted_logits=False, block_length=8).eval()
    save_model(model, tmp_path / "sdar", layout="sdar", tokenizer=tokenizer)
    fields = json.loads((tmp_path / "sdar" / "config.json").read_text(encoding="utf-8"))
    assert fields["architectures"] == [architecture] and fields["model_type"] == model_type
    assert fields["auto_map"]["AutoModelForCausalLM"].endswith(f"modeling_{model_type}.{architecture}")
    assert (fields["block_size"], fields["mask_token_id"], fields["tie_word_embeddings"]) == (8, 260, False)
    assert fields["rope_theta"] == model.config.rope_parameters["rope_theta"] and "is_causal" not in fields
    assert fields.get("num_experts") == getattr(model.config, "num_experts", None)
    assert "lm_head.weight" in load_file(tmp_path / "sdar" / "model.safetensors")
    loaded = load_model(str(tmp_path / "sdar")).model
    assert diffusion_settings(loaded) == DiffusionSettings(260, False, 8)
    ids = torch.tensor([[5, 6, 7, 8]])
    mask = torch.zeros(1, 1, 4, 4)
    with torch.no_grad():
        found, wanted = (each.eval()(input_ids=ids, attention_mask=mask).logits for each in (loaded, model))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("llama", {"shifted_logits": False, "block_length": 4}, "is a llama, not a Qwen3"),
        ("qwen3", {"shifted_logits": True, "block_length": 4}, "has shifted logits"),
        ("qwen3", {"shifted_logits": False}, "is no block diffusion model"),
        ("qwen3_moe", {"shifted_logits": False, "block_length": 4}, "is a mixture of experts with tied embeddings"),
    ],
)
def test_what_sdar_has_no_words_for_is_refused(tmp_path: Path, name: str, options: dict[str, Any], said: str) -> None:
    model = to_diffusion(random_model(name, build_tokenizer(), tied=name == "qwen3_moe"), 260, **options)
    with pytest.raises(ConfigurationError, match=f"cannot be saved in SDAR's layout: it {said}"):
        save_model(model, tmp_path, layout="sdar")
    assert not list(tmp_path.iterdir())


MIXTURE = {
    **{"expert_intermediate_size": 16, "qk_layernorm": True, "moe_layer_freq": [1, 1], "partial_rotary_factor": 1},
    **{"norm_topk_prob": True, "clip_qkv": None, "shared_expert_intermediate_size": None, "routed_scaling_factor": 1},
    **{"mask_token_id": 260, "num_experts": 4, "moe_intermediate_size": None},
}


def test_llada_moe_is_a_qwen3_moe_and_goes_back_bit_by_bit(tmp_path: Path) -> None:
    theirs = write(tmp_path / "theirs", "qwen3_moe", "llada", **MIXTURE)
    loaded = load_model(str(tmp_path / "theirs"))
    assert diffusion_settings(loaded.model) == DiffusionSettings(260, False)
    save_model(loaded.model, tmp_path / "ours", tokenizer=loaded.tokenizer)  # type: ignore[arg-type]
    save_model(loaded.model, tmp_path / "back", layout="llada", tokenizer=loaded.tokenizer)  # type: ignore[arg-type]
    read, *written = (load_file(tmp_path / name / "model.safetensors") for name in ("theirs", "ours", "back"))
    assert "model.layers.1.mlp.experts.3.up_proj.weight" in read
    for each in written:
        assert each.keys() == read.keys() and all(torch.equal(each[name], weight) for name, weight in read.items())
    fields = json.loads((tmp_path / "back" / "config.json").read_text(encoding="utf-8"))
    assert fields["model_type"] == "llada" and fields["architectures"] == ["LLaDAMoEModelLM"]
    own = set(MIXTURE) - {"moe_intermediate_size", "norm_topk_prob"}
    assert {name: fields[name] for name in own} == {name: MIXTURE[name] for name in own}
    ids = torch.tensor([[5, 6, 7, 8]])
    mask = torch.zeros(1, 1, 4, 4).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf)
    with torch.no_grad():
        wanted = theirs(input_ids=ids, attention_mask=mask).logits
        for model in (loaded.model, *(load_model(str(tmp_path / name)).model for name in ("ours", "back"))):
            assert torch.equal(model.eval()(input_ids=ids, attention_mask=mask).logits, wanted)
            assert diffusion_settings(model) == DiffusionSettings(260, False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"norm_topk_prob": True}, "LLaDA-MoE's layout: it normalizes the weights of experts"),
        ({"mlp_only_layers": [0]}, "LLaDA-MoE's layout: it has layers without experts"),
        ({"mask_token_id": None}, "LLaDA-MoE's layout: it names no mask token"),
        ({"block_length": 4}, "LLaDA's layout: it attends in blocks"),
    ],
)
def test_what_llada_moe_has_no_words_for_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    write(tmp_path / "theirs", "qwen3_moe", "llada", **MIXTURE)
    model: Any = load_model(str(tmp_path / "theirs")).model
    model.config.__dict__.update(changes)
    with pytest.raises(ConfigurationError, match=f"cannot be saved in {said}"):
        save_model(model, tmp_path / "back", layout="llada")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"shared_expert_intermediate_size": 16},
            "shared_expert_intermediate_size = 16; .* needs shared_expert_intermediate_size = None",
        ),
        ({"moe_layer_freq": [0, 1]}, "moe_layer_freq = \\[0, 1\\]"),
        ({"clip_qkv": 8.0}, "clip_qkv = 8.0"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor = 0.5"),
        ({"qk_layernorm": False}, "qk_layernorm = False"),
        ({"moe_router_score_function": "sigmoid"}, "moe_router_score_function = 'sigmoid'"),
        ({"moe_router_enable_expert_bias": True}, "moe_router_enable_expert_bias = True"),
        ({"expert_intermediate_size": None}, "expert_intermediate_size = None; expected a whole number"),
    ],
)
def test_a_mixture_that_is_no_qwen3_moe_is_refused_by_name(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    write(tmp_path / "odd", "qwen3_moe", "llada", **{**MIXTURE, **fields})
    with pytest.raises(ConfigurationError, match=said):
        load_model(str(tmp_path / "odd"))


def test_what_a_layout_cannot_mean_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path / "two", "qwen3", "sdar", mask_token_id=260, block_size=4, bd_size=8)
    with pytest.raises(ConfigurationError, match="block_size.*bd_size.*disagree"):
        load_model(str(tmp_path / "two"))
    write(tmp_path / "outside", "qwen3", "sdar")
    with pytest.raises(ConfigurationError, match="mask_token_id is 151669, outside its vocabulary"):
        load_model(str(tmp_path / "outside"))


LLADA2 = {
    **{"vocab_size": 261, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
    },
    **{"moe_intermediate_size": 16, "num_experts": 8, "num_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 4},
    **{
        "topk_group": 2,
        "routed_scaling_factor": 2.5,
        "first_k_dense_replace": 1,
        "norm_topk_prob": True,
        "rotary_dim": 4,
    },
    **{
        "score_function": "sigmoid",
        "moe_router_enable_expert_bias": True,
        "router_dtype": "fp32",
        "rope_theta": 600000,
    },
    **{
        "partial_rotary_factor": 0.5,
        "rope_scaling": None,
        "use_bias": False,
        "use_qkv_bias": False,
        "use_rmsnorm": True,
    },
    **{
        "embedding_dropout": 0.0,
        "output_dropout": 0.0,
        "sliding_window": 16,
        "max_window_layers": 2,
        "use_cache": False,
    },
    **{"use_sliding_window": False, "tie_word_embeddings": False, "num_nextn_predict_layers": 0, "mask_token_id": 260},
    **{"architectures": ["LLaDA2MoeModelLM"], "model_type": "llada2_moe", "eos_token_id": 257, "pad_token_id": 257},
}


def write_llada2(directory: Path, **fields: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """A random Glm4-MoE, and the same weights in ``directory`` under LLaDA2's names, written out one by one."""
    tokenizer = build_tokenizer()
    model = random_model("glm4_moe", tokenizer).eval()
    with torch.no_grad():
        model.model.layers[1].mlp.gate.weight.normal_()
        model.model.layers[1].mlp.gate.e_score_correction_bias.normal_()
    own, weights = dict(model.state_dict()), {}
    for theirs, ours in (("word_embeddings", "embed_tokens"), ("norm", "norm")):
        weights[f"model.{theirs}.weight"] = own[f"model.{ours}.weight"]
    weights["lm_head.weight"] = own["lm_head.weight"]
    for layer in range(2):
        at = f"model.layers.{layer}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{at}{norm}.weight"] = own[f"{at}{norm}.weight"]
        weights[f"{at}attention.query_key_value.weight"] = torch.cat(
            [own[f"{at}self_attn.{each}_proj.weight"] for each in "qkv"]
        )
        for theirs, ours in (("dense", "o_proj"), ("query_layernorm", "q_norm"), ("key_layernorm", "k_norm")):
            weights[f"{at}attention.{theirs}.weight"] = own[f"{at}self_attn.{ours}.weight"]
        names = ("gate_proj", "up_proj", "down_proj")
        if layer == 0:
            for name in names:
                weights[f"{at}mlp.{name}.weight"] = own[f"{at}mlp.{name}.weight"]
            continue
        weights[f"{at}mlp.gate.weight"] = own[f"{at}mlp.gate.weight"]
        weights[f"{at}mlp.gate.expert_bias"] = own[f"{at}mlp.gate.e_score_correction_bias"]
        for name in names:
            weights[f"{at}mlp.shared_experts.{name}.weight"] = own[f"{at}mlp.shared_experts.{name}.weight"]
        for expert in range(8):
            gate, up = own[f"{at}mlp.experts.gate_up_proj"][expert].chunk(2)
            parts = (gate, up, own[f"{at}mlp.experts.down_proj"][expert])
            for name, part in zip(names, parts, strict=True):
                weights[f"{at}mlp.experts.{expert}.{name}.weight"] = part
    directory.mkdir()
    weights = {name: weight.clone().contiguous() for name, weight in weights.items()}
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    config = {**LLADA2, "vocab_size": len(tokenizer), **fields}
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer.save_pretrained(directory)
    return model, weights


def test_llada2_is_a_glm4_moe_and_goes_back_bit_by_bit(tmp_path: Path) -> None:
    theirs, weights = write_llada2(tmp_path / "theirs")
    loaded = load_model(str(tmp_path / "theirs"))
    assert type(loaded.model).__name__ == "Glm4MoeForCausalLM"
    assert diffusion_settings(loaded.model) == DiffusionSettings(260, False, 32)
    model: Any = loaded.model
    save_model(model, tmp_path / "native", tokenizer=loaded.tokenizer)
    save_model(model, tmp_path / "back", layout="llada2", tokenizer=loaded.tokenizer)
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == weights.keys() and all(torch.equal(back[name], each) for name, each in weights.items())
    fields = json.loads((tmp_path / "back" / "config.json").read_text(encoding="utf-8"))
    ignored = ("sliding_window", "max_window_layers", "vocab_size")
    assert {name: fields[name] for name in LLADA2 if name not in ignored} == {
        name: value for name, value in LLADA2.items() if name not in ignored
    }
    assert fields["block_size"] == 32
    native = load_file(tmp_path / "native" / "model.safetensors")
    assert "model.layers.1.mlp.experts.7.gate_proj.weight" in native and "model.embed_tokens.weight" in native
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    mask = torch.zeros(1, 1, 5, 5).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
    with torch.no_grad():
        wanted = theirs(input_ids=ids, attention_mask=mask).logits
        for each in (model, *(load_model(str(tmp_path / name)).model for name in ("native", "back"))):
            assert torch.equal(each.eval()(input_ids=ids, attention_mask=mask).logits, wanted)
            assert diffusion_settings(each) == DiffusionSettings(260, False, 32)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"use_bias": True}, "use_bias = True"),
        ({"use_qkv_bias": True}, "use_qkv_bias = True"),
        ({"score_function": "softmax"}, "score_function = 'softmax'"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_type = 'yarn'"),
        ({"rotary_dim": 8}, "rotary_dim = 8"),
        ({"num_experts": None}, "num_experts = None; expected a whole number"),
    ],
)
def test_what_a_glm4_moe_cannot_do_is_refused_by_name(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    write_llada2(tmp_path / "odd", **fields)
    with pytest.raises(ConfigurationError, match=said):
        load_model(str(tmp_path / "odd"))


def test_what_llada2_has_no_words_for_is_refused(tmp_path: Path) -> None:
    model = to_diffusion(random_model("qwen3", build_tokenizer()), 260, shifted_logits=False, block_length=4)
    with pytest.raises(ConfigurationError, match="cannot be saved in LLaDA2's layout: it is a qwen3, not a Glm4-MoE"):
        save_model(model, tmp_path / "new", layout="llada2")
    assert not (tmp_path / "new").exists()
