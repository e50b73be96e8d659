"""Three real replicas behind real balancers: a short form of ./dev cluster, without the rolling restarts'
thousands of calls."""

import os
import tempfile
import unittest

import yaml

from tests.cluster import certificates, fronts, scenarios
from tests.cluster.replicas import ROOT, Cluster


class ClusterTest(unittest.TestCase):

    def check(self, row):
        print(row)
        self.assertEqual(row.wrong, [], row)
        self.assertEqual(row.lost, 0, row)

    def play(self, make):
        with tempfile.TemporaryDirectory() as folder, Cluster(folder) as cluster:
            with make(folder, cluster) as front:
                self.check(scenarios.spread(cluster, front, count=150))
                if make is not fronts.ClientSide:
                    self.check(scenarios.sessions(cluster, front, count=8, each=2))
                self.check(scenarios.kill(cluster, front, seconds=1))

    def test_tls_at_the_balancer(self):
        with tempfile.TemporaryDirectory() as folder, Cluster(folder, 2) as cluster:
            tls = certificates.make(folder)
            for make in (fronts.Envoy, fronts.HAProxy):
                with make(folder, cluster, tls=tls) as front:
                    self.check(scenarios.spread(cluster, front, count=30))

    def test_full_replicas(self):
        with tempfile.TemporaryDirectory() as folder:
            with Cluster(folder, flags=["--max_running=1", "--max_queue=1"]) as cluster:
                for make, tries in ((fronts.Envoy, 1), (fronts.HAProxy, 10), (fronts.ClientSide, 1)):
                    with make(folder, cluster) as front:
                        self.check(scenarios.full(cluster, front, tries))

    def test_envoy(self):
        self.play(fronts.Envoy)

    def test_haproxy(self):
        self.play(fronts.HAProxy)

    def test_grpc_client(self):
        self.play(fronts.ClientSide)


class ConfigurationTest(unittest.TestCase):

    def test_with_and_without_tls_differ_in_the_sockets_only(self):
        def load(name):
            with open(os.path.join(ROOT, "deploy/envoy", name), encoding="utf-8") as file:
                return yaml.safe_load(file)
        plain, tls = load("envoy.yaml"), load("envoy-tls.yaml")
        self.assertNotEqual(plain, tls)
        for part in (tls["static_resources"]["listeners"][0]["filter_chains"]
                     + tls["static_resources"]["clusters"]):
            del part["transport_socket"]
        self.assertEqual(plain, tls)


if __name__ == "__main__":
    unittest.main()
