"""A finished base becomes a repository folder: what was measured with it is on its card, and the seal holds."""

from pathlib import Path

import pytest

from pricing_fm.artifact import verify_artifact
from pricing_fm.errors import ArtifactError
from pricing_fm.policy import PricingPolicy
from pricing_fm.results import DataSource, ResultRow, build_results, read_results, write_results
from recipes import export
from tests.policy_artifacts import write_base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_base(tmp_path / "base")
    (tmp_path / "base" / ".logs").mkdir()
    return tmp_path / "base"


def measured(folder: Path) -> str:
    folder.mkdir()
    rows = [
        ResultRow("wql", 0.25, "pricing_fm", "shop_W", window=0, seed=0),
        ResultRow("wql", 0.75, "pricing_fm", "shop_W", window=0, seed=0, category="tea"),
        ResultRow("wape", 0.5, "pricing_fm", "shop_W", window=0, seed=0),
    ]
    write_results(folder, build_results("evaluate", [DataSource("shop", "sha256:1")], rows))
    return str(folder)


def test_the_card_shows_what_was_measured_and_the_folder_is_sealed(base: Path, tmp_path: Path) -> None:
    words = ["--artifact", str(base), "--measured", measured(tmp_path / "scores"), "--limits", "Sees weeks alone."]
    target = export.main([*words, "--output_dir", str(tmp_path / "cards" / "pricing-fm-tiny")])
    verify_artifact(target, "base")
    assert not (target / ".logs").exists()
    results = read_results(target)
    assert [(row.name, row.value) for row in results.metrics if row.task == "shop_W"] == [("wql", 0.25)]
    assert "shop" in {source.name for source in results.data}
    card = (target / "README.md").read_text()
    assert "| shop_W | test | wql | pricing_fm | 0.25 |" in card
    assert "# pricing-fm-tiny" in card
    assert "- Sees weeks alone." in card
    assert (
        PricingPolicy.from_pretrained(target).processor.to_dict()
        == PricingPolicy.from_pretrained(base).processor.to_dict()
    )


def test_an_earlier_artifact_is_replaced_and_anything_else_is_left_alone(base: Path, tmp_path: Path) -> None:
    words = ["--artifact", str(base), "--output_dir", str(tmp_path / "card")]
    export.main(words)
    export.main(words)
    verify_artifact(tmp_path / "card", "base")
    (tmp_path / "work").mkdir()
    with pytest.raises(ArtifactError, match="is no artifact"):
        export.main([*words[:2], "--output_dir", str(tmp_path / "work")])
