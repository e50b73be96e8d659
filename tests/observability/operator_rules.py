"""The rules of deploy/prometheus as an object of the Prometheus operator.

  operator_rules.py < rules.yml > prometheus-rule.yaml
"""

import sys

HEAD = """# deploy/prometheus/rules.yml for the operator; written by ./dev docs.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: packrat
  labels: {app.kubernetes.io/name: packrat}
spec:
"""


def wrap(rules):
    groups = rules[rules.index("groups:\n"):]
    return HEAD + "".join("  " + line if line.strip() else line
                          for line in groups.splitlines(keepends=True))


if __name__ == "__main__":
    sys.stdout.write(wrap(sys.stdin.read()))
