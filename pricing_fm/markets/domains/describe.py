"""The page about all domains, written from what the domains say of themselves.

Run `python -m pricing_fm.markets.domains.describe` to write `pricing_fm/markets/domains/README.md` anew.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pricing_fm.markets.domains import DOMAINS
from pricing_fm.markets.domains.domain import Domain

PAGE = Path(__file__).parent / "README.md"

_HEAD = """\
# Domains of markets

Six domains on one functional core (`pricing_fm.markets.core`). A market is composed of parts: demand, calendar, hidden
shock, regimes, memory of the customers, supply, rivals, costs, payoff. A family says which parts are there; its numbers
are drawn from ranges (`Settings`), market by market, so that market 7 is the same whatever other markets are drawn.

```python
import gymnasium as gym
import pricing_fm

batch = pricing_fm.markets.make("retail", num_markets=1024, seed=0, family="stockpiling")
env = gym.make("pricing_fm/Retail-v0", family="stockpiling")
```

The oracle of a family (closed form or search for one period, dynamic program, fluid bound) and what looking ahead is
worth in it: `python benchmarks/market_oracles.py`. Speed beside bare numpy: `python benchmarks/markets.py`.
"""


def render_page() -> str:
    """Markdown of all domains: identifiers, shapes, and each domain's own words."""
    return "\n".join([_HEAD, *(_render_domain(domain) for domain in DOMAINS.values())])


def _render_domain(domain: Domain) -> str:
    settings = domain.settings()
    identifier = "".join(word.capitalize() for word in domain.name.split("_"))
    lines = [
        f"## {domain.name.replace('_', ' ').capitalize()} (`pricing_fm/{identifier}-v0`)",
        "",
        f"Unit: {domain.unit}. Period: {domain.frequency} (pandas frequency). Settings: `{domain.settings.__name__}`.",
        "",
        domain.description.rstrip(),
        "",
        "| family | products x segments | periods | parts |",
        "|---|---|---|---|",
    ]
    for family in domain.families:
        market = domain.sample(settings, family, np.array([0]), 0)
        skipped = ("demand", "noise", "costs", "payoff")
        kinds = [type(market.demand).__name__] + [
            type(part).__name__ for name, part in market.parts.items() if name not in skipped
        ]
        shape = f"{market.shape[1]} x {market.shape[2]}"
        end = "then ends" if market.ends else "then cut off"
        lines.append(f"| {family} | {shape} | {market.num_periods}, {end} | {', '.join(kinds)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(render_page(), encoding="utf-8")
