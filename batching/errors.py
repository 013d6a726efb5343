"""The errors of the scheduler; status codes are not known here.

BatchingError
├── QueueFull          no room: the bound on images or bytes is reached
├── PredictedLate      the answer would come after the deadline, so the entry is refused at once
├── DeadlineExceeded   accepted, but its time was over before an answer
├── Closed             the batcher drains or is closed
├── EngineTimeout      accepted, but the engine's call runs far longer than it should; it may never return
└── BadOutput          the engine returned another number of rows than it was given
"""

NO_ANSWER = "the engine does not answer: its calls have run far too long; ask another server"


class BatchingError(Exception):
    """An entry that the scheduler refused or failed.

    Attributes:
        retry_after_s: when a repeat is likely to be accepted, by the service curve; None if waiting does not help.
    """

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(BatchingError):
    """The queue holds as many images or bytes as it may."""


class PredictedLate(BatchingError):
    """The predicted completion lies past the entry's deadline or the SLO."""


class DeadlineExceeded(BatchingError):
    """The entry was accepted, and its time was over before it could be answered."""


class EngineTimeout(BatchingError):
    """The entry was in a call of the engine that takes far longer than predicted and may never return."""


class Closed(BatchingError):
    """The batcher accepts no more entries, or was closed before it could answer."""


class BadOutput(BatchingError):
    """The engine's answer has another number of rows than the batch, so it is not known which row is whose."""
