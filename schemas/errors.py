"""Errors that a person can put right."""


class ExplainedError(Exception):
    """The message is a sentence that says what is wrong and what to do; no traceback is needed."""

    exit_code = 1


class BadInputError(ExplainedError, ValueError):
    """Wrong arguments, settings, files or records."""

    exit_code = 2
