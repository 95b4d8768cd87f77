"""What all domains have in common: enough families, a page that is up to date, oracles that know their limits."""

import numpy as np
import pytest

from pricing_fm.markets.domains import DOMAINS
from pricing_fm.markets.domains.describe import PAGE, render_page


def test_the_page_says_what_the_domains_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == render_page(), (
        "run python -m pricing_fm.markets.domains.describe to write the page anew"
    )


@pytest.mark.parametrize("name", list(DOMAINS))
def test_a_domain_has_six_families_and_says_all_that_a_reader_needs(name: str) -> None:
    domain = DOMAINS[name]
    assert len(set(domain.families)) >= 6
    for word in ("State", "Action", "Reward", "Dynamics", "onstraints", "baselines"):
        assert word in domain.description or word.lower() in domain.description, word


@pytest.mark.parametrize("name", list(DOMAINS))
def test_an_unknown_family_is_named_with_those_that_exist(name: str) -> None:
    domain = DOMAINS[name]
    with pytest.raises(ValueError, match=f"(?s)nonsense.*{domain.families[0]}"):
        domain.sample(domain.settings(), "nonsense", np.arange(2), 0)
