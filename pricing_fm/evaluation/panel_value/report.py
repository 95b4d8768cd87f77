"""One HTML page for people who decide: what policies would have earned, how sure that is, and what to do."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pricing_fm.evaluation.panel_value.evaluation import PanelValueEvaluation
from pricing_fm.evaluation.panel_value.sections import build_sections
from pricing_fm.evaluation.panel_value.wording import summarize
from pricing_fm.evaluation.report import Page, write_page

GLOSSARY = (
    ("Policy", "A way of setting prices. Today's prices are the manager's policy, as the log shows it."),
    ("Off-policy value", "What a policy would have earned, worked out from a log that was written under other prices."),
    ("90 % interval", "Where the number would lie nine times out of ten if other products and other weeks had been"
     " drawn. It counts luck, and not what the log does not hold."),
    ("Identified", "The log can tell: enough of the policy's prices were really charged, often enough, and by"
     " decisions that can be told apart. Otherwise a number would be a guess, and an experiment is needed."),
    ("Support", "The share of a policy's prices that the manager charges at least now and then in such a week."),
    ("Trimmed", "The share of a policy's weight that rests on prices that were hardly ever charged; it is capped."),
    ("Log is worth", "Number of equally good observations that say as much about the policy as the log does (effective"
     " sample size)."),
    ("Decision unit", "A product in all places that share its price. Weeks and places in which one decision stands are"
     " not new evidence."),
    ("Hidden knowledge, factor", "1.5 means: what the manager knew and the log does not hold made a price at most 1.5"
     " times more or less likely, in odds."),
    ("Worst tenth", "Mean of the worst 10 % of outcomes (conditional value at risk)."),
    ("Calibration error", "Gap between how often something was predicted and how often it happened. 0 is perfect."),
    ("Switchback", "An experiment in which units switch back and forth between both policies in blocks of weeks."),
    ("Elasticity", "Percent of demand gained when a price rises by one percent; -2 means 1 % dearer, 2 % fewer units."),
    ("Today's prices", "The prices that were charged in the weeks that are valued."),
)  # fmt: skip


def write_value_report(folder: Path, found: PanelValueEvaluation, warnings: Sequence[str] = ()) -> Path:
    """Writes `report.html` and its figures as PNG files beside it.

    Args:
        folder: Where to; created.
        found: The evaluation.
        warnings: What speaks against the numbers, for the head of the page.

    Returns:
        The page.
    """
    weeks = found.weeks
    first, last = pd.Timestamp(weeks.timestamps[0]), pd.Timestamp(weeks.timestamps[-1])
    facts = (
        ("data", weeks.panel.name),
        ("valued", f"{first:%d %b %Y} to {last:%d %b %Y}"),
        ("items", f"{len(weeks.item_ids):,}"),
        ("decision units", f"{len(set(weeks.clusters.tolist())):,}"),
        ("values are", found.costs.objective),
        ("seed", str(found.task.seed)),
        *(("warning", line) for line in warnings),
    )
    title = f"What other prices would have earned: {weeks.panel.name}"
    return write_page(folder, Page(title, facts, summarize(found), build_sections(found), GLOSSARY))
