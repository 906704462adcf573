"""The errors a user can cause and mend.

Each message names the file, line or field, what was expected, and the fix. The command line prints them without a
traceback; anything else that is raised is a defect of kinject or of a library.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SECRET_VALUE = re.compile(r"\bhf_[A-Za-z0-9]{8,}")  # a Hub token


class KinjectError(ValueError):
    """Base of every error that user input can cause."""


class DataError(KinjectError):
    """A document, question or file that cannot be used as it stands."""


class ConfigurationError(KinjectError):
    """A setting, model or tokenizer that cannot be used as it stands."""


class HubError(KinjectError):
    """A Hub that refuses, fails or cannot be reached.

    Attributes:
        transient: Whether the same request may succeed a little later.
    """

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class RunStopped(Exception):
    """A run that a signal ended.

    Attributes:
        signal: Its number; a process that it ends has the status 128 + signal.
    """

    def __init__(self, signal: int, message: str) -> None:
        super().__init__(message)
        self.signal = int(signal)


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """End the process with status 2 and one line on stderr if the block raises an error that the user can mend.

    A run that a signal stopped ends with the signal's own status.
    """
    try:
        yield
    except RunStopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(128 + stopped.signal)
    except KinjectError as error:
        # A mistyped option is quoted in the message, and may have held an access token.
        print(f"error: {SECRET_VALUE.sub('<access token>', str(error))}", file=sys.stderr)
        sys.exit(2)
