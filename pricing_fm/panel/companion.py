"""Tables that travel with a panel (`future`, `limits`): same column names, same ids, same dates."""

import pandas as pd

from pricing_fm import names
from pricing_fm.errors import PanelError
from pricing_fm.panel.cells import read_cells
from pricing_fm.panel.panel import Panel
from pricing_fm.panel.refusal import refuse_rows
from pricing_fm.panel.schema import FLAG_COLUMNS, NUMBER_COLUMNS
from pricing_fm.panel.validate import check_optional_values


def read_companion(panel: Panel, table: pd.DataFrame) -> pd.DataFrame:
    """Brings a table into the panel's names and types, with the panel's refusals.

    Columns that neither the schema nor the panel knows are kept as they are; which items, periods and columns must be
    there is the caller's to check.

    Args:
        panel (`Panel`): Panel whose schema the table follows.
        table (`pd.DataFrame`): Rows in the source's or in the panel's column names; `item_id` is needed.

    Returns:
        `pd.DataFrame`: Panel names, same rows in the same order, index from 0; `item_id` text, `timestamp` (if there)
        datetime64[ns], panel numbers float64.

    Raises:
        PanelError: If `item_id` is missing or a cell breaks the contract of its column.
    """
    schema = panel.schema
    renamed = schema.rename(table.reset_index(drop=True))
    if names.ITEM_ID not in renamed:
        wanted = " and ".join(map(repr, schema.columns[names.ITEM_ID]))
        raise PanelError(f"the table has no item_id; it needs the column {wanted}, as in the panel's source")
    frame = read_cells(renamed, schema, (*schema.number_columns, *NUMBER_COLUMNS, *FLAG_COLUMNS))
    if names.PRICE in frame:
        price = frame[names.PRICE].to_numpy()
        bad = (price <= 0) | (price == float("inf"))
        refuse_rows(frame, bad, names.PRICE, "prices must be positive and finite", "Correct it.", schema)
    check_optional_values(frame, schema)
    return frame
