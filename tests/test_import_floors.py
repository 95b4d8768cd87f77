"""Imports run strictly downward through the floors of the house, and stand at the top of the file."""

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "pricing_fm"
FLOORS = (
    ("names", "errors"),
    ("hub", "artifact"),
    ("results", "models", "panel", "guardrails"),
    ("cards", "markets", "metrics", "objectives", "adapters"),
    ("training", "policy"),
    ("evaluation", "serving", "recipe"),
    ("__init__",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
SIDEWAYS = {("markets", "panel")}
OPTIONAL = {"duckdb", "lightgbm", "sklearn", "sqlalchemy", "statsforecast"}  # extras, imported where they are used
MODELS_MAY_IMPORT = {"torch", "transformers", "numpy"} | sys.stdlib_module_names


def imports_of(path: Path) -> list[tuple[str, int, bool]]:
    """Module, level of a relative import, and whether it stands at the top of the file."""
    tree = ast.parse(path.read_text())
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0, node in tree.body) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            stem = node.module or ""
            names = [f"{stem}.{alias.name}" for alias in node.names] if stem == "pricing_fm" else [stem]
            found += [(name, node.level, node in tree.body) for name in names]
    return found


def test_imports_run_strictly_downward_and_stand_at_the_top() -> None:
    broken = []
    for path in sorted(PACKAGE.rglob("*.py")):
        where, room = path.relative_to(PACKAGE), path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for module, level, at_top in imports_of(path):
            head = module.split(".")[0]
            target = module.split(".")[1] if head == "pricing_fm" and "." in module else None
            if not at_top and head not in OPTIONAL:
                broken.append(f"{where}: `{module}` is imported below the top of the file")
            if head == "huggingface_hub" and room != "hub":
                broken.append(f"{where}: only hub.py imports huggingface_hub")
            if head == "peft" and room != "adapters":
                broken.append(f"{where}: only adapters/ imports peft")
            if room == "models" and level == 0 and head not in MODELS_MAY_IMPORT:
                broken.append(f"{where}: models/ imports torch, transformers, numpy and siblings, not `{module}`")
            if level and (room != "models" or level > 1):
                broken.append(f"{where}: relative imports are for siblings inside models/ only")
            if target and target != room and (room, target) not in SIDEWAYS and FLOOR_OF[target] >= FLOOR_OF[room]:
                broken.append(f"{where}: `{room}` may not import `{module}`; imports run downward")
    assert not broken, "\n".join(broken)


def test_every_room_has_its_floor() -> None:
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__pycache__", "card_templates"} <= set(FLOOR_OF)
