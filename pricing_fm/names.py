"""Every panel column and every batch channel, with its unit. The one place where they are spelled."""

# Panel columns (one row = one item in one period). Units are given in brackets.
ITEM_ID = "item_id"  # series key, string
TIMESTAMP = "timestamp"  # start of the period, naive UTC datetime64
UNITS = "units"  # quantity sold [units per period]; NaN = unknown
PRICE = "price"  # price charged [currency per unit]
LIST_PRICE = "list_price"  # regular price [currency per unit]
COMPETITOR_PRICE = "competitor_price"  # best known outside rival price [currency per unit]
COST = "cost"  # unit cost [currency per unit]
INVENTORY = "inventory"  # units available at the start of the period [units]
TRAFFIC = "traffic"  # visits or offers made, bought or not [count per period]
CATEGORY = "category"
PRODUCT_ID = "product_id"
LOCATION_ID = "location_id"
SEGMENT = "segment"
SUBSTITUTE_GROUP = "substitute_group"
PRICE_ZONE = "price_zone"
PRICE_IMPUTED = "price_imputed"  # True = the price was carried over into a period without a row
PRICE_IS_INTERVENTION = "price_is_intervention"  # True = the price was drawn at random, not chosen by the manager

# Slots for columns whose number depends on the source. A source column keeps its own name in the panel;
# a slot is its place in the arrays.
MAX_PROMOTIONS = 4
MAX_KNOWN_COVARIATES = 4
MAX_PAST_COVARIATES = 4
MAX_STATIC_CATEGORIES = 4
MAX_STATIC_REALS = 4
PROMOTION_SLOTS = tuple(f"promotion_{i}" for i in range(1, MAX_PROMOTIONS + 1))
KNOWN_SLOTS = tuple(f"known_{i}" for i in range(1, MAX_KNOWN_COVARIATES + 1))
# Declared covariates take these in turn; the last one holds the assortment's price index where nothing is declared.
COVARIATE_SLOTS = (*KNOWN_SLOTS[1:], KNOWN_SLOTS[0])
PAST_SLOTS = tuple(f"past_{i}" for i in range(1, MAX_PAST_COVARIATES + 1))

# Columns of the arrays that windows are cut from, in this order (float32, NaN = missing).
CHANNELS = (
    UNITS,
    PRICE,
    LIST_PRICE,
    COMPETITOR_PRICE,
    COST,
    INVENTORY,
    TRAFFIC,
    *PROMOTION_SLOTS,
    *KNOWN_SLOTS,
    *PAST_SLOTS,
    PRICE_IMPUTED,
    PRICE_IS_INTERVENTION,
)
CHANNEL_INDEX = {name: index for index, name in enumerate(CHANNELS)}

# Static attributes of an item, in the order in which windows carry them.
STATIC_CATEGORIES = (
    "frequency",
    CATEGORY,
    PRODUCT_ID,
    LOCATION_ID,
    SEGMENT,
    *(f"static_category_{i}" for i in range(1, MAX_STATIC_CATEGORIES + 1)),
)
