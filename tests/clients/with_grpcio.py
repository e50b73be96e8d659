"""Packrat's own Python client on PyPI's gRPC and Protocol Buffers: all its tests. Elsewhere they run on Debian's."""

import re

from tests.clients import serving

PACKAGES = ["grpcio==1.85.3", "protobuf==7.36.2"]
TESTS = ("python_client_test", "requests_test", "retry_test")


def run(folder, environment):
    python = environment + "/bin/python"
    version = serving.run([python, "-c", "import grpc; print(grpc.__version__)"]).strip()
    if "grpcio==" + version not in PACKAGES:
        raise AssertionError("gRPC is %s" % version)
    said = serving.run([python, "-m", "unittest", *("tests.client." + name for name in TESTS)],
                       cwd=serving.ROOT, TEST_TMPDIR=folder)
    return re.search(r"Ran \d+ tests in .*", said).group()
