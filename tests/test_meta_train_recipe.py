"""`recipes/meta_train.py` from a base to an adapter that loads, that adaptations start from; resumed runs are equal."""

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pricing_fm.adapters import adapter_parameters, adapter_scaling, load_adapter, read_pooling
from pricing_fm.adapters.stack import base_name, from_adapter, repeat
from pricing_fm.artifact import verify_artifact
from pricing_fm.errors import ArtifactError
from pricing_fm.evaluation.few_shot import FewShotBench, Start, gradient_adaptation
from pricing_fm.evaluation.few_shot_markets import FewShotMarketArguments
from pricing_fm.models.channels import INTERVENTION_SLOT
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.panel import Panel, build_store, load_panel
from pricing_fm.policy import PricingPolicy, load_base
from pricing_fm.results import read_results
from pricing_fm.training import decision_stop
from pricing_fm.training.adapt import AdaptArguments
from pricing_fm.training.decision_stop import adapt_decision_task, policy_shortfalls
from pricing_fm.training.decision_tasks import read_decision_task
from pricing_fm.training.few_shot_tasks import TaskArguments, build_task, find_categories, last_week
from pricing_fm.training.learned_decisions import ADVANTAGE_FILE, STEPS_FILE, read_decision_start
from pricing_fm.training.learned_steps import RATES_FILE, InnerRates, read_rates, task_of
from pricing_fm.training.meta_run import INNER_OPTIM
from pricing_fm.training.policy_inner_loop import ADVANTAGE_HEAD, fix_action_values
from recipes import adapt, meta_train
from recipes.meta_train import SourceArguments, read_tasks
from tests.policy_artifacts import base_hash, quick_collections, write_base

SIMULATED = ["--train_categories", "5", "--logged_weeks", "20", "--decision_weeks", "3", "--stocked_share", "0"]
QUICK = [
    *(
        "--weeks",
        "0",
        "4",
        "--query_weeks",
        "3",
        "--categories_per_step",
        "2",
        "--inner_steps",
        "2",
        "--lora_rank",
        "2",
    ),
    *("--max_steps", "4", "--warmup_steps", "0", "--evaluate_every", "2", "--checkpoint_every", "2"),
    *("--learning_rate", "1e-2", "--tracker", "none", "--seed", "3"),
]
WEIGHTS = "adapter_model.safetensors"
Call = Callable[..., Path]


@pytest.fixture(scope="module", autouse=True)
def without_long_pauses() -> Iterator[None]:
    with quick_collections():
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_panel: Panel) -> Path:
    folder = tmp_path_factory.mktemp("meta")
    write_base(folder / "base")
    tiny_panel.to_pandas().drop(columns=["price_imputed"]).to_parquet(folder / "sales.parquet")
    (folder / "schema.yaml").write_text("promotion: promotion\nfrequency: W\n")
    return folder


@pytest.fixture(scope="module")
def learn(place: Path) -> Call:
    def call(name: str, *words: str) -> Path:
        meta_train.main(["--base", str(place / "base"), "--output_dir", str(place / name), *QUICK, *words])
        return place / name

    return call


@pytest.fixture(scope="module")
def simulated(learn: Call) -> Path:
    return learn("simulated", *SIMULATED)


def test_the_artifact_is_sealed_says_what_was_measured_and_leaves_the_base(place: Path, simulated: Path) -> None:
    verify_artifact(simulated, kind="adapter")
    rows = read_results(simulated).metrics
    assert {(row.model, row.k) for row in rows} == {(m, k) for m in ("base", "start", "adapted") for k in (0, 4)}
    by_model = {(row.model, row.k): row.value for row in rows}
    assert by_model["start", 4] != by_model["base", 4] != by_model["adapted", 4]
    assert by_model["start", 0] == by_model["adapted", 0]
    rates = read_rates(simulated)
    assert rates is not None
    assert rates.steps == 2
    assert len(set(rates.rates.values())) > 1
    write_base(place / "again")
    assert base_hash(place / "base") == base_hash(place / "again")


