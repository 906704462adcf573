"""The errors a user can cause and mend.

Each message names the file, line or field, what was expected, and the fix. The command line prints them without a
traceback; anything else that is raised is a defect of kinject or of a library.
"""

from __future__ import annotations

import os
import re
import select
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

MOST_FAULTS_SHOWN = 20
_INTERRUPTED, _BROKEN_PIPE = 128 + 2, 128 + 13  # as a shell tells of a process that SIGINT or SIGPIPE ended
# An access token of the Hub: of a user (hf_...), an organization (api_org_...), or signed (hf_oauth_..., hf_jwt_...). Short
# names such as hf_transfer, all in lower case, are none.
SECRET_VALUE = re.compile(
    r"(?<![A-Za-z0-9])(?:hf_(?:oauth|jwt)_[\w.-]{8,}|(?:hf|api_org)_(?:[A-Za-z0-9]{16,}|(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{8,}))"
)


class KinjectError(ValueError):
    """Base of every error that user input can cause."""


class DataError(KinjectError):
    """A document, question or file that cannot be used as it stands.

    Attributes:
        faults: What is wrong, one message for each fault; the message of the error holds the first of them.
    """

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        more = len(faults) - MOST_FAULTS_SHOWN
        super().__init__("\n".join(faults[:MOST_FAULTS_SHOWN]) + (f"\nand {more} more like these" if more > 0 else ""))


class Faults:
    """Collects data errors, so that a user is told of all of them at once.

    ``with faults:`` keeps a data error that its block raises, and goes on after the block.
    """

    def __init__(self) -> None:
        self._found: list[str] = []

    def __enter__(self) -> Faults:
        """Begin a block whose data error is kept."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        """Keep a data error, and let any other through."""
        if isinstance(error, DataError):
            self._found.extend(error.faults)
            return True
        return False

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._found)

    def raise_any(self) -> None:
        """Raise all that was collected, each fault once.

        Raises:
            DataError: there is any.
        """
        if self._found:
            raise DataError(*dict.fromkeys(self._found))


def closest(word: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``word`` was probably meant to be; None where none is like it."""
    return next(iter(get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def did_you_mean(word: str, known: Iterable[str], mark: str = "") -> str:
    """The end of an error about ``word``: a question whether the closest of ``known`` was meant, or a full stop."""
    close = closest(word, known)
    return "." if close is None else f"; did you mean {mark}{close}?"


class ConfigurationError(KinjectError):
    """A setting, model or tokenizer that cannot be used as it stands."""


class TrainingError(KinjectError):
    """A run that cannot go on because its loss, gradients or weights are no longer finite."""


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

    A run that a signal stopped ends with the signal's own status, so does any command after Ctrl-C, and one whose output nobody
    reads any more, such as `head`, ends with that of a broken pipe, without a word.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _is_unread(sys.stdout.fileno()):  # another pipe
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        sys.exit(_BROKEN_PIPE)
    except RunStopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(128 + stopped.signal)
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except KinjectError as error:
        # A mistyped option is quoted in the message, and may have held an access token.
        print(f"error: {SECRET_VALUE.sub('<access token>', str(error))}", file=sys.stderr)
        sys.exit(2)


def _is_unread(output: int) -> bool:
    """Whether the file descriptor ``output`` is a pipe whose other end is closed."""
    watched = select.poll()
    watched.register(output, select.POLLOUT)
    return any(event & select.POLLERR for _, event in watched.poll(0))
