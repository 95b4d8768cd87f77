"""A directory of adapters on one base: each category's artifact in a subfolder that bears its name."""

import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from pricing_fm.adapters.admission import load_weights
from pricing_fm.adapters.folder import AdapterReference, point_adapter_to_base, read_adapter
from pricing_fm.adapters.names import adapter_name, check_adapter_name
from pricing_fm.adapters.retrieval import PROFILE_FILE, CategoryProfile, Neighbor, nearest_profiles, read_profile
from pricing_fm.adapters.weights import AdapterWeights
from pricing_fm.artifact import ADAPTER_WEIGHTS, verify_artifact
from pricing_fm.errors import ArtifactError


@dataclass(frozen=True)
class LibraryEntry:
    """One subfolder of a library.

    Args:
        name (`str`): The subfolder.
        reference (`AdapterReference`, *optional*): What the adapter says of itself; None if it cannot be read.
        megabytes (`float`): Of its weight file.
        refusal (`str`): Why it is not admitted; empty = it is.
    """

    name: str
    reference: AdapterReference | None
    megabytes: float
    refusal: str


class AdapterLibrary:
    """Adapters of many categories on one base, on disk. What is in it was admitted; what is loaded is checked again.

    Args:
        folder (`str` or `Path`): The directory; subfolders whose name starts with a dot are not part of it.
        base (`PreTrainedModel`): The base of all adapters; never changed.
        base_fingerprint (`str`): From its manifest.

    Raises:
        ArtifactError: If there is no such directory.
    """

    def __init__(self, folder: str | Path, base: PreTrainedModel, base_fingerprint: str):
        self.folder, self.base, self.base_fingerprint = Path(folder), base, base_fingerprint
        self._moving = threading.Lock()
        if not self.folder.is_dir():
            raise ArtifactError(f"{self.folder} is no directory; make it, or pass the library's own")

    @property
    def names(self) -> tuple[str, ...]:
        """Subfolders, sorted; `entries` says which of them are admitted."""
        found = (path.name for path in self.folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        return tuple(sorted(found))

    def entries(self) -> tuple[LibraryEntry, ...]:
        """Every adapter with what it says of itself, and the reason if it is refused; all of them are checked."""
        return tuple(self._inspect(name) for name in self.names)

    def _inspect(self, name: str) -> LibraryEntry:
        weights = self.folder / name / ADAPTER_WEIGHTS
        megabytes = weights.stat().st_size / 1e6 if weights.is_file() else 0.0
        reference = None
        try:
            reference = read_adapter(self.folder / name)
            self.load(name)
        except ArtifactError as error:
            return LibraryEntry(name, reference, megabytes, str(error))
        return LibraryEntry(name, reference, megabytes, "")

    def folders(self) -> dict[str | None, Path]:
        """Category to folder, as `PricingPolicy.from_pretrained` takes them; the key None serves every category.

        Raises:
            ArtifactError: If an adapter cannot be read.
        """
        return {read_adapter(self.folder / name).category: self.folder / name for name in self.names}

    def load(self, name: str) -> AdapterWeights:
        """One adapter's numbers, after every check.

        Args:
            name (`str`): The subfolder.

        Returns:
            `AdapterWeights`: On the base's device.

        Raises:
            ArtifactError: If the name leads elsewhere or is not its category's, or the adapter is not admitted.
        """
        weights = load_weights(self.base, self._place(name), self.base_fingerprint)
        own = adapter_name(read_adapter(self.folder / name).category)
        if own != name:
            raise ArtifactError(
                f"{self.folder / name}: holds the adapter {own!r}; expected {name!r}. Move it to a folder of its name"
            )
        return weights

    def admit(self, source: str | Path, replace: bool = False) -> str:
        """Copies a finished adapter into the library, if it passes every check.

        Args:
            source (`str` or `Path`): A sealed adapter folder.
            replace (`bool`): Whether an adapter of the same category may be replaced.

        Returns:
            `str`: Its name in the library.

        Raises:
            ArtifactError: If it is not admitted, or its name is taken; the library is then as it was.
        """
        verify_artifact(source, kind="adapter")
        reference = read_adapter(source)
        with self.create(reference.category, replace) as staged:
            shutil.copytree(source, staged, symlinks=False, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
            verify_artifact(staged, kind="adapter")
            if Path(reference.base).is_dir():
                point_adapter_to_base(staged, reference.base, reference.revision)
        return adapter_name(reference.category)

    @contextmanager
    def create(self, category: str | None, replace: bool = False) -> Iterator[Path]:
        """A new adapter's folder: write into it and seal it; it becomes part of the library when the block ends.

        Args:
            category (`str`, *optional*): The exact category in the data; None = an adapter for all.
            replace (`bool`): Whether an adapter of the same category may be replaced.

        Yields:
            `Path`: An empty folder inside the library that nobody sees yet.

        Raises:
            ArtifactError: If the name is taken, or what was written is not admitted; the library is then as it was.
        """
        name = adapter_name(category)
        self._refuse_taken(name, replace)
        # Beside its later place, so that what the adapter says of where its base is stays true.
        staged = self.folder / f".arriving-{uuid.uuid4().hex}"
        staged.mkdir()
        try:
            yield staged
            load_weights(self.base, staged, self.base_fingerprint)
            if (found := adapter_name(read_adapter(staged).category)) != name:
                raise ArtifactError(f"the adapter for {category!r} says that it is {found!r}; write its own category")
            self._move(staged, name, replace)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _move(self, staged: Path, name: str, replace: bool) -> None:
        target, aside = self.folder / name, staged.with_name(f"{staged.name}-replaced")
        with self._moving:
            self._refuse_taken(name, replace)
            if not target.exists():
                staged.rename(target)
                return
            target.rename(aside)
            try:
                staged.rename(target)
            except OSError:
                aside.rename(target)
                raise
        shutil.rmtree(aside)

    def remove(self, name: str) -> None:
        """Deletes one adapter.

        Args:
            name (`str`): The subfolder.

        Raises:
            ArtifactError: If there is none, or the name leads elsewhere.
        """
        shutil.rmtree(self._place(name))

    def profiles(self) -> dict[str, CategoryProfile | None]:
        """What each adapter's category looks like to the base; None where that was not written down."""
        return {
            name: read_profile(self.folder / name) if (self.folder / name / PROFILE_FILE).is_file() else None
            for name in self.names
        }

    def nearest(self, profile: CategoryProfile) -> list[Neighbor]:
        """The adapters whose categories look most like a new one; those without a profile are not among them.

        Args:
            profile (`CategoryProfile`): Of the new category.

        Returns:
            `list[Neighbor]`: Nearest first.

        Raises:
            ArtifactError: If no adapter has a profile, or one was made with another base.
        """
        known = {name: own for name, own in self.profiles().items() if own is not None}
        if not known:
            raise ArtifactError(f"{self.folder}: no adapter has a {PROFILE_FILE}; adapt the categories again")
        return nearest_profiles(profile, known)

    def _place(self, name: str) -> Path:
        check_adapter_name(name)
        place = self.folder / name
        if not place.is_dir():
            raise ArtifactError(f"{self.folder} has no adapter {name!r}; it has {list(self.names)[:10]}")
        if place.is_symlink():
            raise ArtifactError(f"{place} is a link; copy the adapter into the library (admit)")
        return place

    def _refuse_taken(self, name: str, replace: bool) -> None:
        if not replace and (self.folder / name).exists():
            raise ArtifactError(f"{self.folder} has an adapter {name!r} already; replace it, or remove it first")