def test_the_start_loads_as_an_adapter_and_is_none_of_the_base(place: Path, simulated: Path, tiny_panel: Panel) -> None:
    plain = PricingPolicy.from_pretrained(place / "base").forecast(tiny_panel, prediction_length=2)
    started = PricingPolicy.from_pretrained(place / "base", adapter=simulated).forecast(tiny_panel, prediction_length=2)
    assert not plain["mean"].equals(started["mean"])


def test_a_resumed_run_ends_where_the_uninterrupted_one_ends(learn: Call, simulated: Path) -> None:
    again = learn("resumed", *SIMULATED)
    for checkpoint in (again / ".checkpoints").glob("*4"):
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    learn("resumed", *SIMULATED, "--resume")
    one, other = (load_file(folder / WEIGHTS) for folder in (simulated, again))
    assert all(torch.allclose(tensor, other[name], atol=1e-6) for name, tensor in one.items())


def test_panels_are_learned_from_by_their_demand(learn: Call, place: Path) -> None:
    words = ["--panels", str(place / "sales.parquet"), "--schemas", str(place / "schema.yaml")]
    folder = learn("panels", *words, "--strategy", "reptile", "--origins_per_category", "3")
    (source,) = read_results(folder).data
    assert source.name == "sales"
    with pytest.raises(SystemExit):
        learn("wrong", *words, "--schemas", "a.yaml", "b.yaml")


def test_a_log_alone_carries_no_mark_and_no_truth(learn: Call, place: Path) -> None:
    model, processor, _ = load_base(place / "base")
    market = FewShotMarketArguments(train_categories=5, logged_weeks=20, decision_weeks=3, stocked_share=0.0)
    settings = TaskArguments(weeks=(4,), query_weeks=3)
    found = {}
    for name, naive in (("ours", False), ("naive", True)):
        source = SourceArguments(str(place / "base"), as_logged=naive, origins_per_category=1)
        _, tasks = read_tasks(source, settings, market, model, processor, judges=True)
        query = tasks[4].query
        found[name] = "held_elasticity" in query
        assert ("grid_regret" in query) is not naive  # what judges: known regrets, or sales
        assert bool((query["future_known_values"][..., INTERVENTION_SLOT] == 0).all()) is naive
        assert bool(query["future_observed_mask"].any()) is naive  # the manager's own weeks come true, a plan does not
        for part in vars(tasks[4]).values():
            assert not part["future_elasticity_mask"].any()
        assert len(query["scale"]) == 5
    assert found == {"ours": True, "naive": False}
    folder = learn("as_logged", *SIMULATED, "--as_logged", "--origins_per_category", "1")
    assert read_rates(folder) is not None
    assert read_pooling(folder) is None  # no elasticity is known that could teach it
    with pytest.raises(SystemExit, match="--as_logged"):
        learn("wrong", *SIMULATED, "--as_logged", "--strategy", "pooling")
    with pytest.raises(ValueError, match="--as_logged"):
        SourceArguments("base", panels=("sales.parquet",), as_logged=True)


def test_weeks_that_judge_are_the_weeks_of_the_decision(learn: Call) -> None:
    with pytest.raises(SystemExit, match="decision_weeks 3"):
        learn("wrong", *SIMULATED, "--query_weeks", "4")


@pytest.mark.parametrize("strategy", ["offline_rl", "reptile"])
def test_too_few_categories_are_refused_with_the_number_that_is_needed(learn: Call, strategy: str) -> None:
    words = [*SIMULATED, "--strategy", strategy]
    with pytest.raises(ValueError, match="5 categories were found and 9 are needed: one in 5"):
        learn("few", *words, "--categories_per_step", "8")
    with pytest.raises(ValueError, match="5 categories were found and 10 are needed: one in 10"):
        learn("few", *words, "--validation_share", "0.1")


