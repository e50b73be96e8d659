"""deploy/kubernetes: every object meets its schema, and the files agree with each other and with the server."""

import json
import os
import re
import subprocess
import unittest
import urllib.request

import grpc

from tests.deploy import manifests
from tests.server import processes

OVERLAYS = ("overlays/cpu", "overlays/cuda")


def server_flags():
    """The flags of the server with their defaults, as --help tells them."""
    shown = subprocess.run([processes.SERVER, "--help"], stdout=subprocess.PIPE, encoding="utf-8",
                           check=True).stdout
    return dict(re.findall(r"^  --([a-z_0-9]+) \(default: (.*)\)$", shown, re.MULTILINE))


def selected(selector, deployment):
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    return selector.items() <= labels.items()


class SchemaTest(unittest.TestCase):

    def test_every_object_meets_its_schema(self):
        for folder in manifests.FOLDERS:
            things = manifests.render(folder)
            self.assertTrue(things, folder)
            for thing in things:
                with self.subTest(folder=folder, kind=thing["kind"]):
                    manifests.validate(thing)

    def test_what_is_wrong_is_found(self):
        deployment = manifests.find("overlays/cpu", "Deployment")
        manifests.container(deployment)["readinesProbe"] = {}
        pool = manifests.find("inference-gateway", "InferencePool")
        pool["spec"]["targetPort"] = 50051
        try:
            for thing in (deployment, pool):
                with self.assertRaises(Exception) as caught:
                    manifests.validate(thing)
                self.assertIn("Additional properties", str(caught.exception))
        finally:
            del manifests.container(deployment)["readinesProbe"]
            del pool["spec"]["targetPort"]

    def test_every_file_is_part_of_something(self):
        used = set()
        for folder, _, names in os.walk(manifests.sources()):
            if "kustomization.yaml" not in names:
                continue
            rules = manifests.read(os.path.join(folder, "kustomization.yaml"))
            used.add(os.path.join(folder, "kustomization.yaml"))
            files = rules.get("resources", []) + rules.get("patchesStrategicMerge", [])
            for generator in rules.get("configMapGenerator", []):
                files += generator["files"]
            used |= {os.path.join(folder, name) for name in files}
        there = {os.path.join(folder, name) for folder, _, names in os.walk(manifests.sources())
                 for name in names if name.endswith(".yaml")}
        # Read by another program's chart; see AutoscalingTest.
        used.add(os.path.join(manifests.sources(), "autoscaling/adapter-values.yaml"))
        self.assertEqual(there, used)


