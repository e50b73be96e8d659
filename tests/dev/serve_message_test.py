"""What ./dev serve tells a person to open and to type, opened and typed as it stands there."""

import os
import re
import socket
import ssl
import subprocess
import tempfile
import unittest
import urllib.request

from tests.docs.live_server import Checkout
from tests.server import certificates, processes
from tests.server.terminal import CTRL_C, CTRL_D, Terminal

LINE = "Once upon a time"
SHORT = " --max_tokens=8 --ignore_eos"


def free(port):
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class ServeMessageTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = folder.name
        cls.checkout = Checkout(cls.folder)

    def at_terminal(self, *command, **env):
        terminal = Terminal(*command, cwd=self.folder, env={**self.checkout.environment, **env})
        self.addCleanup(terminal.__exit__)
        return terminal

    def piped(self, command, stdin="", **env):
        done = subprocess.run(["bash", "-c", command], input=stdin, cwd=self.folder, timeout=120, check=False,
                              env={**self.checkout.environment, **env}, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, encoding="utf-8")
        self.assertEqual((done.returncode, done.stderr), (0, ""), command)
        return done.stdout

    def check_page(self, url, context=None):
        with urllib.request.urlopen(url, timeout=60, context=context) as answer:
            self.assertEqual(answer.status, 200)
            self.assertTrue(answer.headers["Content-Type"].startswith("text/html"), answer.headers)
            self.assertIn("<title>Packrat</title>", answer.read().decode())

    def check_commands(self, chat, complete, **env):
        """At a terminal, and where what they say goes into a file."""
        terminal = self.at_terminal("bash", "-c", chat + SHORT, **env)
        self.assertIn("Write, and the model", terminal.wait_for_prompt())
        self.assertGreater(len(terminal.say(LINE)), len(LINE) + 8)
        terminal.type(CTRL_D)
        self.assertEqual(terminal.end(), 0)
        terminal = self.at_terminal("bash", "-c", complete + SHORT, **env)
        self.assertEqual(terminal.end(), 0)
        self.assertRegex(terminal.shown, r"\A%s.{8}" % LINE)
        for said in (self.piped(chat + SHORT, LINE + "\n", **env), self.piped(complete + SHORT, **env)):
            self.assertRegex(said, r"\A[^\x1b]{8,}\n\Z")

    def message(self, *flags):
        """A server at a terminal, and what it says at the end of its start, by what stands before each line."""
        server = self.at_terminal("./dev", "serve", *flags)
        server.wait_for(r"\n\n(?=  (Open|Type))")
        text = server.wait_for(r"\n  Ctrl-C stops the server\.\n\n")
        self.assertNotIn(" info ", text)
        return server, [tuple(re.split(r" {2,}", line[2:], maxsplit=1)) for line in text.splitlines()]

    def stop(self, server):
        server.type(CTRL_C)
        self.assertEqual(server.end(), 0, server.shown)

    @unittest.skipUnless(free(50051) and free(8080), "somebody else has the ports")
    def test_without_flags(self):
        server, message = self.message()
        self.assertEqual(message, [("Open", "http://127.0.0.1:8080/"), ("or type", "./dev packrat chat"),
                                   ("", './dev packrat complete "%s"' % LINE)])
        self.check_page(message[0][1])
        self.check_commands(message[1][1], message[2][1])
        self.stop(server)

    def test_wherever_it_listens(self):
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:
            for grpc, http in (("127.0.0.1:0", "127.0.0.1:0"), ("0.0.0.0:0", ":0"),
                               ("unix:%s/socket" % folder, "127.0.0.1:0")):
                with self.subTest(grpc=grpc, http=http):
                    server, ((opened, page), (_, chat), (_, complete)) = self.message(
                        "--listen=" + grpc, "--http_listen=" + http)
                    self.assertEqual(opened, "Open")
                    self.check_page(page)
                    self.check_commands(chat, complete)
                    self.stop(server)

    def test_without_a_page(self):
        server, ((what, chat), (_, complete)) = self.message("--listen=127.0.0.1:0", "--http_listen=")
        self.assertEqual(what, "Type")
        self.check_commands(chat, complete)
        self.stop(server)

    def test_with_keys_and_certificates(self):
        with tempfile.TemporaryDirectory() as folder:
            key, line = processes.run_client("key", "tester").stdout.splitlines()
            with open(os.path.join(folder, "keys"), "w", encoding="utf-8") as file:
                file.write(line + "\n")
            authority = certificates.Authority(folder, "authority")
            pem, secret = authority.sign("server")
            server, message = self.message(
                "--listen=127.0.0.1:0", "--http_listen=127.0.0.1:0", "--api_keys=" + folder + "/keys",
                "--tls_certificate=" + pem, "--tls_key=" + secret)
            (_, page), (_, chat), (_, complete), (what, name) = message
            self.assertEqual(what, "with a key in")
            self.assertTrue(page.startswith("https://"), page)
            self.check_page(page, ssl.create_default_context(cafile=authority.path))
            chat, complete = (command.replace("FILE", authority.path) for command in (chat, complete))
            self.check_commands(chat, complete, **{name.partition(",")[0]: key})
            self.stop(server)

    def test_a_log_has_the_addresses(self):
        log = os.path.join(self.folder, "log")

        def text():
            with open(log, encoding="utf-8") as written:
                return written.read()
        with open(log, "w", encoding="utf-8") as file:
            server = subprocess.Popen(
                ["./dev", "serve", "--listen=127.0.0.1:0", "--http_listen=127.0.0.1:0", "--drain_delay=0s"],
                cwd=self.folder, env=self.checkout.environment, stdout=file, stderr=file)
        self.addCleanup(server.kill)
        processes.wait_for(lambda: " ready" in text() or server.poll() is not None)
        grpc, http = re.search(r" listening .*grpc_port=(\d+) .*http_port=(\d+)", text()).groups()
        self.check_page("http://127.0.0.1:%s/" % http)
        self.check_commands(*("./dev packrat %s --address=127.0.0.1:%s" % (command, grpc)
                              for command in ("chat", 'complete "%s"' % LINE)))
        server.terminate()
        self.assertEqual(server.wait(60), 0)
        # What is for a person is not in it.
        for line in text().splitlines():
            self.assertRegex(line, r"^\S+ info ")
        self.assertNotIn("\x1b", text())


if __name__ == "__main__":
    unittest.main()
