"""How a clinic takes patients: slots that perish, waiting lists, beds, cases that get worse, patients who return.

Every supply here serves in order of acuity, whatever a class pays: the first segment is the most urgent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from pricing_fm.markets.clinic_parts import SOON, serve_by_acuity
from pricing_fm.markets.streams import RELEASE, Streams
from pricing_fm.markets.supply import Supply


@dataclass(frozen=True)
class PrioritySlots(Supply):
    """Slots of one period: what is not used perishes, whoever is not served goes elsewhere.

    State: slots of the period, the same in every period, `(markets, services)`.

    Attributes:
        slots: Patients a period at most, whole, `(markets, services, 1)`.
        refusal_harm: Harm of not being served, currency a patient, `(markets, services, acuities)`.
    """

    slots: np.ndarray
    refusal_harm: np.ndarray
    is_separable = False
    is_shared = True

    def start(self, shape: tuple[int, int, int], volume: np.ndarray) -> np.ndarray:
        """All slots; see `Supply`."""
        return self.slots[:, :, 0].astype(np.float64)

    def get_available(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """All slots, for every class; see `Supply`."""
        return np.broadcast_to(state[:, :, None], shape)

    def sell(
        self, state: np.ndarray, demand: np.ndarray, period: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Supply`."""
        units = serve_by_acuity(demand, self.slots)
        return units, state, self.refusal_harm * (demand - units)

    def build_grid(self) -> list[np.ndarray]:
        """One point per service; see `Supply`."""
        return [np.array([slots]) for slots in self.slots[0, :, 0].astype(np.float64)]


