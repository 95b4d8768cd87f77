"""What the report of values shows, part by part."""

import pandas as pd

from pricing_fm.evaluation.off_policy import PolicyValue, Verdict
from pricing_fm.evaluation.panel_value import figures
from pricing_fm.evaluation.panel_value.evaluation import PanelValueEvaluation
from pricing_fm.evaluation.panel_value.findings import RULE_SENSITIVITY, ManagerFindings, PolicyFindings
from pricing_fm.evaluation.panel_value.valuation import MANAGER
from pricing_fm.evaluation.panel_value.wording import (
    ABOVE_MARGIN,
    VERDICTS,
    count_periods,
    describe_plan,
    format_ends,
    format_money,
    is_identified,
    name_period,
    take_share,
    tell_reasons,
)
from pricing_fm.evaluation.report_sections import Cell, Column, PageFigure, PageTable, Section, TableRow
from pricing_fm.metrics import Interval

OURS = ("pricing_fm", "base_plan")


def build_sections(found: PanelValueEvaluation) -> list[Section]:
    """Every part that there are findings for.

    Args:
        found: The evaluation.

    Returns:
        Decision, values, categories, people, support, hidden knowledge, costs, other views, notes.
    """
    sections = [_show_decision(found)]
    if found.manager is not None:
        known = [policy for policy in found.policies if policy.gain is not None]
        sections.append(_show_values(found, found.manager))
        if known:
            sections.append(_show_categories(found, found.manager, known))
        sections.append(_show_changes(found))
        sections.append(_show_support(found))
        if known:
            sections.append(_show_sensitivity(found, found.manager, known))
            if found.costs.assumed_share is not None:
                sections.append(_show_costs(found, found.manager, known, found.costs.assumed_share))
            sections.append(_show_other_views(found, found.manager, known))
    sections.append(_show_notes(found))
    return sections


def _show_decision(found: PanelValueEvaluation) -> Section:
    decision, lines = found.decision, []
    for verdict in decision.candidates:
        why = Cell(tell_reasons(found, verdict), is_text=True)
        lines.append(
            TableRow(
                (Cell(figures.name_policy(verdict.name)), Cell(VERDICTS[verdict.verdict], is_text=True), why),
                verdict.name in OURS,
            )
        )
    notes = []
    if decision.experiment is not None:
        notes.append(
            f"An experiment about {figures.name_policy(decision.selected)}: decision units (a product, in all places"
            " that share its price) switch between today's prices and the policy in blocks, in an order drawn by lot;"
            f" {describe_plan(found, decision.experiment)}."
        )
    if decision.experiment_at_estimate is not None:
        notes.append(
            "A launch asks for more than a gain above zero. If the gain is as large as the log estimates:"
            f" {describe_plan(found, decision.experiment_at_estimate, ABOVE_MARGIN)}."
        )
    if found.experiment_by_item is not None:
        notes.append(
            "If every item (a product in one place) may have its own price during the experiment:"
            f" {describe_plan(found, found.experiment_by_item)}."
        )
    if decision.regret is not None:
        action = "launching it" if decision.verdict is Verdict.LAUNCH else "keeping today's prices"
        notes.append(
            f"Risk of {action}: with probability {decision.regret.probability:.0%} something else would have been"
            f" better; on average that costs {format_money(decision.regret.expected / count_periods(found))} per item"
            f" and {name_period(found)}. This counts luck in the log alone, not hidden knowledge or a wrong model."
        )
    margin = decision.margin / count_periods(found)
    text = (
        f"A policy is launched if the log shows a gain above {format_money(margin)} per item and {name_period(found)}"
        f" ({found.task.arguments.launch_margin:.0%} of what is earned today), also if the manager knew a little more"
        " than the log, and if bad outcomes do not get worse. Otherwise an experiment has to show it."
    )
    columns = (Column("policy"), Column("verdict", is_text=True), Column("why", is_text=True))
    return Section("May a policy be launched?", text, PageTable(columns, tuple(lines)), notes=tuple(notes))


