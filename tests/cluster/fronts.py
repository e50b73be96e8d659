"""What stands before the replicas: Envoy and HAProxy with the configurations of deploy/, gRPC's own
balancing as in docs/client.md, and a balancer of connections. Each has a name and makes channels; those that
check the replicas' health tell how many are ready."""

import json
import os
import re
import signal
import socket
import subprocess
import urllib.request

import grpc
import yaml

from tests.cluster.replicas import ROOT, free_port, wait_until

HAPROXY = "/usr/sbin/haproxy"
ENDPOINT = "    - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}\n"
# Each channel has connections of its own; what fails is not tried again behind the back of the count.
PLAIN = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))


def replace(text, old, new):
    """A configuration for the test; what it replaces must be there, once."""
    if text.count(old) != 1:
        raise ValueError("%r is there %d times" % (old, text.count(old)))
    return text.replace(old, new)


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        return True
    except OSError:
        return False


class Front:
    """A process that listens on self.port, with TLS if it has `tls`, the folder of certificates.make()."""

    tls = None

    def channel(self, more=()):
        options = PLAIN + more
        if not self.tls:
            return grpc.insecure_channel(self.target, options=options)
        with open(os.path.join(self.tls, "ca.crt"), "rb") as file:
            credentials = grpc.ssl_channel_credentials(file.read())
        return grpc.secure_channel(self.target, credentials, options=options)

    def start(self, command, log, **more):
        with open(log, "wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=file, **more)
        self.target = "127.0.0.1:%d" % self.port

        def listens():
            if self.process.poll() is not None:
                with open(log, encoding="utf-8") as file:
                    raise RuntimeError(file.read())
            return accepts(self.port)
        wait_until(listens, self.name + " listens")

    @staticmethod
    def calls():
        """That it counts as open, which may be more than are. Envoy, of one thread, counts a call out before it takes
        the next."""
        return 0

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


class Envoy(Front):
    """deploy/envoy/envoy.yaml, or with `tls` envoy-tls.yaml, without TLS to the replicas if not `tls_inside`."""

    name = "Envoy"

    def __init__(self, folder, replicas, tls=None, tls_inside=False):
        self.tls = tls
        self.folder = os.path.join(folder, "envoy")
        self.port, self.admin = free_port(), free_port()
        source = os.path.join(ROOT, "deploy/envoy")
        os.makedirs(self.folder, exist_ok=True)
        for name in os.listdir(source):
            with open(os.path.join(source, name), encoding="utf-8") as file:
                text = file.read().replace("/etc/envoy", self.folder)
            if name.startswith("envoy"):
                text = replace(text, "address: 127.0.0.1, port_value: 9901",
                               "address: 127.0.0.1, port_value: %d" % self.admin)
                text = replace(text, "address: 0.0.0.0, port_value: 50051",
                               "address: 127.0.0.1, port_value: %d" % self.port)
            with open(os.path.join(self.folder, name), "w", encoding="utf-8") as file:
                file.write(text)
        config = os.path.join(self.folder, "envoy.yaml")
        if tls:
            os.symlink(tls, os.path.join(self.folder, "tls"))
            os.replace(os.path.join(self.folder, "envoy-tls.yaml"), config)
            if not tls_inside:
                self.strip_tls_inside(config)
        self.set_replicas(replicas)
        self.start([os.path.join(os.environ["PACKRAT_PYTHON_ENV"], "bin/envoy"), "-c", config,
                    "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"],
                   os.path.join(folder, "envoy.log"))
        wait_until(lambda: self.healthy() == len(replicas), "Envoy finds all replicas ready")

    @staticmethod
    def strip_tls_inside(path):
        """As the head of the file tells people to do."""
        with open(path, encoding="utf-8") as file:
            config = yaml.safe_load(file)
        for cluster in config["static_resources"]["clusters"]:
            del cluster["transport_socket"]
        with open(path, "w", encoding="utf-8") as file:
            yaml.safe_dump(config, file)

    def set_replicas(self, replicas):
        """A new list, moved into the place of the old one."""
        path = os.path.join(self.folder, "endpoints.yaml")
        with open(path, encoding="utf-8") as file:
            head = file.read().split("    - endpoint:")[0]
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(head + "".join(ENDPOINT % replica.port for replica in replicas))
        os.replace(path + ".new", path)

    def healthy(self):
        return self.stat("cluster.packrat.membership_healthy")

    def stat(self, name):
        url = "http://127.0.0.1:%d/stats?format=json&filter=^%s$" % (self.admin, name)
        with urllib.request.urlopen(url, timeout=30) as answer:
            stats = json.load(answer)["stats"]
        return stats[0]["value"] if stats else 0


class HAProxyProcess(Front):
    """HAProxy with a page of statistics on the port self.stats and a backend named packrat."""

    def rows(self):
        url = "http://127.0.0.1:%d/;csv" % self.stats
        with urllib.request.urlopen(url, timeout=30) as answer:
            return [line.split(",") for line in answer.read().decode().splitlines()]

    def healthy(self):
        return sum(row[0] == "packrat" and row[1] in "abc" and row[17].startswith("UP") for row in self.rows())

    def calls(self):
        """Of sessions. One thread sends the end of an answer, and counts the call until it goes on; another may take
        the next call meanwhile, for which the replica then has more than its share."""
        return sum(int(row[4]) for row in self.rows() if row[:2] == ["packrat_by_session", "BACKEND"])


class HAProxy(HAProxyProcess):
    """deploy/haproxy/haproxy.cfg"""

    name = "HAProxy"

    def __init__(self, folder, replicas, tls=None, tls_inside=False):
        self.tls = tls
        self.port, self.stats = free_port(), free_port()
        environment = dict(os.environ, PACKRAT_LISTEN="127.0.0.1:%d" % self.port,
                           PACKRAT_STATS="127.0.0.1:%d" % self.stats)
        for name, replica in zip("ABC", replicas):
            environment["PACKRAT_%s" % name] = replica.address
        if tls:
            environment["PACKRAT_CERTIFICATE"] = os.path.join(tls, "both.pem")
        if tls_inside:
            environment["PACKRAT_REPLICA_CA"] = os.path.join(tls, "ca.crt")
        config = os.path.join(ROOT, "deploy/haproxy/haproxy.cfg")
        self.start([HAPROXY, "-db", "-f", config], os.path.join(folder, "haproxy.log"),
                   env=environment)
        wait_until(lambda: self.healthy() == len(replicas), "HAProxy finds all replicas ready")


class ClientSide:
    """gRPC's own balancing, by the service config of docs/client.md."""

    name = "gRPC client"

    def __init__(self, folder, replicas):
        self.target = "ipv4:" + ",".join(replica.address for replica in replicas)

    def channel(self):
        with open(os.path.join(ROOT, "docs/client.md"), encoding="utf-8") as file:
            config, = re.findall(r"^```json\n(.*?)^```$", file.read(), re.MULTILINE | re.DOTALL)
        # A replica that stands still ends its streams, with UNAVAILABLE, instead of holding them.
        options = (("grpc.service_config", config), ("grpc.keepalive_time_ms", 10000),
                   ("grpc.keepalive_timeout_ms", 5000), ("grpc.use_local_subchannel_pool", 1))
        return grpc.insecure_channel(self.target, options=options)

    @staticmethod
    def healthy():
        """Each channel knows for itself."""

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        pass


class Layer4(HAProxyProcess):
    """HAProxy as a balancer that sees connections only, as most clouds' are."""

    name = "layer 4"
    CONFIG = """
defaults
    timeout connect 1s
    timeout client 1h
    timeout server 1h
frontend stats
    mode http
    bind 127.0.0.1:%d
    stats enable
    stats uri /
frontend grpc
    mode tcp
    bind 127.0.0.1:%d
    default_backend packrat
backend packrat
    mode tcp
    balance leastconn
    option redispatch 1
    option httpchk GET /readyz
    default-server check inter 500ms fall 1 rise 1
"""

    def __init__(self, folder, replicas):
        self.port, self.stats = free_port(), free_port()
        config = os.path.join(folder, "layer4.cfg")
        with open(config, "w", encoding="utf-8") as file:
            file.write(self.CONFIG % (self.stats, self.port))
            for replica in replicas:
                file.write("    server %s %s port %d\n"
                           % (replica.name, replica.address, replica.http_port))
        self.start([HAPROXY, "-db", "-f", config], os.path.join(folder, "layer4.log"))
        running = sum(replica.process is not None for replica in replicas)
        wait_until(lambda: self.healthy() == running, "layer 4 knows who runs")
