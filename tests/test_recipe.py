"""A recipe is told the same things by YAML and by the command line, and refuses what it does not know."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from pricing_fm.errors import PanelError
from pricing_fm.recipe import TRACEBACK, read_recipe, resolved_recipe, run_recipe, save_recipe


@dataclass(frozen=True)
class DataArguments:
    """What to read:"""

    panels: tuple[str, ...] = field(metadata={"help": "Panels to mix, 85 % synthetic."})
    category: str | None = None
    weights: list[float] | None = None
    origins: tuple[int, ...] = (8, 16)
    cache: Path = Path("cache")


@dataclass(frozen=True)
class OptimArguments:
    """How to learn."""

    learning_rate: float = 1e-3
    max_steps: int = 10
    mixed_precision: Literal["no", "bf16"] = "no"
    resume: bool = False
    ema: bool = True
    clip: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"--learning_rate is {self.learning_rate}; expected a number above 0")


KINDS = (DataArguments, OptimArguments)


def config(folder: Path, text: str) -> list[str]:
    (folder / "recipe.yaml").write_text(text)
    return ["--config", str(folder / "recipe.yaml")]


def test_the_command_line_alone_gives_typed_values() -> None:
    words = "--panels a b --learning_rate 1e-4 --max_steps=5 --resume --no_ema --origins 4 --cache x/y --weights 1 2.5"
    data, optim = read_recipe(KINDS, words.split())
    assert data == DataArguments(("a", "b"), None, [1.0, 2.5], (4,), Path("x/y"))
    assert optim == OptimArguments(1e-4, 5, "no", True, False)


def test_defaults_are_left_alone() -> None:
    data, optim = read_recipe(KINDS, ["--panels", "a"])
    assert data == DataArguments(("a",))
    assert optim == OptimArguments()


def test_yaml_gives_defaults_and_the_command_line_wins(tmp_path: Path) -> None:
    words = config(tmp_path, "panels: [a, b]\nlearning_rate: 1e-4\nmax_steps: 7\nresume: true\nema: false\n")
    data, optim = read_recipe(KINDS, [*words, "--max_steps", "9", "--panels", "c"])
    assert data.panels == ("c",)
    assert (optim.learning_rate, optim.max_steps, optim.resume, optim.ema) == (1e-4, 9, True, False)


def test_the_place_of_the_config_among_the_words_does_not_matter(tmp_path: Path) -> None:
    path = config(tmp_path, "panels: [a]\nmax_steps: 7\n")[1]
    _, optim = read_recipe(KINDS, ["--max_steps", "9", f"--config={path}"])
    assert optim.max_steps == 9


def test_nulls_are_left_to_the_default(tmp_path: Path) -> None:
    data, optim = read_recipe(KINDS, config(tmp_path, "panels: [a]\ncategory: null\nmax_steps:\nclip: null\n"))
    assert (data.category, optim.max_steps, optim.clip) == (None, 10, None)


def test_values_keep_spaces_signs_and_text_that_looks_like_something_else(tmp_path: Path) -> None:
    text = "panels: ['-x', b]\ncategory: '--SALTY SNACKS'\nweights: [-1.0e-5, 2]\ncache: a b\nmixed_precision: 'no'\n"
    with pytest.raises(SystemExit):  # a list entry that starts with a dash cannot be told from a key
        read_recipe(KINDS, config(tmp_path, text))
    data, optim = read_recipe(KINDS, config(tmp_path, text.replace("'-x'", "'-x y'")))
    assert data == DataArguments(("-x y", "b"), "--SALTY SNACKS", [-1e-5, 2.0], cache=Path("a b"))
    assert optim.mixed_precision == "no"


@pytest.mark.parametrize(
    "words, message",
    [
        (["--panels", "a", "--learning_rat", "1"], "unknown key --learning_rat. Did you mean --learning_rate?"),
        (["--panels", "a", "--max", "1"], "unknown key --max."),
        (["--panels", "a", "--zzz=1"], "unknown key --zzz. See --help for all keys."),
        (["--panels", "a", "--seed", "1", "stray"], "unknown key stray"),
        ([], "--panels"),
        (["--panels", "a", "--max_steps", "many"], "invalid int value: 'many'"),
        (["--panels", "a", "--mixed_precision", "fp16"], "invalid choice: 'fp16'"),
        (["--panels", "a", "--learning_rate", "-1"], "expected a number above 0"),
        (["--config", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
    ],
)
def test_words_that_say_nothing_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read_recipe(KINDS, words)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, message",
    [
        ("panel: [a]", "unknown key --panel in"),
        ("panels: [a]\nmax_step: 3", "Did you mean --max_steps?"),
        ("panels: [a]\nmax_steps: [1, 2]", "2"),
        ("panels: [a]\nmax_steps: 1.5", "invalid int value: '1.5'"),
        ("panels: [a]\nmixed_precision: no", "write the word in quotes"),
        ("panels: []", "empty list"),
        ("optim:\n  max_steps: 3", "unknown key --optim"),
        ("panels: {a: 1}", "one flat list of keys"),
        ("- a", "expected keys and values"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_a_config_that_says_nothing_is_refused(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        read_recipe(KINDS, config(tmp_path, text))
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_the_resolved_recipe_reads_back_to_the_same_arguments(tmp_path: Path) -> None:
    words = "--panels a b --learning_rate 1e-8 --weights 1 -2e-7 --category 12 --no_ema --clip inf".split()
    given = read_recipe(KINDS, words)
    path = save_recipe(tmp_path, given)
    assert path.name == "recipe.yaml"
    assert read_recipe(KINDS, ["--config", str(path)]) == given
    content = yaml.safe_load(path.read_text())
    assert list(content)[:3] == ["panels", "category", "weights"]
    assert content["category"] == "12"
    assert content == resolved_recipe(given)


def test_two_dataclasses_may_not_share_a_key() -> None:
    @dataclass(frozen=True)
    class OtherArguments:
        seed: int = 1

    with pytest.raises(TypeError, match="OtherArguments and OptimArguments both have a key 'seed'"):
        read_recipe((OptimArguments, OtherArguments), [])
    with pytest.raises(TypeError, match="seed"):
        resolved_recipe((OptimArguments(), OtherArguments()))


def test_help_names_every_key_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        read_recipe(KINDS, ["--help"], description="Trains something.\n\nexample --seed 7")
    printed = capsys.readouterr().out
    assert caught.value.code == 0
    assert "example" not in printed
    for expected in (
        "Trains something.",
        "--config FILE.yaml",
        "--max_steps",
        "default: 10",
        "85 % synthetic",
        "What to read:",
    ):
        assert expected in printed


def test_without_argv_the_words_of_the_process_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["recipe.py", "--panels", "a", "--seed", "3"])
    assert read_recipe(KINDS)[1].seed == 3


def test_the_classes_are_not_changed_by_reading() -> None:
    before: list[Any] = [
        DataArguments.__dataclass_fields__["panels"].type,
        OptimArguments.__dataclass_fields__["clip"].type,
    ]
    read_recipe(KINDS, ["--panels", "a"])
    assert [
        DataArguments.__dataclass_fields__["panels"].type,
        OptimArguments.__dataclass_fields__["clip"].type,
    ] == before


def refuse() -> None:
    raise PanelError("row 3: price is -1; prices must be positive. Fix the sign")


def test_an_error_that_a_user_can_mend_is_one_message_and_an_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRACEBACK, raising=False)
    with pytest.raises(SystemExit, match="^error: row 3: price is -1; prices must be positive. Fix the sign\n"):
        run_recipe(refuse)
    monkeypatch.setenv(TRACEBACK, "1")
    with pytest.raises(PanelError):
        run_recipe(refuse)
    with pytest.raises(ZeroDivisionError):
        run_recipe(lambda: 1 / 0)


def test_every_recipe_is_run_so() -> None:
    texts = {path.name: path.read_text() for path in (Path(__file__).resolve().parents[1] / "recipes").glob("*.py")}
    scripts = {name for name, text in texts.items() if "__main__" in text}
    assert len(scripts) > 15
    assert {name for name in scripts if 'if __name__ == "__main__":\n    run_recipe(main)\n' in texts[name]} == scripts
