"""The one exception that a person's mistake raises; everything else is our bug and keeps its traceback."""


class UserError(Exception):
    """A mistake its maker can mend. The message is one line: what is wrong, and what to do."""
