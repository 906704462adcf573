"""LLaDA's layout in the native class: what is refused, what training needs of it, and both ways of saving it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

from kinject.errors import ConfigurationError
from kinject.models import DiffusionSettings, diffusion_settings, load_model, save_model
from kinject.models.saving import llada_fields, llada_names
from tests.conftest import build_model, build_tokenizer
from tests.models.llada_checkpoint import write_checkpoint

IDS = torch.arange(40, 52)[None]  # (1, 12)


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(input_ids=IDS).logits
    return logits


def test_it_loads_as_a_diffusion_model_with_the_ids_of_the_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "llada")
    loaded = load_model(str(tmp_path / "llada"))
    assert loaded.is_diffusion and loaded.name == "llada" and loaded.source == "directory"
    assert type(loaded.model) is LlamaForCausalLM
    assert diffusion_settings(loaded.model) == DiffusionSettings(mask_token_id=260, shifted_logits=False)
    config = loaded.model.config
    assert (config.eos_token_id, config.pad_token_id, config.bos_token_id) == (257, 257, None)
    assert loaded.tokenizer.convert_ids_to_tokens(260) == "<|mdm_mask|>"
    assert not any(module.is_causal for module in loaded.model.modules() if hasattr(module, "is_causal"))


def test_a_tokenizer_without_padding_takes_the_configurations(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    tokenizer = build_tokenizer(extra_tokens=("<|mdm_mask|>",))
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_model(str(tmp_path)).tokenizer.pad_token_id == 257


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("block_type", "sequential"),
        ("block_group_size", 2),
        ("activation_type", "swiglu"),
        ("layer_norm_type", "default"),
        ("layer_norm_with_affine", False),
        ("bias_for_layer_norm", True),
        ("attention_layer_norm", True),
        ("include_bias", True),
        ("include_qkv_bias", True),
        ("rope", False),
        ("alibi", True),
        ("input_emb_norm", True),
        ("scale_logits", True),
        ("clip_qkv", 8.0),
        ("residual_dropout", 0.1),
        ("embedding_dropout", 0.1),
    ],
)
def test_what_the_native_class_cannot_do_is_refused_by_field(tmp_path: Path, field: str, value: Any) -> None:
    write_checkpoint(tmp_path / "odd", **{field: value})
    with pytest.raises(
        ConfigurationError, match=rf"model 'odd': config\.json has {field} = {value!r}; .*needs {field}"
    ):
        load_model(str(tmp_path / "odd"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": None}, "d_model = None; expected a whole number"),
        ({"n_layers": "3"}, "n_layers = '3'; expected a whole number"),
        ({"n_heads": 0}, "n_heads = 0; expected a whole number"),
        ({"max_sequence_length": -1}, "max_sequence_length = -1; expected a whole number"),
        ({"n_heads": 5}, "d_model = 32, which n_heads = 5 does not divide"),
        ({"n_routed_experts": 64, "hidden_size": 32}, r"n_routed_experts = 64: mixtures of experts in another layout"),
        (
            {"model_type": "llada2_new"},
            r"model_type 'llada2_new', which is no language model .* remote code is not run unasked",
        ),
        ({"model_type": None}, "has no model_type, and so does not tell of which class the model is"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_checkpoint(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=message):
        load_model(str(tmp_path))


def test_missing_unexpected_and_misshapen_weights_are_refused_by_name(tmp_path: Path) -> None:
    _, weights = write_checkpoint(tmp_path / "broken")
    del weights["model.transformer.blocks.1.up_proj.weight"]
    weights["model.transformer.blocks.0.q_norm.weight"] = torch.ones(8)
    weights["model.transformer.ln_f.weight"] = torch.ones(16)
    save_file(weights, tmp_path / "broken" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigurationError) as error:
        load_model(str(tmp_path / "broken"))
    assert "model 'broken': has weights that do not fit" in str(error.value)
    assert "1 missing (model.layers.1.mlp.up_proj.weight)" in str(error.value)
    assert "1 unexpected (model.transformer.blocks.0.q_norm.weight)" in str(error.value)
    assert "1 of another shape (model.norm.weight)" in str(error.value)


def test_an_embedding_that_is_not_tied_needs_its_head(tmp_path: Path) -> None:
    _, weights = write_checkpoint(tmp_path)
    del weights["model.transformer.ff_out.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigurationError, match=r"1 missing \(lm_head\.weight\)"):
        load_model(str(tmp_path))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    _, weights = write_checkpoint(tmp_path)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match="could not be loaded"):
        load_model(str(tmp_path))


def test_its_remote_code_is_not_even_read(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    for module in ("configuration_llada.py", "modeling_llada.py"):
        (tmp_path / module).write_text("raise SystemExit('remote code ran')", encoding="utf-8")
    assert load_model(str(tmp_path), trust_remote_code=True).is_diffusion


# Names of native weights under a model type of their own


def write_native(directory: Path, model: Any, **changes: Any) -> None:
    model.save_pretrained(directory)
    fields = json.loads((directory / "config.json").read_text(encoding="utf-8")) | changes
    fields |= {"auto_map": {"AutoModel": "modeling.Model"}}
    (directory / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    build_tokenizer(extra_tokens=("<[MASK]>",)).save_pretrained(directory)


def test_illada_is_a_llama_whose_tokenizer_names_the_mask(tmp_path: Path) -> None:
    model = build_model(build_tokenizer())
    write_native(tmp_path, model, model_type="illada", architectures=["ILLaDAForCausalLM"], resid_pdrop=0.0)
    loaded = load_model(str(tmp_path))
    assert diffusion_settings(loaded.model) == DiffusionSettings(mask_token_id=260, shifted_logits=False)
    model.config.is_causal = False
    torch.testing.assert_close(logits_of(loaded.model), logits_of(model))


def test_dream_is_a_qwen2_with_shifted_logits(tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=261, num_key_value_heads=2, rope_theta=1e6, **sizes))
    write_native(tmp_path, model, model_type="Dream", architectures=["DreamModel"], mask_token_id=260)
    loaded = load_model(str(tmp_path))
    assert diffusion_settings(loaded.model) == DiffusionSettings(mask_token_id=260, shifted_logits=True)
    model.config.is_causal = False
    torch.testing.assert_close(logits_of(loaded.model), logits_of(model))


def test_dropout_of_the_residuals_is_refused_there_too(tmp_path: Path) -> None:
    write_native(tmp_path, build_model(build_tokenizer()), model_type="illada", resid_pdrop=0.1)
    with pytest.raises(ConfigurationError, match=r"resid_pdrop = 0\.1"):
        load_model(str(tmp_path))


# Training


def test_lora_and_gradient_checkpointing_train_it(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, n_kv_heads=2)
    loaded = load_model(str(tmp_path), dtype="float32")
    model = get_peft_model(loaded.model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    assert {name.split(".")[-5] for name, _ in model.named_parameters() if "lora_A" in name} == {"self_attn", "mlp"}
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            model.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        model.train()
        model.zero_grad()
        logits = model(input_ids=IDS).logits
        torch.nn.functional.cross_entropy(logits[0], IDS[0]).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0] and gradients[0].keys() == gradients[1].keys()
    assert any(gradient.abs().sum() > 0 for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_it_loads_in_four_bits_for_qlora(tmp_path: Path) -> None:
    from transformers import BitsAndBytesConfig

    write_checkpoint(tmp_path, d_model=64, mlp_hidden_size=128)
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    loaded = load_model(str(tmp_path), quantization_config=quantization, device_map={"": "cpu"}, dtype="float32")
    assert type(loaded.model.model.layers[0].mlp.gate_proj).__name__ == "Linear4bit"
    model = get_peft_model(loaded.model, LoraConfig(target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"))
    logits = model.train()(input_ids=IDS).logits
    logits.square().mean().backward()
    assert any(parameter.grad is not None for parameter in model.parameters())
    whole = logits_of(load_model(str(tmp_path), dtype="float32").model).flatten()
    agreement = torch.corrcoef(torch.stack([logits.detach().float().flatten(), whole]))[0, 1]
    assert agreement > 0.75  # the right weights, in four bits


# Saving


@pytest.mark.parametrize("tied", [False, True])
def test_a_plain_save_is_native_and_bidirectional_for_transformers_alone(tmp_path: Path, tied: bool) -> None:
    write_checkpoint(tmp_path / "llada", weight_tying=tied)
    loaded = load_model(str(tmp_path / "llada"))
    expected = logits_of(loaded.model)
    loaded.model.save_pretrained(tmp_path / "plain")  # as a trainer does
    save_model(loaded.model, tmp_path / "native", tokenizer=loaded.tokenizer)
    for name in ("plain", "native"):
        names = load_file(tmp_path / name / "model.safetensors").keys()
        assert all(key.startswith(("model.layers.", "model.embed_tokens.", "model.norm.", "lm_head.")) for key in names)
        assert AutoConfig.from_pretrained(tmp_path / name).is_causal is False
        torch.testing.assert_close(logits_of(LlamaForCausalLM.from_pretrained(tmp_path / name)), expected)
    again = load_model(str(tmp_path / "native"))
    torch.testing.assert_close(logits_of(again.model), expected)
    assert diffusion_settings(again.model) == diffusion_settings(loaded.model)


@pytest.mark.parametrize("shards", ["5GB", "40KB"])
@pytest.mark.parametrize("changes", [{}, {"weight_tying": True}, {"n_kv_heads": 2}], ids=["plain", "tied", "grouped"])
def test_the_original_layout_comes_back_exactly(tmp_path: Path, changes: dict[str, Any], shards: str) -> None:
    config, weights = write_checkpoint(tmp_path / "llada", **changes)
    loaded = load_model(str(tmp_path / "llada"))
    save_model(loaded.model, tmp_path / "again", layout="llada", tokenizer=loaded.tokenizer, max_shard_size=shards)
    files = sorted((tmp_path / "again").glob("*.safetensors"))
    saved = {name: weight for file in files for name, weight in load_file(file).items()}
    assert saved.keys() == weights.keys() and (len(files) > 1) == (shards == "40KB")
    assert all(torch.equal(saved[name], weight) for name, weight in weights.items())
    fields = json.loads((tmp_path / "again" / "config.json").read_text(encoding="utf-8"))
    own = {"auto_map", "torch_dtype"}
    assert {name: config[name] for name in fields.keys() - own} == {name: fields[name] for name in fields.keys() - own}
    again = load_model(str(tmp_path / "again"))
    torch.testing.assert_close(logits_of(again.model), logits_of(loaded.model), rtol=0, atol=0)
    assert diffusion_settings(again.model) == diffusion_settings(loaded.model)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "again", trust_remote_code=False)) == len(loaded.tokenizer)


def test_gathered_weights_can_be_handed_in(tmp_path: Path) -> None:
    _, weights = write_checkpoint(tmp_path / "llada")
    model = load_model(str(tmp_path / "llada")).model
    gathered = {name: torch.zeros_like(weight) for name, weight in model.state_dict().items()}
    save_model(model, tmp_path / "again", layout="llada", state_dict=gathered)
    saved = load_file(tmp_path / "again" / "model.safetensors")
    assert saved.keys() == weights.keys() and not any(weight.any() for weight in saved.values())


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("model_type", "qwen2", "is a qwen2, not a Llama or Qwen3-MoE"),
        ("block_length", 4, "attends in blocks"),
        ("is_causal", True, "is causal"),
        ("shifted_logits", True, "has shifted logits"),
        ("attention_bias", True, "has attention biases"),
        ("mlp_bias", True, "has biases in its MLP"),
        ("hidden_act", "gelu", "has an activation other than silu"),
        ("rope_parameters", {"rope_type": "llama3", "rope_theta": 1e4}, "has llama3 rotary embeddings"),
        ("head_dim", 16, "has a head_dim of its own"),
    ],
)
def test_what_lladas_layout_has_no_words_for_is_refused(tmp_path: Path, field: str, value: Any, reason: str) -> None:
    write_checkpoint(tmp_path)
    config = load_model(str(tmp_path)).model.config
    config.__dict__[field] = value
    if field == "model_type":
        config = type("Other", (), {**vars(config), "model_type": value})
    with pytest.raises(ConfigurationError, match=f"cannot be saved in LLaDA's layout: it {reason}.*layout='native'"):
        llada_fields(config)


def test_an_adapter_an_unknown_layout_and_an_unknown_weight_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    model: Any = load_model(str(tmp_path)).model
    with pytest.raises(ConfigurationError, match="layout is 'gguf'; expected one of native, llada, sdar"):
        save_model(model, tmp_path, layout="gguf")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="weight model.layers.0.self_attn.q_norm.weight has no place"):
        llada_names(["model.norm.weight", "model.layers.0.self_attn.q_norm.weight"])
    adapter: Any = get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with pytest.raises(ConfigurationError, match="whole models only, not adapters.*merge_and_unload"):
        save_model(adapter, tmp_path / "adapter", layout="llada")
    save_model(adapter.merge_and_unload(), tmp_path / "merged", layout="llada")
