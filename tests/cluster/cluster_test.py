"""Three real replicas behind real balancers: a short form of ./dev cluster."""

import os
import tempfile
import unittest

import yaml

from packrat_client import Client
from tests.cluster import certificates, fronts, scenarios
from tests.cluster.replicas import ROOT, Cluster


class Rows(unittest.TestCase):
    """Tests whose scenarios must lose nothing."""

    def check(self, row):
        print(row)
        self.assertEqual(row.wrong, [], row)
        self.assertEqual(row.lost, 0, row)


class ThreeReplicasTest(Rows):

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        # Both balancers notice within a second or two that a replica drains.
        cls.cluster = Cluster(cls.folder.name, flags=["--drain_delay=3s"])

    @classmethod
    def tearDownClass(cls):
        cls.cluster.end()
        cls.folder.cleanup()

    def play(self, make):
        with make(self.folder.name, self.cluster) as front:
            self.check(scenarios.spread(self.cluster, front, count=100))
            if make is not fronts.ClientSide:
                self.check(scenarios.sessions(self.cluster, front, count=8, each=2))
            self.check(scenarios.kill(self.cluster, front, seconds=1))

    def test_envoy(self):
        self.play(fronts.Envoy)

    def test_haproxy(self):
        self.play(fronts.HAProxy)

    def test_grpc_client(self):
        self.play(fronts.ClientSide)

    def test_rolling_restart(self):
        folder, cluster = self.folder.name, self.cluster
        with fronts.Envoy(folder, cluster) as envoy, fronts.HAProxy(folder, cluster) as haproxy:
            for row in scenarios.roll(cluster, [envoy, haproxy, fronts.ClientSide(folder, cluster)],
                                      at_least=100, pause=0.5, threads=4, channels=2):
                self.check(row)

    def test_rolling_restart_behind_layer_4(self):
        """Clients that reach one replica each, and are never told to try again."""
        with fronts.Layer4(self.folder.name, self.cluster) as front:
            for row in scenarios.roll(self.cluster, [front], at_least=100, pause=0.5, threads=4, channels=4):
                self.check(row)

    def test_a_text_goes_on_where_it_broke(self):
        """The replica that writes is killed in the middle."""
        # 400 tokens take a second.
        ask = {"seed": 7, "max_tokens": 400, "ignore_eos": True}
        for make in (fronts.Envoy, fronts.HAProxy, fronts.ClientSide):
            with make(self.folder.name, self.cluster) as front, Client(front.channel(), resume=True) as client:
                whole = client.complete("The little dog", **ask)
                stream = client.stream("The little dog", **ask)
                text = next(stream).text
                writing, = [r for r in self.cluster if r.metric("packrat_requests_running")]
                writing.kill()
                rest, = stream.choices()
                writing.start()
                self.assertEqual(text + rest.text, whole.text)


class OtherReplicasTest(Rows):

    def test_tls(self):
        """At the balancer alone, and towards replicas that ask for its certificate as well."""
        for inside in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                tls = certificates.make(folder)
                with Cluster(folder, 2, tls=tls if inside else None) as cluster:
                    for make in (fronts.Envoy, fronts.HAProxy):
                        with make(folder, cluster, tls=tls, tls_inside=inside) as front:
                            self.check(scenarios.spread(cluster, front, count=30))

    def test_full_replicas(self):
        with tempfile.TemporaryDirectory() as folder:
            with Cluster(folder, flags=["--max_running=1", "--max_queue=1"]) as cluster:
                # HAProxy does not read gRPC's statuses: there the client tries again.
                for make, tries in ((fronts.Envoy, 1), (fronts.HAProxy, 10), (fronts.ClientSide, 1)):
                    with make(folder, cluster) as front:
                        self.check(scenarios.full(cluster, front, tries))

    def test_a_replica_later_behind_layer_4(self):
        with tempfile.TemporaryDirectory() as folder:
            with Cluster(folder, flags=["--max_connection_age=2s"], started=2) as cluster:
                with fronts.Layer4(folder, cluster) as front:
                    self.check(scenarios.late(cluster, front, 2))


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
