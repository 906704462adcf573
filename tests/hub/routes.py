"""What the local Hub answers to which request.

The paths and fields are those that huggingface_hub 2.4 sends and reads with `HF_HUB_DISABLE_XET=1`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote

from tests.hub import large_files
from tests.hub.messages import Answer, Request, deliver, digest, error
from tests.hub.repositories import Commit, Repository, is_large

if TYPE_CHECKING:
    from tests.hub.server import LocalHub

DATE = "2026-01-01T00:00:00.000Z"


def answer(hub: LocalHub, request: Request) -> Answer:
    """The answer to ``request``."""
    if request.token is not None and request.token not in hub.store.tokens:
        return error(401, "Invalid credentials in Authorization header")
    for method, pattern, route in _ROUTES:
        found = re.fullmatch(pattern, request.path)
        if method == request.method and found:
            return route(hub, request, **{name: unquote(text or "") for name, text in found.groupdict().items()})
    return error(404, f"the local Hub has no {request.method} {request.path}", "EntryNotFound")


# Accounts, and repositories as a whole.


def _whoami(hub: LocalHub, request: Request) -> Answer:
    if request.token is None:
        return error(401, "Invalid username or password.")
    user, role = hub.store.tokens[request.token]
    auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
    return Answer(200, {"type": "user", "name": user, "fullname": user, "orgs": [], "auth": auth})


def _validate(hub: LocalHub, request: Request) -> Answer:
    import yaml

    text = request.json()["content"]
    found = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    try:
        fields = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError as fault:
        return Answer(400, {"errors": [{"message": f"not valid YAML: {fault}"}], "warnings": []})
    if not isinstance(fields, dict):
        return Answer(400, {"errors": [{"message": "the metadata is no mapping"}], "warnings": []})
    named = [("base_model", "model", fields.get("base_model"))]
    named += [(f"datasets[{index}]", "dataset", each) for index, each in enumerate(fields.get("datasets") or ())]
    for field, kind, value in named:
        if value is not None and not re.fullmatch(r"([\w.-]+/)?[\w.-]+", str(value), re.ASCII):
            said = f'"{field}" with value "{value}" is not valid. Use a {kind} id from https://hf.co/{kind}s.'
            return Answer(400, {"errors": [{"message": said}], "warnings": []})
    return Answer(200, {"errors": [], "warnings": []})


def _create(hub: LocalHub, request: Request) -> Answer:
    fields = request.json()
    kind = f"{fields.get('type') or 'model'}s"
    if request.token is None:
        return error(401, "Invalid username or password.")
    user, _ = hub.store.tokens[request.token]
    name = f"{fields.get('organization') or user}/{fields['name']}"
    refused = _refuse_writing(hub, request, name)
    if refused is not None:
        return refused
    url = f"{hub.endpoint}/{'' if kind == 'models' else kind + '/'}{name}"
    if (kind, name) in hub.store.repositories:
        return Answer(409, {"error": "You already created this repo", "url": url})
    hub.store.create(kind, name, private=fields.get("visibility") == "private" or bool(fields.get("private")))
    return Answer(200, {"url": url, "id": name, "name": name})


def _delete(hub: LocalHub, request: Request) -> Answer:
    fields = request.json()
    user, _ = hub.store.tokens.get(request.token or "", ("", ""))
    key = f"{fields.get('type') or 'model'}s", f"{fields.get('organization') or user}/{fields['name']}"
    refused = _refuse_writing(hub, request, key[1])
    if refused is not None:
        return refused
    if hub.store.repositories.pop(key, None) is None:
        return error(404, "Repository not found", "RepoNotFound")
    return Answer(200, b"OK", {"Content-Type": "text/plain"})


def _refuse_writing(hub: LocalHub, request: Request, name: str) -> Answer | None:
    if request.token is None:
        return error(401, "Invalid username or password.")
    user, role = hub.store.tokens[request.token]
    if role != "write" or name.split("/")[0] != user:
        return error(403, f"You don't have the rights to write to {name}")
    return None


# Reading a repository.

_Reader = Callable[..., Answer]


def _reads(route: _Reader) -> _Reader:
    """Give ``route`` the repository it names, if the client may see it, and the commit at its revision."""

    def reading(hub: LocalHub, request: Request, kind: str, name: str, revision: str = "main", **rest: str) -> Answer:
        kind = kind.rstrip("/") or "models"
        repository = hub.store.repositories.get((kind, name))
        user, _ = hub.store.tokens.get(request.token or "", ("", ""))
        if repository is None or (repository.private and name.split("/")[0] != user):
            return error(404 if user else 401, "Repository not found", "RepoNotFound")
        commit = repository.at(revision)
        if commit is None:
            return error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return route(hub, request, repository, commit, **rest)

    return reading


@_reads
def _info(hub: LocalHub, request: Request, repository: Repository, commit: Commit) -> Answer:
    fields = {
        "_id": "0" * 24,
        "id": repository.name,
        "author": repository.name.split("/")[0],
        "sha": commit.oid,
        "private": repository.private,
        "disabled": False,
        "gated": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "lastModified": DATE,
        "createdAt": DATE,
        "siblings": [{"rfilename": path} for path in commit.files],
    }
    return Answer(200, {**fields, **({"modelId": repository.name} if repository.kind == "models" else {})})


@_reads
def _tree(hub: LocalHub, request: Request, repository: Repository, commit: Commit, path: str = "") -> Answer:
    folder = f"{path.strip('/')}/" if path.strip("/") else ""
    below = {name: blob for name, blob in commit.files.items() if name.startswith(folder)}
    if folder and not below:
        return error(404, f"{path} does not exist on {commit.oid}", "EntryNotFound")
    recursive = parse_qs(request.query).get("recursive", ["false"])[0].lower() in ("true", "1")
    here = {name: blob for name, blob in below.items() if recursive or "/" not in name.removeprefix(folder)}
    folders = sorted({folder + name.removeprefix(folder).split("/")[0] for name in below if name not in here})
    listed = [{"type": "directory", "path": name, "oid": digest(name), "size": 0} for name in folders]
    return Answer(200, listed + [blob.described(name) for name, blob in here.items()])


@_reads
def _paths_info(hub: LocalHub, request: Request, repository: Repository, commit: Commit) -> Answer:
    if request.body.lstrip().startswith(b"{"):
        paths = request.json()["paths"]
    else:
        paths = parse_qs(request.body.decode()).get("paths", [])
    return Answer(200, [commit.files[path].described(path) for path in paths if path in commit.files])


@_reads
def _refs(hub: LocalHub, request: Request, repository: Repository, commit: Commit) -> Answer:
    def listed(kind: str, refs: dict[str, Commit]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": head.oid} for name, head in refs.items()]

    branches, tags = listed("heads", repository.branches), listed("tags", repository.tags)
    return Answer(200, {"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


@_reads
def _commits(hub: LocalHub, request: Request, repository: Repository, commit: Commit) -> Answer:
    entries = [{"id": each.oid, "title": each.title, "message": "", "date": DATE} for each in commit.history()]
    return Answer(200, [{**entry, "authors": []} for entry in entries])


@_reads
def _discussions(hub: LocalHub, request: Request, repository: Repository, commit: Commit) -> Answer:
    return Answer(200, {"discussions": [], "count": 0, "start": 0})


@_reads
def _resolve(hub: LocalHub, request: Request, repository: Repository, commit: Commit, path: str) -> Answer:
    blob = commit.files.get(path)
    headers = {"X-Repo-Commit": commit.oid}
    if blob is None:
        missing = error(404, "Entry not found", "EntryNotFound")
        return Answer(404, missing.body, {**missing.headers, **headers})
    if blob.sha256 is None:
        return deliver(blob.content, request, {**headers, "ETag": f'"{blob.oid}"'})
    linked = {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size), "ETag": f'"{blob.oid}"'}
    return Answer(302, b"", {**headers, **linked, "Location": f"{hub.storage}/lfs/{blob.sha256}"})


# Writing to a repository.


def _writes(route: _Reader) -> _Reader:
    """As `_reads`, for those who may write."""
    reading = _reads(route)

    def writing(hub: LocalHub, request: Request, name: str, **rest: str) -> Answer:
        return _refuse_writing(hub, request, name) or reading(hub, request, name=name, **rest)

    return writing


@_writes
def _preupload(hub: LocalHub, request: Request, repository: Repository, commit: Commit) -> Answer:
    files = []
    for each in request.json()["files"]:
        known = commit.files.get(each["path"])
        entry = {"path": each["path"], "shouldIgnore": False}
        entry["uploadMode"] = "lfs" if is_large(each["path"], each["size"]) else "regular"
        files.append({**entry, **({"oid": known.sha256 or known.oid} if known else {})})
    return Answer(200, {"files": files})


@_writes
def _commit(hub: LocalHub, request: Request, repository: Repository, commit: Commit) -> Answer:
    branch = unquote(request.path.rsplit("/", 1)[1])
    if branch not in repository.branches:
        return error(400, "commits go on top of a branch")
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    parent = next((line["value"].get("parentCommit") for line in lines if line["key"] == "header"), None)
    if parent not in (None, commit.oid):
        return error(412, "A commit has happened since. Please refresh and try again.")
    try:
        made = hub.store.apply(repository, branch, lines)
    except KeyError as missing:
        return error(400, f"LFS pointer pointed to a file that does not exist: {missing}")
    url = f"{hub.endpoint}/{repository.name}/commit/{made.oid}"
    return Answer(200, {"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})


@_writes
def _branch(hub: LocalHub, request: Request, repository: Repository, commit: Commit, branch: str) -> Answer:
    start = repository.at(request.json().get("startingPoint") or "main")
    if branch in repository.branches:
        return error(409, "Reference already exists")
    if start is None:
        return error(404, "Invalid rev id", "RevisionNotFound")
    repository.branches[branch] = start
    return Answer(200, {})


@_writes
def _tag(hub: LocalHub, request: Request, repository: Repository, commit: Commit) -> Answer:
    name = request.json()["tag"]
    if name in repository.tags:
        return error(409, "Tag reference exists already")
    repository.tags[name] = commit
    return Answer(200, {})


_NAME = r"(?P<name>[^/]+/[^/]+)"
_API = rf"/api/(?P<kind>models|datasets|spaces)/{_NAME}"
_PAGE = rf"/(?P<kind>datasets/|spaces/)?{_NAME}"
_REVISION = r"/(?P<revision>[^/]+)"
_ROUTES: list[tuple[str, str, _Reader]] = [
    ("GET", "/api/whoami-v2", _whoami),
    ("POST", "/api/validate-yaml", _validate),
    ("POST", "/api/repos/create", _create),
    ("DELETE", "/api/repos/delete", _delete),
    ("GET", _API, _info),
    ("GET", rf"{_API}/revision{_REVISION}", _info),
    ("GET", rf"{_API}/tree{_REVISION}(?:/(?P<path>.*))?", _tree),
    ("POST", rf"{_API}/paths-info{_REVISION}", _paths_info),
    ("GET", rf"{_API}/refs", _refs),
    ("GET", rf"{_API}/commits{_REVISION}", _commits),
    ("GET", rf"{_API}/discussions", _discussions),
    ("POST", rf"{_API}/preupload{_REVISION}", _preupload),
    ("POST", rf"{_API}/commit{_REVISION}", _commit),
    ("POST", rf"{_API}/branch/(?P<branch>[^/]+)", _branch),
    ("POST", rf"{_API}/tag{_REVISION}", _tag),
    ("POST", rf"{_PAGE}\.git/info/lfs/objects/batch", _writes(large_files.batch)),
    ("POST", rf"{_PAGE}\.git/info/lfs/objects/verify", _writes(large_files.verify)),
    ("GET", rf"{_PAGE}/resolve{_REVISION}/(?P<path>.+)", _resolve),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", large_files.put),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})/part/(?P<part>\d+)", large_files.put_part),
    ("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/complete", large_files.complete),
    ("GET", r"/lfs/(?P<oid>[0-9a-f]{64})", large_files.get),
]
