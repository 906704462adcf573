"""What goes wrong on the local Hub on purpose."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field


@dataclass
class Fault:
    """An answer instead of the right one, for requests whose line (`PUT /path`) matches ``pattern``.

    Attributes:
        status: Of the answer; None breaks the connection after ``cut_after`` bytes of the request's body.
        times: How often; None for ever.
    """

    pattern: str
    status: int | None = None
    message: str = ""
    code: str = ""
    times: int | None = 1
    cut_after: int = 0
    met: int = 0


@dataclass
class Faults:
    """Those that are still to come."""

    pending: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault) -> Fault:
        """Meet ``fault`` from now on."""
        self.pending.append(fault)
        return fault

    def clear(self) -> None:
        """All is well again."""
        self.pending.clear()

    def meet(self, line: str) -> Fault | None:
        """The fault that the request ``line`` runs into, if any."""
        with self._lock:
            for fault in self.pending:
                if re.search(fault.pattern, line) and (fault.times is None or fault.met < fault.times):
                    fault.met += 1
                    return fault
        return None
