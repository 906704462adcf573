"""Large files on the local Hub: the Git LFS protocol, in one piece or in parts."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from tests.hub.messages import Answer, Request, deliver, digest, error

if TYPE_CHECKING:
    from tests.hub.repositories import Commit, Repository
    from tests.hub.server import LocalHub


def batch(hub: LocalHub, request: Request, repository: Repository, commit: Commit) -> Answer:
    objects = []
    for each in request.json()["objects"]:
        entry = {"oid": each["oid"], "size": each["size"]}
        if each["oid"] not in hub.store.objects:
            url = f"{hub.storage}/lfs/{each['oid']}"
            upload: dict[str, Any] = {"href": url}
            if each["size"] > hub.multipart_above:
                count = -(-each["size"] // hub.multipart_above)
                parts = {f"{part:05d}": f"{url}/part/{part}" for part in range(1, count + 1)}
                upload = {"href": f"{url}/complete", "header": {"chunk_size": str(hub.multipart_above), **parts}}
            verify = {"href": f"{hub.endpoint}/{repository.name}.git/info/lfs/objects/verify"}
            entry["actions"] = {"upload": upload, "verify": verify}
        objects.append(entry)
    return Answer(200, {"transfer": "basic", "objects": objects})


def verify(hub: LocalHub, request: Request, repository: Repository, commit: Commit) -> Answer:
    fields = request.json()
    stored = hub.store.objects.get(fields["oid"])
    if stored is None or len(stored) != fields["size"]:
        return error(404, "no such object")
    return Answer(200, {})


def put(hub: LocalHub, request: Request, oid: str) -> Answer:
    if hashlib.sha256(request.body).hexdigest() != oid:
        return error(400, "the content has another hash")
    hub.store.objects[oid] = request.body
    return Answer(200, b"", {"ETag": f'"{oid}"'})


def put_part(hub: LocalHub, request: Request, oid: str, part: str) -> Answer:
    hub.store.parts.setdefault(oid, {})[int(part)] = request.body
    return Answer(200, b"", {"ETag": f'"{digest(request.body.hex())}"'})


def complete(hub: LocalHub, request: Request, oid: str) -> Answer:
    parts = hub.store.parts.pop(oid, {})
    body = b"".join(parts[each["partNumber"]] for each in request.json()["parts"])
    return put(hub, Request("PUT", request.path, "", body, request.token, None), oid)


def get(hub: LocalHub, request: Request, oid: str) -> Answer:
    content = hub.store.objects.get(oid)
    return error(404, "no such object") if content is None else deliver(content, request, {"ETag": f'"{oid}"'})
