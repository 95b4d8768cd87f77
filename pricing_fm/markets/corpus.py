"""A training corpus: logs of many markets, each category with books of its own, laid out as a store of series."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pricing_fm import names
from pricing_fm.markets.domains import DOMAINS, RetailSettings
from pricing_fm.markets.log_truth import compute_elasticities
from pricing_fm.markets.logs import LogSettings, SimulatedLog, simulate_log
from pricing_fm.markets.managers import MANAGERS, ManagerSettings, describe_missing
from pricing_fm.markets.record_keeping import RecordSettings, keep_records
from pricing_fm.panel import SeriesStore
from pricing_fm.panel.frequency import Frequency

# Beyond this a demand curve is a cliff (a choke price, an empty season): nothing to learn an elasticity from.
LARGEST_ELASTICITY = 12.0
# Evaluation markets have larger seeds, so that none of them can be met in training.
FIRST_SEED_OF_EVALUATION = 900_000
# Turns of the follower of hidden demand for one of the others: its logs are the hardest to see through.
FOLLOWER_TURNS = 20
# Its correlations with hidden demand, one range per log. Strong ones, where a regression is furthest from the truth,
# are rare in a uniform draw, and are drawn more often.
CONFOUNDING_RANGES = ((-0.95, 0.95), (-0.95, 0.95), (-0.95, -0.5), (0.5, 0.95))

MONTHLY_SHOP, MONTHS_PER_YEAR = "retail/shop/MS", 12.0


@dataclass(frozen=True)
class CorpusSettings:
    """What a corpus holds.

    Attributes:
        families: Families as `domain/family`; `retail/shop/MS` is a shop whose books are kept by the month.
        shares: Share of the items from each family; None = equal shares.
        num_items: Items altogether, about.
        items_per_log: Items of one simulated log; every log draws settings, length and calendar of its own.
        num_periods: Shortest and longest log, periods.
        randomized_periods: Shortest and longest stretch of random prices at its end.
        randomized_share: Share of the items that have such a stretch.
        held_out_managers: Managers that never appear.
        seed: Seed of everything; logs take the seeds from `seed * 10_000` on.

    Raises:
        ValueError: If a family or manager is unknown, shares do not fit, or a count is out of bounds.
    """

    families: tuple[str, ...] = ("retail/shop",)
    shares: tuple[float, ...] | None = None
    num_items: int = 20_000
    items_per_log: int = 2_000
    num_periods: tuple[int, int] = (40, 140)
    randomized_periods: tuple[int, int] = (8, 26)
    randomized_share: float = 0.8
    held_out_managers: tuple[str, ...] = ("noisy_expert",)
    seed: int = 0

    def __post_init__(self) -> None:
        for entry in self.families:
            if entry == MONTHLY_SHOP:
                continue
            domain, _, family = entry.partition("/")
            if domain not in DOMAINS or family not in DOMAINS[domain].families:
                raise ValueError(
                    f"families holds {entry!r}; expected domain/family, such as retail/shop, or {MONTHLY_SHOP}"
                )
        if self.shares is not None and (len(self.shares) != len(self.families) or min(self.shares) <= 0):
            raise ValueError(f"shares has {len(self.shares)} entries for {len(self.families)} families; each above 0")
        if unknown := sorted(set(self.held_out_managers) - set(MANAGERS)):
            raise ValueError(f"held_out_managers holds {unknown}; known are {MANAGERS}")
        low, high = self.num_periods
        if not self.randomized_periods[1] < low <= high:
            raise ValueError(
                f"num_periods is {self.num_periods}; it must increase and exceed the longest random stretch "
                f"({self.randomized_periods[1]})"
            )
        if min(self.num_items, self.items_per_log) < 1 or not 0 <= self.seed < FIRST_SEED_OF_EVALUATION // 10_000:
            raise ValueError(
                f"num_items is {self.num_items}, items_per_log {self.items_per_log} (1 or more), seed {self.seed} "
                f"(0 to {FIRST_SEED_OF_EVALUATION // 10_000 - 1})"
            )


def plan_logs(settings: CorpusSettings) -> list[tuple[str, int]]:
    """Family and seed of every log, those of one family one after another."""
    shares = np.ones(len(settings.families)) if settings.shares is None else np.array(settings.shares)
    counts = np.maximum(np.rint(settings.num_items / settings.items_per_log * shares / shares.sum()), 1).astype(int)
    entries = [family for family, count in zip(settings.families, counts, strict=True) for _ in range(count)]
    if len(entries) > 10_000:
        raise ValueError(f"the corpus would take {len(entries)} logs; at most 10,000: raise items_per_log")
    return [(family, settings.seed * 10_000 + number) for number, family in enumerate(entries)]


def simulate_corpus(
    settings: CorpusSettings, records: RecordSettings | None = None
) -> Iterator[tuple[str, SimulatedLog, np.ndarray]]:
    """Simulate the logs of a corpus one after another.

    Args:
        settings: What it holds.
        records: How books are kept; None = the defaults.

    Yields:
        Family, log and its channels as `keep_records` returns them.
    """
    for family, seed in plan_logs(settings):
        random = np.random.Generator(np.random.PCG64(np.random.SeedSequence((settings.seed, seed))))
        log = _simulate(settings, family, seed, random)
        yield family, log, keep_records(log, records or RecordSettings(), random)


def collect_stores(corpus: Iterator[tuple[str, SimulatedLog, np.ndarray]], name: str) -> dict[str, SeriesStore]:
    """The corpus as stores of series, one per cadence, with the true elasticity of every period.

    Args:
        corpus: From `simulate_corpus`.
        name: Name of the stores in result rows; the cadence is added.

    Returns:
        Stores by cadence.
    """
    parts: dict[str, list[_Part]] = {}
    for family, log, values in corpus:
        part = _Part(
            values=values.reshape(-1, values.shape[-1]),
            timestamps=np.tile(log.timestamps, log.num_items),
            length=values.shape[1],
            item_ids=tuple(f"{family}/{log.settings.seed}/{item}" for item in range(log.num_items)),
            elasticity=label_elasticities(log).reshape(-1),
            groups=np.repeat(np.arange(len(log.market_ids)), log.num_items // len(log.market_ids)),
        )
        parts.setdefault(log.settings.cadence, []).append(part)
    return {frequency: _join(frequency, found, f"{name}-{frequency}") for frequency, found in parts.items()}


def label_elasticities(log: SimulatedLog) -> np.ndarray:
    """True own-price elasticity at the logged price, `(items, periods)`, float32.

    NaN where it is no slope to learn: demand has ended, a price at the choke price, or a rise with the price.
    """
    found = compute_elasticities(log.parameters, log.states, log.arrays.price, log.arrays.promotion)
    values = np.moveaxis(found, 0, -1).reshape(log.num_items, -1)
    return np.where((values >= 0) & (values <= LARGEST_ELASTICITY), values, np.nan).astype(np.float32)


@dataclass(frozen=True)
class _Part:
    values: np.ndarray
    timestamps: np.ndarray
    length: int
    item_ids: tuple[str, ...]
    elasticity: np.ndarray
    groups: np.ndarray


def _join(frequency: str, parts: list[_Part], name: str) -> SeriesStore:
    # Names are left out on purpose: a network that knows its items by name learns them by heart.
    item_ids = tuple(item for part in parts for item in part.item_ids)
    values = np.concatenate([part.values for part in parts])
    lengths = np.concatenate([np.full(len(part.item_ids), part.length) for part in parts])
    markets_before = np.cumsum([0, *(part.groups[-1] + 1 for part in parts)])
    categories = np.full((len(item_ids), len(names.STATIC_CATEGORIES)), None, dtype=object)
    categories[:, 0] = frequency
    return SeriesStore(
        values=values,
        timestamps=np.concatenate([part.timestamps for part in parts]),
        offsets=np.r_[0, np.cumsum(lengths)].astype(np.int64),
        item_ids=item_ids,
        static_categories=categories,
        static_reals=np.full((len(item_ids), names.MAX_STATIC_REALS), np.nan, dtype=np.float32),
        frequency=Frequency.parse(frequency),
        name=name,
        fingerprint=hashlib.sha256(values.tobytes()).hexdigest(),
        elasticity=np.concatenate([part.elasticity for part in parts]),
        groups=np.concatenate([part.groups + before for part, before in zip(parts, markets_before)]),
    )


def _simulate(settings: CorpusSettings, entry: str, seed: int, random: np.random.Generator) -> SimulatedLog:
    domain, family, *cadence = entry.split("/")
    frequency = cadence[0] if cadence else DOMAINS[domain].frequency
    market = _draw_retail(random, family) if domain == "retail" else DOMAINS[domain].settings()
    if entry == MONTHLY_SHOP:
        market = _by_the_month(market, random)
    one = DOMAINS[domain].sample(market, family, np.zeros(1, dtype=np.int64), seed)
    items = int(np.prod(one.shape[1:]))
    log = LogSettings(
        num_markets=max(settings.items_per_log // items, 1),
        num_periods=int(random.integers(settings.num_periods[0], settings.num_periods[1] + 1)),
        start=_draw_start(frequency, random),
        randomized_periods=settings.randomized_periods,
        randomized_share=settings.randomized_share,
        seed=seed,
        domain=domain,
        family=family,
        frequency=frequency,
    )
    fitting = [
        name for name in MANAGERS if name not in settings.held_out_managers and describe_missing(name, one) is None
    ]
    return simulate_log(market, _draw_managers(fitting, random), log)


def _draw_retail(random: np.random.Generator, family: str) -> RetailSettings:
    """Ranges wide enough that real categories lie inside; some differ from log to log, so that none is the rule."""
    scale, persistence = random.uniform(0.1, 0.55), random.uniform(0.3, 0.9)
    return RetailSettings(
        # A product alone, without siblings to learn from, is as usual as a shelf; other families are about shelves.
        num_products=int(random.choice([1, 1, 4, 6, 8, 12] if family == "shop" else [4, 6, 8, 12])),
        # Steeper responses are held out for evaluation: whoever has seen them believes a confounded log too easily.
        elasticity_range=(0.5, 4.5),
        elasticity_bounds=(0.5, 4.5),
        product_deviation=float(random.uniform(0.0, 0.25)),
        median_volume=float(np.exp(random.uniform(np.log(3.0), np.log(60.0)))),
        volume_bounds=(0.2, 3_000.0),
        season_range=(0.0, float(random.uniform(0.1, 0.8))),
        trend_range=(-0.3, 0.3),
        num_events=int(random.integers(0, 5)),
        event_scale=float(random.uniform(0.1, 0.8)),
        promotion_uplift_range=(1.0, float(random.uniform(1.2, 3.0))),
        shock_scale_range=(scale * random.uniform(0.05, 0.7), scale),
        shock_persistence_range=(persistence - 0.2, persistence + 0.09),
        reference_share=float(random.choice([0.0, 0.3])),
        cost_change_probability=float(random.choice([0.0, 0.04, 0.15])),
        cost_change_scale=float(random.uniform(0.03, 0.12)),
        stocked_share=float(random.choice([0.0, 0.0, 0.5, 1.0])),
        stock_cover_range=(0.7, float(random.uniform(1.0, 3.0))),
    )


def _by_the_month(market: RetailSettings, random: np.random.Generator) -> RetailSettings:
    """The same shop with months for periods: it sells more in each, and its level wanders instead of coming back."""
    persistence = float(random.uniform(0.6, 0.9))
    return replace(
        market,
        periods_per_year=MONTHS_PER_YEAR,
        median_volume=4.0 * market.median_volume,
        shock_persistence_range=(persistence, 0.99),
    )


def _draw_managers(fitting: list[str], random: np.random.Generator) -> ManagerSettings:
    turns = [name for name in fitting for _ in range(FOLLOWER_TURNS if name == "demand_follower" else 1)]
    # Steps of 5 % or of 2.5 %, from 20 to 45 % below the list price up to at most 30 % above it.
    low, high, finer = int(random.integers(4, 10)), int(random.integers(0, 7)), int(random.integers(1, 3))
    ladder = tuple(round(1.0 + 0.05 / finer * rung, 3) for rung in range(-low * finer, high * finer + 1))
    keep = float(random.uniform(0.2, 0.6))
    confounding = CONFOUNDING_RANGES[int(random.integers(len(CONFOUNDING_RANGES)))]
    return ManagerSettings(names=tuple(turns), price_ladder=ladder, confounding=confounding, keep_share=(keep, 0.92))


def _draw_start(frequency: str, random: np.random.Generator) -> str:
    """A first day between 2000 and 2024, on a Monday or the first of a month."""
    monday = pd.Timestamp("2000-01-03") + pd.Timedelta(weeks=int(random.integers(0, 1250)))
    first = monday.replace(day=1) if Frequency.parse(frequency).months else monday
    return first.strftime("%Y-%m-%d")
