"""TLS at both ports and in the client, with real certificates."""

import http.client
import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import unittest

from tests.server import certificates, processes
from tests.server.processes import RealServer

MODEL = "tests/golden/packrat"


class TlsTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.ours = certificates.Authority(cls.folder.name, "ours")
        cls.theirs = certificates.Authority(cls.folder.name, "theirs")
        cls.server_pair = cls.ours.sign("server")
        cls.client_pair = cls.ours.sign("client")
        cls.foreign_pair = cls.theirs.sign("foreign")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def start(self, pair, *flags):
        return RealServer(MODEL, "--tls_certificate=" + pair[0], "--tls_key=" + pair[1], *flags)

    def info(self, server, *flags, address="localhost"):
        """The client's exit code and what it says."""
        port = server.address.split(":")[1]
        done = subprocess.run([processes.CLIENT, "info", "--address=%s:%s" % (address, port), *flags],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
                              timeout=120, check=False)
        return done.returncode, done.stdout

    def context(self, ca, pair=None):
        context = ssl.create_default_context(cafile=ca)
        if pair:
            context.load_cert_chain(*pair)
        return context

    def get(self, server, path, context=None):
        """Status of GET."""
        if context:
            connection = http.client.HTTPSConnection("localhost", server.http_port, timeout=60,
                                                     context=context)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=60)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    def alpn(self, port, offered):
        context = self.context(self.ours.path)
        context.set_alpn_protocols(offered)
        with socket.create_connection(("localhost", int(port)), timeout=60) as plain:
            with context.wrap_socket(plain, server_hostname="localhost") as secure:
                return secure.selected_alpn_protocol(), secure.version()

    def test_slow_readers_get_everything_over_http(self):
        with self.start(self.server_pair) as server:
            with socket.create_connection(("localhost", int(server.http_port)), timeout=60) as plain:
                with self.context(self.ours.path).wrap_socket(
                        plain, server_hostname="localhost") as secure:
                    # Far more than the system keeps for a socket, of answers of several records.
                    ask = b"GET /metrics HTTP/1.1\r\nHost: h\r\n"
                    secure.sendall((ask + b"\r\n") * 299 + ask + b"Connection: close\r\n\r\n")
                    time.sleep(0.5)
                    answers = b"".join(iter(lambda: secure.recv(65536), b""))
            sizes = [int(size) for size in re.findall(rb"\r\nContent-Length: (\d+)\r\n", answers)]
            heads = re.findall(rb"HTTP/1.1 200 OK\r\n(?:.+\r\n)*\r\n", answers)
            self.assertEqual((len(sizes), len(heads)), (300, 300))
            self.assertEqual(sum(sizes) + sum(map(len, heads)), len(answers))
            self.assertGreater(min(sizes), 32768)

    def test_a_server_proves_who_it_is(self):
        with self.start(self.server_pair) as server:
            ca = "--tls_ca=" + self.ours.path
            self.assertEqual(self.info(server, ca)[0], 0)
            self.assertEqual(self.info(server, ca, address="127.0.0.1")[0], 0)
            self.assertEqual(self.info(server, ca, "--tls_server_name=localhost")[0], 0)
            for wrong in (["--tls_ca=" + self.theirs.path],            # Wrong authority.
                          ["--tls"],                                   # The system knows none.
                          [ca, "--tls_server_name=elsewhere.example"],  # Wrong host.
                          []):                                         # No TLS.
                code, said = self.info(server, "--deadline=30s", *wrong)
                self.assertEqual(code, 3, (wrong, said))
            for path in ("/healthz", "/readyz", "/metrics", "/version"):
                self.assertEqual(self.get(server, path, self.context(self.ours.path)), 200, path)
            with self.assertRaises(ssl.SSLError):
                self.get(server, "/healthz", self.context(self.theirs.path))
            with self.assertRaises((http.client.HTTPException, OSError)):
                self.get(server, "/healthz")
            grpc_port = server.address.split(":")[1]
            self.assertEqual(self.alpn(grpc_port, ["http/1.1", "h2"])[0], "h2")
            chosen, version = self.alpn(server.http_port, ["h2", "http/1.1"])
            self.assertEqual(chosen, "http/1.1")
            self.assertEqual(version, "TLSv1.3")
            for port in (grpc_port, server.http_port):
                old = self.context(self.ours.path)
                old.set_ciphers("ALL:@SECLEVEL=0")
                old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
                with socket.create_connection(("localhost", int(port)), timeout=60) as plain:
                    with self.assertRaises((ssl.SSLError, OSError)):
                        old.wrap_socket(plain, server_hostname="localhost")

    def test_clients_prove_who_they_are(self):
        with self.start(self.server_pair, "--tls_client_ca=" + self.ours.path) as server:
            def info(*pair):
                own = ["--tls_certificate=" + pair[0], "--tls_key=" + pair[1]] if pair else []
                return self.info(server, "--tls_ca=" + self.ours.path, "--deadline=30s", *own)[0]
            self.assertEqual(info(*self.client_pair), 0)
            self.assertEqual(info(*self.foreign_pair), 3)
            self.assertEqual(info(), 3)
            # Probes have no certificate; who may read the rest has one.
            nobody = self.context(self.ours.path)
            for path, status in (("/healthz", 200), ("/readyz", 200), ("/health", 200),
                                 ("/metrics", 403), ("/version", 403), ("/nothing", 404)):
                self.assertEqual(self.get(server, path, nobody), status, path)
            known = self.context(self.ours.path, self.client_pair)
            self.assertEqual(self.get(server, "/metrics", known), 200)
            with self.assertRaises((ssl.SSLError, OSError)):
                self.get(server, "/healthz", self.context(self.ours.path, self.foreign_pair))

    def test_the_http_port_without_tls(self):
        with self.start(self.server_pair, "--http_tls=false",
                        "--tls_client_ca=" + self.ours.path) as server:
            self.assertEqual(self.get(server, "/metrics"), 200)
            self.assertEqual(self.info(server, "--deadline=30s")[0], 3)

    def test_an_expired_certificate(self):
        pair = self.ours.sign("expired", days=0)
        with self.start(pair) as server:
            time.sleep(1.1)  # It ended in the second in which it was made.
            code, said = self.info(server, "--tls_ca=" + self.ours.path, "--deadline=30s")
            self.assertEqual(code, 3, said)
            with self.assertRaisesRegex(ssl.SSLError, "expired"):
                self.get(server, "/healthz", self.context(self.ours.path))
            _, log = server.stop()
        # Its first line came before those that stop() gives.
        self.assertTrue(any("the TLS certificate" in line["message"] for line in server.early) or
                        any("the TLS certificate" in line for line in log))

    def test_new_certificates_are_taken_and_broken_ones_are_not(self):
        live = self.path("live.pem"), self.path("live.key")
        shutil.copy(self.server_pair[0], live[0])
        shutil.copy(self.server_pair[1], live[1])
        with self.start(live) as server:
            def works(authority):
                return (self.info(server, "--tls_ca=" + authority.path, "--deadline=30s")[0] == 0
                        and self.reaches_http(server, authority))
            self.assertTrue(works(self.ours))
            with open(live[0], "w", encoding="ascii") as file:
                file.write("-----BEGIN CERTIFICATE-----\nnonsense\n")
            # Told at the second look; those that hold go on to hold.
            time.sleep(6)
            self.assertTrue(works(self.ours))
            os.replace(shutil.copy(self.foreign_pair[0], self.path("next.pem")), live[0])
            os.replace(shutil.copy(self.foreign_pair[1], self.path("next.key")), live[1])
            processes.wait_for(lambda: works(self.theirs))
            self.assertFalse(works(self.ours))
            _, log = server.stop()
        messages = "\n".join(log)
        self.assertIn("new TLS files are not used; the old ones hold", messages)
        self.assertIn("new TLS files are used", messages)

    def reaches_http(self, server, authority):
        try:
            return self.get(server, "/healthz", self.context(authority.path)) == 200
        except ssl.SSLError:
            return False

    def refused(self, *flags):
        done = subprocess.run([processes.SERVER, "--model=" + os.path.join(processes.ROOT, MODEL),
                               "--listen=127.0.0.1:0", "--http_listen=127.0.0.1:0", *flags],
                              stderr=subprocess.PIPE, encoding="utf-8", timeout=60, check=False)
        return done.returncode, done.stderr

    def test_what_does_not_fit_is_refused_by_name(self):
        certificate, key = self.server_pair
        locked = self.path("locked.key")
        certificates.openssl("ec", "-in", key, "-aes128", "-passout", "pass:x", "-out", locked)
        empty = self.path("empty.pem")
        with open(empty, "w", encoding="ascii"):
            pass
        pipe = self.path("pipe.pem")
        os.mkfifo(pipe)
        for flags, code, words in (
                ((certificate, ""), 2, "--tls_key is missing"),
                (("", key), 2, "--tls_certificate is missing"),
                (("/no/such.pem", key), 1, "--tls_certificate: /no/such.pem: No such file"),
                ((pipe, key), 1, "--tls_certificate: %s: is not a regular file" % pipe),
                ((certificate, "/no/such.key"), 1, "--tls_key: /no/such.key: No such file"),
                ((certificate, self.client_pair[1]), 1,
                 self.client_pair[1] + ": is not the key of the certificate in " + certificate),
                ((empty, key), 1, "--tls_certificate: %s: has no certificate in PEM" % empty),
                ((certificate, locked), 1, "has no private key in PEM, or one with a password"),
                ((certificate, key, "--tls_client_ca=" + empty), 1, "--tls_client_ca: " + empty),
                (("", "", "--tls_client_ca=" + certificate), 2, "--tls_client_ca needs")):
            got, said = self.refused("--tls_certificate=" + flags[0], "--tls_key=" + flags[1],
                                     *flags[2:])
            self.assertEqual(got, code, (flags, said))
            self.assertIn(words, said)

    def test_the_client_refuses_what_it_cannot_read(self):
        for flags, words in ((["--tls_ca=/no/such.pem"], "--tls_ca: /no/such.pem: No such file"),
                             (["--tls_ca=" + self.ours.sign("x")[1] + ".no"], "No such file"),
                             (["--tls_ca=/dev/null"], "--tls_ca: /dev/null: has no PEM"),
                             (["--tls_key=" + self.client_pair[1]], "come together")):
            done = subprocess.run([processes.CLIENT, "info", *flags], stderr=subprocess.PIPE,
                                  encoding="utf-8", timeout=60, check=False)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(words, done.stderr)


if __name__ == "__main__":
    unittest.main()
