"""The Python example of the documentation, against a real server."""

import collections
import sys
import tempfile
import threading
import time
import unittest

import grpc

from proto.packrat.v1 import inference_pb2_grpc
from tests.docs import live_server

sys.path.insert(0, "docs")
import client  # pylint: disable=wrong-import-position

LISTEN = "127.0.0.1:50081"
HTTP = "127.0.0.1:8092"
# Runs until it is cancelled, as far as a test can tell: no end token (2) may come.
LONG = {"max_tokens": 4000, "banned_token_ids": [2]}


class ClientTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        # One sequence runs and one waits; a third is refused.
        cls.server = live_server.Server(
            live_server.Checkout(cls.folder.name),
            "./dev serve --listen=%s --http_listen=%s --max_running=1 --max_queue=1" % (LISTEN, HTTP))
        cls.channel = grpc.insecure_channel(LISTEN)
        cls.stub = inference_pb2_grpc.InferenceStub(cls.channel)

    @classmethod
    def tearDownClass(cls):
        cls.channel.close()
        status = cls.server.stop()
        cls.folder.cleanup()
        assert status == 0, status

    def metric(self, name):
        for line in self.server.metrics().splitlines():
            if line.startswith(name + "{"):
                return float(line.split()[-1])
        self.fail("no metric " + name)

    def wait_until_idle(self):
        deadline = time.monotonic() + 30
        while self.metric("packrat_requests_running") or self.metric("packrat_requests_waiting"):
            self.assertLess(time.monotonic(), deadline, "the server is still busy")
            time.sleep(0.02)

    def setUp(self):
        self.wait_until_idle()

    def test_streams_the_same_text_for_the_same_seed(self):
        one = list(client.complete(self.stub, "The little dog", max_tokens=40, seed=7))
        two = list(client.complete(self.stub, "The little dog", max_tokens=40, seed=7))
        self.assertGreater(len("".join(one)), 20)
        self.assertEqual("".join(one), "".join(two))

    def test_leaving_the_loop_cancels(self):
        for _ in client.complete(self.stub, "The little dog", **LONG):
            break
        self.wait_until_idle()

    def test_deadline(self):
        running = client.complete(self.stub, "The dog", **LONG)
        next(running)
        with self.assertRaises(grpc.RpcError) as caught:
            list(client.complete(self.stub, "The cat", deadline=0.05))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        running.close()

    def test_a_full_server_is_tried_again(self):
        running = client.complete(self.stub, "The dog", **LONG)
        next(running)
        waiting = client.complete(self.stub, "The cat", max_tokens=2)
        taken = collections.deque()
        waiter = threading.Thread(target=lambda: taken.extend(waiting))
        waiter.start()
        while not self.metric("packrat_requests_waiting"):
            time.sleep(0.01)

        with self.assertRaises(grpc.RpcError) as caught:
            list(client.complete(self.stub, "The bird", attempts=1))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)

        threading.Timer(0.5, running.close).start()
        text = "".join(client.complete(self.stub, "The bird", max_tokens=5, attempts=50))
        self.assertTrue(text)
        waiter.join()
        self.assertTrue(taken)


if __name__ == "__main__":
    unittest.main()
