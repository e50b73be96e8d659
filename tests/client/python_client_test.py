"""Both Python clients against the real server."""

import asyncio
import functools
import hashlib
import os
import signal
import tempfile
import threading
import unittest

import grpc

from packrat_client import AsyncClient, Client, Tls
from tests.client import both
from tests.server import certificates, processes
from tests.server.processes import RealServer

MODEL = "models/demo"
PROMPT = "The little dog"
# As far as a test can tell, it runs until it is cancelled.
LONG = {"max_tokens": 3900, "ignore_eos": True}


class RealServerTests:

    @classmethod
    def setUpClass(cls):
        cls.server = RealServer(MODEL, "--max_running=7")

    @classmethod
    def tearDownClass(cls):
        status, _ = cls.server.stop()
        assert status == 0, status

    def idle(self):
        return not (self.server.metric("packrat_requests_running")
                    or self.server.metric("packrat_requests_waiting"))

    def setUp(self):
        processes.wait_for(self.idle)

    def own(self, **settings):
        return self.client(self.server.address, **settings)

    def test_a_stream_adds_up_to_the_completion(self):
        client = self.own()
        options = {"max_tokens": 40, "seed": 7, "num_logprobs": 2}
        messages = list(client.stream(PROMPT, **options))
        whole = client.complete(PROMPT, **options)
        self.assertGreater(len(messages), 1)
        self.assertEqual("".join(message.text for message in messages), whole.text)
        self.assertEqual([i for message in messages for i in message.token_ids], whole.token_ids)
        self.assertEqual((whole.seed, whole.usage.completion_tokens), (7, len(whole.token_ids)))
        self.assertEqual(len(whole.choices[0].logprobs), len(whole.token_ids))
        self.assertEqual(len(whole.choices[0].logprobs[0].top), 2)
        self.assertEqual(whole.reason, "length")
        self.assertTrue(whole.request_id)
        self.assertEqual(client.complete(PROMPT, temperature=0, max_tokens=30, stop=["."]).reason, "stop_string")

    def test_choices(self):
        client = self.own()
        three = client.complete(PROMPT, num_choices=3, seed=5, max_tokens=12)
        alone = client.complete(PROMPT, seed=6, max_tokens=12)
        self.assertEqual(len(three.choices), 3)
        self.assertEqual(three.choices[1].text, alone.text)

    def test_scores(self):
        client = self.own()
        likely, odd = client.score(PROMPT, [" was", " zebra"], num_logprobs=3)
        self.assertGreater(likely.finished.score.logprob, odd.finished.score.logprob)
        self.assertEqual(len(likely.scores), likely.finished.score.tokens)
        self.assertEqual(len(likely.scores[0].top), 3)
        said = self.server.json("score", PROMPT, " was")
        self.assertAlmostEqual(said["finished"]["score"]["logprob"], likely.finished.score.logprob, places=5)
        itself, = client.score(PROMPT)
        self.assertEqual(itself.finished.score.tokens, len(client.tokenize(PROMPT).token_ids) - 1)

    def test_a_chat(self):
        template = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %} She{% endif %}"
        with tempfile.TemporaryDirectory() as folder, \
                RealServer(processes.with_template(folder, template)) as server:
            client = self.client(server.address)
            messages = [{"role": "user", "content": PROMPT}]
            # What is at the beginning of a text is the template's to say.
            whole = client.tokenize(PROMPT + " She", add_bos=False).token_ids
            self.assertEqual(client.tokenize(messages).token_ids, whole)
            self.assertEqual(client.tokenize(messages, add_generation_prompt=False).token_ids,
                             client.tokenize(PROMPT, add_bos=False).token_ids)
            answered = client.complete(messages, temperature=0, max_tokens=5)
            self.assertEqual(answered.token_ids, client.complete(whole, temperature=0, max_tokens=5).token_ids)
            of_chat, = client.score(messages, [" was"])
            of_text, = client.score(whole, [" was"])
            self.assertEqual(of_chat.finished.score.logprob, of_text.finished.score.logprob)
            with self.assertRaises(grpc.RpcError) as caught:
                client.tokenize([])
            self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)

    def test_tokens_and_model(self):
        client = self.own()
        ids = client.tokenize(PROMPT).token_ids
        self.assertEqual(client.detokenize(ids), PROMPT)
        self.assertEqual(len(client.tokenize(PROMPT, add_bos=False).token_ids), len(ids) - 1)
        self.assertEqual(client.complete(ids, temperature=0, max_tokens=5).text,
                         client.complete(PROMPT, temperature=0, max_tokens=5).text)
        self.assertEqual(client.model_info().limits.max_running, 7)
        self.assertEqual(client.plan().capacity[0].sequences, 7)

    def test_leaving_a_stream_cancels_it(self):
        client = self.own()
        with client.stream(PROMPT, **LONG) as stream:
            next(stream)
            self.assertFalse(self.idle())
        processes.wait_for(self.idle)

    def test_deadline(self):
        for settings, options in (({"timeout": 0.2}, {}), ({}, {"timeout": 0.2})):
            with self.assertRaises(grpc.RpcError) as caught:
                self.own(**settings).complete(PROMPT, **LONG, **options)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        processes.wait_for(self.idle)

    def test_every_call_has_a_deadline(self):
        with RealServer(MODEL) as server:
            client = self.client(server.address)
            session = client.create_session()
            session.complete(PROMPT, max_tokens=2)
            saved = session.save()
            server.process.send_signal(signal.SIGSTOP)  # It answers nothing.
            try:
                for call, *given in (
                        (client.complete, PROMPT), (client.score, PROMPT), (client.tokenize, PROMPT),
                        (client.detokenize, [1]), (client.model_info,), (client.plan,),
                        (client.create_session,), (client.load_session, saved), (client.list_sessions,),
                        (session.complete, PROMPT), (session.score,), (session.info,), (session.fork,),
                        (functools.partial(session.rewind, turns=0),), (session.save,), (session.delete,)):
                    with self.assertRaises(grpc.RpcError) as caught:
                        call(*given, timeout=0.1)
                    self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED, call)
            finally:
                server.process.send_signal(signal.SIGCONT)

    def test_a_full_server_is_tried_again(self):
        """One sequence runs and one waits; a third is refused."""
        with RealServer(MODEL, "--max_running=1", "--max_queue=1") as server, Client(server.address) as other:
            def refused():
                return sum(float(line.split()[-1]) for line in server.get("/metrics").splitlines()
                           if line.startswith("packrat_calls_total{") and '"RESOURCE_EXHAUSTED"' in line)
            running = other.stream(PROMPT, **LONG)
            next(running)
            waiter = threading.Thread(target=lambda: other.complete(PROMPT, max_tokens=2))
            waiter.start()
            processes.wait_for(lambda: server.metric("packrat_requests_waiting"))
            with self.assertRaises(grpc.RpcError) as caught:
                self.client(server.address, attempts=1).complete(PROMPT)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            # A stream is counted when gRPC is done with it, which may be after its client knows.
            processes.wait_for(lambda: refused() == 1)

            ender = threading.Thread(target=lambda: (processes.wait_for(lambda: refused() > 1), running.cancel()))
            ender.start()
            self.assertTrue(self.client(server.address, attempts=100).complete(PROMPT, max_tokens=5).text)
            ender.join()
            waiter.join()

    def test_sessions(self):
        client = self.own()
        turn = {"max_tokens": 16, "temperature": 0, "ignore_eos": True}
        with client.create_session(ttl_seconds=60) as session:
            first = session.complete(PROMPT, **turn)
            fork = session.fork()
            second = session.complete(" The next day", **turn)
            self.assertGreater(second.usage.cached_tokens, 0)
            info = session.info(include_token_ids=True)
            self.assertEqual((info.num_turns, info.ttl_seconds), (2, 60))
            self.assertEqual(list(info.token_ids[-16:]), second.token_ids)
            # Whoever does the same says the same, in a fork, rewound, or elsewhere.
            self.assertEqual(fork.complete(" The next day", **turn).token_ids, second.token_ids)
            self.assertEqual(session.rewind(turns=1).num_turns, 1)
            self.assertEqual(session.complete(" The next day", **turn).token_ids, second.token_ids)
            with self.assertRaises(TypeError):
                session.rewind()
            saved = fork.save()
            scored = fork.score(candidates=[" He", " zebra"])
            self.assertGreater(scored[0].finished.score.logprob, scored[1].finished.score.logprob)
            fork.rewind(tokens=len(first.token_ids))
            self.assertEqual(fork.info().tokens, len(first.token_ids))
        with client.load_session(saved) as loaded:
            self.assertEqual(loaded.info(include_token_ids=True).token_ids[-16:], second.token_ids)
            self.assertIn(loaded.handle, {one.session for one in client.list_sessions()})
            again = client.session(loaded.handle, loaded.affinity)
            self.assertEqual([m.choice for m in again.stream(**turn)][:1], [0])
        fork.delete()
        with self.assertRaises(grpc.RpcError) as caught:
            session.info()
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)
        self.assertEqual(client.list_sessions(), [])


