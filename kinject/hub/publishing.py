"""Publishes a trained directory: the adapter or model, its tokenizer, its card, and nothing else, in one commit.

A push that fails costs nothing: the directory is only read, the error names the command that resumes, and files that are
already on the Hub are not uploaded again. Knows nothing of training.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kinject.compat import is_hub_id
from kinject.errors import ConfigurationError, HubError, KinjectError
from kinject.hub.staging import (
    adapter_base,
    is_adapter,
    model_files,
    replaceable,
    require_finite_files,
    require_fitting_options,
    stage,
    staging_directory,
    uploads,
)
from kinject.models.names import model_settings, require_complete, require_kind, require_model
from kinject.models.saving import Layout

if TYPE_CHECKING:
    from huggingface_hub import HfApi


# Errors of the Hub, explained in one line with what helps.

_LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN to a token with write access."
_QUOTA = re.compile(r"quota|storage|\bspace\b|payment|billing", re.IGNORECASE)


@contextmanager
def explained(repository: str, advice: str = "") -> Iterator[None]:
    """Turn any error of a request to the Hub about ``repository`` into one `HubError` that ends with ``advice``.

    Raises:
        HubError: the block failed.
    """
    # huggingface_hub raises all of these: for refusals, for broken connections, and for uploads.
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except KinjectError:
        raise
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        message, transient = reason(error, repository)
        raise HubError(f"{message} {advice}".rstrip(), transient=transient) from error


def reason(error: BaseException, repository: str) -> tuple[str, bool]:
    """The reason for ``error`` with the fix, and whether the same request may succeed later.

    Args:
        error: What huggingface_hub raised; its causes are searched, too.
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
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno is not None:  # of this machine, such as a full disk
            return f"{_one_line(str(cause))}.", False
    said = _one_line(str(error))
    if _QUOTA.search(said):
        return _answered(413, said, repository, during), False
    return f"{said.rstrip('.')}.", False


_UPLOADING = re.compile(r"Error while uploading '([^']+)'")


def _answered(status: int, said: str, repository: str, during: str) -> str:
    """The reason for an answer with this HTTP ``status``, with the fix."""
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


@dataclass(frozen=True)
class Push:
    """The result of a push.

    Attributes:
        repository: `user/name`.
        url: Of its page.
        commit: The commit, which names a revision that never changes.
        files: Names of the published files, whether uploaded now or before.
        notes: Remarks for readers of the repository.
    """

    repository: str
    url: str
    commit: str
    files: tuple[str, ...]
    notes: tuple[str, ...] = ()


