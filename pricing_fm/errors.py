"""The errors a caller can act on. All are `ValueError`: one `except ValueError` catches bad input of any kind."""


class UserError(ValueError):
    """What was given cannot be worked with, as the message says; recipes print it instead of a traceback."""


class PanelError(UserError):
    """A table breaks the panel contract; the message names row, item, column, what was found and what to do."""


class ArtifactError(UserError):
    """A model or adapter folder is incomplete, altered, or belongs to another base."""


class GuardrailError(UserError):
    """Pricing rules are malformed or contradict each other; the message names both rules."""


class SupportError(UserError):
    """A price was asked for that the log cannot say anything about."""


class PanelWarning(UserWarning):
    """The table is usable, yet something in it looks like a mistake."""