def test_an_adaptation_starts_from_it(place: Path, simulated: Path) -> None:
    words = [
        *("--base", str(place / "base"), "--panel", str(place / "sales.parquet")),
        *("--schema", str(place / "schema.yaml"), "--weeks", "12", "--tracker", "none", "--objective", "policy"),
        *("--policy_steps", "1", "--horizon", "2", "--batch_size", "4", "--lora_rank", "2"),
    ]
    found = {}
    for name, more in (("plain", []), ("started", ["--initial_adapter", str(simulated)])):
        adapt.main([*words, "--output_dir", str(place / name), *more])
        found[name] = load_file(place / name / WEIGHTS)
    start = load_file(simulated / WEIGHTS)
    # The decision side alone was trained: the demand side is what it started from, but for what its own items say.
    demand = [name for name in start if "decision_head" not in name and "pooling_head" not in name]
    pooling = [name for name in start if "pooling_head.lora_B" in name]
    assert len(pooling) == 1
    assert not torch.equal(found["started"][pooling[0]], start[pooling[0]])
    assert all(torch.equal(found["started"][name], start[name]) for name in demand)
    assert any(not torch.equal(found["plain"][name], start[name]) for name in demand)
    assert any(not torch.equal(found["started"][name], start[name]) for name in start if "decision_head" in name)


def decided_until(panel: Panel) -> str:
    """First week whose prices nobody has decided."""
    drawn = panel.frame[panel.frame["price_is_intervention"] > 0]
    return str(drawn["timestamp"].min().date())


def adapt_words(place: Path, name: str) -> list[str]:
    return [
        *("--base", str(place / "base"), "--panel", str(place / "sales.parquet"), "--output_dir", str(place / name)),
        *("--schema", str(place / "schema.yaml"), "--weeks", "12", "--tracker", "none", "--objective", "forecast"),
    ]


