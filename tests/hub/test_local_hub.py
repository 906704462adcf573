"""The local Hub speaks to the unmodified huggingface_hub client, and fails as the real one does."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.hub.conftest import User

LARGE = b"0123456789abcdef" * 750_000  # 12 MB: uploaded in parts


def test_a_repository_is_created_filled_listed_and_downloaded(ada: User, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "more").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(LARGE)
    (folder / "small.safetensors").write_bytes(b"small")
    (folder / "more" / "notes.txt").write_text("notes ü")
    printed = ada.run(f"""
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
api = HfApi()
print(api.whoami()["name"])
print(api.create_repo("ada/model", private=True).repo_id, api.create_repo("ada/model", exist_ok=True).repo_id)
first = api.upload_folder(repo_id="ada/model", folder_path={str(folder)!r})
again = api.upload_folder(repo_id="ada/model", folder_path={str(folder)!r})
print(first.oid == again.oid, sorted(api.list_repo_files("ada/model")))
api.create_tag("ada/model", tag="v1")
api.create_branch("ada/model", branch="draft")
api.delete_file("more/notes.txt", "ada/model")
print(sorted(api.list_repo_files("ada/model")), sorted(api.list_repo_files("ada/model", revision="v1"))[-1])
refs = api.list_repo_refs("ada/model")
print([each.name for each in refs.branches], [each.name for each in refs.tags], len(api.list_repo_commits("ada/model")))
print([(each.path, each.lfs is not None) for each in api.get_paths_info("ada/model", ["model.safetensors"])])
print([each.path for each in api.list_repo_tree("ada/model", revision="v1")])
print(open(hf_hub_download("ada/model", "more/notes.txt", revision="v1"), encoding="utf-8").read())
import hashlib, pathlib
path = pathlib.Path(snapshot_download("ada/model", revision="v1"))
print(hashlib.sha256((path / "model.safetensors").read_bytes()).hexdigest())
api.delete_repo("ada/model")
print(api.repo_exists("ada/model"))
""")
    assert printed.splitlines() == [
        "ada",
        "ada/model ada/model",
        "True ['.gitattributes', 'model.safetensors', 'more/notes.txt', 'small.safetensors']",
        "['.gitattributes', 'model.safetensors', 'small.safetensors'] small.safetensors",
        "['main', 'draft'] ['v1'] 3",
        "[('model.safetensors', True)]",
        "['more', '.gitattributes', 'model.safetensors', 'small.safetensors']",
        "notes ü",
        hashlib.sha256(LARGE).hexdigest(),
        "False",
    ]
    assert len(ada.hub.uploads()) == 3  # two parts and the small file, once each


def test_it_refuses_as_the_hub_does(ada: User) -> None:
    ada.hub.store.create("models", "ada/private", private=True)
    ada.hub.store.create("models", "ada/public", private=False)
    stranger, reader = ada.hub.store.add_user("bob"), ada.hub.store.add_user("ada", role="read")
    printed = ada.run(f"""
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
def refused(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except HfHubHTTPError as error:
        print(type(error).__name__, error.response.status_code)
    else:
        print("done")
upload = dict(path_or_fileobj=b"text", path_in_repo="file.txt", repo_id="ada/public")
refused(HfApi(token=False).model_info, "ada/private")
refused(HfApi(token={stranger!r}).model_info, "ada/private")
refused(HfApi(token="hf_wrong").create_repo, "ada/new")
refused(HfApi(token=False).upload_file, **upload)
refused(HfApi(token={stranger!r}).upload_file, **upload)
refused(HfApi(token={reader!r}).upload_file, **upload)
refused(HfApi().create_repo, "ada/public")
refused(HfApi().upload_file, **upload, parent_commit="0" * 40)
refused(HfApi().model_info, "ada/public", revision="v9")
refused(hf_hub_download, "ada/public", "nothing.txt")
refused(HfApi().upload_file, **upload)
""")
    assert printed.splitlines() == [
        "RepositoryNotFoundError 401",
        "RepositoryNotFoundError 404",
        "HfHubHTTPError 401",
        "HfHubHTTPError 401",
        "HfHubHTTPError 403",
        "HfHubHTTPError 403",
        "HfHubHTTPError 409",
        "HfHubHTTPError 412",
        "RevisionNotFoundError 404",
        "RemoteEntryNotFoundError 404",
        "done",
    ]


@pytest.mark.parametrize("fault", [{"status": 503}, {"cut_after": 1000}])
def test_an_upload_that_fails_once_is_tried_again(ada: User, fault: dict[str, int]) -> None:
    ada.hub.fail("PUT /lfs/", **fault)
    ada.run("""
from huggingface_hub import HfApi
HfApi().create_repo("ada/model")
HfApi().upload_file(path_or_fileobj=b"w" * 100_000, path_in_repo="model.safetensors", repo_id="ada/model")
""")
    assert len(ada.hub.uploads()) == 2
    assert ada.hub.files("ada/model") == {"model.safetensors": b"w" * 100_000}