class ThreadsTest(RealServerTests, both.WithThreads, unittest.TestCase):

    def test_leaving_the_loop_cancels(self):
        for _ in self.own().stream(PROMPT, **LONG):
            break
        processes.wait_for(self.idle)

    def test_cancel_from_another_thread(self):
        stream = self.own().stream(PROMPT, **LONG)
        next(stream)
        threading.Timer(0.1, stream.cancel).start()
        self.assertLess(len(list(stream)), 3900)  # It ends, without an error.


class AsyncioTest(RealServerTests, both.WithAsyncio, unittest.TestCase):

    def run_in_loop(self, function):
        async def main():
            async with AsyncClient(self.server.address) as client:
                await function(client)
        asyncio.run(main())

    def test_leaving_the_loop_cancels(self):
        async def leave(client):
            async for _ in client.stream(PROMPT, **LONG):
                break
            # Not by the end of the channel: another call goes over it.
            self.assertTrue((await client.complete(PROMPT, max_tokens=2)).text)
        self.run_in_loop(leave)

    def test_a_task_that_is_cancelled_cancels_its_call(self):
        async def cancel(client):
            task = asyncio.create_task(client.complete(PROMPT, **LONG))
            while self.idle():
                await asyncio.sleep(0.01)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            self.assertTrue((await client.complete(PROMPT, max_tokens=2)).text)
        self.run_in_loop(cancel)

    def test_cancel_from_another_task(self):
        async def cancel(client):
            stream = client.stream(PROMPT, **LONG)
            await stream.__anext__()
            asyncio.get_running_loop().call_later(0.1, stream.cancel)
            self.assertLess(len([message async for message in stream]), 3900)
        self.run_in_loop(cancel)

    def test_many_at_once(self):
        async def several(client):
            one, two = await asyncio.gather(client.complete(PROMPT, seed=1, max_tokens=8),
                                            client.complete(PROMPT, seed=1, max_tokens=8))
            self.assertEqual(one.text, two.text)
        self.run_in_loop(several)


