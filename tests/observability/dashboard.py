"""Reads the Grafana dashboard of deploy/grafana as Grafana would."""

import json
import re

PATH = "deploy/grafana/packrat.json"
# What Grafana puts for its variables where everything is chosen.
VARIABLES = {"model": ".*", "instance": ".*", "__rate_interval": "30s"}


def load(path=PATH):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def panels(dashboard):
    """All panels but rows, those inside of collapsed rows too."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def expand(expression, variables=None):
    """The query with a value for each variable."""
    values = dict(VARIABLES, **(variables or {}))
    return re.sub(r"\$\{?(\w+)\}?", lambda found: values[found.group(1)], expression)


def legend(target, labels):
    """The name of a line: its legend with the labels filled in."""
    return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found.group(1), ""),
                  target["legendFormat"])