@dataclass(frozen=True)
class WaitingList(Supply):
    """Whoever is not served waits on a list, one per class, and may lose patience; full lists send patients elsewhere.

    State: patients waiting, `(markets, services, acuities, 1)`. Units count the served of the list and the new ones.

    Attributes:
        slots: Patients a period at most, whole, `(markets, services, 1)`.
        room: Longest list of each class, whole (0 = nobody of the class waits), `(markets, services, acuities)`.
        stay: Chance that who waits is still there in the next period, in [0, 1], same shape.
        waiting_harm: Harm of waiting a period, currency a patient, same shape.
        refusal_harm: Harm of being sent elsewhere (full list, or still waiting when the season ends), same shape.
    """

    slots: np.ndarray
    room: np.ndarray
    stay: np.ndarray
    waiting_harm: np.ndarray
    refusal_harm: np.ndarray
    is_separable = False
    is_random = True

    def start(self, shape: tuple[int, int, int], volume: np.ndarray) -> np.ndarray:
        """Nobody waits; see `Supply`."""
        return np.zeros((*shape, 1))

    def get_available(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """All slots, for every class; see `Supply`."""
        return np.broadcast_to(self.slots, shape)

    def sell(
        self, state: np.ndarray, demand: np.ndarray, period: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Supply`."""
        wanted = state[..., 0] + demand
        units = serve_by_acuity(wanted, self.slots)
        # Differences of cumulated fractions may fall below zero by rounding.
        left = np.maximum(wanted - units, 0.0)
        waiting = np.minimum(left, self.room)
        charges = self.waiting_harm * waiting + self.refusal_harm * (left - waiting)
        return units, waiting[..., None], charges

    def drift(self, state: np.ndarray, random: Streams, period: np.ndarray) -> np.ndarray:
        """Some lose patience; see `Supply`."""
        return _thin(state, self.stay[..., None], random, period)

    def compute_final_value(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Whoever still waits is sent elsewhere; see `Supply`."""
        return -self.refusal_harm * state[..., 0]

    def build_grid(self) -> list[np.ndarray]:
        """Every length of the list; see `Supply`."""
        return [np.arange(self.room.item() + 1.0)]

    def build_kernel(self, layer: int, grid: np.ndarray) -> np.ndarray:
        """Binomial thinning; see `Supply`."""
        return _tabulate_thinning(grid, self.stay.ravel()[layer])


@dataclass(frozen=True)
class WorseningCases(Supply):
    """Cases that are not treated get worse: by chance they return in the next period, one class more urgent.

    Those who do not return recover or go elsewhere. State: cases that return in each class, `(markets, services,
    acuities, 1)`; no one returns in the last class.

    Attributes:
        slots: Patients a period at most, whole, `(markets, services, 1)`.
        room: Most cases of each class that may return, whole, 0 in the last class; others are sent elsewhere at the
            refusal harm of the class they would return in, `(markets, services, acuities)`.
        worsening: Chance that a case left untreated returns in this class (it came from the next one), same shape.
        refusal_harm: Harm of not being treated in the period, currency a patient, same shape.
    """

    slots: np.ndarray
    room: np.ndarray
    worsening: np.ndarray
    refusal_harm: np.ndarray
    is_separable = False
    is_random = True

    def start(self, shape: tuple[int, int, int], volume: np.ndarray) -> np.ndarray:
        """Nobody returns; see `Supply`."""
        return np.zeros((*shape, 1))

    def get_available(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """All slots, for every class; see `Supply`."""
        return np.broadcast_to(self.slots, shape)

    def sell(
        self, state: np.ndarray, demand: np.ndarray, period: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Supply`."""
        wanted = state[..., 0] + demand
        units = serve_by_acuity(wanted, self.slots)
        left = np.maximum(wanted - units, 0.0)
        charges = self.refusal_harm * left
        candidates = np.zeros_like(left)
        candidates[:, :, :-1] = left[:, :, 1:]
        returning = np.minimum(candidates, self.room)
        charges += self.refusal_harm * self.worsening * (candidates - returning)
        return units, returning[..., None], charges

    def drift(self, state: np.ndarray, random: Streams, period: np.ndarray) -> np.ndarray:
        """Some get worse, the others do not come back; see `Supply`."""
        return _thin(state, self.worsening[..., None], random, period)

    def compute_final_value(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Whoever returns after the last period finds nobody; see `Supply`."""
        return -self.refusal_harm * state[..., 0]

    def build_grid(self) -> list[np.ndarray]:
        """Every number of returning cases; see `Supply`."""
        return [np.arange(self.room.item() + 1.0)]

    def build_kernel(self, layer: int, grid: np.ndarray) -> np.ndarray:
        """Binomial thinning; see `Supply`."""
        return _tabulate_thinning(grid, self.worsening.ravel()[layer])


@dataclass(frozen=True)
class Beds(Supply):
    """Beds that stay taken: each comes free with the same chance a period. Who finds none goes elsewhere.

    State: beds taken, `(markets, services)`.

    Attributes:
        beds: Beds, whole, `(markets, services, 1)`.
        stay: Chance that a patient stays for the next period, in [0, 1), `(markets, services, 1)`.
        refusal_harm: Harm of finding no bed, currency a patient, `(markets, services, acuities)`.
    """

    beds: np.ndarray
    stay: np.ndarray
    refusal_harm: np.ndarray
    is_separable = False
    is_shared = True
    is_random = True

    def start(self, shape: tuple[int, int, int], volume: np.ndarray) -> np.ndarray:
        """All beds free; see `Supply`."""
        return np.zeros(shape[:2])

    def get_available(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Beds free, for every class; see `Supply`."""
        return np.broadcast_to(self.beds - state[:, :, None], shape)

    def sell(
        self, state: np.ndarray, demand: np.ndarray, period: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Supply`."""
        units = serve_by_acuity(demand, self.beds - state[:, :, None])
        return units, state + units.sum(axis=2), self.refusal_harm * (demand - units)

    def drift(self, state: np.ndarray, random: Streams, period: np.ndarray) -> np.ndarray:
        """Some patients leave; see `Supply`."""
        return _thin(state, self.stay[:, :, 0], random, period)

    def build_grid(self) -> list[np.ndarray]:
        """Every number of beds taken; see `Supply`."""
        return [np.arange(beds + 1.0) for beds in self.beds[0, :, 0]]

    def build_kernel(self, layer: int, grid: np.ndarray) -> np.ndarray:
        """Binomial thinning; see `Supply`."""
        return _tabulate_thinning(grid, self.stay[0, layer, 0])


@dataclass(frozen=True)
class FollowUps(Supply):
    """Treated patients return by chance in the next period for a visit that comes after urgent and before all others.

    Visits are no units: they earn nothing of their own (the benefit of care counts with the treatment) but take a slot,
    and a visit for which there is none does harm. State: visits due, `(markets, services)`.

    Attributes:
        slots: Patients and visits a period at most, whole, `(markets, services, 1)`.
        return_chance: Chance that a treated patient returns, in [0, 1], `(markets, services, 1)`.
        visit_cost: Cost of a visit, currency, `(markets, services, 1)`; shared equally by the classes.
        missed_harm: Harm of a visit without a slot, currency, `(markets, services, 1)`; likewise.
        refusal_harm: Harm of not being served, currency a patient, `(markets, services, acuities)`.
    """

    slots: np.ndarray
    return_chance: np.ndarray
    visit_cost: np.ndarray
    missed_harm: np.ndarray
    refusal_harm: np.ndarray
    is_separable = False
    is_shared = True
    is_random = True

    def start(self, shape: tuple[int, int, int], volume: np.ndarray) -> np.ndarray:
        """No visits are due; see `Supply`."""
        return np.zeros(shape[:2])

    def get_available(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """All slots for urgent patients, those that due visits leave for the others; see `Supply`."""
        available = np.array(np.broadcast_to(self.slots, shape), dtype=np.float64)
        available[:, :, SOON:] = np.maximum(available[:, :, SOON:] - state[:, :, None], 0.0)
        return available

    def sell(
        self, state: np.ndarray, demand: np.ndarray, period: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Supply`."""
        due = state[:, :, None]
        served = serve_by_acuity(np.concatenate([demand[:, :, :SOON], due, demand[:, :, SOON:]], axis=2), self.slots)
        visits = served[:, :, SOON : SOON + 1]
        units = np.concatenate([served[:, :, :SOON], served[:, :, SOON + 1 :]], axis=2)
        common = (self.visit_cost * visits + self.missed_harm * (due - visits)) / units.shape[2]
        return units, units.sum(axis=2), common + self.refusal_harm * (demand - units)

    def drift(self, state: np.ndarray, random: Streams, period: np.ndarray) -> np.ndarray:
        """Some of the treated need a visit; see `Supply`."""
        return _thin(state, self.return_chance[:, :, 0], random, period)

    def compute_final_value(self, state: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Visits due after the last period are missed; see `Supply`."""
        return np.broadcast_to(-self.missed_harm * state[:, :, None] / shape[2], shape)

    def build_grid(self) -> list[np.ndarray]:
        """Every number of visits due; see `Supply`."""
        return [np.arange(slots + 1.0) for slots in self.slots[0, :, 0]]

    def build_kernel(self, layer: int, grid: np.ndarray) -> np.ndarray:
        """Binomial thinning; see `Supply`."""
        return _tabulate_thinning(grid, self.return_chance[0, layer, 0])


def _thin(counts: np.ndarray, chance: np.ndarray, random: Streams, period: np.ndarray) -> np.ndarray:
    """Patients of whom each stays by chance; fractions of patients (there without noise) stay in their mean."""
    whole = np.floor(counts)
    return random.binomial(period, RELEASE, whole, chance) + (counts - whole) * chance


def _tabulate_thinning(grid: np.ndarray, chance: float) -> np.ndarray:
    """Probability of every count of the grid (columns) when each of the patients before (rows) stays by chance."""
    return binom.pmf(grid, grid[:, None], chance)
