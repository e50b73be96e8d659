"""vllm-router before three replicas."""

import subprocess

from tests.clients import http_load, serving
from tests.cluster.fronts import accepts
from tests.cluster.replicas import Cluster, free_port, wait_until

PACKAGES = ["vllm-router==0.1.17"]


def run(folder, environment):
    with Cluster(folder, model=serving.chat_model(folder)) as cluster:
        port = free_port()
        command = [environment + "/bin/vllm-router", "--host", "127.0.0.1", "--port", str(port),
                   "--prometheus-port", str(free_port()), "--policy", "round_robin",
                   "--health-check-interval-secs", "1", "--worker-startup-check-interval", "1", "--worker-urls",
                   *("http://127.0.0.1:%d" % replica.http_port for replica in cluster)]
        with open(folder + "/router.log", "wb") as log:
            router = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until(lambda: router.poll() is not None or accepts(port), "the router listens")
            wait_until(lambda: http_load.answers(port), "the router has its replicas")
            spread = http_load.spread(cluster, port)
            harmed = http_load.kill(cluster, port)
        finally:
            router.terminate()
            router.wait(30)
    return "%s; %s" % (spread, harmed)
