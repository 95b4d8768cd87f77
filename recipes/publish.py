"""Pushes a finished artifact folder to the Hugging Face Hub: verify, write the card, upload.

python recipes/publish.py --artifact outputs/demo/base --repo_id org/pricing-fm-nano
python recipes/publish.py --artifact outputs/demo/adapter --repo_id org/crackers --base_repo_id org/pricing-fm-nano
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pricing_fm.adapters import point_adapter_to_base, read_adapter
from pricing_fm.artifact import CARD, read_manifest, verify_artifact
from pricing_fm.cards import CardText, write_card
from pricing_fm.errors import ArtifactError
from pricing_fm.hub import PushedCommit, commit_of, download, push
from pricing_fm.recipe import read_recipe, run_recipe


@dataclass(frozen=True)
class PublishArguments:
    """What goes where."""

    artifact: Path = field(metadata={"help": "Folder of the base or adapter."})
    repo_id: str = field(metadata={"help": "Repository to push to, org/name; made if absent."})
    private: bool = field(default=False, metadata={"help": "Make a new repository private."})
    revision: str | None = field(default=None, metadata={"help": "Branch to push to; the main branch by default."})
    summary: str | None = field(default=None, metadata={"help": "First sentences of the card."})
    license: str = field(default="apache-2.0", metadata={"help": "Licence identifier on the card."})
    base_repo_id: str | None = field(
        default=None,
        metadata={"help": "For an adapter that was trained on a folder: repository of the published base."},
    )
    base_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of that repository; written down as a commit."}
    )


def main(argv: Sequence[str] | None = None) -> PushedCommit:
    (arguments,) = read_recipe((PublishArguments,), argv, description=__doc__)
    manifest = verify_artifact(arguments.artifact)
    with tempfile.TemporaryDirectory() as staging:
        # The copy changes its base's name and its card; the folder itself stays as it was trained.
        folder = Path(staging) / "artifact"
        hidden = shutil.ignore_patterns(".*", "__pycache__")
        shutil.copytree(arguments.artifact, folder, ignore=hidden, symlinks=False)
        if manifest.kind == "adapter":
            name_base(folder, arguments)
        card = write_card(folder, CardText(arguments.repo_id, arguments.summary, license=arguments.license))
        commit = push(folder, arguments.repo_id, private=arguments.private, revision=arguments.revision)
        shutil.copyfile(card, arguments.artifact / CARD)
    print(f"pushed {arguments.artifact} to {commit.url}")
    return commit


def name_base(folder: Path, arguments: PublishArguments) -> None:
    """Writes repository and commit of the published base into the adapter, after checking that it is its base."""
    reference = read_adapter(arguments.artifact)
    base = arguments.base_repo_id or reference.base
    if Path(base).is_dir():
        raise ArtifactError(
            f"{arguments.artifact} belongs to the base in {base}, which nobody else has; publish the base first and "
            "pass --base_repo_id"
        )
    revision = commit_of(base, arguments.base_revision or (None if arguments.base_repo_id else reference.revision))
    published = read_manifest(download(base, revision).folder)
    if published.base_fingerprint != reference.base_fingerprint:
        raise ArtifactError(
            f"{base} at {revision} is {published.base_fingerprint}, yet this adapter belongs to "
            f"{reference.base_fingerprint}; pass the --base_repo_id and --base_revision of its own base"
        )
    point_adapter_to_base(folder, base, revision)


if __name__ == "__main__":
    run_recipe(main)
