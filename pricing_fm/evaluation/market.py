"""Policies compared in a market with known demand: logged by managers, adapted per category, judged by the truth."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import pandas as pd

from pricing_fm import names
from pricing_fm.adapters import AdapterWeights, LoraArguments, add_adapter, category_slug, read_weights
from pricing_fm.evaluation.pricing import PricingEvaluation, evaluate_prices
from pricing_fm.evaluation.pricing_baselines import PriceRule
from pricing_fm.guardrails import Guardrails
from pricing_fm.markets import LogSettings, ManagerSettings, RetailSettings, SimulatedLog, simulate_log
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.panel import Panel, load_panel
from pricing_fm.policy import LoadedAdapter, PricingPolicy, category_support
from pricing_fm.policy.engine import share_weights
from pricing_fm.policy.situation import read_situation
from pricing_fm.training.adapt import AdaptArguments, adapt, visible_panel
from pricing_fm.training.arguments import LoopArguments, OptimArguments, OutputArguments
from pricing_fm.training.policy_learning import Algorithm, PolicyArguments

# Columns that the simulator hands to a policy; the propensity and the truth stay behind.
VISIBLE_COLUMNS = (
    names.ITEM_ID, names.TIMESTAMP, names.UNITS, names.PRICE, names.LIST_PRICE, names.COST, names.INVENTORY,
    names.CATEGORY, names.PRODUCT_ID, names.LOCATION_ID, "promotion",
)  # fmt: skip


AdapterKind = Algorithm | Literal["forecast"]
ADAPTER_KINDS: tuple[AdapterKind, ...] = ("forecast", *get_args(Algorithm))


@dataclass(frozen=True)
class MarketArguments:
    """The market that policies are compared in.

    Args:
        num_markets (`int`): Stores x categories.
        num_periods (`int`): Logged weeks.
        visible_weeks (`int`): Weeks of them that every policy sees.
        decision_periods (`int`): Weeks the recommended price is held.
        market_seed (`int`): Of the market; not that of any training panel.
    """

    num_markets: int = field(default=24, metadata={"help": "markets (store x category) of a simulated evaluation"})
    num_periods: int = field(default=120, metadata={"help": "logged weeks of the simulated markets"})
    visible_weeks: int = field(default=26, metadata={"help": "weeks of the log that every policy sees"})
    decision_periods: int = field(default=8, metadata={"help": "weeks a recommended price is held"})
    market_seed: int = field(default=7700, metadata={"help": "seed of the simulated markets"})


@dataclass(frozen=True)
class AdaptationRecipe:
    """How a category's adapter is trained inside an evaluation."""

    how: AdaptArguments
    policy: PolicyArguments
    rewards: RewardWeights
    lora: LoraArguments
    optim: OptimArguments


def simulate_evaluation_market(market: MarketArguments) -> tuple[SimulatedLog, Panel]:
    """A log of retail markets, and the part of it that policies see."""
    log = simulate_log(
        RetailSettings(),
        ManagerSettings(),
        LogSettings(
            num_markets=market.num_markets,
            num_periods=market.num_periods,
            seed=market.market_seed,
            name=f"evaluation{market.market_seed}",
        ),
    )
    panel = load_panel(log.panel[[c for c in VISIBLE_COLUMNS if c in log.panel]])
    return log, panel.last_periods(market.visible_weeks)