def _show_values(found: PanelValueEvaluation, manager: ManagerFindings) -> Section:
    money, own = found.costs.objective, manager.value.value
    columns = [f"{money} per item and {name_period(found)}", "90 % interval", "gain", "90 % interval of the gain",
               "worst tenth", "items worse off"]  # fmt: skip
    lines = [
        TableRow(
            (
                Cell(figures.name_policy(MANAGER)),
                Cell(format_money(own)),
                Cell(format_ends(manager.value)),
                *[Cell("–")] * 4,
            )
        )
    ]
    points, has_guess = [{"policy": MANAGER, **vars(manager.value)}], False
    for policy in found.policies:
        if policy.value is None or policy.gain is None or policy.tail is None:
            lines.append(TableRow((Cell(figures.name_policy(policy.name)), Cell("not identified"), *[Cell("–")] * 5)))
            continue
        share = take_share(policy.gain, own)
        cells = (
            *(format_money(policy.value.value), format_ends(policy.value), f"{share.value:+.1%}"),
            *(f"{share.lower:+.1%} to {share.upper:+.1%}", f"{policy.tail.value:+.2f}", f"{policy.downside:.0%}"),
        )
        name = figures.name_policy(policy.name)
        if not is_identified(found, policy.name):
            name, has_guess = f"{name} (a guess)", True
        lines.append(TableRow((Cell(name), *map(Cell, cells)), policy.name in OURS))
        points.append({"policy": policy.name, **vars(policy.value)})
    figure = figures.plot_values(pd.DataFrame(points), MANAGER)
    total = own * len(found.weeks.item_ids)
    guesses = (
        "A guess: too few of the policy's prices were charged in the log, so that its value, here and below, leans on"
        " the demand model; no verdict rests on it.",
    )
    return Section(
        "What would the policies have earned?",
        f"{money.capitalize()} over {count_periods(found)} {name_period(found)}s of the log, under the log's own"
        f" promotions. Today's prices earn {format_money(total)} per {name_period(found)} with all"
        f" {len(found.weeks.item_ids):,} items. The interval of the gain is that of the difference, in which"
        " luck that hits both cancels.",
        PageTable((Column("policy"), *map(Column, columns)), tuple(lines)),
        (PageFigure("values", "Value of every policy with its interval", figure),),
        (
            "Worst tenth: change of the worst tenth of item outcomes, in units of what an item usually earns; below 0 ="
            " bad outcomes get worse. Items worse off: share of simulated item histories that earn less than under"
            " today's prices.",
            *(guesses if has_guess else ()),
        ),
    )


def _show_categories(found: PanelValueEvaluation, manager: ManagerFindings, known: list[PolicyFindings]) -> Section:
    rows = []
    for policy in known:
        for label, gain in (policy.gain_by_category or {}).items():
            share = take_share(gain, manager.by_category[label].value)
            rows.append({"policy": policy.name, "group": label, "share": share.value, "lower": share.lower,
                         "upper": share.upper})  # fmt: skip
        for label, gain in (policy.gain_by_segment or {}).items():
            share = take_share(gain, manager.by_segment[label].value.value / count_periods(found))
            group = f"{found.weeks.segment_name.replace('_', ' ')}: {label}"
            rows.append({"policy": policy.name, "group": group, "share": share.value, "lower": share.lower,
                         "upper": share.upper})  # fmt: skip
    table = pd.DataFrame(rows)
    figure = figures.plot_forest(table, [policy.name for policy in known], found.task.arguments.launch_margin)
    left_out = tuple(
        f"Not valued: {label}. {reason[0].upper()}{reason[1:]}." for label, reason in found.left_out.items()
    )
    return Section(
        "Where would the gain come from?",
        "Gain over today's prices, each group on its own. Green = shown to be better, orange = shown to be worse, grey"
        " = the log cannot tell.",
        figures=(PageFigure("gain_by_group", "Gain by category and segment with intervals", figure),),
        notes=left_out,
    )


def _show_changes(found: PanelValueEvaluation) -> Section:
    lines = []
    for policy in found.policies:
        if policy.changes is None:
            continue
        for row in policy.changes.itertuples(index=False):
            label = "all" if row.kind == "all" else str(row.group)
            if row.kind == "segment":
                label = f"{found.weeks.segment_name.replace('_', ' ')}: {label}"
            cells = (
                *(label, f"{row.items:,}", f"{row.basket_change:+.1%}", f"{row.dearer:.0%}", f"{row.cheaper:.0%}"),
                f"{row.units_change:+.1%}",
            )
            lines.append(TableRow((Cell(figures.name_policy(policy.name)), *map(Cell, cells)), policy.name in OURS))
    titles = ("group", "items", "same basket costs", "item-weeks dearer", "cheaper", "units sold")
    notes = []
    for policy in found.policies:
        if policy.parity is None or found.manager is None or found.manager.parity is None:
            continue
        levels = ", ".join(f"{label} {level:.3f}" for label, level in policy.parity.rates.items())
        notes.append(
            f"{figures.name_policy(policy.name)}: price level by {found.weeks.segment_name.replace('_', ' ')} (1 ="
            f" regular prices): {levels}. The gap between the dearest and the cheapest group is"
            f" {policy.parity.gap:.1%}, today {found.manager.parity.gap:.1%}."
        )
    return Section(
        "What would change for whom?",
        "What customers bought in these weeks, at the policy's prices instead of those charged; and how many units they"
        " would buy. A segment that pays more for the same basket is what a fairness reviewer looks at first.",
        PageTable((Column("policy"), *map(Column, titles)), tuple(lines)),
        notes=tuple(notes),
    )


