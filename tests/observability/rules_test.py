"""Prometheus' own checks of the files of deploy/prometheus, and that nothing is left out of them."""

import glob
import re
import shutil
import subprocess
import tempfile
import unittest

from tests.observability import operator_rules

FOLDER = "deploy/prometheus/"


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def promtool(*arguments, folder=FOLDER):
    done = subprocess.run(["promtool", *arguments], cwd=folder, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, encoding="utf-8", check=False)
    return done.returncode, done.stdout


class RulesTest(unittest.TestCase):

    def test_configurations(self):
        # Where all files lie as they are installed, not as links.
        with tempfile.TemporaryDirectory() as folder:
            for path in glob.glob(FOLDER + "*.yml"):
                shutil.copy(path, folder)
            for name in ("prometheus.yml", "prometheus-static.yml"):
                code, output = promtool("check", "config", name, folder=folder)
                self.assertEqual(code, 0, output)
                self.assertIn("rules found", output)

    def test_rules(self):
        code, output = promtool("check", "rules", "--lint=all", "--lint-fatal", "rules.yml")
        self.assertEqual(code, 0, output)

    def test_each_rule_does_what_it_should(self):
        code, output = promtool("test", "rules", "rules_test.yml")
        self.assertEqual(code, 0, output)

    def test_every_alert_is_tested_silent_and_firing(self):
        alerts = re.findall(r"- alert: (\w+)", read(FOLDER + "rules.yml"))
        self.assertGreater(len(alerts), 15)
        self.assertEqual(len(alerts), len(set(alerts)))
        tests = read(FOLDER + "rules_test.yml")
        for alert in alerts:
            self.assertTrue(re.search(r"alertname: %s\n\s+exp_alerts:\n" % alert, tests), alert)
        silent = set(re.findall(r"alertname: (\w+), exp_alerts: \[\]", tests))
        # Thresholds that are crossed by a step from 0 have no near miss.
        self.assertLessEqual(set(alerts) - silent, {"PackratErrorsBurnSlow",
                                                    "PackratFirstTokensBurnSlow"})

    def test_every_recording_rule_is_tested(self):
        tests = read(FOLDER + "rules_test.yml")
        for record in re.findall(r"- record: (\S+)", read(FOLDER + "rules.yml")):
            # Those of other windows differ by the window alone; alerts are tested on them.
            record = re.sub(r"((?:calls_failed|first_tokens_slow):ratio_rate)\w+$", r"\g<1>5m", record)
            self.assertTrue(record in tests, record)

    def test_kubernetes_has_the_same_rules(self):
        self.assertTrue(read("deploy/kubernetes/monitoring/prometheus-rule.yaml")
                        == operator_rules.wrap(read(FOLDER + "rules.yml")), "run ./dev docs")

    def test_every_alert_is_explained(self):
        page = read("docs/operations.md")
        for alert in re.findall(r"- alert: (\w+)", read(FOLDER + "rules.yml")):
            self.assertTrue("\n### %s\n" % alert in page, alert)
        for alert in re.findall(r"^### (Packrat\w+)$", page, re.MULTILINE):
            self.assertTrue("- alert: %s\n" % alert in read(FOLDER + "rules.yml"), alert)


if __name__ == "__main__":
    unittest.main()
