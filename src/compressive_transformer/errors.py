"""The exceptions that the command line answers with one line and an exit code."""


class UsageError(ValueError):
    """A user's mistake, told in one line: what was given, what is allowed, what to do.

    The command line prints it without a traceback and exits with code 2.
    """


class Stopped(Exception):
    """A signal stopped a run, and it was saved: resume it.

    The command line exits with 75 (EX_TEMPFAIL of sysexits.h: try again later).
    """

    EXIT_CODE = 75