def _show_support(found: PanelValueEvaluation) -> Section:
    lines = []
    for policy in found.policies:
        if policy.support is None:
            continue
        value = policy.candidate.value
        weight = value if isinstance(value, PolicyValue) else None
        cells = (
            *(f"{policy.support.tried_by_item:.0%}", f"{policy.support.usual:.0%}", f"{policy.support.same_price:.0%}"),
            "–" if weight is None else f"{weight.effective_sample_size:,.0f}",
            "–" if policy.least_sample is None else f"{policy.least_sample[1]:,.0f} ({policy.least_sample[0]})",
            "–" if weight is None else f"{weight.trimmed_mass:.0%}",
        )
        lines.append(TableRow((Cell(figures.name_policy(policy.name)), *map(Cell, cells)), policy.name in OURS))
    titles = (
        "price ever tried",
        "usual in such a week",
        "charged in that week",
        "log is worth (item-weeks)",
        "least in a category",
        "trimmed",
    )
    notes = []
    shown: tuple[PageFigure, ...] = ()
    if found.calibration is not None and found.calibration_bins is not None:
        error, change = found.calibration.action, found.calibration.change
        notes.append(
            f"How well the manager's habits are described, on products that were not learned from: calibration error"
            f" {change.value:.3f} for whether a price changes, {error.value:.3f} for which price and promotion (0.02 is"
            " the aim; weights of policies lean on this)."
        )
        figure = figures.plot_habits(found.calibration_bins)
        shown = (PageFigure("habits", "Predicted and observed frequency of price changes", figure),)
    clusters = len(set(found.weeks.clusters.tolist()))
    notes.append(
        f"Prices were decided {found.episodes:,} times for {clusters} decision units in {count_periods(found)}"
        f" {name_period(found)}s; {found.weeks.chain_wide:.0%} of the variation of prices is shared by all places that"
        " sell a product. Intervals therefore treat a product, not an item, as one decision."
    )
    return Section(
        "How much does the log say about these prices?",
        "A log is an answer only to prices that it holds. At least 80 % of what a policy does has to be usual for the"
        " manager in such a week, and what he hardly ever does counts with a cap: the share of weight that is cut is"
        " given as trimmed.",
        PageTable((Column("policy"), *map(Column, titles)), tuple(lines)),
        shown,
        tuple(notes),
    )


def _show_sensitivity(found: PanelValueEvaluation, manager: ManagerFindings, known: list[PolicyFindings]) -> Section:
    own, rows, lines = manager.value.value, [], []
    for policy in known:
        cells = []
        for size, ends in (policy.sensitivity or {}).items():
            rows.append({"policy": policy.name, "sensitivity": size, "share_lower": ends.lower / own,
                         "share_upper": ends.upper / own})  # fmt: skip
            cells.append(Cell(f"{ends.lower / own:+.1%} to {ends.upper / own:+.1%}"))
        level = (policy.sensitivity_to_level or {})[RULE_SENSITIVITY]
        cells.append(Cell(f"{level.lower / own:+.1%} to {level.upper / own:+.1%}"))
        lines.append(TableRow((Cell(figures.name_policy(policy.name)), *cells), policy.name in OURS))
    sizes = dict.fromkeys(row["sensitivity"] for row in rows)
    columns = [Column(f"factor {size:g}") for size in sizes] + [Column(f"{RULE_SENSITIVITY:g}, demand level only")]
    figure = figures.plot_sensitivity(pd.DataFrame(rows), found.task.arguments.launch_margin)
    return Section(
        "What if the manager knew more than the log?",
        "Who cuts prices because he sees demand coming makes cuts look better than they are. The table shows how far"
        " the gain could move if such knowledge changed the odds of his prices by a factor; luck is not counted here."
        " The last column is for knowledge of how strong demand will be, at all prices alike, and not of single"
        " customers.",
        PageTable((Column("policy"), *columns), tuple(lines)),
        (PageFigure("sensitivity", "Range of the gain by what hidden knowledge may do", figure),),
    )


def _show_costs(
    found: PanelValueEvaluation, manager: ManagerFindings, known: list[PolicyFindings], assumed: float
) -> Section:
    lines = []
    shares = sorted({assumed, *found.costs.others})
    for policy in known:
        cells = []
        for share in shares:
            gain = policy.gain if share == assumed else (policy.gain_at_costs or {})[share]
            base = (
                manager.value.value if share == assumed else manager.at_costs[share].value.value / count_periods(found)
            )
            assert gain is not None
            relative = take_share(gain, base)
            cells.append(Cell(f"{relative.value:+.1%} ({relative.lower:+.1%} to {relative.upper:+.1%})"))
        lines.append(TableRow((Cell(figures.name_policy(policy.name)), *cells), policy.name in OURS))
    return Section(
        "What if costs are not as assumed?",
        f"{found.costs.note} The same prices, were a unit to cost less or more: gain over today's prices with its 90 %"
        " interval.",
        PageTable((Column("policy"), *(Column(f"cost {share:.0%}") for share in shares)), tuple(lines)),
    )


