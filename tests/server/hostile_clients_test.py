"""A server as a process, and clients that mean no good: memory, descriptors, silence."""

import os
import resource
import socket
import subprocess
import unittest

import grpc

from tests.server import processes
from tests.server.processes import FakeServer


def resident_megabytes(process):
    with open("/proc/%d/status" % process.pid, encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM"):  # The most that it ever was.
                return int(line.split()[1]) / 1024
    raise ValueError(process.pid)


def connect(port):
    return socket.create_connection(("127.0.0.1", int(port)), timeout=60)


class MemoryTest(unittest.TestCase):

    def test_a_compressed_message_is_not_inflated(self):
        with FakeServer() as server:
            before = resident_megabytes(server.process)
            for algorithm in (grpc.Compression.Gzip, grpc.Compression.Deflate):
                with grpc.insecure_channel(server.address, compression=algorithm,
                                           options=[("grpc.max_send_message_length", -1)]) as channel:
                    call = channel.unary_unary("/packrat.v1.Inference/Tokenize")
                    with self.assertRaises(grpc.RpcError) as refused:
                        call(bytes(200 << 20), timeout=60)  # 0.2 MB on the wire.
                    self.assertEqual(refused.exception.code(), grpc.StatusCode.UNIMPLEMENTED)
            self.assertLess(resident_megabytes(server.process) - before, 50)


class DescriptorsTest(unittest.TestCase):

    def test_too_many_connections_harm_nobody(self):
        with FakeServer(descriptors=256) as server:
            port = server.address.split(":")[1]
            # Beyond the limit of connections (96) and that of descriptors.
            crowd = [connect(port) for _ in range(300)]
            self.assertTrue(server.ready())
            for connection in crowd:
                connection.close()
            # Until gRPC has closed its ends, a client is still one too many.
            processes.wait_for(lambda: server.client("info").returncode == 0)

    def test_a_low_limit_is_told(self):
        started = subprocess.run(
            [processes.SERVER, "--model=" + os.path.join(processes.ROOT, "models/demo"),
             "--listen=127.0.0.1:0", "--http_listen="],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (255, 255)),
            stderr=subprocess.PIPE, encoding="utf-8", timeout=60, check=False)
        self.assertEqual(started.returncode, 1)
        self.assertIn("the limit of open files (ulimit -n) is 255; at least 256", started.stderr)


if __name__ == "__main__":
    unittest.main()