def adapt_every_category(base: PricingPolicy, panel: Panel, recipe: AdaptationRecipe, seed: int) -> PricingPolicy:
    """The base with one freshly trained adapter per category of the panel.

    Args:
        base (`PricingPolicy`): Without adapters.
        panel (`Panel`): What is visible; nothing else is.
        recipe (`AdaptationRecipe`): How.
        seed (`int`): Of every adaptation.

    Returns:
        `PricingPolicy`: Shares the base's weights.
    """
    adapters: dict[str | None, LoadedAdapter] = {}
    for category in panel.categories:
        network = share_weights(base.model)
        wrapped = add_adapter(network, category_slug(category), recipe.lora, seed=seed)
        visible = visible_panel(panel, category, recipe.how)
        with tempfile.TemporaryDirectory() as folder:
            output = OutputArguments(output_dir=folder, checkpoint_every=0, tracker="none", log_every=1000)
            result = adapt(
                wrapped,
                network,
                base.processor,
                visible,
                recipe.how,
                recipe.optim,
                LoopArguments(seed=seed),
                output,
                recipe.policy,
                recipe.rewards,
            )
            weights = read_weights(wrapped, category_slug(category))
        trained = result.policy_loss is not None
        adapters[category] = hold_adapter(base, visible, category, weights, trained, recipe.policy, recipe.rewards)
    return PricingPolicy(base.model, base.processor, adapters, base.base_folder)


def hold_adapter(
    base: PricingPolicy,
    visible: Panel,
    category: str,
    weights: AdapterWeights,
    has_policy: bool,
    policy: PolicyArguments,
    rewards: RewardWeights,
) -> LoadedAdapter:
    """A trained adapter as a policy takes it, never saved.

    Args:
        base (`PricingPolicy`): Of the adapter.
        visible (`Panel`): What the adapter was trained on: it says which prices were tried.
        category (`str`): Whose it is.
        weights (`AdapterWeights`): Its numbers.
        has_policy (`bool`): Whether decision heads were trained.
        policy (`PolicyArguments`): How; says how values are used.
        rewards (`RewardWeights`): What the policy maximises.

    Returns:
        `LoadedAdapter`.
    """
    situation = read_situation(visible, base.processor.context_length, 1)
    references = base.processor.reference_prices(situation.windows.past, situation.windows.future)
    return LoadedAdapter(
        weights=weights,
        category=category,
        support=category_support(situation.windows, references, base.processor, category),
        has_policy=has_policy,
        rewards=rewards,
        discount=policy.discount,
        aggressiveness=policy.dial,
        guardrails=Guardrails(),
        folder=None,
        caution=policy.caution,
    )


def evaluate_market(
    base: PricingPolicy,
    log: SimulatedLog,
    panel: Panel,
    market: MarketArguments,
    recipe: AdaptationRecipe,
    rules: Sequence[PriceRule],
    algorithms: Sequence[AdapterKind],
    seed: int,
) -> PricingEvaluation:
    """Base, adapters and price rules on the same log, judged by the market's truth.

    Args:
        base (`PricingPolicy`): The base; adapters that it carries are compared as `adapter_given`.
        log (`SimulatedLog`): The market, ready to be continued.
        panel (`Panel`): What policies see of it.
        market (`MarketArguments`): Its settings.
        recipe (`AdaptationRecipe`): Of the adapters.
        rules (`Sequence[PriceRule]`): Baselines.
        algorithms (`Sequence[str]`): Adapters to train: `forecast` (plans on the adapted curve), `structured`, `raw`,
            `cloning` and the other algorithms of `PolicyArguments`.
        seed (`int`): Of the adaptations.

    Returns:
        `PricingEvaluation`.
    """
    length = market.decision_periods
    proposals: dict[str, pd.DataFrame] = {rule.name: rule.propose(panel) for rule in rules}
    plain = PricingPolicy(base.model, base.processor, base_folder=base.base_folder)
    proposals["base_plan"] = plain.recommend(panel, prediction_length=length)
    if base.adapters:
        proposals["adapter_given"] = base.recommend(panel, prediction_length=length)
    for algorithm in algorithms:
        if algorithm == "forecast":
            how, policy = replace(recipe.how, objective="forecast"), recipe.policy
        else:
            how, policy = replace(recipe.how, objective="both"), replace(recipe.policy, algorithm=algorithm)
        adapted = adapt_every_category(base, panel, replace(recipe, how=how, policy=policy), seed)
        proposals[f"adapter_{algorithm}"] = adapted.recommend(panel, prediction_length=length)
    task = f"retail_{market.visible_weeks}w"
    return evaluate_prices(log, proposals, length, task, seed, category_k=market.visible_weeks)
