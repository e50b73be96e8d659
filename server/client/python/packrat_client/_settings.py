"""What both clients are made with."""
from __future__ import annotations

import math
import secrets
from typing import Iterable, Optional, Tuple

from packrat_client._retry import Attempts

Metadata = Tuple[Tuple[str, str], ...]


class Settings:
    """Of all calls of a client."""

    def __init__(self, api_key: Optional[str], timeout: Optional[float], attempts: int, resume: bool,
                 metadata: Iterable[Tuple[str, str]]):
        if attempts < 1:
            raise ValueError("attempts is %d; range [1, ...]" % attempts)
        self.resume = resume
        self._timeout = timeout
        self._attempts = attempts
        self._metadata = tuple(metadata)
        if api_key is not None:
            self._metadata += (("authorization", "Bearer " + api_key),)

    def attempts(self, timeout: Optional[float], repeatable: bool = True) -> Attempts:
        """`timeout`: of one call, in seconds; None: the client's."""
        seconds = self._timeout if timeout is None else timeout
        return Attempts(self._attempts, None if seconds in (None, math.inf) else seconds, repeatable)

    def metadata(self, affinity: Optional[str] = None) -> Metadata:
        return self._metadata + ((("x-session", affinity),) if affinity else ())


def new_affinity() -> str:
    """A value of x-session, by which a balancer sends all calls about a session to one replica."""
    return secrets.token_urlsafe(12)
