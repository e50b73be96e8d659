"""Programs in a root of their own, confined by confined.py."""

import json
import os
import signal
import subprocess
import sys
import unittest

from tests.server.processes import ROOT

_CONFINED = os.path.join(ROOT, "tests/deploy/confined.py")
_NOT_ALLOWED = 77


def confined(*arguments, timeout=120):
    """Runs confined.py to its end; without the line that it writes itself."""
    done = subprocess.run([sys.executable, _CONFINED, *arguments], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, check=False, encoding="utf-8", timeout=timeout)
    if done.returncode == _NOT_ALLOWED:
        raise unittest.SkipTest("needs the rights of a container runtime: " + done.stderr)
    done.stdout = done.stdout.split("\n", 1)[1]
    return done


class Container:
    """A server that logs JSON; with a network, and so ports, of its own."""

    def __init__(self, root, *command, memory=None):
        self.root = root
        limit = ["--memory=%d" % memory] if memory else []
        self.process = subprocess.Popen([sys.executable, _CONFINED, *limit, root, *command],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        encoding="utf-8")
        first = self.process.stdout.readline().split()
        self.pid, limited = first if first else (None, "unlimited")
        self.limited = limited == "limited"

    def wait_for(self, message):
        log = []
        for line in self.process.stderr:
            log.append(line)
            if line.startswith("{") and json.loads(line)["message"] == message:
                return
        code = self.process.wait(60)
        if code == _NOT_ALLOWED:
            raise unittest.SkipTest("needs the rights of a container runtime: %s" % log)
        raise AssertionError("ended with %d: %s" % (code, log))

    def run(self, *command):
        """Another command in the same root and network."""
        return confined("--join=" + self.pid, self.root, *command)

    def stop(self):
        """Its exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=100)
        return self.process.returncode

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if self.process.poll() is None:
            self.process.kill()  # Which ends the command too.
        self.process.communicate()