def push(
    directory: str | os.PathLike[str],
    repository: str,
    *,
    private: bool = False,
    merge: bool = False,
    layout: Layout = "native",
    base: str | None = None,
    include_documents: bool = False,
    benchmark: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    message: str | None = None,
    report: str | os.PathLike[str] | None = None,
    space: bool = False,
) -> Push:
    """Publish ``directory`` as ``repository``, which is created if need be.

        kinject push outputs/masked user/repo --private
        kinject push outputs/masked user/repo-merged --merge

    Published are weights (safetensors), settings, tokenizer, card, `results.json` and the plot; never checkpoints,
    optimizer states, training arguments or logs, access tokens or local paths. Files of an earlier push that are not part of
    this one are removed, so that no adapter is left beside the whole model into which it was merged.

    Args:
        directory: Holds an adapter or a whole model: the `output_dir` of a run, or a directory of `save_pretrained`.
        repository: `user/name` on the Hub at HF_ENDPOINT.
        private: Create a private repository; one that is public is refused.
        merge: Publish a whole model: the adapter merged into its base.
        layout: Names of a whole model's weights: `native` is what transformers loads, `llada` what LLaDA's code does.
        base: The base model's Hub id, where the adapter was trained on a local copy of it.
        include_documents: Whether card and `results.json` hold documents and answers, not only scores.
        benchmark: The Hub data set to whose tasks the scores in `.eval_results` belong; default: the run's own data set, if it
            is on the Hub. Without either there are no such scores.
        revision: A branch other than `main`; created if need be.
        token: Access token; default: HF_TOKEN, or that of `hf auth login`.
        message: Of the commit.
        report: The directory of `results.json`, if it is not ``directory``.
        space: Whether `push_space` comes next, so that the command in an error does that, too.

    Raises:
        ConfigurationError: the directory cannot be published like this.
        HubError: the Hub refuses, fails or cannot be reached; nothing is lost.
    """
    source = Path(directory)
    options = {"--layout": layout if layout != "native" else None, "--base": base, "--revision": revision}
    options["--benchmark"] = benchmark
    switches = {"--private": private, "--merge": merge, "--include_documents": include_documents, "--space": space}
    command = ["kinject", "push", str(directory), repository, *(name for name, given in switches.items() if given)]
    command += [part for name, value in options.items() if value for part in (name, value)]
    advice = f"Nothing is lost: '{directory}' is complete. To resume, run: {shlex.join(command)}"

    check_repository_name(repository)
    files = model_files(source)
    require_fitting_options(source, merge=merge, layout=layout, base=base)  # before torch is imported
    require_complete(source)
    if merge:
        require_model(str(source))
    elif not is_adapter(source):
        require_kind(model_settings(source) or {}, source.name, trusted=True)  # a push runs no code of theirs
    with explained(repository, advice):
        require_token(token)
    require_finite_files(files)  # imports torch
    with explained(repository, advice):
        api = prepare_repository(repository, private=private, revision=revision, token=token)
    notes = _check_base(api, source, base, advice) if is_adapter(source) and not merge else ()
    with staging_directory(source, roomy=merge or layout != "native") as staged:
        chosen = stage(
            source,
            staged,
            repository,
            merge=merge,
            layout=layout,
            base=base,
            include_documents=include_documents,
            benchmark=benchmark,
            report=None if report is None else Path(report),
        )
        with explained(repository, advice):
            commit = _upload(api, repository, chosen, revision, message or "Push with kinject")
    return Push(repository, f"{api.endpoint}/{repository}", commit, tuple(sorted(chosen)), notes)


def check_repository_name(repository: str) -> None:
    """Refuse a name that is not a Hub id.

    Raises:
        ConfigurationError: ``repository`` is not of the form user/name.
    """
    if not is_hub_id(repository):
        raise ConfigurationError(
            f"'{repository}' names no repository; expected user/name, as in ada/people-of-nowhere."
        )


def require_token(token: str | None = None) -> str:
    """``token``, else that of HF_TOKEN or `hf auth login`.

    Raises:
        OSError: there is none, as huggingface_hub's own error.
    """
    from huggingface_hub.errors import LocalTokenNotFoundError
    from huggingface_hub.utils import get_token

    found = token or get_token()
    if found is None:
        raise LocalTokenNotFoundError("no token")
    return found


def prepare_repository(
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    space: bool = False,
) -> HfApi:
    """Log in, and create ``repository``, a model or a Space, and its branch ``revision`` where they are missing.

    Returns:
        The client for further requests.

    Raises:
        HubError: there is no token, or ``repository`` is public though ``private`` is asked for.
        OSError: huggingface_hub's own errors.
    """
    from huggingface_hub import HfApi, constants

    api = HfApi(endpoint=constants.ENDPOINT, token=require_token(token), library_name="kinject")
    kind: dict[str, Any] = {"repo_type": "space"} if space else {}
    made: dict[str, Any] = {**kind, "space_sdk": "gradio"} if space else {}
    api.create_repo(repository, private=private or None, exist_ok=True, **made)
    if private and not api.repo_info(repository, **kind).private:
        raise HubError(
            f"{repository} is public, and --private was asked for; nothing was uploaded. Make it private in its settings "
            "on the Hub, or choose another name."
        )
    if revision is not None:
        api.create_branch(repository, branch=revision, exist_ok=True)
    return api


