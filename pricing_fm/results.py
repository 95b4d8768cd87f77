"""`results.json`: what was measured, by which recipe, on which data, and nothing that was not.

One row per metric, model, task, window and seed; a baseline is a row like the others. The model card prints from here.
"""

import json
import math
import subprocess
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from pricing_fm.artifact import read_json
from pricing_fm.errors import ArtifactError

RESULTS = "results.json"

# What can change a number. Published artifacts lie in the repository, too, with source of their own: a run that writes
# one would call its own code changed.
_SOURCES = tuple(f":(top){pattern}" for pattern in ("*.py", "*.yaml", "*.j2", "*.toml"))
_OUTPUTS = (":(top,exclude)model_cards", ":(top,exclude)tests")


@dataclass(frozen=True)
class ResultRow:
    """One measured number with everything needed to find its like. What does not apply is None.

    Args:
        name (`str`): Metric: `wql`, `mase`, `coverage_80`, `gap_closed`, `value`, `regret`, ...
        value (`float`): The measured value, finite.
        model (`str`): Who was measured: `pricing_fm`, `seasonal_naive`, `lightgbm`, `manager`, ...
        task (`str`): On what: data and protocol, for example `frat_1W`.
        split (`str`): `train`, `validation` or `test`.
        lower (`float`, *optional*): Lower end of the confidence interval.
        upper (`float`, *optional*): Upper end of the confidence interval.
        n (`int`, *optional*): Number of observations behind the value.
        category (`str`, *optional*): Category the row is about; None for all.
        k (`int`, *optional*): Weeks of the category that were visible for adaptation.
        window (`int`, *optional*): Index of the forecast origin.
        seed (`int`, *optional*): Seed of the run.
        train_s (`float`, *optional*): Seconds of training.
        inference_s (`float`, *optional*): Seconds of inference.
        cached (`bool`): Whether the row was taken over from an earlier run.

    Raises:
        ArtifactError: If a text is empty, a number is not finite or the interval is upside down.
    """

    name: str
    value: float
    model: str
    task: str
    split: str = "test"
    lower: float | None = None
    upper: float | None = None
    n: int | None = None
    category: str | None = None
    k: int | None = None
    window: int | None = None
    seed: int | None = None
    train_s: float | None = None
    inference_s: float | None = None
    cached: bool = False

    def __post_init__(self) -> None:
        for key in ("name", "model", "task", "split"):
            if not isinstance(getattr(self, key), str) or not getattr(self, key):
                raise ArtifactError(f"result row {self.name!r}: {key} is {getattr(self, key)!r}; expected a text")
        for key in ("value", "lower", "upper", "train_s", "inference_s"):
            _check_number(self.name, key, getattr(self, key), optional=key != "value")
        for key in ("n", "k", "window", "seed"):
            found = getattr(self, key)
            if found is not None and (not isinstance(found, int) or isinstance(found, bool)):
                raise ArtifactError(f"result row {self.name!r}: {key} is {found!r}; expected a whole number")
        if self.lower is not None and self.upper is not None and self.lower > self.upper:
            raise ArtifactError(f"result row {self.name!r}: lower {self.lower} is above upper {self.upper}")


@dataclass(frozen=True)
class DataSource:
    """Data that a run read.

    Args:
        name (`str`): Name of the panel or market.
        fingerprint (`str`): `"sha256:..."` of its content.
    """

    name: str
    fingerprint: str


@dataclass(frozen=True)
class Results:
    """The content of one `results.json`.

    Args:
        recipe (`str`): Recipe that measured: `pretrain`, `adapt`, `evaluate`, ...
        data (`tuple[DataSource, ...]`): What it read.
        metrics (`tuple[ResultRow, ...]`): What it measured.
        device (`str`): `cpu`, `cuda`, ...
        threads (`int`): Threads of the numeric libraries.
        commit (`str`, *optional*): Git commit of the code, with `-dirty` when a source differs from it.
    """

    recipe: str
    data: tuple[DataSource, ...]
    metrics: tuple[ResultRow, ...]
    device: str
    threads: int
    commit: str | None = None


