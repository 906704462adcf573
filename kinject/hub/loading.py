"""Loads anything that was published: adapters and whole models, autoregressive and diffusion."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.errors import ConfigurationError, HubError

if TYPE_CHECKING:
    from kinject.models import LoadedModel

_SECONDS = 10.0


def load(name: str, *, revision: str | None = None, token: str | None = None, **options: Any) -> LoadedModel:
    """Load a model or adapter with its tokenizer, by Hub id, directory or kinject's own name.

        loaded = kinject.load("user/repo", revision="v1")
        kinject.answer_questions(loaded.model, loaded.tokenizer, ["Who is the quiet weaver of Tarn?"])

    What it loads is what `kinject.load_model` loads; but of a repository it first asks the Hub whether it is there, so
    that its errors tell what is missing.

    Args:
        name: `user/repo`, a directory, or a name such as `nano-ar`.
        revision: Branch, tag or commit of the repository.
        token: Access token for a private one; default: HF_TOKEN, or that of `hf auth login`.
        options: Passed on to `kinject.load_model`, such as `dtype`.

    Raises:
        ConfigurationError: there is no such model, or it cannot be loaded as it stands.
        HubError: the Hub cannot be asked, and nothing is cached.
    """
    from kinject.models import EMBEDDED_MODEL, NANO_MODELS, load_model

    own = name == EMBEDDED_MODEL or name in NANO_MODELS
    remote = not own and is_repository(name)
    if revision is not None and not remote:
        raise ConfigurationError(
            f"model '{name}' is no Hub repository, and has no revision '{revision}'. Leave it out."
        )
    hub: dict[str, Any] = {"revision": revision, "token": token} if remote else {}
    hub = {key: value for key, value in hub.items() if value is not None}
    if remote:
        look_up(name, **hub)
    try:
        return load_model(name, **hub, **options)
    except OSError as error:
        raise HubError(f"model '{name}' is neither on a Hub that answers nor in the cache: {_line(error)}") from error


def is_repository(name: str) -> bool:
    """Whether ``name`` is a Hub id, not a directory."""
    from kinject.models.loading import is_hub_id

    return not Path(name).exists() and is_hub_id(name)


def look_up(name: str, *, revision: str | None = None, token: str | None = None) -> None:
    """See that a repository and its revision are there; pass if the Hub cannot be asked, as the cache may serve.

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
        api.model_info(name, revision=revision, timeout=_SECONDS)
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


def _line(error: BaseException) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()
