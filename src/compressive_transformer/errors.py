"""The one exception for mistakes that a user can mend."""


class UsageError(ValueError):
    """A user's mistake, told in one line: what was given, what is allowed, what to do.

    The command line prints it without a traceback and exits with code 2.
    """
