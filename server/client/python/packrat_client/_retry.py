"""When a call is made again. Knows neither threads nor event loops: the clients do what it says."""
from __future__ import annotations

import collections
import random
import time
from typing import Any, DefaultDict, Dict, Optional, Set

import grpc

from packrat_client.proto import inference_pb2

# Seconds before another try where the server names none; twice as long each time.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 4.0
# What a message brings of one choice.
_PARTS = ("text", "token_ids", "logprobs", "scores")


def _trailers(error: Any) -> Dict[str, Any]:
    # Not dict(...): grpc.aio's metadata has keys(), which gives pairs.
    return {key: value for key, value in error.trailing_metadata() or ()}  # pylint: disable=R1721


def retry_after(error: grpc.RpcError) -> Optional[float]:
    """The seconds after which the server wants to be asked again; None: it does not say."""
    pushback = str(_trailers(error).get("grpc-retry-pushback-ms", ""))
    return int(pushback) / 1000 if pushback.isdecimal() else None


def request_id(error: grpc.RpcError) -> Optional[str]:
    """The call's id in the server's log; None: it is not the server that ended the call."""
    return _trailers(error).get("x-request-id")


def lost_replica(error: Any) -> bool:
    """Whether another replica may do better. A balancer that loses its replica in the middle of a stream ends
    the stream with a status of its own (Envoy: INTERNAL, HAProxy: UNKNOWN)."""
    return error.code() == grpc.StatusCode.UNAVAILABLE or (
        error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN) and request_id(error) is None)


class Attempts:
    """The tries of one call, which share its timeout."""

    def __init__(self, most: int, timeout: Optional[float], repeatable: bool):
        """`timeout`: seconds. A call that is not `repeatable` is made again only where the server itself has
        refused it, and so has done nothing."""
        self._left = most
        self._end = None if timeout is None else time.monotonic() + timeout
        self._repeatable = repeatable
        self._pause = _FIRST_PAUSE
        self.lost = False  # A try broke off, and may have done its work.

    def timeout(self) -> Optional[float]:
        """The seconds that are left; None: any number."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def pause(self, error: Any) -> Optional[float]:
        """The seconds until the next try; None: there is none."""
        self._left -= 1
        seconds = retry_after(error)
        if seconds is None:
            refused = error.code() == grpc.StatusCode.UNAVAILABLE and request_id(error) is not None
            if not refused and not (self._repeatable and lost_replica(error)):
                return None
            self.lost = self.lost or not refused
            seconds = self._pause * random.uniform(0.8, 1.2)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        left = self.timeout()
        return None if self._left <= 0 or (left is not None and seconds >= left) else seconds


class Progress:
    """What the caller has of a stream, so that another try leaves that out."""

    def __init__(self, resume: bool):
        """`resume`: another try gives the same tokens, so that a text goes on where it broke."""
        self._resume = resume
        self._given: DefaultDict[int, Dict[str, int]] = collections.defaultdict(lambda: dict.fromkeys(_PARTS, 0))
        self._finished: Set[int] = set()
        self._begun = False  # Anything was given.
        self.again()

    def again(self) -> None:
        """Another try begins."""
        self._come: DefaultDict[int, Dict[str, int]] = collections.defaultdict(lambda: dict.fromkeys(_PARTS, 0))

    def may_go_on(self) -> bool:
        return self._resume or not self._begun

    def take(self, message: inference_pb2.GenerateResponse) -> bool:
        """Cuts what was given before off the message; false if nothing remains."""
        given, come = self._given[message.choice], self._come[message.choice]
        new = False
        for part in _PARTS:
            value = getattr(message, part)
            skip = min(len(value), given[part] - come[part])
            come[part] += len(value)
            new = new or skip < len(value)
            if skip <= 0:
                given[part] = come[part]
            elif part == "text":
                message.text = value[skip:]
            else:
                del value[:skip]
            given[part] = max(given[part], come[part])
        if message.HasField("finished") and message.choice not in self._finished:
            self._finished.add(message.choice)
            new = True
        self._begun = self._begun or new
        return new
