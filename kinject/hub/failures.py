"""Says in one line why the Hub did not do what was asked, and what helps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from kinject.errors import HubError, KinjectError

_LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN to a token with write access."
_QUOTA = re.compile(r"quota|storage|\bspace\b|payment|billing", re.IGNORECASE)


@contextmanager
def explained(repository: str, advice: str = "") -> Iterator[None]:
    """Turn whatever a request to the Hub about ``repository`` raises into one `HubError` that ends with ``advice``.

    Raises:
        HubError: the block failed.
    """
    # huggingface_hub raises all of these: for answers, for connections that break, for uploads and their batches.
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except KinjectError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        message, transient = reason(error, repository)
        raise HubError(f"{message} {advice}".rstrip(), transient=transient) from error


def reason(error: BaseException, repository: str) -> tuple[str, bool]:
    """Why ``error`` came, with the fix, and whether it may pass by itself.

    Args:
        error: What huggingface_hub raised; its causes are looked into.
        repository: `user/name`.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
    )

    causes = list(_causes(error))
    uploading = next((found[1] for each in causes if (found := _UPLOADING.search(str(each)))), None)
    during = f" while {uploading} was uploaded" if uploading else ""
    for cause in causes:
        if isinstance(cause, LocalTokenNotFoundError):
            return f"there is no access token. {_LOG_IN}", False
        if isinstance(cause, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set, so the Hub is not asked. Unset it.", False
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            said = _one_line(cause.server_message or cause.response.reason_phrase)
            return _answered(status, said, repository, during), status == 429 or status >= 500
        if isinstance(cause, (HTTPError, ConnectionError, TimeoutError)):
            what = _one_line(f"{type(cause).__name__} {cause}")
            return f"the connection to {constants.ENDPOINT} failed{during} ({what}). Check the network.", True
    said = _one_line(str(error))
    if _QUOTA.search(said):
        return _answered(413, said, repository, during), False
    return f"{said.rstrip('.')}.", False


_UPLOADING = re.compile(r"Error while uploading '([^']+)'")


def _answered(status: int, said: str, repository: str, during: str) -> str:
    """Why the Hub answered with ``status``."""
    owner = repository.split("/")[0]
    answer = f"(the Hub says {status}: {said.rstrip('.')})"
    if status in (402, 413, 507) or (status == 403 and _QUOTA.search(said)):
        return f"the Hub has no room for this{during} {answer}. Free space there, or raise the quota of '{owner}'."
    if status == 401:
        return f"the access token is not accepted{during} {answer}. {_LOG_IN}"
    if status == 403:
        return f"the access token may not write to {repository}{during} {answer}. Use a token with write access to '{owner}'."
    if status == 404:
        return f"{repository} is not there, or hidden from this token{during} {answer}. Check the name and the token."
    if status in (409, 412):
        return f"{repository} was changed by someone else at the same time{during} {answer}. Try again."
    if status == 429:
        return f"there were too many requests{during} {answer}. Wait a few minutes."
    if status >= 500:
        return f"the Hub failed, also when asked again{during} {answer}. Wait a few minutes."
    return f"the Hub refused{during} {answer}."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
