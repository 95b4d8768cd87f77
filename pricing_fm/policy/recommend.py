"""From a situation to one price per item: candidates, guardrails, scores, choice."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pricing_fm.adapters import AdapterWeights
from pricing_fm.errors import PanelError
from pricing_fm.objectives.reward import RewardWeights
from pricing_fm.policy.artifacts import CAUTION, LoadedAdapter
from pricing_fm.policy.engine import Engine, PathDemand, PolicyScores
from pricing_fm.policy.options import PriceOptions
from pricing_fm.policy.planning import (
    best_candidate,
    cautious_gain,
    dialled_scores,
    draw_candidate,
    planned_value,
    sum_by_group,
    unit_scores,
)
from pricing_fm.policy.request import OBJECTIVES, ItemInputs
from pricing_fm.policy.situation import FEWEST_OBSERVED, LIST, Situation
from pricing_fm.policy.support import item_support
from pricing_fm.policy.tables import Chosen, fallback_table, finished_table, recommendation_table
from pricing_fm.policy.units import ROUNDING, JointRules, joint_rules

# Log-odds of a gain worth one reference revenue per period when the base's own plan is explored: 1 % counts 2 nats.
EXPLORATION_SHARPNESS = 200.0
# A rung that the manager would choose less often than this given the state is not supported, however good it looks.
BEHAVIOR_THRESHOLD = 1e-4
# Columns of the candidates that are always there: the decision unit's current price, and the item's own.
KEEP, OWN = -2, -1


@dataclass(frozen=True)
class _Candidates:
    """Prices that compete, `(N, P)` each; the last column keeps the item's own price and only serves to compare."""

    proposed: np.ndarray
    final: np.ndarray
    supported: np.ndarray


@dataclass(frozen=True)
class _Job:
    """Items with one adapter and one objective, and the first item of each of their decision units."""

    rows: np.ndarray
    situation: Situation
    objective: str
    adapter: LoadedAdapter | None
    rules: JointRules
    numbers: np.ndarray
    first: np.ndarray
    units: np.ndarray
    candidates: _Candidates

    @property
    def uses_policy(self) -> bool:
        return self.adapter is not None and self.adapter.has_policy


@dataclass(frozen=True)
class _Share:
    """Items with one adapter: those with a price, their rules, the jobs among them, and those too short to judge."""

    adapter: LoadedAdapter | None
    priced: np.ndarray
    rules: JointRules
    jobs: tuple[_Job, ...]
    kept: np.ndarray


