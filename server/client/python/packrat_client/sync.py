"""The client for threads. aio.py is its twin: what changes here changes there."""
from __future__ import annotations

import contextlib
import functools
import threading
import time
from typing import (TYPE_CHECKING, Any, Callable, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple,
                    Union)

import grpc

from packrat_client._answers import Choice, Collector, Completion
from packrat_client._channel import Tls, open_channel
from packrat_client._requests import (Candidate, ChatOptions, GenerateOptions, Prompt, ScoreOptions,
                                      generate_request, given, load_requests, rewind_request, score_request,
                                      tokenize_request)
from packrat_client._retry import Attempts, Progress
from packrat_client._settings import Settings, new_affinity
from packrat_client.proto import inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from typing_extensions import Unpack


class _Running:
    """The call that a stream reads now. Apart from Stream, so that a stream that nobody has any more is gone at
    once, and its call is cancelled."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self.call: Any = None


def _messages(running: _Running, begin: Callable[[Optional[float]], Any], attempts: Attempts,
              progress: Progress) -> Iterator[inference_pb2.GenerateResponse]:
    while not running.cancelled.is_set():
        call = running.call = begin(attempts.timeout())
        if running.cancelled.is_set():  # It may have looked for the call before there was one.
            call.cancel()
        progress.again()
        try:
            for message in call:
                if progress.take(message):
                    yield message
            return
        except grpc.FutureCancelledError:
            if running.cancelled.is_set():
                return
            raise
        except grpc.RpcError as error:
            if running.cancelled.is_set():
                return
            pause = attempts.pause(error) if progress.may_go_on() else None
            if pause is None:
                raise
        finally:
            call.cancel()  # The server frees the sequence within one step; no effect once it ended.
        running.cancelled.wait(pause)


class Stream:
    """The messages of a call, as they come. Whoever leaves its loop, or its `with` block, cancels the call."""

    def __init__(self, begin: Callable[[Optional[float]], Any], attempts: Attempts, progress: Progress):
        self._running = _Running()
        self._messages = _messages(self._running, begin, attempts, progress)

    def __iter__(self) -> Iterator[inference_pb2.GenerateResponse]:
        return self

    def __next__(self) -> inference_pb2.GenerateResponse:
        return next(self._messages)

    def cancel(self) -> None:
        """Ends the stream, from any thread: its reader finds no more messages."""
        self._running.cancelled.set()
        call = self._running.call
        if call is not None:
            call.cancel()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *unused: object) -> None:
        self.cancel()

    def choices(self) -> List[Choice]:
        """Reads all that is left, and adds it up."""
        collector = Collector()
        for message in self:
            collector.add(message)
        return collector.choices()


class Client:
    """Calls to one server, or to replicas. Any number of threads may share it."""

    def __init__(self, target: Union[str, grpc.Channel], *, api_key: Optional[str] = None,
                 tls: Union[Tls, bool, None] = None, timeout: Optional[float] = None, attempts: int = 5,
                 resume: bool = False, metadata: Iterable[Tuple[str, str]] = ()):
        """`target`: an address as gRPC takes it, or a channel of the caller's own. `timeout`: seconds for each
        call with all of its tries; None: any number. `attempts`: how often a call is made until it is given up;
        another try waits as long as the server asks for, and comes only before the first token, unless `resume`
        says that a text which broke off shall go on, with the same seed, where it was. `metadata`: sent with
        every call, such as ("x-caller", NAME) for the server's log."""
        self._channel: Any = open_channel(grpc, target, tls) if isinstance(target, str) else target
        self._stub: Any = inference_pb2_grpc.InferenceStub(self._channel)
        self._settings = Settings(api_key, timeout, attempts, resume, metadata)

    def close(self) -> None:
        """Ends all calls."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def stream(self, prompt: Prompt, *, timeout: Optional[float] = None,
               **options: Unpack[GenerateOptions]) -> Stream:
        """Continues a prompt, message by message."""
        return self._generate(prompt, options, timeout)

    def complete(self, prompt: Prompt, *, timeout: Optional[float] = None,
                 **options: Unpack[GenerateOptions]) -> Completion:
        """Continues a prompt, and returns when the text has ended."""
        return Completion(self._generate(prompt, options, timeout).choices())

    def score(self, prompt: Prompt = None, candidates: Iterable[Candidate] = (), *,
              timeout: Optional[float] = None, **options: Unpack[ScoreOptions]) -> List[Choice]:
        """How likely each candidate is behind the prompt, or without any the prompt itself:
        `finished.score` of each."""
        return self._score(prompt, candidates, options, timeout)

    def tokenize(self, prompt: Union[str, Sequence[Mapping[str, Any]]], *, add_bos: Optional[bool] = None,
                 parse_special: Optional[bool] = None, timeout: Optional[float] = None,
                 **options: Unpack[ChatOptions]) -> inference_pb2.TokenizeResponse:
        """Of a text, or of the prompt that a chat makes."""
        return self._call("Tokenize", tokenize_request(
            prompt, options, add_bos=add_bos, parse_special=parse_special), timeout=timeout)

    def detokenize(self, token_ids: Sequence[int], *, skip_special_tokens: Optional[bool] = None,
                   timeout: Optional[float] = None) -> str:
        return self._call("Detokenize", inference_pb2.DetokenizeRequest(
            token_ids=token_ids, **given(skip_special_tokens=skip_special_tokens)), timeout=timeout).text

    def model_info(self, *, timeout: Optional[float] = None) -> inference_pb2.GetModelInfoResponse:
        return self._call("GetModelInfo", inference_pb2.GetModelInfoRequest(), timeout=timeout)

    def plan(self, *, timeout: Optional[float] = None) -> inference_pb2.GetPlanResponse:
        return self._call("GetPlan", inference_pb2.GetPlanRequest(), timeout=timeout)

    def create_session(self, *, ttl_seconds: Optional[float] = None,
                       timeout: Optional[float] = None) -> Session:
        affinity = new_affinity()
        made = self._call("CreateSession", inference_pb2.CreateSessionRequest(ttl_seconds=ttl_seconds),
                          affinity, timeout=timeout)
        return Session(self, made.session, affinity)

    def session(self, handle: str, affinity: Optional[str] = None) -> Session:
        """One that exists. `affinity`: what its `affinity` was when it was made."""
        return Session(self, handle, affinity)

    def load_session(self, data: bytes, *, cache_salt: Optional[str] = None,
                     ttl_seconds: Optional[float] = None, timeout: Optional[float] = None) -> Session:
        """A new session from what Session.save() has returned, here or of another server of the model."""
        affinity = new_affinity()
        loaded = self._call("LoadSession", functools.partial(load_requests, data, {
            "cache_salt": cache_salt, "ttl_seconds": ttl_seconds}), affinity, timeout=timeout)
        return Session(self, loaded.session.session, affinity)

    def list_sessions(self, *, limit: Optional[int] = None,
                      timeout: Optional[float] = None) -> List[inference_pb2.Session]:
        """Of the API key, those of this replica; the ones that were used last come first."""
        return list(self._call("ListSessions", inference_pb2.ListSessionsRequest(limit=limit),
                               timeout=timeout).sessions)

    def _call(self, method: str, request: Any, affinity: Optional[str] = None,
              read: Callable[[Any], Any] = lambda answer: answer, gone: bool = False,
              timeout: Optional[float] = None) -> Any:
        """`request`: a message, or a function that makes an iterator of them. `read`: of the answer. `gone`:
        whether what is not found after a try whose answer was lost is what was asked for."""
        attempts, metadata = self._settings.attempts(timeout), self._settings.metadata(affinity)
        while True:
            try:
                return read(getattr(self._stub, method)(request() if callable(request) else request,
                                                        timeout=attempts.timeout(), metadata=metadata))
            except grpc.RpcError as error:
                if gone and attempts.lost and error.code() == grpc.StatusCode.NOT_FOUND:
                    return None
                pause = attempts.pause(error)
                if pause is None:
                    raise
            time.sleep(pause)

    def _stream(self, method: str, request: Any, timeout: Optional[float], session: Optional[Session],
                repeatable: bool, resume: bool) -> Stream:
        metadata = self._settings.metadata(session.affinity if session else None)
        stub = getattr(self._stub, method)
        return Stream(lambda seconds: stub(request, timeout=seconds, metadata=metadata),
                      self._settings.attempts(timeout, repeatable), Progress(resume))

    def _generate(self, prompt: Prompt, options: Any, timeout: Optional[float],
                  session: Optional[Session] = None) -> Stream:
        # A turn whose end nobody has heard may be in the session: it is not said twice.
        resume = self._settings.resume and session is None
        request = generate_request(prompt, options, session.handle if session else "", resume)
        return self._stream("Generate", request, timeout, session, session is None, resume)

    def _score(self, prompt: Prompt, candidates: Iterable[Candidate], options: Any,
               timeout: Optional[float], session: Optional[Session] = None) -> List[Choice]:
        request = score_request(prompt, candidates, options, session.handle if session else "")
        return self._stream("Score", request, timeout, session, True, True).choices()


class Session:
    """A text that the server keeps: each turn sends what is new. As a `with` block it is deleted at the end."""

    def __init__(self, client: Client, handle: str, affinity: Optional[str] = None):
        self._client = client
        self.handle = handle      # Whoever has it and the API key can go on with the session.
        self.affinity = affinity  # Goes with every call, as x-session, for balancers.

    def stream(self, prompt: Prompt = None, *, timeout: Optional[float] = None,
               **options: Unpack[GenerateOptions]) -> Stream:
        """A turn, message by message; without a prompt the text goes on by itself. A turn is made again only
        where the server has refused it."""
        return self._client._generate(prompt, options, timeout, self)

    def complete(self, prompt: Prompt = None, *, timeout: Optional[float] = None,
                 **options: Unpack[GenerateOptions]) -> Completion:
        return Completion(self.stream(prompt, timeout=timeout, **options).choices())

    def score(self, prompt: Prompt = None, candidates: Iterable[Candidate] = (), *,
              timeout: Optional[float] = None, **options: Unpack[ScoreOptions]) -> List[Choice]:
        """Of what may follow the session's text, which stays as it is; with no arguments, of that text."""
        return self._client._score(prompt, candidates, options, timeout, self)

    def info(self, *, include_token_ids: bool = False,
             timeout: Optional[float] = None) -> inference_pb2.Session:
        return self._client._call("GetSession", inference_pb2.GetSessionRequest(
            session=self.handle, include_token_ids=include_token_ids), self.affinity, timeout=timeout)

    def fork(self, *, timeout: Optional[float] = None) -> Session:
        """Another session with the same text."""
        made = self._client._call("ForkSession", inference_pb2.ForkSessionRequest(session=self.handle),
                                  self.affinity, timeout=timeout)
        return Session(self._client, made.session, self.affinity)

    def rewind(self, *, turns: Optional[int] = None, tokens: Optional[int] = None,
               timeout: Optional[float] = None) -> inference_pb2.Session:
        """Keeps so many of the first turns, or tokens."""
        return self._client._call("RewindSession", rewind_request(self.handle, turns, tokens),
                                  self.affinity, timeout=timeout)

    def save(self, *, cache_salt: Optional[str] = None, timeout: Optional[float] = None) -> bytes:
        """The session with its state, for Client.load_session()."""
        return self._client._call(
            "SaveSession", inference_pb2.SaveSessionRequest(session=self.handle, cache_salt=cache_salt),
            self.affinity, lambda messages: b"".join(message.data for message in messages), timeout=timeout)

    def delete(self, *, timeout: Optional[float] = None) -> None:
        self._client._call("DeleteSession", inference_pb2.DeleteSessionRequest(session=self.handle),
                           self.affinity, gone=True, timeout=timeout)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *unused: object) -> None:
        with contextlib.suppress(grpc.RpcError):  # It expires by itself.
            self.delete()