def test_an_adaptation_takes_the_learned_steps_as_the_bench_takes_them(
    place: Path, simulated: Path, tiny_panel: Panel, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weeks before and after the visible ones are there for the bench, and change nothing."""
    category, end = tiny_panel.categories[0], tiny_panel.frequency.step(tiny_panel.last_observed, -4)
    words = [*adapt_words(place, "learned"), "--category", category, "--support_end", str(end.date())]
    result = adapt.main([*words, "--initial_adapter", str(simulated)])
    assert "up to 2 steps at learned rates" in capsys.readouterr().out

    model, processor, fingerprint = load_base(place / "base")
    network = load_adapter(copy.deepcopy(model), "one", simulated, fingerprint)
    update = from_adapter(adapter_parameters(network, "one"))
    update = {name: tensor for name, tensor in update.items() if "decision_head" not in name}
    rates = read_rates(simulated)
    assert rates is not None
    store = build_store(load_panel(place / "sales.parquet", place / "schema.yaml"))
    chosen = next(one for one in find_categories(store, 12, 4, 0) if one.name == category)
    task = build_task(store, [replace(chosen, origin=last_week(store)[1] - 4)], processor, 12, TaskArguments(), 8)
    bench = FewShotBench(model.requires_grad_(False), {12: task}, None, INNER_OPTIM, adapter_scaling(network, "one"))
    own = {name: torch.tensor(rates.rates[name]) for name in update}
    expected = gradient_adaptation(bench, Start(update, own, rates.steps, stops_early=True))(task)
    found, moved = load_file(place / "learned" / WEIGHTS), 0
    for key, tensor in found.items():
        name = base_name(key)
        if name in expected and "pooling_head" not in name:  # what items say together is added afterwards
            torch.testing.assert_close(tensor, expected[name][0], rtol=1e-5, atol=1e-6)
            moved += not torch.equal(tensor, update[name])
    assert result.demand_steps > 0
    assert moved > 0


def test_steps_that_were_not_learned_are_not_taken_and_options_without_a_say_are_refused(
    learn: Call, place: Path, simulated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*adapt_words(place, "ordinary"), "--demand_steps", "1", "--batch_size", "4"]
    with pytest.raises(SystemExit, match="--demand_steps: .* prescribes 2 steps"):
        adapt.main([*words, "--initial_adapter", str(simulated)])
    adapt.main([*words, "--initial_adapter", str(simulated), "--use_learned_rates", "false"])
    assert "learned rates" not in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--stop_decisions_early false is for steps"):
        adapt.main([*words, "--objective", "both", "--stop_decisions_early", "false"])
    pooling = learn("unlearned", *SIMULATED, "--strategy", "pooling")
    capsys.readouterr()
    adapt.main([*words, "--initial_adapter", str(pooling)])
    assert "carries no learned rates: ordinary steps" in capsys.readouterr().out
    # Starts that were published before hold rates alone.
    (pooling / RATES_FILE).write_text(json.dumps({"a.lora_A": 0.1}))
    assert read_rates(pooling) == InnerRates({"a.lora_A": 0.1}, None)


@pytest.fixture(scope="module")
def priced(learn: Call, place: Path) -> Path:
    """A base whose decision heads have learned from all categories."""
    return learn("priced", *SIMULATED, "--strategy", "offline_rl")


@pytest.fixture(scope="module")
def macaw(learn: Call, place: Path, priced: Path) -> Path:
    """A start on that base, on demand sides that are pooled."""
    pooling = learn("pooling", *SIMULATED, "--strategy", "pooling", "--base", str(priced))
    words = ["--strategy", "macaw", "--base", str(priced), "--demand_start", str(pooling), "--inner_rate", "1.0"]
    return learn("macaw", *SIMULATED, *words)


def test_joint_offline_rl_writes_a_base_whose_decision_heads_alone_are_new(place: Path, priced: Path) -> None:
    verify_artifact(priced, kind="base")
    before, after = (load_file(folder / "model.safetensors") for folder in (place / "base", priced))
    assert before.keys() == after.keys()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in after if name.startswith("decision_head.")}
    measured = {(row.model, row.k) for row in read_results(priced).metrics}
    assert measured == {(model, k) for model in ("base", "joint") for k in (0, 4)}


def test_a_macaw_start_holds_both_sides_and_is_adapted_from_as_it_was_learned(
    place: Path, priced: Path, macaw: Path, tiny_panel: Panel, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = verify_artifact(macaw, kind="adapter")
    assert {STEPS_FILE, ADVANTAGE_FILE, RATES_FILE, "category_pooling.json"} <= set(manifest.files)
    assert {row.model for row in read_results(macaw).metrics} == {"base", "start", "adapted"}
    words = [*adapt_words(place, "decided"), "--category", tiny_panel.categories[0], "--initial_adapter", str(macaw)]
    words[words.index(str(place / "base"))] = str(priced)
    words += ["--objective", "policy", "--support_end", decided_until(tiny_panel), "--stop_decisions_early", "false"]
    with pytest.raises(SystemExit, match="--policy_steps: .* prescribes 6 steps"):
        adapt.main([*words, "--policy_steps", "3"])
    with pytest.raises(SystemExit, match="--horizon: "):
        adapt.main([*words, "--horizon", "3"])
    few = [*words[: words.index("--weeks") + 1], "2", *words[words.index("--weeks") + 2 :]]
    ordinary = adapt.main([*few, "--batch_size", "4"])
    assert ordinary.policy_steps == AdaptArguments().policy_steps
    assert "need 3 weeks, one of which judges; 2 visible: ordinary steps" in capsys.readouterr().out
    result = adapt.main(words)
    assert result.policy_loss is not None
    assert result.policy_steps == 6
    start, found = (load_file(folder / WEIGHTS) for folder in (macaw, place / "decided"))
    moved = {base_name(key) for key, tensor in found.items() if not torch.equal(tensor, start[key])}
    learned = read_decision_start(macaw)
    assert learned is not None
    pooling = {"demand_head.response.pooling_head.lora_A", "demand_head.response.pooling_head.lora_B"}
    assert moved - pooling == set(learned.rates) - {ADVANTAGE_HEAD}
    policy = PricingPolicy.from_pretrained(priced, adapter=place / "decided")
    assert policy.recommend(tiny_panel.select_category(tiny_panel.categories[0]))["price"].gt(0).all()


@pytest.mark.parametrize("stops_early", [True, False])
def test_decision_steps_of_an_adaptation_are_those_of_the_bench(
    place: Path, priced: Path, macaw: Path, tiny_panel: Panel, monkeypatch: pytest.MonkeyPatch, stops_early: bool
) -> None:
    # The steps of this small start do harm: judged the other way round some are taken.
    monkeypatch.setattr(decision_stop, "policy_shortfalls", lambda *given: -policy_shortfalls(*given))
    monkeypatch.setattr(decision_stop, "DOUBT", 0.0)
    words = [*adapt_words(place, "again"), "--category", tiny_panel.categories[0], "--initial_adapter", str(macaw)]
    words[words.index(str(place / "base"))] = str(priced)
    words += ["--objective", "policy", "--support_end", decided_until(tiny_panel), "--holdout_share", "0.4"]
    result = adapt.main([*words, "--stop_decisions_early", str(stops_early).lower()])
    model, processor, fingerprint = load_base(priced)
    network = load_adapter(copy.deepcopy(model), "one", place / "again", fingerprint)
    demand = {k: v[None] for k, v in from_adapter(adapter_parameters(network, "one")).items() if "decision" not in k}
    visible = load_panel(place / "sales.parquet", place / "schema.yaml").select_category(tiny_panel.categories[0])
    patch = model.config.patch_length
    task = task_of(visible.last_periods(12, decided_until(tiny_panel)), "one", processor, patch, 0.4)
    scaling, learned = adapter_scaling(network, "one"), read_decision_start(macaw)
    known = replace(task, query={key: part[:, :0] for key, part in task.query.items()})
    read = read_decision_task(model, processor, known, demand, scaling, RewardWeights())
    decisions = fix_action_values(model, read, learned.steps.discount)
    begin = from_adapter(adapter_parameters(load_adapter(copy.deepcopy(model), "one", macaw, fingerprint), "one"))
    begin = {key: begin[key] for key in learned.rates if key in begin} | {ADVANTAGE_HEAD: learned.advantage_head}
    rates = {key: torch.tensor(rate) for key, rate in learned.rates.items()}
    expected = adapt_decision_task(model, repeat(begin, 1), decisions, rates, learned.steps, scaling, stops_early)
    assert result.policy_steps == int(expected.steps)
    found = from_adapter(adapter_parameters(network, "one"))
    for key, tensor in expected.stack.items():
        if key != ADVANTAGE_HEAD:
            torch.testing.assert_close(found[key], tensor[0], rtol=1e-4, atol=1e-6)
            assert not torch.equal(found[key], begin[key])


def test_a_reptile_start_of_decisions_is_adapted_from_as_well(
    learn: Call, place: Path, priced: Path, tiny_panel: Panel, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--strategy", "policy_reptile", "--base", str(priced), "--inner_rate", "0.05", "--advantage_weight", "0"]
    start = learn("policy_reptile", *SIMULATED, *words)
    verify_artifact(start, kind="adapter")
    decided = read_decision_start(start)
    assert decided is not None
    assert list(decided.rates.values()) == pytest.approx([0.05] * len(decided.rates))
    assert decided.advantage_head is None
    learned = load_file(start / WEIGHTS)
    assert any(tensor.abs().max() > 0 for key, tensor in learned.items() if "policy_head" in key and "lora_B" in key)
    words = [
        *adapt_words(place, "from_reptile"),
        "--category",
        tiny_panel.categories[0],
        "--initial_adapter",
        str(start),
    ]
    words[words.index(str(place / "base"))] = str(priced)
    result = adapt.main([*words, "--objective", "policy", "--support_end", decided_until(tiny_panel)])
    assert "up to 6 steps of values and policy" in capsys.readouterr().out
    assert 0 <= result.policy_steps <= 6


def test_a_start_without_its_advantage_head_and_a_demand_start_of_no_use_are_refused(
    learn: Call, macaw: Path, simulated: Path, tmp_path: Path
) -> None:
    shutil.copytree(macaw, tmp_path / "broken")
    (tmp_path / "broken" / ADVANTAGE_FILE).unlink()
    with pytest.raises(ArtifactError, match="advantage_head"):
        read_decision_start(tmp_path / "broken")
    with pytest.raises(SystemExit, match="--demand_start is for offline_rl, macaw, policy_reptile"):
        learn("no", *SIMULATED, "--demand_start", str(simulated))


def test_a_start_of_another_base_is_refused(place: Path, simulated: Path) -> None:
    write_base(place / "other", seed=5)
    with pytest.raises(ArtifactError, match="belongs to the base"):
        adapt.main(
            [
                *("--base", str(place / "other"), "--panel", str(place / "sales.parquet"), "--weeks", "12"),
                *("--schema", str(place / "schema.yaml"), "--output_dir", str(place / "no"), "--tracker", "none"),
                *("--initial_adapter", str(simulated)),
            ]
        )