class AgreementTest(unittest.TestCase):
    """Numbers and names that stand in more than one place."""

    def test_the_drain_fits_into_the_grace_period(self):
        known = server_flags()
        for folder in OVERLAYS:
            deployment = manifests.find(folder, "Deployment")
            given = manifests.arguments(deployment)
            needed = sum(manifests.seconds(given.get(flag, known.get(flag, "0s")))
                         for flag in ("drain_delay", "drain_grace"))
            grace = manifests.pod_spec(deployment)["terminationGracePeriodSeconds"]
            self.assertGreaterEqual(grace, needed + 5, "no time is left for the last words")
            self.assertLessEqual(grace, needed + 30, "the server has long gone")
            # It would be added to --drain_delay, and the process inside has no shell.
            self.assertNotIn("lifecycle", manifests.container(deployment))

    def test_the_arguments_are_flags_of_the_server(self):
        known = server_flags()
        for folder in OVERLAYS:
            given = manifests.arguments(manifests.find(folder, "Deployment"))
            self.assertLessEqual(set(given), set(known))
            # What the base says stands in both; a patch of the list must not lose it.
            base = manifests.arguments(manifests.read("base/deployment.yaml"))
            for flag in set(base) - {"model"}:
                self.assertEqual(given[flag], base[flag], flag)

    def test_ports(self):
        for folder in OVERLAYS:
            deployment = manifests.find(folder, "Deployment")
            ports = manifests.ports(deployment)
            given = manifests.arguments(deployment)
            self.assertEqual(given["listen"], "0.0.0.0:%d" % ports["grpc"])
            self.assertEqual(given["http_listen"], "0.0.0.0:%d" % ports["http"])
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                self.assertEqual(manifests.container(deployment)[probe]["grpc"]["port"],
                                 ports["grpc"])
            for name in ("packrat", "packrat-headless"):
                service = manifests.find(folder, "Service", name)["spec"]
                self.assertTrue(selected(service["selector"], deployment))
                for port in service["ports"]:
                    self.assertEqual(port["port"], ports[port["targetPort"]])
                    if port["name"] == "grpc":
                        self.assertEqual(port["appProtocol"], "kubernetes.io/h2c")
            self.assertEqual(manifests.find(folder, "Service", "packrat-headless")["spec"]["clusterIP"],
                             "None")
            policy = manifests.find(folder, "NetworkPolicy")["spec"]
            self.assertTrue(selected(policy["podSelector"]["matchLabels"], deployment))
            self.assertEqual({port["port"] for rule in policy["ingress"] for port in rule["ports"]},
                             set(ports))
            self.assertEqual(policy["egress"], [])
        monitor = manifests.find("monitoring", "PodMonitor")["spec"]
        self.assertTrue(selected(monitor["selector"]["matchLabels"], deployment))
        self.assertEqual([end["port"] for end in monitor["podMetricsEndpoints"]], ["http"])
        pool = manifests.find("inference-gateway", "InferencePool")["spec"]
        self.assertTrue(selected(pool["selector"]["matchLabels"], deployment))
        self.assertEqual(pool["targetPorts"], [{"number": ports["grpc"]}])

    def test_disruptions_and_spread_are_of_these_pods(self):
        for folder in OVERLAYS:
            deployment = manifests.find(folder, "Deployment")
            self.assertGreaterEqual(deployment["spec"]["replicas"], 2)
            budget = manifests.find(folder, "PodDisruptionBudget")["spec"]
            self.assertTrue(selected(budget["selector"]["matchLabels"], deployment))
            spread = manifests.pod_spec(deployment)["topologySpreadConstraints"]
            self.assertEqual([rule["topologyKey"] for rule in spread],
                             ["kubernetes.io/hostname", "topology.kubernetes.io/zone"])
            for rule in spread:
                self.assertTrue(selected(rule["labelSelector"]["matchLabels"], deployment))

    def test_pods_ask_for_no_rights(self):
        """The profile `restricted` of the Pod Security Standards, and more."""
        everyone = [manifests.find(folder, "Deployment") for folder in OVERLAYS]
        everyone.append(manifests.find("inference-gateway", "Deployment"))
        for deployment in everyone:
            pod, container = manifests.pod_spec(deployment), manifests.container(deployment)
            self.assertTrue(pod["securityContext"]["runAsNonRoot"])
            self.assertGreater(pod["securityContext"]["runAsUser"], 0)
            self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            self.assertEqual(container["securityContext"], {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]}})
            for name in ("hostNetwork", "hostPID", "hostIPC"):
                self.assertNotIn(name, pod)
        for deployment in everyone[:2]:
            self.assertEqual(manifests.pod_spec(deployment)["securityContext"]["runAsUser"], 65534)
            self.assertFalse(manifests.pod_spec(deployment)["automountServiceAccountToken"])

    def test_memory_is_asked_for_and_limited_alike(self):
        for folder in OVERLAYS:
            resources = manifests.container(manifests.find(folder, "Deployment"))["resources"]
            self.assertEqual(resources["requests"]["memory"], resources["limits"]["memory"])
            self.assertGreaterEqual(manifests.quantity(resources["requests"]["cpu"]), 1)

    def test_images_carry_the_version_of_the_server(self):
        shown = subprocess.run([processes.SERVER, "--version"], stdout=subprocess.PIPE,
                               encoding="utf-8", check=True).stdout
        version = shown.split()[1]
        for folder, suffix in zip(OVERLAYS, ("", "-cuda")):
            image = manifests.container(manifests.find(folder, "Deployment"))["image"]
            self.assertEqual(image.rpartition(":")[2], version + suffix)


