"""The Hugging Face Hub: download a repository, push a folder. The only file that talks to it.

`HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE` work as everywhere in the Hugging Face libraries.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pricing_fm.errors import ArtifactError

RepoType = Literal["model", "dataset"]

# What an artifact or a dataset may hold (see artifact.py); nothing that would have to be unpickled is even downloaded.
_TEXTS = [
    "*.json",
    "*.jsonl",
    "*.yaml",
    "*.yml",
    "*.md",
    "*.txt",
    "*.csv",
    "*.html",
    "*.png",
    "*.svg",
    "LICENSE",
    "NOTICE",
]
_DOWNLOADED = {"model": ["*.safetensors", "*.py", *_TEXTS], "dataset": ["*.parquet", *_TEXTS]}
_HIDDEN = [".*", "**/.*", "*/.*", "**/__pycache__/**", "__pycache__/**"]
_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class LocalCopy:
    """A repository or folder on this machine.

    Args:
        folder (`Path`): Where its files are.
        repo_id (`str`, *optional*): The repository; None for a folder that was passed through.
        revision (`str`, *optional*): Commit of the repository; None for a folder.
    """

    folder: Path
    repo_id: str | None
    revision: str | None


@dataclass(frozen=True)
class PushedCommit:
    """What a push made.

    Args:
        url (`str`): Page of the commit.
        revision (`str`): The commit.
    """

    url: str
    revision: str


def download(source: str | Path, revision: str | None = None, repo_type: RepoType = "model") -> LocalCopy:
    """Makes a repository available as a folder; a local folder passes through.

    Args:
        source (`str` or `Path`): A folder, or a repository id such as `org/name`.
        revision (`str`, *optional*): Branch, tag or commit of the repository; its main branch by default.
        repo_type (`str`): `"model"` or `"dataset"`.

    Returns:
        `LocalCopy`: The folder, with repository and commit where there is one.

    Raises:
        ArtifactError: If there is neither a folder nor a repository of that name, the revision is unknown, or the Hub
            cannot be reached and nothing is cached.
    """
    if Path(source).is_dir():
        if revision is not None:
            raise ArtifactError(f"{source} is a folder, which has no revision {revision!r}; leave the revision out")
        return LocalCopy(Path(source), None, None)
    if not _REPO_ID.fullmatch(str(source)):
        raise ArtifactError(f"{source}: there is no such folder, and it is no repository id such as org/name")
    try:
        folder = snapshot_download(
            str(source),
            revision=revision,
            repo_type=repo_type,
            allow_patterns=_DOWNLOADED[repo_type],
            ignore_patterns=_HIDDEN,
        )
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise ArtifactError(
            f"{source}: there is no such folder, and the Hub has no such {repo_type} repository or revision "
            f"({revision or 'main'}), or it is private. Check the name and HF_TOKEN"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError) as error:
        raise ArtifactError(
            f"{source}: there is no such folder, the Hub cannot be reached and nothing is cached. Check the "
            f"connection, HF_ENDPOINT and HF_HUB_OFFLINE ({error})"
        ) from error
    # The cache names a snapshot's folder after its commit.
    return LocalCopy(Path(folder), str(source), Path(folder).name)


def push(
    folder: str | Path,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    message: str = "Upload with pricing_fm",
    repo_type: RepoType = "model",
) -> PushedCommit:
    """Makes the repository equal to the folder in one commit; it is made if it does not exist.

    Files and folders whose name starts with a dot stay here. Files that the repository has and the folder has not are
    deleted from it: a leftover would be refused on loading.

    Args:
        folder (`str` or `Path`): What to push.
        repo_id (`str`): Repository such as `org/name`.
        private (`bool`): Whether a new repository is private.
        revision (`str`, *optional*): Branch to push to, made if absent; the main branch by default.
        message (`str`): Commit message.
        repo_type (`str`): `"model"` or `"dataset"`.

    Returns:
        `PushedCommit`: Page and commit.

    Raises:
        ArtifactError: If the folder does not exist, or the Hub refuses or cannot be reached.
    """
    if not Path(folder).is_dir():
        raise ArtifactError(f"{folder} is not a folder; expected what is to be pushed to {repo_id}")
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, repo_type=repo_type, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            repo_type=repo_type,
            revision=revision,
            commit_message=message,
            ignore_patterns=_HIDDEN,
            delete_patterns=["*"],
        )
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled) as error:
        raise ArtifactError(
            f"{folder}: not pushed to {repo_id} ({error}). Check the name, HF_TOKEN and HF_ENDPOINT"
        ) from error
    return PushedCommit(str(commit.commit_url), str(commit.oid))


def commit_of(repo_id: str, revision: str | None = None, repo_type: RepoType = "model") -> str:
    """The commit that a branch or tag points to right now, to be written down.

    Args:
        repo_id (`str`): Repository such as `org/name`.
        revision (`str`, *optional*): Branch, tag or commit; the main branch by default.
        repo_type (`str`): `"model"` or `"dataset"`.

    Returns:
        `str`: The commit.

    Raises:
        ArtifactError: If there is no such repository or revision, or the Hub cannot be reached.
    """
    try:
        commit = HfApi().repo_info(repo_id, revision=revision, repo_type=repo_type).sha
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled) as error:
        raise ArtifactError(f"{repo_id}: its commit {revision or 'main'} was not found ({error})") from error
    if commit is None:
        raise ArtifactError(f"{repo_id}: the Hub names no commit for {revision or 'main'}; push something to it first")
    return str(commit)