def _check_base(api: HfApi, directory: Path, base: str | None, advice: str) -> tuple[str, ...]:
    """Check that others can load the base model of an adapter.

    Returns:
        Remarks for readers of the repository.

    Raises:
        ConfigurationError: the base is neither on the Hub nor a model that comes with kinject.
    """
    from kinject.models.names import OWN_MODELS

    named = base or adapter_base(directory)
    if named in OWN_MODELS:
        return (f"its base {named} comes with kinject: it loads with kinject.load, not with peft alone.",)
    fits = named.count("/") == 1 and not named.startswith((".", "/", "~")) and (base or not Path(named).exists())
    with explained(named, advice):
        if fits and api.repo_exists(named):
            return ()
    raise ConfigurationError(
        f"the adapter's base model '{Path(named).name if not fits else named}' is not on {api.endpoint}, so nobody else "
        "could load the adapter. Name it with --base user/name (publish it with kinject push first, if need be), or publish "
        "a whole model with --merge."
    )


def _upload(api: HfApi, repository: str, chosen: dict[str, Path], revision: str | None, message: str) -> str:
    """Commit all of ``chosen`` and return the commit; the client does not upload files again that are there."""
    from huggingface_hub import CommitOperationDelete

    there = api.list_repo_files(repository, revision=revision)
    stale = [CommitOperationDelete(path) for path in there if replaceable(path) and path not in chosen]
    operations = [*uploads(chosen), *stale]
    made = api.create_commit(repository, operations, commit_message=message, revision=revision)
    return made.oid


# A Space beside the model: the page of `kinject app`.

_SPACE = """\
---
title: {title}
sdk: gradio
sdk_version: {gradio}
app_file: app.py
models:
- {repository}
---

The trained model [{repository}](https://huggingface.co/{repository}) beside the model it came from, as `kinject app`
shows them.
"""
_APP = """\
from kinject.cli import main

main(["app", "{repository}", "--host", "0.0.0.0", "--port", "7860"])
"""


def push_space(repository: str, *, private: bool = False, token: str | None = None) -> Push:
    """Publish the page of `kinject app` for the model ``repository`` as a Space of the same name.

    The Space holds a copy of kinject and a list of the packages that it needs. For a private model it needs a secret HF_TOKEN.

    Args:
        repository: `user/name` of a model that was pushed.
        private: Create a private Space; one that is public is refused.
        token: Access token; default: HF_TOKEN, or that of `hf auth login`.

    Raises:
        ConfigurationError: ``repository`` is not a Hub id.
        HubError: the Hub refuses, fails or cannot be reached; the model is not touched.
    """
    from huggingface_hub import CommitOperationAdd

    check_repository_name(repository)
    files = space_files(repository)
    with explained(repository, "The model is complete. To resume, run the same command again."):
        api = prepare_repository(repository, private=private, token=token, space=True)
        operations = [CommitOperationAdd(name, content) for name, content in sorted(files.items())]
        made = api.create_commit(repository, operations, commit_message="Push with kinject", repo_type="space")
    notes = ("give the Space a secret HF_TOKEN that may read the model, which is private.",) if private else ()
    return Push(repository, f"{api.endpoint}/spaces/{repository}", made.oid, tuple(sorted(files)), notes)


def space_files(repository: str) -> dict[str, bytes]:
    """The files of the Space of ``repository``, by name."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    wanted = [Requirement(each) for each in requires("kinject") or ()]
    needed = [
        each
        for each in wanted
        if each.name != "gradio" and (each.marker is None or each.marker.evaluate({"extra": ""}))
    ]
    try:
        gradio = version("gradio")
    except PackageNotFoundError:
        gradio = "6.0.0"
    title = repository.split("/")[1]
    package = Path(__file__).parents[1]
    files = {
        f"kinject/{path.relative_to(package).as_posix()}": path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    return files | {
        "README.md": _SPACE.format(title=title, gradio=gradio, repository=repository).encode(),
        "app.py": _APP.format(repository=repository).encode(),
        "requirements.txt": "".join(f"{each.name}{each.specifier}\n" for each in needed).encode(),
    }
