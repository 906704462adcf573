"""The private names that kinject leans on are all there, and stand in `kinject/compat.py` alone."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

from kinject import compat
from kinject.errors import ConfigurationError
from kinject.trainers import DiffusionSFTTrainer, DocumentSFTTrainer

PACKAGE = Path(compat.__file__).parent
HOOKS = [(owner, name) for owner, names in compat.OVERRIDDEN.items() for name in names]


@pytest.mark.parametrize(("owner", "name"), HOOKS)
def test_hook_is_there_and_takes_what_ours_takes(owner: str, name: str) -> None:
    package, _, class_name = owner.partition(".")
    theirs = getattr(getattr(importlib.import_module(package), class_name), name, None)
    assert theirs is not None, f"{owner} has no {name} any more: what kinject does there has to move"
    ours = getattr(DiffusionSFTTrainer, name)
    if ours is theirs:
        return
    known = inspect.signature(theirs).parameters
    for parameter in inspect.signature(ours).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            assert parameter.name in known, f"{owner}.{name} takes no {parameter.name} any more"


def private_names(tree: ast.AST) -> set[str]:
    """Private attributes that ``tree`` reads of anything, also by `getattr`."""
    found = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
            found |= {each.value for each in node.args[1:2] if isinstance(each, ast.Constant)}
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("kinject"):
            found |= {alias.name for alias in node.names}
    return {name for name in found if isinstance(name, str) and name.startswith("_") and not name.startswith("__")}


def own_names(tree: ast.AST) -> set[str]:
    """What ``tree`` defines: functions, classes, variables, and attributes that it sets."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Store):
            found.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return found


def test_no_other_file_touches_a_private_name() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if path.name != "compat.py"]
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in files}
    own = set().union(*(own_names(tree) for tree in trees.values())) | {
        "_asdict",
        "_replace",
    }  # public methods of a namedtuple
    hooks = {name for _, name in HOOKS}
    touched = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path, tree in trees.items()
        for name in private_names(tree) - own - hooks
    }
    assert touched == set()


def test_every_overridden_private_hook_is_listed() -> None:
    import transformers
    import trl

    listed = {name for _, name in HOOKS}
    theirs = {name for owner in (trl.SFTTrainer, transformers.Trainer) for name in vars(owner)}
    for ours in (DocumentSFTTrainer, DiffusionSFTTrainer):
        overridden = {name for name in vars(ours) if name.startswith("_") and not name.startswith("__")} & theirs
        assert overridden - {"_tag_names", "_name"} <= listed


def test_models_and_trainers_have_what_is_read() -> None:
    from transformers import AutoModelForCausalLM, DynamicCache, LlamaConfig, LlamaForCausalLM, Trainer
    from transformers.cache_utils import DynamicLayer

    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    model = LlamaForCausalLM(config)
    assert compat.attention_implementation(model) in ("sdpa", "eager")
    assert not compat.is_stateful(model) and hasattr(model, "_is_stateful")
    assert hasattr(model.config, "_name_or_path")
    assert hasattr(model, "is_activation_checkpointing") or hasattr(model, "is_gradient_checkpointing")
    assert type(config) in compat.causal_classes() and hasattr(AutoModelForCausalLM, "_model_mapping")
    assert {"keys", "values"} <= vars(DynamicLayer()).keys() and hasattr(DynamicCache(), "layers")
    for name in ("init_hf_repo", "push_to_hub", "create_model_card", "callback_handler"):
        assert hasattr(Trainer, name) or name == "callback_handler", name
    source = inspect.getsource(importlib.import_module("trl.trainer.sft_trainer"))
    for name in ("_metrics", "_total_train_tokens", "_tokenizer"):
        assert f"self.{name}" in source, f"trl's SFTTrainer sets no {name} any more"


@pytest.mark.parametrize("sizes", [{}, {"WORLD_SIZE": "2"}])
def test_silent_single_process_is_refused(monkeypatch: pytest.MonkeyPatch, sizes: dict[str, str]) -> None:
    for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "x", "MASTER_PORT": "1", **sizes}.items():
        monkeypatch.setenv(name, value)
    if sizes:
        compat.check_processes()
        return
    with pytest.raises(ConfigurationError, match="started one"):
        compat.check_processes()


def test_gradients_lie_in_their_buckets_and_the_graph_is_searched_for_experts_only() -> None:
    from types import SimpleNamespace

    from accelerate import DistributedDataParallelKwargs
    from transformers import LlamaConfig, MixtralConfig

    for config, asked, expected in (
        (LlamaConfig(), None, False),
        (LlamaConfig(), True, True),
        (MixtralConfig(num_local_experts=2), None, True),
        (None, None, True),
    ):
        arguments = {"kwargs_handlers": [DistributedDataParallelKwargs(find_unused_parameters=True)]}
        (handler,) = compat.shares_gradients(arguments, SimpleNamespace(config=config), asked)["kwargs_handlers"]
        assert handler.gradient_as_bucket_view and handler.find_unused_parameters is expected


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("user/name", True),
        ("Org-1/Model_2.5-x", True),
        ("1/2", True),
        ("name", False),
        ("a/b/c", False),
        ("./name", False),
        ("../name", False),
        ("~/name", False),
        ("/name", False),
        ("user/", False),
        ("user/na me", False),
        ("user/n\u00e4me", False),
        ("user/name\n", False),
        ("user/name.git", False),
        ("user/a--b", False),
        ("user/" + "x" * 97, False),
        ("", False),
    ],
)
def test_a_hub_id_is_what_the_hub_takes_for_one(name: str, is_one: bool) -> None:
    assert compat.is_hub_id(name) == is_one


def test_the_repository_of_a_cached_path_is_known(tmp_path: Path) -> None:
    from huggingface_hub.file_download import repo_folder_name

    folder = repo_folder_name(repo_id="user/some-name", repo_type="model")
    assert compat.cached_repository(str(tmp_path / folder / "snapshots" / "0123")) == "user/some-name"
    assert compat.cached_repository(str(tmp_path / "models" / "some-name")) is None


def test_what_is_read_in_the_sources_is_what_the_libraries_know() -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

    assert compat.causal_types() == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert compat.model_types() == set(MODEL_MAPPING_NAMES)
    assert {"bert", "roberta"} <= compat.encoder_types() and not {"llama", "bart", "gpt2"} & compat.encoder_types()
    known = set(ALL_ATTENTION_FUNCTIONS.valid_keys()) | {"eager"}
    assert {name for name in known if "|" not in name} == set(compat.ATTENTION)


@pytest.mark.parametrize("name", [None, "eager", "sdpa", "flex_attention", "paged|sdpa"])
def test_attention_without_a_package_needs_none(name: str | None) -> None:
    compat.require_attention(name, on_cpu=True)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("flash_attention_2", "flash_attn"),
        ("flash_attention_3", "flash_attn_interface"),
        ("owner/kernel@v1", "kernels"),
    ],
)
def test_attention_on_a_gpu_needs_its_package(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat.metadata, "version", lambda package: "2.11.0+cu128")
    monkeypatch.setattr(compat, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=f"the package {package} is not installed"):
        compat.require_attention(name)
    monkeypatch.setattr(compat, "find_spec", lambda name: name == package or None)
    compat.require_attention(name)
