"""Every error that kdaug raises on purpose.

    KdaugError
    ├─ ConfigError           before any call: a wrong recipe, a bad seed line, a missing extra, another run's folder
    ├─ TeacherError          a call failed; carries .request, .teacher, .retryable
    │  ├─ TeacherTimeout     ┐
    │  ├─ RateLimited        │ retryable: given up after the policy's tries, then the record is dropped
    │  ├─ ServerError        │
    │  ├─ BadReply           ┘
    │  ├─ TeacherUnavailable   an outage: the run stops, its open jobs stay open, nothing is lost
    │  ├─ ContextTooLong     ┐
    │  ├─ BadRequest         │ this record's own fault: dropped with the reason
    │  ├─ Refused            │
    │  ├─ ServerGone         ┘
    │  ├─ Unrecorded         ┐ fatal: the run stops, nothing is lost
    │  └─ AccessDenied       ┘
    ├─ ParseError            the reply lacks the expected form; carries the reply's text; a drop
    ├─ BudgetExceeded        a cap was reached: the run closes cleanly and says what it has
    ├─ TermsError            a use that a teacher's terms forbid
    ├─ JournalError          cannot write or read the journal: fatal, never logged and passed over
    └─ TrainError            training cannot start or go on

One record's failure is data (a drop with its reason); a run's failure is an exception.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from kdaug.teacher import Request


class KdaugError(Exception):
    """The root; `str(error)` is one line that names what is wrong and the way out."""

    exit_code: ClassVar[int] = 1


class ConfigError(KdaugError):
    """The user's mistake, found before any call was made."""

    exit_code = 2


class TeacherError(KdaugError):
    """A call to a teacher failed.

    `retry_after` is the teacher's own wish in seconds, where it gave one (0: slow down, for as long as you like).
    """

    retryable: ClassVar[bool] = False
    fatal: ClassVar[bool] = False
    billed = False  # whether the reply came, and was paid for, but is of no use

    def __init__(
        self, message: str, *, request: Request | None = None, teacher: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.request = request
        self.teacher = teacher
        self.retry_after = retry_after

    @property
    def reason(self) -> str:
        """The drop reason, e.g. `teacher:context_too_long`."""
        return "teacher:" + snake_case(type(self).__name__)


class TeacherTimeout(TeacherError):
    """No answer in time."""

    retryable = True


class RateLimited(TeacherError):
    """The teacher asked to slow down (HTTP 429)."""

    retryable = True


class ServerError(TeacherError):
    """The teacher failed on its side (HTTP 5xx, a connection cut in the middle of a reply)."""

    retryable = True


class BadReply(TeacherError):
    """The teacher answered, but not with a completion (truncated JSON, HTML from a proxy, an empty body)."""

    retryable = True


class TeacherUnavailable(TeacherError):
    """Nobody answers at all: an outage, so no record is to blame."""

    fatal = True


class ContextTooLong(TeacherError):
    """Prompt and `max_tokens` do not fit into the teacher's context."""


class BadRequest(TeacherError):
    """The teacher rejects this request as it is (HTTP 400, 404, 422)."""


class Refused(TeacherError):
    """The teacher's content filter refused prompt or reply."""


class ServerGone(TeacherError):
    """The server of a record's tools ended in the middle of a call."""

    @property
    def reason(self) -> str:
        return "tools:server_gone"


class AccessDenied(TeacherError):
    """A wrong key, or no right to use this model."""

    fatal = True


class Unrecorded(TeacherError):
    """The run that is replayed never made this request."""

    fatal = True


class ParseError(KdaugError):
    """A reply lacks the form that its prompt asked for. `what` goes into the drop reason: `parse:<what>`."""

    def __init__(self, what: str, text: str) -> None:
        super().__init__(f"the reply has no {what.replace('_', ' ')}: {shorten(text)!r}")
        self.what = what
        self.text = text

    @property
    def reason(self) -> str:
        return f"parse:{self.what}"


class BudgetExceeded(KdaugError):
    """A cap was reached: `cap` is its name, such as `max_cost`."""

    exit_code = 3

    def __init__(self, message: str, cap: str) -> None:
        super().__init__(message)
        self.cap = cap


class TermsError(KdaugError):
    """A use that a teacher's terms forbid."""

    exit_code = 2


class JournalError(KdaugError):
    """The journal cannot be read or written."""


class TrainError(KdaugError):
    """Training cannot start or go on."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, where it says how to go on; no failure, so no KdaugError."""

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(message)
        self.number = number
        self.exit_code = 128 + number  # as a shell says it


def snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def shorten(text: str, limit: int = 120) -> str:
    """One line of at most `limit` characters, for messages."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def require(module: str, extra: str, purpose: str) -> None:
    """Raises ConfigError with the pip command when an optional library is not installed (it is not imported)."""
    if find_spec(module) is None:
        raise ConfigError(f"{purpose} needs {module}, which is not installed: pip install 'kdaug[{extra}]'")
