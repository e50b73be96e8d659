"""A real Prometheus, with the configuration and the rules of deploy/prometheus, over real servers."""

import json
import os
import re
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request

from tests.server import processes

FOLDER = os.path.join(processes.ROOT, "deploy/prometheus")


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Prometheus:
    """Scrapes every `interval`. `targets`: the name of each replica and its HTTP port."""

    def __init__(self, folder, targets, interval="1s"):
        shutil.copy(os.path.join(FOLDER, "rules.yml"), folder)
        with open(os.path.join(FOLDER, "prometheus.yml"), encoding="utf-8") as file:
            config = re.sub(r"(_interval: )\w+", r"\g<1>" + interval, file.read())
        with open(os.path.join(folder, "prometheus.yml"), "w", encoding="utf-8") as file:
            file.write(config)
        # JSON is YAML.
        with open(os.path.join(folder, "targets.yml"), "w", encoding="utf-8") as file:
            json.dump([{"targets": ["127.0.0.1:%s" % port], "labels": {"instance": name}}
                       for name, port in targets.items()], file)
        port = free_port()
        self.url = "http://127.0.0.1:%d" % port
        self.log = os.path.join(folder, "log")
        with open(self.log, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data",
                 "--web.listen-address=127.0.0.1:%d" % port], cwd=folder, stdout=log, stderr=log)
        processes.wait_for(self._ready)

    def _ready(self):
        if self.process.poll() is not None:
            with open(self.log, encoding="utf-8") as file:
                raise RuntimeError(file.read())
        try:
            with urllib.request.urlopen(self.url + "/-/ready", timeout=10):
                return True
        except (urllib.error.URLError, OSError):
            return False

    def get(self, path, **parameters):
        url = self.url + "/api/v1/" + path + "?" + urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError("%s: %s" % (parameters, error.read().decode())) from error

    def query(self, expression):
        """The samples of now, as (labels, value)."""
        return [(each["metric"], float(each["value"][1]))
                for each in self.get("query", query=expression)["result"]]

    def query_range(self, expression, start, end, step):
        """Lines, as (labels, [(time, value)])."""
        result = self.get("query_range", query=expression, start=start, end=end, step=step)["result"]
        return [(each["metric"], [(time, float(value)) for time, value in each["values"]])
                for each in result]

    def sum(self, expression):
        return sum(value for _, value in self.query(expression))

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.terminate()
        self.process.wait(60)
