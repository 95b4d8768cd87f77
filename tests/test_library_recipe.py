"""`recipes/library.py`: adapters come in, are listed, found by likeness, and mixed into one that a policy loads."""

from pathlib import Path

import numpy as np
import pytest

from pricing_fm.adapters import mix_adapters, read_adapter, write_profile
from pricing_fm.artifact import verify_artifact
from pricing_fm.errors import ArtifactError
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.policy import PricingPolicy, load_base
from pricing_fm.policy.profile import category_profile
from recipes.library import main
from tests.policy_artifacts import change_weights, panel_of, reseal, sales_log, write_adapter, write_base


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a log of two categories, and both categories' adapters with their profiles."""
    place = tmp_path_factory.mktemp("library")
    base, table = write_base(place / "base"), sales_log()
    model, processor, fingerprint = load_base(base)
    table.to_parquet(place / "log.parquet")
    for seed, category in enumerate(("snacks", "drinks"), start=1):
        folder = write_adapter(place / category, base, category, seed=seed)
        panel = panel_of(table).select_category(category)
        write_profile(folder, category_profile(panel, model, processor, fingerprint))
        reseal(folder)
    write_adapter(place / "plain", base, "plain", seed=3)
    (place / "schema.yaml").write_text("promotion: promotion\n")
    return place


def call(made: Path, library: Path, *words: str):
    return main(["--library", str(library), "--base", str(made / "base"), *words])


@pytest.fixture
def library(made: Path, tmp_path: Path) -> Path:
    for category in ("snacks", "drinks"):
        call(made, tmp_path / "adapters", "--action", "admit", "--adapter", str(made / category))
    return tmp_path / "adapters"


def test_the_list_shows_what_is_admitted_and_why_the_rest_is_not(
    made: Path, library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call(made, library, "--action", "admit", "--adapter", str(made / "plain"))
    change_weights(library / "drinks", lambda tensors: next(iter(tensors.values())).fill_(float("nan")))
    capsys.readouterr()
    assert call(made, library).names == ("drinks", "plain", "snacks")
    lines = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if len(line.split()) > 6}
    assert lines["snacks"].split()[-2] == lines["plain"].split()[-2] == "yes"
    assert lines["drinks"].split()[-2] != "yes"
    assert lines["plain"].split()[-4] == "no"
    with pytest.raises(ArtifactError, match="has an adapter 'plain' already"):
        call(made, library, "--action", "admit", "--adapter", str(made / "plain"))
    call(made, library, "--action", "admit", "--adapter", str(made / "plain"), "--replace")


@pytest.mark.parametrize("category, other", [("snacks", "drinks"), ("drinks", "snacks")])
def test_a_category_finds_its_own_adapter_first(
    made: Path, library: Path, category: str, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    call(made, library, "--action", "admit", "--adapter", str(made / "plain"))
    capsys.readouterr()
    words = ["--panel", str(made / "log.parquet"), "--schema", str(made / "schema.yaml"), "--category", category]
    call(made, library, "--action", "nearest", *words)
    said = capsys.readouterr().out
    assert said.index(category) < said.index(other)
    assert "0.000" in said
    assert "without a profile, and not compared: plain" in said


def test_a_mix_prices_a_category_that_has_no_adapter(made: Path, library: Path) -> None:
    words = ["--action", "mix", "--category", "nuts", "--members", "snacks", "drinks", "--shares", "0.75", "0.25"]
    mixed = call(made, library, *words)
    folder = library / "nuts"
    verify_artifact(folder, kind="adapter")
    assert (read_adapter(folder).category, read_adapter(folder).rank) == ("nuts", 4)
    expected = mix_adapters([mixed.load("snacks"), mixed.load("drinks")], [0.75, 0.25])
    np.testing.assert_array_equal(mixed.load("nuts").values, expected.values)
    policy = PricingPolicy.from_pretrained(made / "base", adapter=mixed.folders())
    assert policy.adapters.keys() == {"snacks", "drinks", "nuts"}
    panel = panel_of(sales_log(items=4).assign(category="nuts"))
    plain = PricingPolicy.from_pretrained(made / "base").forecast(panel, 2)
    assert not np.allclose(policy.forecast(panel, 2)["mean"], plain["mean"], rtol=1e-3)
    assert policy.recommend(panel)["explanation"].str.contains("adapter for category 'nuts'").all()
    # Nobody has tried a price in the category.
    support = policy.adapters["nuts"].support
    assert support is not None
    assert not support.tried(0).any()


def test_a_smaller_rank_says_its_error(made: Path, library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--action", "mix", "--category", "nuts", "--members", "snacks", "drinks", "--rank", "1"]
    call(made, library, *words)
    assert "rank 4 to 1: relative error 0." in capsys.readouterr().out
    assert read_adapter(library / "nuts").rank == 1


def test_adapters_that_were_trained_for_different_ends_are_not_mixed(made: Path, library: Path) -> None:
    other = write_adapter(made / "revenue", made / "base", "revenue", rewards=RewardWeights(margin=0.0, revenue=1.0))
    call(made, library, "--action", "admit", "--adapter", str(other))
    with pytest.raises(ArtifactError, match="snacks, revenue: their policies differ"):
        call(made, library, "--action", "mix", "--category", "nuts", "--members", "snacks", "revenue")
    assert not (library / "nuts").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["--action", "admit"], "--action admit needs --adapter"),
        (["--action", "nearest", "--category", "a"], "--action nearest needs --panel"),
        (["--action", "mix", "--members", "a"], "--action mix needs --category"),
        (["--action", "mix", "--category", "a", "--members", "a", "--shares", "1", "2"], "has 2 numbers for 1 members"),
    ],
)
def test_what_is_missing_is_said(
    made: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        call(made, tmp_path / "adapters", *words)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "adapters").exists()