class Recommender:
    """Recommends a price for every item of a panel: rules and choice category by category, the network for all at once.

    Args:
        inputs (`ItemInputs`): What is asked, item by item.
        engine (`Engine`): The base.
    """

    def __init__(self, inputs: ItemInputs, engine: Engine):
        self.inputs, self.situation, self.request = inputs, inputs.situation, inputs.request
        self.engine = engine
        self.tables: list[pd.DataFrame] = []
        # Price of each decision unit, what bound it, and its propensity.
        self.unit_prices: dict[int, tuple[float, str, float]] = {}

    def recommend(self, adapters: Sequence[LoadedAdapter | None]) -> pd.DataFrame:
        """All recommendations, one row per item, sorted by item.

        Args:
            adapters (`Sequence[LoadedAdapter or None]`): The adapter that answers for each item; None = the base alone.

        Returns:
            `pd.DataFrame`: As `PricingPolicy.recommend`.
        """
        shares = self._shares(adapters)
        jobs = [job for share in shares for job in share.jobs]
        answers = iter(zip(self._demands(jobs), self._decisions(jobs), strict=True))
        for share in shares:
            for job in share.jobs:
                self._choose(job, *next(answers))
            self._keep_prices(share)
        first = self.situation.windows.future_timestamps[0, self.request.decision_lead]
        table = pd.concat(self.tables, ignore_index=True).sort_values("item_id", ignore_index=True)
        groups = self.inputs.substitute_groups(table["item_id"])
        return finished_table(table, first, groups, self.request.prediction_length)

    def options(self, adapters: Sequence[LoadedAdapter | None]) -> PriceOptions:
        """What every item could be priced at, and the demand that each price would meet.

        Args:
            adapters (`Sequence[LoadedAdapter or None]`): The adapter that answers for each item; None = the base alone.

        Returns:
            `PriceOptions`: Items with enough history to judge, sorted.

        Raises:
            PanelError: If there is no such item.
        """
        jobs = [job for share in self._shares(adapters) for job in share.jobs]
        if not jobs:
            raise PanelError(f"no item has a price and {FEWEST_OBSERVED} observed periods: there is nothing to plan")
        rows, situation = np.concatenate([job.rows for job in jobs]), self._situation_of(jobs)
        listed = situation.windows.future[:, 0, LIST].astype(np.float64)
        last = np.where(np.isfinite(listed), listed, situation.current_price)[:, None]
        prices = np.concatenate([np.concatenate([job.candidates.final for job in jobs]), last], axis=1)
        demand = self.engine.demand(situation, self._paths(situation, prices), _weights_of(jobs))
        allowed = [self._unit_allowed(job.candidates, job.candidates.supported, job.units) for job in jobs]
        order = np.argsort(rows)
        return PriceOptions(
            situation=situation.select(order),
            costs=self.inputs.costs[rows][order],
            list_price=listed[order],
            prices=prices[order],
            allowed=np.concatenate(allowed)[order],
            units=np.unique(self.inputs.units[rows][order], return_inverse=True)[1],
            demand=demand.select(order),
            lead=self.request.decision_lead,
            levels=self.engine.levels,
            step_correlation=self.engine.processor.step_correlation,
        )

    def _shares(self, adapters: Sequence[LoadedAdapter | None]) -> list[_Share]:
        owners: dict[int, tuple[LoadedAdapter | None, list[int]]] = {}
        for row, adapter in enumerate(adapters):
            owners.setdefault(id(adapter), (adapter, []))[1].append(row)
        return [self._share(np.asarray(rows), adapter) for adapter, rows in owners.values()]

    def _share(self, rows: np.ndarray, adapter: LoadedAdapter | None) -> _Share:
        has_price = np.isfinite(self.situation.current_price[rows])
        priced = rows[has_price]
        rules = self._joint_rules(priced, adapter)
        usable = has_price & (self.situation.observed_periods[rows] >= FEWEST_OBSERVED)
        jobs = []
        for objective in OBJECTIVES:
            chosen = rows[usable & (self.inputs.objectives[rows] == objective)]
            if len(chosen):
                jobs.append(self._job(chosen, objective, adapter, rules.select(np.searchsorted(priced, chosen))))
        return _Share(adapter, priced, rules, tuple(jobs), rows[~usable])

    def _job(self, rows: np.ndarray, objective: str, adapter: LoadedAdapter | None, rules: JointRules) -> _Job:
        situation = self.situation.select(rows)
        numbers, first, units = np.unique(self.inputs.units[rows], return_index=True, return_inverse=True)
        candidates = self._candidates(situation, adapter, rules, first[units])
        return _Job(rows, situation, objective, adapter, rules, numbers, first, units, candidates)

    def _joint_rules(self, priced: np.ndarray, adapter: LoadedAdapter | None) -> JointRules:
        given = self.request.guardrails is not None or adapter is None
        return joint_rules(
            self.inputs.units[priced],
            self.situation.current_price[priced],
            self.inputs.costs[priced],
            self.inputs.rules if given or adapter is None else adapter.guardrails,
            self.inputs.limits_of(priced),
            [self.situation.item_ids[row] for row in priced],
        )

    def _demands(self, jobs: Sequence[_Job]) -> list[PathDemand]:
        """Demand at every job's candidates, whatever adapters they need, in shared forward passes."""
        if not jobs:
            return []
        paths = np.concatenate([self._paths(job.situation, job.candidates.final) for job in jobs])
        together = self.engine.demand(self._situation_of(jobs), paths, _weights_of(jobs))
        return [together.select(rows) for rows in _rows_of(jobs)]

    def _decisions(self, jobs: Sequence[_Job]) -> list[PolicyScores | None]:
        """What the decision heads say of every job's candidates; None where no policy was trained."""
        found: dict[int, PolicyScores] = {}
        terms: dict[tuple[RewardWeights, float], list[int]] = {}
        for number, job in enumerate(jobs):
            if job.adapter is not None and job.uses_policy:
                terms.setdefault((_rewards_of(job), job.adapter.discount), []).append(number)
        for (rewards, discount), numbers in terms.items():
            asked = [jobs[number] for number in numbers]
            together = self.engine.scores(
                self._situation_of(asked),
                np.concatenate([job.candidates.final for job in asked]),
                rewards,
                discount,
                np.nan_to_num(self.inputs.costs[np.concatenate([job.rows for job in asked])]),
                self.request.decision_lead,
                _weights_of(asked),
            )
            found |= {number: together.select(rows) for number, rows in zip(numbers, _rows_of(asked), strict=True)}
        return [found.get(number) for number in range(len(jobs))]

    def _situation_of(self, jobs: Sequence[_Job]) -> Situation:
        return self.situation.select(np.concatenate([job.rows for job in jobs]))

    def _choose(self, job: _Job, demand: PathDemand, decisions: PolicyScores | None) -> None:
        numbers, first, units, candidates = job.numbers, job.first, job.units, job.candidates
        if decisions is not None:
            scores, allowed = self._policy_scores(job, decisions)
        else:
            scores, allowed = self._planned_scores(job, candidates, demand), candidates.supported
        scores = self._unit_scores(candidates, demand, scores, units)[first]
        allowed = self._unit_allowed(candidates, allowed, units)[first]
        best, propensity = self._pick(job, candidates, scores, allowed, first)
        rows = np.arange(len(job.rows))
        binding = job.rules.select(first).binding_rules(*self._proposals_of(candidates, first, best))
        for number, *answer in zip(numbers, candidates.final[first, best], binding, propensity, strict=True):
            self.unit_prices[int(number)] = (float(answer[0]), str(answer[1]), float(answer[2]))
        chosen = Chosen(
            column=best[units],
            propensity=propensity[units],
            binding_rule=binding[units],
            supported=candidates.supported[rows, best[units]],
            source=describe_source(job.adapter),
        )
        self.tables.append(
            recommendation_table(
                job.situation,
                job.objective,
                self.inputs.costs[job.rows],
                candidates.final,
                demand,
                chosen,
                self.engine.levels,
                self.engine.processor.step_correlation,
                self.request.decision_lead,
            )
        )

    def _candidates(
        self, situation: Situation, adapter: LoadedAdapter | None, rules: JointRules, first: np.ndarray
    ) -> _Candidates:
        """The ladder of each decision unit's first member, its current price, and the item's own: what rules leave."""
        processor = self.engine.processor
        references = self.engine.reference_prices(situation)
        current = situation.current_price
        rungs = processor.rung_prices(references)
        proposed = np.concatenate([rungs[first], current[first][:, None], current[:, None]], axis=1)
        final = proposed.copy()
        final[:, :KEEP] = rules.admissible(proposed[:, :KEEP], situation.item_ids)
        final[:, KEEP] = rules.kept(proposed[:, KEEP], situation.item_ids)
        promoted = situation.planned_promotion[:, self.request.decision_lead] > 0
        supported = item_support(situation.windows, final, promoted, processor.ladder_step / 2)
        if adapter is not None and adapter.support is not None:
            tried = np.stack([adapter.support.tried(kind) for kind in (0, 1)])
            supported |= tried[promoted.astype(int)[:, None], processor.rungs(final, references)]
        return _Candidates(proposed, final, supported)

    def _unit_scores(
        self, candidates: _Candidates, demand: PathDemand, scores: np.ndarray, units: np.ndarray
    ) -> np.ndarray:
        """Scores of each item's decision unit `(N, P - 1)`: a member counts by its revenue, so that gains add up."""
        revenue = np.maximum(candidates.final[:, OWN] * demand.mean[:, OWN, self.request.decision_lead :].sum(-1), 1e-9)
        return unit_scores(scores[:, :OWN], revenue, units)

    @staticmethod
    def _unit_allowed(candidates: _Candidates, allowed: np.ndarray, units: np.ndarray) -> np.ndarray:
        """What every member of each item's unit allows, `(N, P - 1)`.

        Keeping a price that no rule moves is always possible; one that a rule moves has to be supported like any other,
        unless nothing is.
        """
        together = sum_by_group((~allowed[:, :OWN]).astype(float), units) == 0
        moved = np.abs(candidates.final[:, KEEP] - candidates.proposed[:, KEEP]) > ROUNDING
        together[:, KEEP + 1] |= ~moved | ~together.any(axis=1)
        return together

    @staticmethod
    def _proposals_of(candidates: _Candidates, first: np.ndarray, best: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Proposals that end at the chosen price, NaN elsewhere `(units, P - 1)`, and that price."""
        final = candidates.final[first, best]
        same = candidates.final[first, :OWN] == final[:, None]
        return np.where(same, candidates.proposed[first, :OWN], np.nan), final

    def _paths(self, situation: Situation, prices: np.ndarray) -> np.ndarray:
        """Current price until the decision takes effect, then the candidate: `(N, P)` -> `(N, P, lead + H)`."""
        lead = self.request.decision_lead
        paths = np.repeat(prices[:, :, None], lead + self.request.prediction_length, axis=2)
        paths[:, :, :lead] = situation.current_price[:, None, None]
        return paths

    def _planned_scores(self, job: _Job, candidates: _Candidates, demand: PathDemand) -> np.ndarray:
        """Cautious gain over keeping the price `(N, P)`, as a share of the revenue at the item's own price."""
        lead = self.request.decision_lead
        value = planned_value(demand, candidates.final, self.inputs.costs[job.rows], job.objective, lead)
        own = np.full(len(job.rows), candidates.final.shape[1] - 1)
        revenue = candidates.final[:, OWN] * demand.mean[:, OWN, lead:].sum(-1)
        return cautious_gain(value, own, CAUTION) / np.maximum(revenue, 1e-9)[:, None]

    def _policy_scores(self, job: _Job, scores: PolicyScores) -> tuple[np.ndarray, np.ndarray]:
        """Log probability plus cautious advantage of each candidate `(N, P)`, and which of them are supported."""
        assert job.adapter is not None
        # Per held period, so that the aggressiveness means the same for a short and a long decision.
        advantages = scores.advantages / self.request.prediction_length
        total = dialled_scores(scores.policy, advantages, job.adapter.aggressiveness, job.adapter.caution)
        return total, job.candidates.supported & (scores.behavior >= np.log(BEHAVIOR_THRESHOLD))

    def _pick(
        self, job: _Job, candidates: _Candidates, scores: np.ndarray, allowed: np.ndarray, first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Candidate of each unit, and the probability with which its price was chosen."""
        prices = candidates.final[first, :OWN]
        if not self.request.explore:
            return best_candidate(scores, allowed, prices, prices[:, KEEP + 1]), np.ones(len(first))
        uniforms = np.array([self._uniform(job.situation.item_ids[row]) for row in first])
        sharpness = 1.0 if job.uses_policy else EXPLORATION_SHARPNESS
        return draw_candidate(sharpness * scores, allowed, prices, uniforms)

    def _uniform(self, item_id: str) -> float:
        moment = self.situation.windows.future_timestamps[0, self.request.decision_lead]
        key = f"{self.request.seed}|{item_id}|{moment}".encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2.0**64

    def _keep_prices(self, share: _Share) -> None:
        """Items with too little history to judge follow their decision unit, else keep their price inside the rules."""
        rows, priced = share.kept, share.priced
        if not len(rows):
            return
        units, situation = self.inputs.units, self.situation
        # Where no member of a unit has a history, the first one with a price speaks for it.
        kept = priced[np.isin(priced, rows)]
        speaking = kept[np.unique(units[kept], return_index=True)[1]]
        if len(speaking):
            own = share.rules.select(np.searchsorted(priced, speaking))
            current = situation.current_price[speaking]
            final = own.kept(current, [situation.item_ids[row] for row in speaking])
            for row, price, rule in zip(speaking, final, own.binding_rules(current[:, None], final), strict=True):
                self.unit_prices.setdefault(int(units[row]), (float(price), str(rule), 1.0))
        answers = [self.unit_prices.get(int(units[row]), (np.nan, "", 1.0)) for row in rows]
        prices, binding, propensity = zip(*answers, strict=True)
        self.tables.append(
            fallback_table(
                situation.select(rows),
                self.inputs.objectives[rows],
                np.array(prices),
                np.array(binding, dtype=object),
                np.array(propensity),
                describe_source(share.adapter),
                self.request.decision_lead,
            )
        )


def _rows_of(jobs: Sequence[_Job]) -> list[np.ndarray]:
    """Where each job's items stand when all are put one after the other."""
    ends = np.cumsum([len(job.rows) for job in jobs])
    return [np.arange(end - len(job.rows), end) for job, end in zip(jobs, ends, strict=True)]


def _weights_of(jobs: Sequence[_Job]) -> list[AdapterWeights | None]:
    """The numbers of each item's adapter."""
    return [None if job.adapter is None else job.adapter.weights for job in jobs for _ in job.rows]


def _rewards_of(job: _Job) -> RewardWeights:
    """What the adapter's policy maximises, if that is what is asked for, else the plain objective."""
    assert job.adapter is not None
    rewards = job.adapter.rewards
    own = "margin" if rewards.margin > 0 else "revenue" if rewards.revenue > 0 else "units"
    if own == job.objective:
        return rewards
    if job.objective == "units":
        raise PanelError(
            f"this adapter's policy prices for {own}; for units load a forecast adapter or the base alone, or adapt "
            "with --margin 0 --units 1"
        )
    return RewardWeights() if job.objective == "margin" else RewardWeights(margin=0.0, revenue=1.0)


def describe_source(adapter: LoadedAdapter | None) -> str:
    """Which network a recommendation comes from, in words."""
    if adapter is None:
        return "base model's own demand curve, no adapter for this category"
    owner = "all categories" if adapter.category is None else f"category {adapter.category!r}"
    return f"{'policy' if adapter.has_policy else 'demand'} adapter for {owner}"
