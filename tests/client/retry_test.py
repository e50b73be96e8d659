"""When calls are made again, against a server whose answers are scripted."""

import concurrent.futures
import math
import unittest

import grpc

from packrat_client import _retry, request_id, retry_after
from packrat_client.proto import inference_pb2, inference_pb2_grpc
from tests.client import both

UNAVAILABLE, INTERNAL = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
# As Packrat ends calls; a balancer that has lost it sends no such trailers.
OURS = (("x-request-id", "the-id"),)
FULL = OURS + (("grpc-retry-pushback-ms", "20"),)


def message(choice, number, last=False):
    made = inference_pb2.GenerateResponse(
        choice=choice, text="%d.%d " % (choice, number), token_ids=[number],
        logprobs=[inference_pb2.TokenLogprobs(logprob=-number)])
    if last:
        made.finished.request_id = "the-id"
        made.finished.usage.completion_tokens = number + 1
    return made


# The whole of an answer of two choices, in messages as they come.
ANSWER = [message(0, 0), message(1, 0), message(0, 1), message(0, 2, last=True), message(1, 1),
          message(1, 2, last=True)]


def whole(choice):
    """The same in one message, as it comes where the reader was slow."""
    made = inference_pb2.GenerateResponse()
    for part in ANSWER:
        if part.choice == choice:
            made.MergeFrom(part)
    made.text = "".join(part.text for part in ANSWER if part.choice == choice)
    return made


ONCE = [whole(0), whole(1)]


class Script(inference_pb2_grpc.InferenceServicer):
    """Each call plays the next act: how many messages come, and how it ends."""

    def __init__(self):
        self.acts, self.seeds, self.metadata, self.left = [], [], [], []
        self.first, self.last = ANSWER, ANSWER  # What acts say, and what the last one does.

    def play(self, context, answers):
        self.metadata.append(dict(context.invocation_metadata()))
        self.left.append(context.time_remaining())
        count, code, trailers = self.acts.pop(0)
        yield from answers[:count]
        if code:
            context.set_trailing_metadata(trailers)
            context.abort(code, "as the script says")

    def Generate(self, request, context):
        self.seeds.append(request.sampling.seed)
        yield from self.play(context, self.first if len(self.acts) > 1 else self.last)

    def GetModelInfo(self, request, context):
        return next(self.play(context, [inference_pb2.GetModelInfoResponse(name="demo")]))

    def DeleteSession(self, request, context):
        return next(self.play(context, [inference_pb2.DeleteSessionResponse()]))


