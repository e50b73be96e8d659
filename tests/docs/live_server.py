"""Runs the shell blocks of the documentation against the built binaries, with the real ./dev."""

import os
import re
import shutil
import signal
import stat
import subprocess
import time
import urllib.error
import urllib.request

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Stands in for Bazel: everything is built already, and lies where `bazel info` says.
FAKE_BAZEL = """#!/bin/sh
case "$*" in
  "info bazel-bin") echo '%s' ;;
  build\\ *) ;;
  *) echo "unexpected: bazel $*" >&2; exit 1 ;;
esac
"""


def blocks(text):
    """The shell blocks of a Markdown page, in order."""
    return BLOCK.findall(text)


class Checkout:
    """A folder that looks like the root of a checkout in which everything is built."""

    def __init__(self, folder):
        self.folder = folder
        source = os.getcwd()  # The runfiles of the test, laid out like the checkout.
        shutil.copy(os.path.join(source, "dev"), folder)
        os.mkdir(os.path.join(folder, "deploy"))
        shutil.copy(os.path.join(source, "deploy/install.sh"), os.path.join(folder, "deploy"))
        for name in ("docs", "models", "README.md", "server", "tests"):
            os.symlink(os.path.join(source, name), os.path.join(folder, name))
        tools = os.path.join(folder, ".bin")
        os.mkdir(tools)
        bazel = os.path.join(tools, "bazel")
        with open(bazel, "w", encoding="utf-8") as file:
            file.write(FAKE_BAZEL % source)
        os.chmod(bazel, os.stat(bazel).st_mode | stat.S_IXUSR)
        self.environment = dict(os.environ, PATH=tools + ":" + os.environ["PATH"], HOME=folder)

    def run(self, block, timeout=120):
        return subprocess.run(["bash", "-euo", "pipefail", "-c", block], cwd=self.folder,
                              env=self.environment, timeout=timeout, check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, encoding="utf-8")


class Server:
    """A block that serves, running in the background until stop()."""

    def __init__(self, checkout, block):
        listen = re.search(r"--http_listen=(\S+)", block)
        self.http = "http://" + (listen.group(1) if listen else "127.0.0.1:8080")
        if self._get("/healthz") is not None:
            raise RuntimeError("something else serves on " + self.http)
        self.process = subprocess.Popen(["bash", "-euc", "exec " + block.strip()],
                                        cwd=checkout.folder, env=checkout.environment)
        deadline = time.monotonic() + 120
        while self._get("/readyz") is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise RuntimeError("not ready: %r, exit status %r" % (block, self.process.poll()))
            time.sleep(0.05)

    def _get(self, path):
        try:
            with urllib.request.urlopen(self.http + path, timeout=10) as response:
                return response.read().decode()
        except (urllib.error.URLError, OSError):
            return None

    def metrics(self):
        return self._get("/metrics")

    def stop(self):
        """Drains; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)
