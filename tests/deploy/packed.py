"""What ./dev package makes, made once for the tests of it, and ways to run what is inside."""

import atexit
import functools
import hashlib
import json
import os
import signal
import subprocess
import tarfile
import tempfile

from deploy.package import flags
from tests.server.processes import CLIENT, ROOT, SERVER

PACKAGE = os.path.join(ROOT, "deploy/package/package.sh")
WHEEL = os.path.join(ROOT, "server/client/python/packrat_client.whl")
DEMO = "share/packrat/models/demo"
TIME = "1700000000"


def run(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                          encoding="utf-8", timeout=1200, **options)
    if done.returncode:
        raise AssertionError("%s: %s%s" % (command, done.stdout, done.stderr))
    return done.stdout


def package(output, *cuda, **environment):
    run(PACKAGE, output, SERVER, CLIENT, WHEEL, *cuda, cwd=environment.pop("cwd", "/"),
        env=dict(os.environ, SOURCE_DATE_EPOCH=TIME, **environment))


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


class Running:
    """A packaged server, wherever it was put; None of the caller's environment reaches it."""

    def __init__(self, program, *arguments, model, prepare=None, environment=()):
        self.process = subprocess.Popen(
            [program, *arguments, "--model=" + model, "--listen=127.0.0.1:0",
             "--http_listen=127.0.0.1:0", "--log_format=json", "--threads=1"],
            env=dict(environment), cwd="/",
            preexec_fn=prepare, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8")
        self.draining = False
        self.log = []
        for line in self.process.stderr:
            self.log.append(json.loads(line) if line.startswith("{") else line)
            if isinstance(self.log[-1], dict) and self.log[-1]["message"] == "ready":
                break
        else:
            raise RuntimeError("%s: %s" % (self.process.wait(60), self.log))
        listening = [line for line in self.log if line["message"] == "listening"][0]
        self.address = "127.0.0.1:%s" % listening["grpc_port"]

    def complete(self, client):
        return run(client, "complete", "Once upon a time", "--max_tokens=8", "--temperature=0",
                   "--echo=no", "--address=" + self.address, env={})

    def drain(self):
        """A second signal would end it at once."""
        if not self.draining:
            self.draining = True
            self.process.send_signal(signal.SIGTERM)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.drain()
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0, self.process.returncode


@functools.lru_cache(maxsize=None)
def make():
    """To be called by every module that uses it, before that; it is made for the first."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    global MADE, TAR, DEB, BUNDLE, INSTALLED, VERSION  # pylint: disable=global-variable-undefined
    VERSION = flags.version(SERVER)
    MADE = os.path.join(folder.name, "made")
    package(MADE)
    TAR = os.path.join(MADE, "packrat-%s-linux-amd64.tar.gz" % VERSION)
    DEB = os.path.join(MADE, "packrat_%s_amd64.deb" % VERSION)
    elsewhere = os.path.join(folder.name, "some where")
    with tarfile.open(TAR) as tar:
        tar.extractall(elsewhere)
    BUNDLE = os.path.join(elsewhere, "packrat-%s-linux-amd64" % VERSION)
    INSTALLED = os.path.join(folder.name, "root")
    run("dpkg-deb", "--extract", DEB, INSTALLED)