class ResourcesTest(unittest.TestCase):
    """resources.py, with the model that overlays/cpu serves."""

    def run_it(self, *flags):
        return subprocess.run(["python3", os.path.join(manifests.sources(), "resources.py"),
                               "--server=" + processes.SERVER, *flags], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, encoding="utf-8", timeout=120, check=False)

    def test_the_overlay_has_what_the_model_takes(self):
        model = "--model=" + os.path.join(processes.ROOT, "models/demo")
        deployed = manifests.container(manifests.find("overlays/cpu", "Deployment"))["resources"]
        cpus = deployed["limits"]["cpu"]
        done = self.run_it("--cpus=" + cpus, "--", model)
        self.assertEqual(done.returncode, 0, done.stderr)
        resources = manifests.container(manifests.yaml.safe_load(done.stdout))["resources"]
        self.assertEqual(resources["requests"], resources["limits"])
        self.assertEqual(resources["limits"]["cpu"], cpus)
        taken = manifests.quantity(resources["limits"]["memory"])
        # Other processors need other scratch, but not much.
        self.assertAlmostEqual(manifests.quantity(deployed["limits"]["memory"]), taken, delta=taken / 8)
        # In a pod of that size the server starts, with room for the longest texts.
        planned = subprocess.run([processes.SERVER, model, "--device=cpu", "--threads=" + cpus, "--plan=json",
                                  "--memory_limit=%d" % taken], stdout=subprocess.PIPE, encoding="utf-8",
                                 check=True)
        plan = json.loads(planned.stdout)
        self.assertTrue(plan["fits"], plan)
        longest = max(plan["capacity"], key=lambda row: row["tokens"])
        self.assertEqual(longest["sequences"], int(server_flags()["max_running"]))
        # Less state takes less.
        less = self.run_it("--", model, "--max_running=8", "--state_bytes=30000000")
        self.assertEqual(less.returncode, 0, less.stderr)
        limits = manifests.container(manifests.yaml.safe_load(less.stdout))["resources"]["limits"]
        self.assertLess(manifests.quantity(limits["memory"]), taken)

    def test_what_cannot_be_planned_is_told(self):
        for flag, said in (("--model=/no/such/folder", "/no/such/folder"), ("--modell=x", "modell")):
            done = self.run_it("--", flag)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn("resources.py: ", done.stderr)
            self.assertIn(said, done.stderr)