def _show_other_views(found: PanelValueEvaluation, manager: ManagerFindings, known: list[PolicyFindings]) -> Section:
    own, rows, lines = manager.value.value, [], []
    for policy in known:
        views = (
            ("headline (both)", policy.gain),
            ("the same, Student's interval", policy.gain_by_student),
            ("demand model alone", policy.model_alone),
        )
        for name, gain in views:
            if gain is not None:
                share = take_share(gain, own)
                rows.append({"policy": policy.name, "estimator": name, "share": share.value, "lower": share.lower,
                             "upper": share.upper})  # fmt: skip
        if policy.weighted_log is not None:
            shift = found.log_mean.value
            moved = Interval(*(end - shift for end in (policy.weighted_log.value, policy.weighted_log.lower,
                                                       policy.weighted_log.upper)))  # fmt: skip
            share = take_share(moved, shift)
            rows.append({"policy": policy.name, "estimator": "weighted log alone", "share": share.value,
                         "lower": share.lower, "upper": share.upper})  # fmt: skip
        if policy.monotone is not None:
            lower, upper = format_money(policy.monotone.lower), format_money(policy.monotone.upper)
            lines.append(
                TableRow(
                    (
                        Cell(figures.name_policy(policy.name)),
                        Cell(lower),
                        Cell(upper),
                        Cell(f"{policy.monotone.untried:.0%}"),
                    ),
                    policy.name in OURS,
                )
            )
    figure = figures.plot_estimators(pd.DataFrame(rows))
    titles = ("at least", "at most", "item-weeks at a price never tried")
    stocked = (
        " Weeks without stock are left out; what sold-out weeks could have sold is filled in by the model of demand,"
        " and amounts are those of shelves that are never empty."
    )
    return Section(
        "Do other ways of reading the log agree?",
        "The headline combines a model of demand with weights that make the log look like the policy. Each alone is"
        " shown beside it. The table assumes nothing but that demand does not rise with the price, nor above the most"
        f" that a price of the product ever sold: {found.costs.objective} per item and {name_period(found)}. Weeks are"
        f" compared as they are, whatever made some of them better.{stocked if found.weeks.has_stock else ''}",
        PageTable((Column("policy"), *map(Column, titles)), tuple(lines)),
        (PageFigure("estimators", "Gain by several estimators", figure),),
        (
            f"The log's own mean is {format_money(found.log_mean.value)} per recorded item and {name_period(found)}"
            f" ({format_ends(found.log_mean)}); the model puts today's prices at {format_money(own)}.",
        ),
    )


def _show_notes(found: PanelValueEvaluation) -> Section:
    weeks = found.weeks
    notes = [
        found.costs.note,
        *weeks.notes,
        f"Each decision was made from the log before it alone ({len(found.task.origins)} decisions, prices held for"
        f" {found.task.prediction_length} {name_period(found)}(s)), with the promotions that the manager ran. What a"
        " policy would have seen of its own earlier prices is not replayed.",
        "Items are valued one by one: what a cheaper item takes from its neighbours is not counted, and rivals are held"
        " at what they did.",
        f"{len(weeks.item_ids):,} items are valued, {weeks.revenue_share:.0%} of the revenue; {weeks.num_left_out:,}"
        " were recorded too rarely.",
    ]
    elasticities = ", ".join(
        f"{part.category} {part.elasticity - (part.memory or 0.0):.1f} at once and {part.elasticity:.1f} when held"
        for part in found.demands
    )
    if found.manager is not None and found.manager.stock_untested and weeks.has_stock:
        notes.append(
            f"No stock test could be run in {', '.join(found.manager.stock_untested)}, where stock does not move or is"
            " not recorded: whether the buyer knew more of demand there than the log holds was not looked at."
        )
    if found.manager is not None and found.manager.spill_untested and weeks.has_stock:
        notes.append(
            f"Whether customers who find an item sold out buy its neighbour could not be tested in"
            f" {', '.join(found.manager.spill_untested)}: shortages have to change in two places at least."
        )
    if elasticities:
        notes.append(f"Demand moves by this percentage when a price moves by one percent: {elasticities}.")
    if not found.demands:
        notes += [f"{label}: {reason}." for label, reason in found.left_out.items()]
    if len(set(weeks.clusters.tolist())) < 20:
        notes.append(
            f"There are only {len(set(weeks.clusters.tolist()))} decision units: intervals from so few are rough."
        )
    return Section("What to keep in mind", notes[0], notes=tuple(notes[1:]))
