"""The Hub, with its own client: whether a name is there, and pushing a folder (a dataset, a model) in one commit."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from kdaug.errors import ConfigError, KdaugError, shorten

if TYPE_CHECKING:
    from huggingface_hub import HfApi

Kind: TypeAlias = Literal["model", "dataset"]

# 412: somebody else's commit came between; the others pass by themselves. The client does not retry a commit.
TRANSIENT = (408, 412, 429, 500, 502, 503, 504)
TRIES = 5
FIRST_WAIT = 0.5  # seconds; doubled after each try, so 7.5 s in all


def look_up(name: str, kind: Kind) -> None:
    """Raises ConfigError for a name that the Hub does not know, and for a Hub that is out of reach where no copy is in
    the cache. Who loads by a name asks first: the libraries that load try for a minute."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HTTPError, RepositoryNotFoundError

    copies = (
        Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}",
        Path(constants.HF_HOME) / "datasets" / name.replace("/", "___"),
    )
    if constants.HF_HUB_OFFLINE or any(copy.is_dir() for copy in copies):
        return
    here = "a file, and none that can be read as one" if Path(name).is_file() else "no file or folder here"
    nowhere = f"no {kind} {name!r}: {here}"
    try:
        HfApi(library_name="kdaug").repo_info(name, repo_type=kind, timeout=10)
    except GatedRepoError as e:
        raise ConfigError(f"the {kind} {name} is gated: accept its terms on the Hub, then run `hf auth login`") from e
    except RepositoryNotFoundError as e:
        raise ConfigError(f"{nowhere}, and the Hub knows none (a private one? run `hf auth login`)") from e
    except HfHubHTTPError:
        return  # what is amiss there says who loads it
    except HTTPError as e:
        raise ConfigError(f"{nowhere}, and the Hub is out of reach ({shorten(str(e))})") from e


@dataclass(frozen=True, slots=True)
class Upload:
    """What a push makes a repository hold: `files` of `folder`, by their paths in it. What is there under a path that
    `owns` (a regular expression) but not among the files is left from an earlier push, and deleted."""

    kind: Kind
    folder: Path
    files: Sequence[str]
    owns: str
    message: str


def whole_dataset(folder: Path) -> Upload:
    """The card and the data files of a dataset folder."""
    data = sorted(p.relative_to(folder).as_posix() for p in (folder / "data").rglob("*.parquet"))
    message = "Data and card, written by kdaug"
    return Upload("dataset", folder, ["README.md", *data], r"data/.*\.parquet", message)


def push(upload: Upload, repo_id: str, *, private: bool, token: str | None, revision: str | None) -> str:
    """Makes the repository hold what is to be uploaded; returns the commit's address.

    All goes in one commit, which also deletes what is left of an earlier push. The repository, and the branch
    `revision`, are made where they are missing. Raises ConfigError for a wrong name, a missing or refused token and
    a missing right, KdaugError where the Hub cannot be reached or keeps failing.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as e:
        raise ConfigError(f"a {upload.kind} on the Hub has a name like owner/name: {shorten(str(e), 200)}") from e
    token = token or get_token()
    if not token:
        raise ConfigError("no token for the Hub: run `hf auth login`, set HF_TOKEN, or give token=")
    if not re.fullmatch(r"[!-~]+", token):
        raise ConfigError("the token for the Hub has characters that no token has: copy it again")
    api = HfApi(token=token, library_name="kdaug")
    for attempt in range(TRIES):
        try:
            return _push_once(api, upload, repo_id, private, revision or "main")
        except (HTTPError, JSONDecodeError) as e:  # the client's own base of all that HTTP can do; HTML from a proxy
            status = e.response.status_code if isinstance(e, HfHubHTTPError) else None
            if (status is not None and status not in TRANSIENT) or attempt == TRIES - 1:
                raise _ours(e, status, repo_id) from e
            time.sleep(FIRST_WAIT * 2**attempt)
        except ValueError as e:  # the Hub's word on the card's head
            raise ConfigError(f"the Hub does not take {upload.folder / 'README.md'}: {shorten(str(e), 200)}") from e
        except OfflineModeIsEnabled as e:
            raise ConfigError("HF_HUB_OFFLINE is set, so nothing can be pushed: unset it") from e
    raise AssertionError("unreachable: the last try returns or raises")


def _push_once(api: HfApi, upload: Upload, repo_id: str, private: bool, branch: str) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    kind = upload.kind
    # None leaves it to the organisation's default, which may be private.
    repo_id = api.create_repo(repo_id, repo_type=kind, private=private or None, exist_ok=True).repo_id
    if branch != "main":
        api.create_branch(repo_id, branch=branch, repo_type=kind, exist_ok=True)
    there = api.repo_info(repo_id, revision=branch, repo_type=kind)
    if private and there.private is False:
        raise ConfigError(f"{repo_id} exists and is public: make it private on the Hub, or push without private")
    old = [file.rfilename for file in there.siblings or ()]
    stale = [path for path in old if re.fullmatch(upload.owns, path) and path not in upload.files]
    commit = api.create_commit(
        repo_id,
        [
            *(CommitOperationDelete(path, is_folder=False) for path in stale),
            *(CommitOperationAdd(path, upload.folder / path) for path in upload.files),
        ],
        commit_message=upload.message,
        repo_type=kind,
        revision=branch,
        parent_commit=there.sha,  # the deletions are right for this state alone
    )
    return str(commit.commit_url)


def _ours(error: Exception, status: int | None, repo_id: str) -> KdaugError:
    if status == 401:
        return ConfigError(
            f"the Hub refuses the token (401) for {repo_id}: log in again with `hf auth login`, or renew it"
        )
    if status in (403, 404):
        return ConfigError(
            f"the token gives no right to write to {repo_id} ({status}): check the owner's name and the token's role"
        )
    said = shorten(str(getattr(error, "server_message", None) or error), 200)
    if status is None:
        return KdaugError(
            f"the Hub cannot be reached after {TRIES} tries ({type(error).__name__}: {said}); push again when it can"
        )
    return KdaugError(f"the Hub answered {status} to the push of {repo_id}: {said}")
