"""Three real servers under a real Prometheus: every panel and every rule gets its data."""

import concurrent.futures
import contextlib
import math
import re
import tempfile
import time
import unittest

from tests.observability import dashboard, monitoring
from tests.server import processes

REPLICAS = ("packrat-0", "packrat-1", "packrat-2")
TOKENS = 24
CALLS = 6  # Of each replica, of which two run at a time.
SAID = ("Once upon a time there was a little dog who had a red ball.", " The dog", " One day")  # Turns.


def traffic(server):
    """Calls of every kind to one replica. The tokens that clients got."""
    def complete(_):
        return server.json("complete", "Once upon a time", "--max_tokens=%d" % TOKENS,
                           "--ignore_eos", "--temperature=0")
    with concurrent.futures.ThreadPoolExecutor(CALLS) as pool:
        answers = list(pool.map(complete, range(CALLS)))
    session = server.client("sessions", "create").stdout.strip()
    turns = [server.json("complete", text, "--session=" + session, "--max_tokens=%d" % TOKENS,
                         "--ignore_eos", "--temperature=0") for text in SAID]
    assert server.client("complete", "Once", "--temperature=-1").returncode == 1
    assert server.client("complete", "Once", "--max_tokens=1000", "--ignore_eos",
                         "--deadline=100ms").returncode == 4
    usages = [answer["finished"]["usage"] for answer in answers + turns]
    return {name: sum(int(usage.get(name, 0)) for usage in usages)
            for name in ("prompt_tokens", "cached_tokens", "completion_tokens")}


def selectors(query):
    """The series that a query reads."""
    return re.findall(r"\b(?:\w+:)?(?:packrat|process)_[\w:]+(?:{[^}]*})?|\bup{[^}]*}", query)


def finite(lines):
    return [value for _, values in lines for _, value in values if math.isfinite(value)]


class PrometheusTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.stack = contextlib.ExitStack()
        try:
            cls.start_all()
        except BaseException:
            cls.stack.close()
            raise

    @classmethod
    def start_all(cls):
        store = cls.stack.enter_context(tempfile.TemporaryDirectory())

        def start(_):
            return processes.RealServer("models/demo", "--max_running=2", "--threads=1",
                                        "--model_name=demo", "--drain_grace=0s",
                                        "--session_store=" + store)
        with concurrent.futures.ThreadPoolExecutor(len(REPLICAS)) as pool:
            started = list(pool.map(start, REPLICAS))
        cls.servers = {name: cls.stack.enter_context(server)
                       for name, server in zip(REPLICAS, started)}
        folder = cls.stack.enter_context(tempfile.TemporaryDirectory())
        cls.start = time.time()
        cls.prometheus = cls.stack.enter_context(monitoring.Prometheus(
            folder, {name: server.http_port for name, server in cls.servers.items()}))
        # What is counted before the first scrape is not seen by rate().
        processes.wait_for(lambda: cls.prometheus.sum("packrat_ready") == len(REPLICAS))
        with concurrent.futures.ThreadPoolExecutor(len(REPLICAS)) as pool:
            cls.tokens = dict(zip(REPLICAS, pool.map(traffic, cls.servers.values())))
        # All is over, counted and scraped.
        processes.wait_for(lambda: cls.prometheus.sum("packrat_requests_finished_total")
                           == len(REPLICAS) * (CALLS + len(SAID) + 1))
        over = time.time()
        processes.wait_for(lambda: cls.prometheus.sum("min(timestamp(packrat_ready))") > over)
        cls.end = time.time() + 1

    @classmethod
    def tearDownClass(cls):
        cls.stack.close()

    def test_numbers_are_those_of_the_clients(self):
        for name, tokens in self.tokens.items():
            of = '{instance="%s"}' % name
            late = (self.prometheus.sum("packrat_generated_tokens_total" + of)
                    - tokens["completion_tokens"])
            self.assertGreaterEqual(late, 0)  # Of the call that its deadline ended.
            self.assertLess(late, 1000)
            self.assertEqual(self.prometheus.sum(
                'packrat_requests_finished_total{instance="%s",reason="length"}' % name),
                             CALLS + len(SAID))
            self.assertEqual(self.prometheus.sum(
                'packrat_errors_total{instance="%s",status="INVALID_ARGUMENT"}' % name), 1)
            # Two run at a time; the rest had to wait.
            self.assertEqual(self.prometheus.sum("packrat_queue_time_seconds_count" + of),
                             CALLS + len(SAID) + 1)

    def test_kept_states_and_sessions_are_those_of_the_clients(self):
        for name, tokens in self.tokens.items():
            # The second turn and the third began with a state, and computed what they brought.
            self.assertGreater(tokens["cached_tokens"], TOKENS)
            for metric, value in (
                    ("packrat_cached_prompt_tokens_total{", tokens["cached_tokens"]),
                    ('packrat_prefix_cache_lookups_total{miss="none",', len(SAID) - 1),
                    ("packrat_prefix_cache_lookups_total{", CALLS + len(SAID) + 1),
                    ("packrat_sessions{", 1), ("packrat_sessions_stored_total{", 1 + len(SAID)),
                    ("packrat_session_store_failures_total{", 0)):
                self.assertEqual(self.prometheus.sum(metric + 'instance="%s"}' % name), value, metric)

    def test_every_panel_shows_something(self):
        for panel in dashboard.panels(dashboard.load()):
            for target in panel["targets"]:
                query = dashboard.expand(target["expr"])
                with self.subTest(panel=panel["title"], query=query):
                    lines = self.prometheus.query_range(query, self.start, self.end, 1)
                    self.assertTrue(finite(lines), lines)
                    names = [dashboard.legend(target, labels) for labels, _ in lines]
                    self.assertEqual(len(names), len(set(names)), "two lines of one name")
                    if panel["type"] == "stat":
                        self.assertEqual(len(lines), 1)

    def test_variables_find_the_model_and_the_replicas(self):
        for variable in dashboard.load()["templating"]["list"][1:]:
            series, label = re.match(r"label_values\((.*), (\w+)\)$",
                                     variable["query"]["query"]).groups()
            found = {labels[label] for labels, _ in self.prometheus.query(
                dashboard.expand(series))}
            self.assertEqual(found, {"demo"} if label == "model" else set(REPLICAS))

    def test_every_rule_is_evaluated_and_finds_its_metrics(self):
        groups = self.prometheus.get("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        self.assertGreater(len(rules), 40)
        for rule in rules:
            with self.subTest(rule=rule["name"]):
                self.assertEqual(rule["health"], "ok", rule.get("lastError"))
                if rule["type"] == "recording":
                    processes.wait_for(lambda name=rule["name"]: any(
                        math.isfinite(value) for _, value in self.prometheus.query(name)))
                    continue
                self.check_selectors(rule["query"])

    def check_selectors(self, query):
        self.assertTrue(selectors(query))
        for selector in selectors(query):
            self.assertTrue(self.prometheus.query(selector), selector)

    def test_queries_of_the_page_find_their_metrics(self):
        with open("docs/operations.md", encoding="utf-8") as file:
            blocks = re.findall(r"^```promql\n(.*?)^```$", file.read(), re.MULTILINE | re.DOTALL)
        queries = "".join(blocks).splitlines()
        self.assertGreater(len(queries), 5)
        for query in queries:
            with self.subTest(query=query):
                self.prometheus.query(query)
                self.check_selectors(query)

    # Tests run in the order of their names: this is the last one.
    def test_with_all_well_nothing_fires_and_a_lost_replica_is_noticed(self):
        self.assertEqual([alert for alert in self.prometheus.get("alerts")["alerts"]
                          if alert["state"] == "firing"], [])
        self.servers["packrat-2"].stop()
        processes.wait_for(lambda: self.prometheus.query(
            'ALERTS{alertname="PackratReplicaDown", instance="packrat-2"}'))


if __name__ == "__main__":
    unittest.main()