def build_results(recipe: str, data: list[DataSource], metrics: list[ResultRow], device: str = "cpu") -> Results:
    """Fills in where and with which code the rows were measured.

    Args:
        recipe (`str`): Name of the recipe.
        data (`list[DataSource]`): What it read.
        metrics (`list[ResultRow]`): What it measured.
        device (`str`): Device type it ran on.

    Returns:
        `Results`: With the number of threads and, where the code lies in its git repository, the commit.
    """
    return Results(recipe, tuple(data), tuple(metrics), device, torch.get_num_threads(), code_commit())


def code_commit(file: str | Path = __file__) -> str | None:
    """Git commit of this package's own source.

    Args:
        file (`str` or `Path`): A file of the source; this one by default.

    Returns:
        `str` or None: The commit, with `-dirty` appended when tracked sources or settings differ from it (pages,
        figures and published artifacts are no sources); None where the package is not run from its repository (an
        installed copy inside another one must not report that one's commit).
    """
    here = Path(file).resolve()
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    commit = _git(here.parent, "rev-parse", "HEAD")
    changed = _git(here.parent, "status", "--porcelain", "--untracked-files=no", "--", *_SOURCES, *_OUTPUTS)
    return f"{commit}-dirty" if commit and changed else commit


def write_results(folder: str | Path, results: Results, only_what_applies: bool = False) -> Path:
    """Writes `results.json` into an existing folder.

    Args:
        folder (`str` or `Path`): Where to.
        results (`Results`): What to write.
        only_what_applies (`bool`): Whether keys without a value are left out: a third of a long file.

    Returns:
        `Path`: The file.
    """
    path = Path(folder) / RESULTS
    content = asdict(results)
    if only_what_applies:
        content["metrics"] = [
            {key: value for key, value in row.items() if value is not None} for row in content["metrics"]
        ]
    path.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


def read_results(folder: str | Path) -> Results:
    """Reads `results.json`; keys that do not apply may be absent.

    Args:
        folder (`str` or `Path`): Where from.

    Returns:
        `Results`: Its content, checked.

    Raises:
        ArtifactError: If the file is missing or not of the documented shape.
    """
    path = Path(folder) / RESULTS
    content = read_json(path)
    _check_keys(path, "the file", content, Results)
    rows, sources = content["metrics"], content["data"]
    if not isinstance(rows, list) or not isinstance(sources, list):
        raise ArtifactError(f"{path}: metrics and data are lists of rows. Measure again")
    for row in rows:
        _check_keys(path, "a metrics row", row, ResultRow)
    for source in sources:
        _check_keys(path, "a data row", source, DataSource)
    return Results(
        **{
            **content,
            "data": tuple(DataSource(**source) for source in sources),
            "metrics": tuple(ResultRow(**row) for row in rows),
        }
    )


def _check_keys(path: Path, where: str, found: Any, expected: type) -> None:
    if not isinstance(found, dict):
        raise ArtifactError(f"{path}: {where} is {found!r}; expected an object")
    known = [field.name for field in fields(expected)]
    if unknown := sorted(set(found) - set(known)):
        raise ArtifactError(f"{path}: {where} has unknown keys {unknown}; known are {known}")
    needed = [field.name for field in fields(expected) if field.default is MISSING]
    if missing := sorted(set(needed) - set(found)):
        raise ArtifactError(f"{path}: {where} lacks {missing}. Measure again with this version")


def _check_number(row: str, key: str, found: Any, optional: bool) -> None:
    if found is None and optional:
        return
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise ArtifactError(f"result row {row!r}: {key} is {found!r}; expected a finite number, or no row")


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of one git command, or None where git or the repository is absent."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