class RetryTests:

    def setUp(self):
        self.script = Script()
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
        inference_pb2_grpc.add_InferenceServicer_to_server(self.script, self.server)
        self.address = "127.0.0.1:%d" % self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        self.addCleanup(self.server.stop, None)

    def acts(self, *acts):
        self.script.acts = [*acts, (len(ANSWER), None, ())]

    def text(self, target=None, options=None, **settings):
        """What comes in the end, or the status that is raised."""
        client = target or self.client(self.address, **settings)
        try:
            made = client.complete("text", **(options or {}))
        except grpc.RpcError as error:
            return error.code()
        self.assertEqual(made.request_id, "the-id")
        self.assertEqual([choice.token_ids for choice in made.choices], [[0, 1, 2]] * 2)
        self.assertEqual([[-l.logprob for l in choice.logprobs] for choice in made.choices], [[0, 1, 2]] * 2)
        self.assertEqual(made.usage.completion_tokens, 3)
        return "".join(choice.text for choice in made.choices)

    WHOLE = "0.0 0.1 0.2 1.0 1.1 1.2 "

    def calls(self):
        return len(self.script.metadata)

    def test_a_pushback_is_waited_for(self):
        self.acts((0, EXHAUSTED, FULL), (0, EXHAUSTED, FULL))
        self.assertEqual(self.text(), self.WHOLE)
        self.assertEqual(self.calls(), 3)

    def test_what_asks_for_no_other_try_gets_none(self):
        for code, trailers in ((EXHAUSTED, OURS), (INTERNAL, OURS), (grpc.StatusCode.INVALID_ARGUMENT, OURS),
                               (grpc.StatusCode.UNAUTHENTICATED, ())):
            self.acts((0, code, trailers))
            before = self.calls()
            self.assertEqual(self.text(), code)
            self.assertEqual(self.calls(), before + 1)

    def test_a_lost_replica_is_tried_again(self):
        for code, trailers in ((UNAVAILABLE, ()), (UNAVAILABLE, OURS), (INTERNAL, ()),
                               (grpc.StatusCode.UNKNOWN, ())):
            self.acts((0, code, trailers))
            self.assertEqual(self.text(), self.WHOLE)

    def test_attempts_are_counted(self):
        self.acts(*[(0, EXHAUSTED, FULL)] * 3)
        self.assertEqual(self.text(attempts=3), EXHAUSTED)
        self.assertEqual(self.calls(), 3)
        self.acts((0, EXHAUSTED, FULL))
        self.assertEqual(self.text(attempts=1), EXHAUSTED)
        with self.assertRaises(ValueError):
            self.client(self.address, attempts=0)

    def test_after_the_first_token_there_is_no_other_try(self):
        self.acts((1, UNAVAILABLE, ()))
        self.assertEqual(self.text(), UNAVAILABLE)
        self.assertEqual(self.calls(), 1)

    def test_a_text_goes_on_where_it_broke_if_asked_to(self):
        for count in range(1, len(ANSWER)):
            self.script.last = ONCE if count % 2 else ANSWER
            self.acts((count, UNAVAILABLE, ()), (count // 2, INTERNAL, ()))
            self.script.seeds = []
            self.assertEqual(self.text(resume=True), self.WHOLE)
            self.assertEqual(len(self.script.seeds), 3)
            self.assertEqual(len(set(self.script.seeds)), 1)
            self.assertNotEqual(self.script.seeds[0], 0)

    def test_a_turn_is_said_twice_only_if_the_server_refused_it(self):
        client = self.client(self.address, resume=True)
        session = client.session("handle", "where")
        self.acts((0, UNAVAILABLE, ()))
        self.assertEqual(self.text(session), UNAVAILABLE)
        self.acts((1, UNAVAILABLE, OURS))
        self.assertEqual(self.text(session), UNAVAILABLE)
        self.acts((0, UNAVAILABLE, OURS), (0, EXHAUSTED, FULL))
        self.assertEqual(self.text(session), self.WHOLE)
        self.assertEqual({call["x-session"] for call in self.script.metadata}, {"where"})

    def test_unary_calls_too(self):
        client = self.client(self.address, api_key="secret", metadata=[("x-caller", "me")])
        self.script.acts = [(0, UNAVAILABLE, ()), (0, EXHAUSTED, FULL), (1, None, ())]
        self.assertEqual(client.model_info().name, "demo")
        for call in self.script.metadata:
            self.assertEqual((call["authorization"], call["x-caller"]), ("Bearer secret", "me"))
            self.assertNotIn("x-session", call)
        # A session that is left has an end of its own.
        self.script.acts = [(0, grpc.StatusCode.NOT_FOUND, OURS)]
        with client.session("handle"):
            pass
        self.assertEqual(self.script.acts, [])

    def test_what_was_deleted_before_the_answer_was_lost_is_deleted(self):
        missing = (0, grpc.StatusCode.NOT_FOUND, OURS)
        session = self.client(self.address).session("handle")
        self.script.acts = [(0, UNAVAILABLE, ()), (0, EXHAUSTED, FULL), missing]
        session.delete()
        self.assertEqual(self.script.acts, [])
        # Where nothing can have been deleted, it was not there.
        for acts in ([missing], [(0, UNAVAILABLE, OURS), missing]):
            self.script.acts = acts
            with self.assertRaises(grpc.RpcError) as caught:
                session.delete()
            self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_a_message_with_nothing_in_it_begins_no_text(self):
        self.script.first = [inference_pb2.GenerateResponse(), inference_pb2.GenerateResponse(choice=1)]
        self.acts((2, UNAVAILABLE, ()))
        self.assertEqual(self.text(), self.WHOLE)
        self.assertEqual(self.calls(), 2)

    def test_all_tries_share_the_timeout(self):
        self.acts((0, EXHAUSTED, OURS + (("grpc-retry-pushback-ms", "2100"),)))
        self.assertEqual(self.text(timeout=60), self.WHOLE)
        first, second = self.script.left
        self.assertLess(first, 61)  # gRPC rounds up to whole seconds.
        self.assertLess(second, first)
        # A pause that is longer than what is left is not begun.
        self.acts((0, EXHAUSTED, OURS + (("grpc-retry-pushback-ms", "600000"),)))
        self.assertEqual(self.text(options={"timeout": 60}), EXHAUSTED)
        self.acts()
        self.assertEqual(self.text(timeout=1, options={"timeout": math.inf}), self.WHOLE)
        self.assertGreater(self.script.left[-1] or math.inf, 1e6)

    def test_cancel_ends_the_wait_for_another_try(self):
        """The stream is cancelled by who reads it, which here is after a token."""
        self.acts()
        stream = self.client(self.address).stream("text")
        self.assertEqual(next(stream).text, "0.0 ")
        stream.cancel()
        self.assertEqual(list(stream), [])

    def test_what_an_error_says(self):
        self.acts((0, EXHAUSTED, FULL))
        with self.assertRaises(grpc.RpcError) as caught:
            self.client(self.address, attempts=1).complete("text")
        self.assertEqual((request_id(caught.exception), retry_after(caught.exception)), ("the-id", 0.02))
        self.acts((0, UNAVAILABLE, (("grpc-retry-pushback-ms", "-1"),)))
        with self.assertRaises(grpc.RpcError) as caught:
            self.client(self.address, attempts=1).complete("text")
        self.assertEqual((request_id(caught.exception), retry_after(caught.exception)), (None, None))


class ThreadsTest(RetryTests, both.WithThreads, unittest.TestCase):
    pass


class AsyncioTest(RetryTests, both.WithAsyncio, unittest.TestCase):
    pass


class AttemptsTest(unittest.TestCase):

    class Error:
        def __init__(self, code, *trailers):
            self.code, self.trailing_metadata = lambda: code, lambda: trailers

    def test_pauses(self):
        attempts = _retry.Attempts(100, None, True)
        self.assertEqual(attempts.pause(self.Error(EXHAUSTED, ("grpc-retry-pushback-ms", "1500"))), 1.5)
        pauses = [attempts.pause(self.Error(UNAVAILABLE)) for _ in range(8)]
        for pause, middle in zip(pauses, (0.25, 0.5, 1, 2, 4, 4, 4, 4)):
            self.assertAlmostEqual(pause, middle, delta=0.2001 * middle)
        self.assertGreater(len(set(pauses)), 4)  # Clients that were lost together do not come together.
        self.assertIsNone(attempts.timeout())

    def test_a_timeout_that_has_passed(self):
        self.assertEqual(_retry.Attempts(2, -1, True).timeout(), 0)
        self.assertIsNone(_retry.Attempts(2, -1, True).pause(self.Error(UNAVAILABLE)))


if __name__ == "__main__":
    unittest.main()
