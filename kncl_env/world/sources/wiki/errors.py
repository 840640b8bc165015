"""What may go wrong between us and a wiki, each with the one word that reports name it by."""

from __future__ import annotations


class StoppedError(Exception):
    """The collection is being stopped; the request was not sent."""


class WikiError(Exception):
    """A request that brought no usable answer.

    Attributes:
        reason: One word that names what happened.
        detail: What exactly, for people.
        retry: Whether another attempt may succeed.
        wait: [s] that the server asked to wait, None if it did not say.
    """

    reason = "error"
    retry = False

    def __init__(self, detail: str, *, wait: float | None = None) -> None:
        super().__init__(f"{self.reason}: {detail}")
        self.detail = detail
        self.wait = wait


class RateLimitedError(WikiError):
    """HTTP 429, or the API's own `ratelimited`."""

    reason, retry = "rate_limited", True


class LaggedError(WikiError):
    """The database lags behind: the server asks patient clients (`maxlag`) to come back later."""

    reason, retry = "lagged", True


class ServerFailedError(WikiError):
    """HTTP 5xx, or an internal error that the API reports in a 200 answer."""

    reason, retry = "server_error", True


class TimedOutError(WikiError):
    """No answer, or no end of it, in time."""

    reason, retry = "timeout", True


class UnreachableError(WikiError):
    """No connection could be made."""

    reason, retry = "unreachable", True


class DisconnectedError(WikiError):
    """The connection broke before the answer was complete."""

    reason, retry = "disconnected", True


class TruncatedJsonError(WikiError):
    """The answer begins as JSON and does not end as JSON."""

    reason, retry = "truncated_json", True


class NotJsonError(WikiError):
    """An answer of another kind: most often an HTML page of a proxy or a login."""

    reason = "not_json"


class UnexpectedAnswerError(WikiError):
    """JSON that is not an answer of this API, or one that goes on for ever."""

    reason = "unexpected_answer"


class TooLargeError(WikiError):
    """More bytes than any honest answer has."""

    reason = "too_large"


class RedirectLoopError(WikiError):
    """HTTP redirects that lead nowhere."""

    reason = "redirect_loop"


class ForeignRedirectError(WikiError):
    """An HTTP redirect to another host, which we were not asked to visit."""

    reason = "foreign_redirect"


class HttpError(WikiError):
    """Any other HTTP status."""

    reason = "http_error"


class ApiError(WikiError):
    """An error that the API reports in a 200 answer."""

    reason = "api_error"


class RefusedError(WikiError):
    """The wiki does not want us now: the whole collection has to stop."""

    reason = "refused"