class RunningServerTest(unittest.TestCase):
    """A server with the arguments of the Deployment."""

    @classmethod
    def setUpClass(cls):
        cls.deployment = manifests.find("overlays/cpu", "Deployment")
        given = manifests.arguments(cls.deployment)
        # Another place for the model, and free ports.
        flags = ["--%s=%s" % pair for pair in given.items()
                 if pair[0] not in ("model", "listen", "http_listen")]
        cls.server = processes.RealServer("models/demo", *flags)
        with urllib.request.urlopen("http://127.0.0.1:%s/metrics" % cls.server.http_port) as page:
            cls.metrics = set(re.findall(r"^([a-z_]+)(?:\{[^}]*\})? ", page.read().decode(),
                                         re.MULTILINE))

    @classmethod
    def tearDownClass(cls):
        cls.server.process.kill()
        cls.server.process.communicate()

    def health(self, service):
        """grpc.health.v1: field 1 of the request is the service, of the answer the status."""
        request = b"\x0a" + bytes([len(service)]) + service.encode() if service else b""
        with grpc.insecure_channel(self.server.address) as channel:
            return channel.unary_unary("/grpc.health.v1.Health/Check")(request, timeout=60)

    def test_the_probes_ask_for_services_that_there_are(self):
        container = manifests.container(self.deployment)
        asked = {probe: container[probe]["grpc"].get("service", "")
                 for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
        self.assertEqual(asked, {"startupProbe": "packrat.v1.Inference",
                                 "readinessProbe": "packrat.v1.Inference", "livenessProbe": ""})
        for service in asked.values():
            self.assertEqual(self.health(service), b"\x08\x01", "not SERVING")
        with self.assertRaises(grpc.RpcError):
            self.health("no.such.Service")

    def test_routes_lead_to_services_that_there_are(self):
        (rule,) = manifests.find("gateway", "GRPCRoute")["spec"]["rules"]
        names = {match["method"]["service"] for match in rule["matches"]}
        for rule in manifests.find("inference-gateway", "HTTPRoute")["spec"]["rules"]:
            names |= {match["path"]["value"][1:] for match in rule["matches"]}
        self.assertIn("packrat.v1.Inference", names)
        with grpc.insecure_channel(self.server.address) as channel:
            for name in names:
                with self.assertRaises(grpc.RpcError) as caught:
                    channel.unary_unary("/%s/NoSuchMethod" % name)(b"", timeout=60)
                self.assertEqual(caught.exception.code(), grpc.StatusCode.UNIMPLEMENTED)
            # gRPC answers the same for a service that is not there: reflection knows the list.
            stream = channel.stream_stream(
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
            (answer,) = list(stream(iter([b"\x3a\x00"]), timeout=60))
            # The one that answers is not on its list: its messages are those of v1.
            for name in names - {"grpc.reflection.v1alpha.ServerReflection"}:
                self.assertIn(name.encode(), answer)

    def test_the_endpoint_picker_reads_metrics_that_there_are(self):
        config = manifests.read("inference-gateway/picker.yaml")
        manifests.validate(config)
        plugins = {plugin.get("name", plugin["type"]): plugin for plugin in config["plugins"]}
        named = {ref["pluginRef"] for profile in config["schedulingProfiles"]
                 for ref in profile["plugins"]}
        named |= {ref["pluginRef"] for ref in config["requestHandler"]["parsers"]}
        self.assertLessEqual(named, set(plugins))
        # The sources of data are used without being named.
        self.assertEqual(set(plugins) - named, {"metrics-data-source", "core-metrics-extractor"})
        self.assertEqual(plugins["metrics-data-source"]["parameters"]["port"],
                         manifests.ports(self.deployment)["http"])
        parameters = plugins["core-metrics-extractor"]["parameters"]
        (engine,) = parameters["engineConfigs"]
        self.assertEqual(parameters["defaultEngine"], engine["name"])
        labels = self.deployment["spec"]["template"]["metadata"]["labels"]
        self.assertEqual(labels["llm-d.ai/engine-type"], engine["name"])
        specs = {name: value for name, value in engine.items() if name.endswith("Spec")}
        self.assertEqual(specs, {"queuedRequestsSpec": "packrat_requests_waiting",
                                 "runningRequestsSpec": "packrat_requests_running",
                                 "kvUsageSpec": "packrat_state_utilization_ratio"})
        self.assertLessEqual(set(specs.values()), self.metrics)

    def test_the_endpoint_picker_finds_its_pool_and_its_settings(self):
        pool = manifests.find("inference-gateway", "InferencePool")
        picker = manifests.find("inference-gateway", "Deployment")
        service = manifests.find("inference-gateway", "Service")
        reference = pool["spec"]["endpointPickerRef"]
        self.assertEqual(reference["name"], service["metadata"]["name"])
        (port,) = service["spec"]["ports"]
        self.assertEqual(reference["port"]["number"], port["port"])
        self.assertTrue(selected(service["spec"]["selector"], picker))
        given, ports = manifests.arguments(picker), manifests.ports(picker)
        self.assertEqual(given["pool-name"], pool["metadata"]["name"])
        self.assertEqual(given["pool-group"], pool["apiVersion"].split("/")[0])
        self.assertEqual(int(given["grpc-port"]), ports[port["targetPort"]])
        self.assertEqual(int(given["grpc-health-port"]), ports["grpc-health"])
        for probe in ("livenessProbe", "readinessProbe"):
            self.assertEqual(manifests.container(picker)[probe]["grpc"]["port"],
                             ports["grpc-health"])
        settings = manifests.find("inference-gateway", "ConfigMap")
        (mount,) = manifests.container(picker)["volumeMounts"]
        (file,) = settings["data"]
        self.assertEqual(given["config-file"], "%s/%s" % (mount["mountPath"], file))
        # kustomize gives the settings a name by their content, so that new ones restart the picker.
        (volume,) = manifests.pod_spec(picker)["volumes"]
        self.assertEqual(volume["configMap"]["name"], settings["metadata"]["name"])
        account = manifests.pod_spec(picker)["serviceAccountName"]
        binding = manifests.find("inference-gateway", "RoleBinding")
        self.assertEqual([subject["name"] for subject in binding["subjects"]], [account])
        self.assertEqual(binding["roleRef"]["name"],
                         manifests.find("inference-gateway", "Role")["metadata"]["name"])
        (route,) = [rule for rule in manifests.find("inference-gateway", "HTTPRoute")["spec"]["rules"]
                    if rule["backendRefs"][0].get("kind") == "InferencePool"]
        self.assertEqual(route["backendRefs"][0]["name"], pool["metadata"]["name"])

    def test_the_autoscaler_s_metrics_are_made_from_the_server_s(self):
        scaler = manifests.find("autoscaling", "HorizontalPodAutoscaler")["spec"]
        self.assertEqual(scaler["scaleTargetRef"]["name"], self.deployment["metadata"]["name"])
        targets = {metric["pods"]["metric"]["name"]:
                   manifests.quantity(metric["pods"]["target"]["averageValue"])
                   for metric in scaler["metrics"]}
        self.assertLessEqual(set(targets), self.metrics)
        (rule,) = manifests.read("autoscaling/adapter-values.yaml")["rules"]["custom"]
        named = re.search(r'__name__=~"([^"]*)"', rule["seriesQuery"]).group(1)
        self.assertEqual(set(named.split("|")), set(targets))
        # Targets that are reached before a replica is full.
        known = {**server_flags(), **manifests.arguments(self.deployment)}
        most = int(known["max_running"])
        self.assertGreaterEqual(targets["packrat_requests_running"], most / 2)
        self.assertLessEqual(targets["packrat_requests_running"], 0.8 * most)
        self.assertLessEqual(targets["packrat_state_utilization_ratio"], 0.8)
        # Going down takes longer than a drain.
        grace = manifests.pod_spec(self.deployment)["terminationGracePeriodSeconds"]
        for policy in scaler["behavior"]["scaleDown"]["policies"]:
            self.assertGreaterEqual(policy["periodSeconds"], grace)
        # Prometheus understands both queries once the adapter has filled in the words.
        query = rule["metricsQuery"]
        for word, text in (("<<.Series>>", named.split("|")[0]), ("<<.GroupBy>>", "pod"),
                           ("<<.LabelMatchers>>", 'namespace="n",pod=~"a|b"')):
            self.assertIn(word, query)
            query = query.replace(word, text)
        path = os.path.join(os.environ["TEST_TMPDIR"], "rules.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(manifests.yaml.safe_dump({"groups": [{"name": "adapter", "rules": [
                {"record": "one", "expr": query}, {"record": "two", "expr": rule["seriesQuery"]}]}]}))
        checked = subprocess.run(["promtool", "check", "rules", path], stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, encoding="utf-8", check=False)
        self.assertEqual(checked.returncode, 0, checked.stdout)


if __name__ == "__main__":
    unittest.main()
