"""Long steps on disk: a second start goes on where the first one ended."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


class KeptSteps:
    """Arrays by name and by what they depend on.

    Args:
        folder: Where they are kept; created when the first one is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read_or_build(
        self, name: str, depends_on: Any, build: Callable[[], Mapping[str, np.ndarray]]
    ) -> dict[str, np.ndarray]:
        """Arrays of a step.

        Args:
            name: Of the step; part of the file's name.
            depends_on: Everything that, when changed, makes the arrays others; plain values.
            build: Makes them.

        Returns:
            The arrays, from disk where they were made from the same.
        """
        digest = hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:16]
        path = self._folder / f"{name}-{digest}.npz"
        if not path.exists():
            found = build()
            self._folder.mkdir(parents=True, exist_ok=True)
            written = path.with_suffix(".part")
            with written.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **found)
            written.replace(path)
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
