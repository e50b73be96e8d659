"""The manifests of deploy/kubernetes as kubectl renders them, and what tells right ones from wrong ones."""

import functools
import glob
import json
import os
import re
import shutil
import site
import subprocess
import tempfile

for _folder in glob.glob(os.path.join(os.environ["PACKRAT_PYTHON_ENV"],
                                      "lib/python3*/site-packages")):
    site.addsitedir(_folder)

import jsonschema  # noqa: E402
import kubernetes_validate  # noqa: E402
import yaml  # noqa: E402

ROOT = os.path.join(os.environ["TEST_SRCDIR"], os.environ["TEST_WORKSPACE"])
FOLDERS = ("overlays/cpu", "overlays/cuda", "monitoring", "autoscaling", "gateway",
           "inference-gateway")
# The first that has all we use (probes by gRPC), and the newest that the schemas know.
VERSIONS = ("1.27", kubernetes_validate.latest_version())


@functools.lru_cache(maxsize=None)
def sources():
    """A copy of the folder: kustomize reads no links that lead out of it."""
    copy = os.path.join(tempfile.mkdtemp(dir=os.environ["TEST_TMPDIR"]), "kubernetes")
    shutil.copytree(os.path.join(ROOT, "deploy/kubernetes"), copy)
    return copy


@functools.lru_cache(maxsize=None)
def render(folder):
    """The objects that `kubectl apply -k` would send."""
    done = subprocess.run(["kubectl", "kustomize", os.path.join(sources(), folder)],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
                          timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return [thing for thing in yaml.safe_load_all(done.stdout) if thing]


def read(path):
    with open(os.path.join(sources(), path), encoding="utf-8") as file:
        return yaml.safe_load(file)


def find(folder, kind, name=None):
    """The one object of the kind (and name) in a folder."""
    found = [thing for thing in render(folder)
             if thing["kind"] == kind and name in (None, thing["metadata"]["name"])]
    assert len(found) == 1, (folder, kind, name, len(found))
    return found[0]


def validate(thing):
    """Raises where a field is unknown, is missing, or has a value that cannot be."""
    with open(os.path.join(ROOT, "tests/deploy/crd_schemas.json"), encoding="utf-8") as file:
        own = json.load(file)
    schema = own["kinds"].get("%s %s" % (thing["apiVersion"], thing["kind"]))
    if schema:
        jsonschema.validate(thing, {**schema, "definitions": own["definitions"]})
        return
    for version in VERSIONS:
        kubernetes_validate.validate(thing, version, strict=True)


def pod_spec(deployment):
    return deployment["spec"]["template"]["spec"]


def container(deployment):
    (only,) = pod_spec(deployment)["containers"]
    return only


def arguments(deployment):
    """--name=value as a dictionary."""
    return dict(re.fullmatch(r"--([a-z_-]+)=(.*)", word).groups()
                for word in container(deployment)["args"])


def ports(deployment):
    return {port["name"]: port["containerPort"] for port in container(deployment)["ports"]}


def seconds(duration):
    """Of a duration such as 1m30s."""
    units = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
    parts = re.findall(r"([0-9.]+)(ms|h|m|s)", duration)
    assert "".join(number + unit for number, unit in parts) == duration, duration
    return sum(float(number) * units[unit] for number, unit in parts)


def quantity(value):
    """Of a quantity such as 750m or 2Gi."""
    number, unit = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(value)).groups()
    scale = {"": 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    return float(number) * scale[unit]
