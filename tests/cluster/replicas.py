"""Replicas of the real server as processes that can be killed, stopped, frozen and started again."""

import json
import os
import random
import signal
import socket
import ssl
import subprocess
import time
import urllib.error

from tests.server import processes
from tests.server.processes import ROOT

DEMO = os.path.join(ROOT, "models/demo")


def wait_until(condition, what, seconds=60):
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError("not in %s s: %s" % (seconds, what))
        time.sleep(0.02)


def free_port():
    """A port that nobody has, below those that the system gives to clients: a replica that starts again
    finds it free again."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


class Replica(processes.Process):
    """One server, through all of its lives, on the same two ports. Its log is a file: a pipe that nobody
    reads fills up. `tls` is the folder of certificates.make(): it has TLS, and asks who calls for theirs."""

    def __init__(self, name, folder, *flags, tls=None, model=DEMO):
        self.name = name
        self.port, self.http_port = free_port(), free_port()
        self.address = "127.0.0.1:%d" % self.port
        self.log = os.path.join(folder, name + ".log")
        self.command = [processes.SERVER, "--model=" + model, "--threads=1", "--log_format=json",
                        "--listen=" + self.address, "--http_listen=127.0.0.1:%d" % self.http_port,
                        *flags]
        self.process = None
        if tls:
            authority, certificate, key = (os.path.join(tls, n) for n in ("ca.crt", "tls.crt", "tls.key"))
            self.command += ["--tls_certificate=" + certificate, "--tls_key=" + key,
                             "--tls_client_ca=" + authority]
            self.context = ssl.create_default_context(cafile=authority)
            self.context.load_cert_chain(certificate, key)

    def start(self, *flags):
        """Returns when it is ready. `flags` come after those of the constructor, for this life."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command + list(flags), stdout=subprocess.DEVNULL,
                                            stderr=log)
        wait_until(self.ready, self.name + " is ready")

    def ready(self):
        assert self.process.poll() is None, self.name + " ended: " + self.log
        try:
            return super().ready()
        except urllib.error.URLError:
            return False  # It does not listen yet.

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def freeze(self):
        self.signal(signal.SIGSTOP)

    def thaw(self):
        self.signal(signal.SIGCONT)

    def stop(self):
        """Drains; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.process.wait(120)

    def end(self):
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def metrics(self):
        """All series, by their name with labels."""
        lines = self.get("/metrics").splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def calls(self):
        """The lines of Generate calls in the log, of all lives; whoever was killed wrote none."""
        with open(self.log, encoding="utf-8") as log:
            for line in log:
                # The last line of a life that was killed may be cut.
                if line.endswith("}\n") and '"call":"Generate"' in line:
                    yield json.loads(line)

    def idle(self):
        return not (self.metric("packrat_requests_running") or self.metric("packrat_requests_waiting"))


class Cluster:
    """Replicas a, b, c, ..., of which the first `started` (default: all) run."""

    def __init__(self, folder, count=3, flags=(), started=None, tls=None, model=DEMO):
        self.folder = folder
        self.replicas = [Replica("abcdefgh"[i], folder, *flags, tls=tls, model=model) for i in range(count)]
        for replica in self.replicas[:started]:
            replica.start()

    def __len__(self):
        return len(self.replicas)

    def __iter__(self):
        return iter(self.replicas)

    def __getitem__(self, index):
        return self.replicas[index]

    def wait_until_idle(self):
        wait_until(lambda: all(replica.idle() for replica in self), "no call runs or waits")

    def end(self):
        for replica in self:
            replica.end()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.end()
