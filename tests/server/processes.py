"""Servers as processes, for the tests of the command line."""

import json
import os
import resource
import subprocess
import time
import urllib.error
import urllib.request

# Of the runfiles: two folders above this file's own, for tests and for what is run outside of them.
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CLIENT = os.path.join(ROOT, "server/client/packrat")
SERVER = os.path.join(ROOT, "server/packrat_server")


def run_client(*arguments, **kwargs):
    """The client, to its end."""
    return subprocess.run([CLIENT, *arguments],
                          **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE,
                             "stderr": subprocess.PIPE, "encoding": "utf-8", "timeout": 60,
                             "check": False, **kwargs})


def with_template(folder, template):
    """The bundled model with a chat template, as links in a folder."""
    demo = os.path.join(ROOT, "models/demo")
    for name in os.listdir(demo):
        os.symlink(os.path.realpath(os.path.join(demo, name)), os.path.join(folder, name))
    with open(os.path.join(folder, "chat_template.jinja"), "w", encoding="utf-8") as file:
        file.write(template)
    return folder


def wait_for(condition):
    give_up = time.monotonic() + 60
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError
        time.sleep(0.005)


def children(pid):
    """Those that its first thread has started."""
    with open("/proc/%d/task/%d/children" % (pid, pid), encoding="utf-8") as file:
        return [int(word) for word in file.read().split()]


def runs(pid):
    try:
        with open("/proc/%d/stat" % pid, encoding="utf-8") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # The latter where it ends between open() and read().
        return False


class Process:
    """A server with an address and an HTTP port, which speaks TLS if there is a context for it."""

    context = None

    def get(self, path):
        """The text of a page; another status than 200 raises."""
        url = "%s://127.0.0.1:%s%s" % ("https" if self.context else "http", self.http_port, path)
        with urllib.request.urlopen(url, timeout=60, context=self.context) as answer:
            return answer.read().decode()

    def metric(self, name):
        lines = self.get("/metrics").splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def ready(self):
        try:
            self.get("/readyz")
            return True
        except urllib.error.HTTPError:
            return False

    def client(self, *arguments, stdin=""):
        """Runs the client to its end."""
        return subprocess.run([CLIENT, *arguments, "--address=" + self.address], input=stdin,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
                              timeout=120, check=False)

    def start_client(self, *arguments):
        return subprocess.Popen([CLIENT, *arguments, "--address=" + self.address],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, encoding="utf-8")

    def json(self, *arguments):
        run = self.client(*arguments, "--json")
        assert run.returncode == 0, run.stderr + run.stdout
        return json.loads(run.stdout)

    def stop(self):
        """Ends the server; its exit code and the lines of its log."""
        self.process.terminate()
        _, log = self.process.communicate(timeout=60)
        return self.process.returncode, log.splitlines()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


class Redis:
    """A real redis-server that keeps nothing on disk, on a socket in a folder, whose path must be short; or another
    `program` that speaks as it does."""

    def __init__(self, folder, program="redis-server"):
        self.path = os.path.join(folder, "redis")
        self.command = [program, "--port", "0", "--unixsocket", self.path, "--save", "", "--dir", folder,
                        "--logfile", "redis.log"]
        self.store = "--session_store=redis+unix:" + self.path
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command)
        wait_for(lambda: os.path.exists(self.path))

    def kill(self):
        self.process.kill()
        self.process.wait()
        if os.path.exists(self.path):
            os.remove(self.path)


class FakeServer(Process):
    """tests/server/fake_server.cc"""

    def __init__(self, *arguments, descriptors=None):
        """`descriptors`: the limit of open files."""
        limit = (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
                 ) if descriptors else None
        self.process = subprocess.Popen([os.path.join(ROOT, "tests/server/fake_server"), *arguments],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        encoding="utf-8", preexec_fn=limit)
        self.address, self.http_port = self.process.stdout.readline().split()


class RealServer(Process):
    """packrat_server on free ports, with JSON lines; returns when it is ready."""

    def __init__(self, model, *flags, binary=SERVER, env=None, **more):
        self.process = subprocess.Popen(
            [binary, "--model=" + os.path.join(ROOT, model), "--listen=127.0.0.1:0",
             "--http_listen=127.0.0.1:0", "--log_format=json", "--drain_delay=0s", *flags],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8",
            env={**os.environ, **(env or {})}, **more)
        self.early = []
        for line in self.process.stderr:
            self.early.append(json.loads(line))
            if self.early[-1]["message"] == "ready":
                break
        else:
            raise RuntimeError(self.early)
        listening = next(line for line in self.early if line["message"] == "listening")
        self.address = "127.0.0.1:%d" % listening["grpc_port"]
        self.http_port = listening["http_port"]
