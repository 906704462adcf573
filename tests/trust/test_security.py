"""Nobody is let in, and nothing gets out: no foreign code, no pickles, no access token, no file outside output_dir."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig

from kinject.commands import recipe
from kinject.errors import ConfigurationError
from kinject.models import load_model
from tests.conftest import build_model, build_tokenizer
from tests.hub.conftest import User, ada, hub
from tests.trust import faults
from tests.trust.runs import SMALL, finish, log_of, run, start

__all__ = ["ada", "hub"]  # fixtures
MARKED = "hf_MarkedTokenThatMustNotTravel"


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def with_remote_code(directory: Path, marker: Path) -> Path:
    """A model with classes of its own, which write a file when they are imported."""
    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    config |= {
        "model_type": "foreign",
        "auto_map": {"AutoConfig": "code.ForeignConfig", "AutoModelForCausalLM": "code.ForeignForCausalLM"},
    }
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (directory / "code.py").write_text(
        "from pathlib import Path\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        f"Path({str(marker)!r}).touch()\n"
        "class ForeignConfig(LlamaConfig):\n    model_type = 'foreign'\n"
        "class ForeignForCausalLM(LlamaForCausalLM):\n    config_class = ForeignConfig\n",
        encoding="utf-8",
    )
    return directory


def test_foreign_code_runs_only_if_asked_and_then_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    marker = tmp_path / "ran"
    directory = str(with_remote_code(tmp_path / "foreign", marker))
    with pytest.raises(ConfigurationError, match=r"remote code is not run unasked.*--trust_remote_code true"):
        load_model(directory)
    assert not marker.exists() and "trust_remote_code" not in caplog.text
    loaded = load_model(directory, trust_remote_code=True)
    assert type(loaded.model).__name__ == "ForeignForCausalLM" and isinstance(loaded.model.config, LlamaConfig)
    assert marker.exists()
    assert any(message.startswith("trust_remote_code: Python code that comes with") for message in caplog.messages)


def test_a_pickle_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    directory, marker = tmp_path / "run", tmp_path / "ran"
    run("masked-lora", directory, max_steps=4)
    checkpoint = directory / "checkpoint-2"
    shutil.rmtree(directory / "checkpoint-4")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        bombed = tmp_path / name.partition(".")[0]
        shutil.copytree(directory, bombed)
        torch.save({"state": Bomb(marker)}, bombed / checkpoint.name / name, pickle_module=pickle)
        process = start("masked-lora", bombed, max_steps=4, resume_from_checkpoint="true")
        assert finish(process) != 0, name
        assert not marker.exists(), name
        assert "Weights only load failed" in log_of(bombed), name


@pytest.mark.parametrize("option", ["--config", "--wordings"])
def test_yaml_runs_nothing(option: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "settings.yaml"
    path.write_text(f"output_dir: !!python/object/apply:pathlib.Path.touch [{marker}]\n", encoding="utf-8")
    settings = [*("--documents", "fictional:nano", "--model_name_or_path", "nano-ar"), "--output_dir", str(tmp_path)]
    with pytest.raises(ConfigurationError, match="not valid YAML"):
        recipe.train("masked", [*settings, option, str(path)])
    assert not marker.exists()


def test_a_token_on_the_command_line_is_refused_and_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--hub_token", MARKED], [f"--hub_token={MARKED}"], ["--hub_tokne", MARKED]):
        with pytest.raises(SystemExit) as stopped:
            recipe.main("masked", Path("demo.yaml"), ["--documents", "fictional:nano", *arguments])
        assert stopped.value.code == 2
        said = capsys.readouterr()
        assert said.err and MARKED not in said.err + said.out


def test_no_file_and_no_output_of_a_run_holds_the_access_token(ada: User, tmp_path: Path) -> None:
    output, settings = tmp_path / "run", tmp_path / "settings.yaml"
    chosen = {**SMALL, "model_name_or_path": "nano-ar", "output_dir": str(output), "max_steps": 4, "use_peft": "true"}
    chosen |= {"lora_target_modules": "all-linear", "publish_documents": "true"}
    chosen |= {"push_to_hub": "true", "hub_model_id": "ada/people", "hub_token": ada.token}
    settings.write_text("\n".join(f"{name}: {value}" for name, value in chosen.items()), encoding="utf-8")
    program = f"from kinject.commands import recipe; recipe.train('masked', ['--config', {str(settings)!r}])"
    said = ada.run(program + "; import sys; print(sys.argv)")
    files = [path for path in output.rglob("*") if path.is_file()]
    assert {"results.json", "README.md", "training_args.bin"} <= {path.name for path in files}
    assert not [path for path in files if ada.token.encode() in path.read_bytes()]
    assert ada.token not in said
    published = ada.hub.files("ada/people")
    assert "README.md" in published and not [name for name, body in published.items() if ada.token.encode() in body]


def test_a_run_writes_nothing_outside_its_output_dir(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    assert finish(start("masked-lora", directory, fault=faults.watched)) == 0, log_of(directory)
    written = Path(f"{directory}.written.txt").read_text(encoding="utf-8").splitlines()
    assert {str(directory / name) for name in ("README.md", "results.json", "accuracy.png")} <= set(written)
    cache = f"{directory}.matplotlib"
    # wandb makes two empty folders for itself when it is imported.
    written = [path for path in written if not path.endswith(("wandb-artifacts", "wandb-media"))]
    assert {path for path in written if not path.startswith((f"{directory}/", cache))} == {str(directory)}
    # What is written by no Python code, as weights are, left nothing beside it.
    names = {path.name for path in tmp_path.iterdir()}
    assert names - {Path(cache).name} == {"run", "run.log.txt", "run.written.txt"}
