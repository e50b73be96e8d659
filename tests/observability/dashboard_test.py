"""The dashboard's JSON as far as it can be checked without Grafana."""

import glob
import json
import os
import re
import site
import unittest

from tests.observability import dashboard

for _folder in glob.glob(os.path.join(os.environ["PACKRAT_PYTHON_ENV"],
                                      "lib/python3*/site-packages")):
    site.addsitedir(_folder)

from grafana_foundation_sdk.cog import plugins  # noqa: E402
from grafana_foundation_sdk.models import dashboard as grafana, units  # noqa: E402

# Grafana's names of units, of which some are words of ours after a colon.
UNITS = {name for name in vars(units).values() if isinstance(name, str)}
COLUMNS = 24
# What Grafana's export adds for an import, and what its schema does not name.
BESIDE_THE_SCHEMA = {"__inputs", "__requires", "id", "definition"}


def differences(written, read, path=""):
    """What became of a JSON value on its way through a typed model."""
    if isinstance(written, dict) and isinstance(read, dict):
        for name, value in written.items():
            if name in read:
                yield from differences(value, read[name], path + "." + name)
            elif name not in BESIDE_THE_SCHEMA:
                yield "%s.%s is not known" % (path, name)
    elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        for i, (one, other) in enumerate(zip(written, read)):
            yield from differences(one, other, "%s[%d]" % (path, i))
    elif written != read:
        yield "%s: %r became %r" % (path, written, read)


class DashboardTest(unittest.TestCase):

    def setUp(self):
        self.dashboard = dashboard.load()
        self.panels = list(dashboard.panels(self.dashboard))

    def test_has_what_an_import_needs(self):
        for field, kind in (("title", str), ("uid", str), ("schemaVersion", int), ("panels", list),
                            ("templating", dict), ("time", dict), ("refresh", str)):
            self.assertIsInstance(self.dashboard[field], kind, field)
        self.assertIsNone(self.dashboard["id"])  # A number is one installation's own.
        self.assertRegex(self.dashboard["uid"], r"^[\w-]{1,40}$")
        self.assertGreaterEqual(self.dashboard["schemaVersion"], 36)  # Data sources are objects.

    def test_grafanas_own_types_know_every_field(self):
        plugins.register_default_plugins()
        read = json.loads(json.dumps(grafana.Dashboard.from_json(self.dashboard),
                                     default=lambda each: each.to_json()))
        self.assertEqual(list(differences(self.dashboard, read)), [])

    def test_variables(self):
        variables = {each["name"]: each for each in self.dashboard["templating"]["list"]}
        self.assertEqual(list(variables), ["datasource", "model", "instance"])
        self.assertEqual(variables["datasource"]["type"], "datasource")
        self.assertEqual(variables["datasource"]["query"], "prometheus")
        for name in ("model", "instance"):
            self.assertEqual(variables[name]["type"], "query")
            self.assertTrue(variables[name]["includeAll"] and variables[name]["multi"])
            self.assertRegex(variables[name]["query"]["query"],
                             r"^label_values\(packrat_build_info.*, %s\)$" % name)

    def test_ids_are_unique(self):
        ids = [each["id"] for each in self.dashboard["panels"]]
        self.assertEqual(len(ids), len(set(ids)))

    def test_panels_fill_the_grid_without_overlap(self):
        taken = {}
        for panel in self.dashboard["panels"]:
            at = panel["gridPos"]
            self.assertGreater(at["w"], 0)
            self.assertGreater(at["h"], 0)
            self.assertLessEqual(at["x"] + at["w"], COLUMNS, panel["title"])
            for x in range(at["x"], at["x"] + at["w"]):
                for y in range(at["y"], at["y"] + at["h"]):
                    other = taken.setdefault((x, y), panel["title"])
                    self.assertEqual(other, panel["title"], "they overlap at %d, %d" % (x, y))
        rows = 1 + max(y for _, y in taken)
        self.assertEqual(len(taken), COLUMNS * rows, "there are holes")

    def test_every_panel_says_what_it_shows(self):
        titles = [each["title"] for each in self.panels]
        self.assertEqual(len(titles), len(set(titles)))
        for panel in self.panels:
            with self.subTest(panel=panel["title"]):
                self.assertIn(panel["type"], ("timeseries", "stat"))
                self.assertTrue(panel["description"].endswith("."))
                unit = panel["fieldConfig"]["defaults"]["unit"]
                self.assertTrue(unit in UNITS or unit.startswith("suffix:"), unit)
                self.assertEqual(panel["datasource"],
                                 {"type": "prometheus", "uid": "${datasource}"})

    def test_queries(self):
        for panel in self.panels:
            targets = panel["targets"]
            self.assertEqual([each["refId"] for each in targets],
                             [chr(ord("A") + i) for i in range(len(targets))])
            for target in targets:
                with self.subTest(panel=panel["title"], query=target["expr"]):
                    self.assertEqual(target["datasource"], panel["datasource"])
                    # Each follows the choice of replicas; the model's is in what it joins, at least.
                    self.assertIn('model=~"$model"', target["expr"])
                    self.assertIn('instance=~"$instance"', target["expr"])
                    # A rate over a window of its own length would be empty for a slow scrape.
                    self.assertFalse(re.search(r"\[\d", target["expr"]))
                    self.assertNotIn("$", dashboard.expand(target["expr"]))
            lines = [each["legendFormat"] for each in targets]
            self.assertEqual(len(lines), len(set(lines)), panel["title"])


if __name__ == "__main__":
    unittest.main()
