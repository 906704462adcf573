"""The errors a user can cause and mend.

Each message names the file, line or field, what was expected, and the fix. The command line prints them without a
traceback; anything else that is raised is a defect of kinject or of a library.
"""

from __future__ import annotations


class KinjectError(ValueError):
    """Base of every error that user input can cause."""


class DataError(KinjectError):
    """A document, question or file that cannot be used as it stands."""


class ConfigurationError(KinjectError):
    """A setting, model or tokenizer that cannot be used as it stands."""