class SecretsTest(unittest.TestCase):

    def test_keys_and_tls(self):
        with tempfile.TemporaryDirectory() as folder:
            ours = certificates.Authority(folder, "ours")
            mine, key = ours.sign("server", host="packrat.internal")
            keys = os.path.join(folder, "keys")
            with open(keys, "w", encoding="utf-8") as file:
                file.write("me sha256:%s\n" % hashlib.sha256(b"secret").hexdigest())
            with RealServer(MODEL, "--tls_certificate=" + mine, "--tls_key=" + key, "--tls_client_ca=" + ours.path,
                            "--api_keys=" + keys) as server:
                tls = Tls(ca=ours.path, certificate=mine, key=key, server_name="packrat.internal")

                def status(**settings):
                    with Client(server.address, attempts=1, timeout=20, **settings) as client:
                        try:
                            return len(client.complete(PROMPT, max_tokens=3).token_ids)
                        except grpc.RpcError as error:
                            return error.code()
                self.assertEqual(status(tls=tls, api_key="secret"), 3)
                self.assertEqual(status(tls=tls, api_key="guessed"), grpc.StatusCode.UNAUTHENTICATED)
                self.assertEqual(status(tls=tls), grpc.StatusCode.UNAUTHENTICATED)
                self.assertEqual(status(tls=True, api_key="secret"), grpc.StatusCode.UNAVAILABLE)
                self.assertEqual(status(tls=Tls(ca=ours.path, server_name="packrat.internal"), api_key="secret"),
                                 grpc.StatusCode.UNAVAILABLE)

                async def later():
                    async with AsyncClient(server.address, tls=tls, api_key="secret") as client:
                        return (await client.complete(PROMPT, max_tokens=3)).token_ids
                self.assertEqual(len(asyncio.run(later())), 3)


if __name__ == "__main__":
    unittest.main()
