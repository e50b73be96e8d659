"""One body of tests for both clients: the asyncio one, with a loop that runs while a call does."""

import asyncio
import inspect

from packrat_client import AsyncClient, AsyncSession, AsyncStream, Client


class Blocking:
    """An object of the asyncio client, whose methods return when they are done."""

    def __init__(self, loop, thing):
        self._loop, self._thing = loop, thing

    def _done(self, value):
        if inspect.isawaitable(value):
            value = self._loop.run_until_complete(value)
        return Blocking(self._loop, value) if isinstance(value, (AsyncSession, AsyncStream)) else value

    def __getattr__(self, name):
        value = getattr(self._thing, name)
        if not callable(value):
            return value
        return lambda *arguments, **named: self._done(value(*arguments, **named))

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return self._done(self._thing.__anext__())
        except StopAsyncIteration:
            raise StopIteration from None

    def __enter__(self):
        self._done(self._thing.__aenter__())
        return self

    def __exit__(self, *exception):
        self._done(self._thing.__aexit__(*exception))


class Both:
    """Mixed into a test case; its subclasses WithThreads and WithAsyncio run its tests."""

    def client(self, *arguments, **named):
        raise NotImplementedError


class WithThreads(Both):

    def client(self, *arguments, **named):
        client = Client(*arguments, **named)
        self.addCleanup(client.close)
        return client


class WithAsyncio(Both):

    def client(self, *arguments, **named):
        if not hasattr(self, "loop"):
            self.loop = asyncio.new_event_loop()
            self.addCleanup(self.loop.close)

        async def make():
            return AsyncClient(*arguments, **named)
        client = Blocking(self.loop, self.loop.run_until_complete(make()))
        self.addCleanup(client.close)
        return client
