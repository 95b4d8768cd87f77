"""The size and manners of the files themselves."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[1]
TREES = ("pricing_fm", "recipes", "data", "benchmarks", "tests")
SOURCES = sorted(path for tree in TREES for path in (REPOSITORY / tree).rglob("*.py"))
MOST_LINES_OF_A_FILE = 450
MOST_LINES_OF_A_FUNCTION = 60
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:tmp|work|root|home)/[a-z]")


def functions_of(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_no_file_and_no_function_needs_scrolling() -> None:
    assert len(SOURCES) > 10
    long = [str(path) for path in SOURCES if path.read_text().count("\n") > MOST_LINES_OF_A_FILE]
    for path in SOURCES:
        for node in functions_of(path):
            if (node.end_lineno or 0) - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION:
                long.append(f"{path.relative_to(REPOSITORY)}:{node.lineno} {node.name}")
    assert not long, "\n".join(long)


def test_every_file_says_first_what_it_is_for() -> None:
    silent = [
        str(path) for path in SOURCES if path.read_text() and ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert not silent, "\n".join(silent)


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    suffixes = {".py", ".md", ".yaml", ".toml", ".json", ".j2"}
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    files = [REPOSITORY / line for line in listed.stdout.splitlines()] or SOURCES
    telling = [
        str(path)
        for path in files
        if path.suffix in suffixes and path.exists() and MACHINE_PATH.search(path.read_text())
    ]
    assert not telling, "\n".join(telling)


def declared_requirements() -> list[Requirement]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = [entry for extra in project["optional-dependencies"].values() for entry in extra]
    return [Requirement(entry) for entry in [*project["dependencies"], *extras]]


def normalised(name: str) -> str:
    return name.lower().replace("_", "-")


def test_the_pinned_versions_lie_inside_the_declared_bounds() -> None:
    """Otherwise an installation with constraints cannot be resolved."""
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pinned = dict(normalised(line).split("==") for line in lines if line and not line.startswith("#"))
    for requirement in declared_requirements():
        name = normalised(requirement.name)
        if name != "pricing-fm":
            assert name in pinned, f"{name} is declared and not pinned"
            assert requirement.specifier.contains(pinned[name]), f"{requirement} does not admit {pinned[name]}"


def test_everything_that_is_imported_is_declared() -> None:
    """Otherwise it works only where something else happens to bring it along."""
    known = {normalised(requirement.name) for requirement in declared_requirements()}
    known |= {*TREES, *sys.stdlib_module_names}
    known |= {"chronos", "sklearn", "yaml"}  # chronos-forecasting, scikit-learn and pyyaml
    foreign = set()
    for path in SOURCES:
        # A script finds the files beside it.
        beside = {other.stem for other in path.parent.glob("*.py")} if path.parent.name == "benchmarks" else set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                foreign |= {(alias.name.split(".")[0], path.name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module not in beside and node.module:
                foreign.add((node.module.split(".")[0], path.name))
    assert not {entry for entry in foreign if entry[0] not in known and normalised(entry[0]) not in known}


def test_the_package_imports_without_the_optional_extras() -> None:
    """A base installation has none of them."""
    extras = ("lightgbm", "statsforecast", "sklearn", "duckdb", "sqlalchemy")
    blocked = f"import sys; sys.modules.update(dict.fromkeys({extras!r})); import pricing_fm"
    done = subprocess.run([sys.executable, "-c", blocked], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
