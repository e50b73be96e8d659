import json
import os
import tempfile
import unittest

from tests.tools import test_summary

GTEST = """<?xml version="1.0"?><testsuites name="AllTests" tests="4"><testsuite name="A">
<testcase name="a" status="run" result="completed"/>
<testcase name="b" status="run" result="completed"><failure message="x"/></testcase>
<testcase name="c" status="run" result="skipped"><skipped message="s"/></testcase>
<testcase name="d" status="notrun" result="suppressed"/></testsuite></testsuites>"""
# What Bazel itself writes for a test that left no report.
BAZEL = '<testsuites><testsuite name="t" tests="1"><testcase name="t"/></testsuite></testsuites>'


class TestSummaryTest(unittest.TestCase):

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def write(self, name, text):
        path = os.path.join(self.folder.name, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def count(self, status, xml, log):
        return tuple(test_summary.count_target(status, self.write("x", xml), self.write("l", log)))

    def test_gtest_cases(self):
        self.assertEqual(self.count("FAILED", GTEST, ""), (1, 1, 2))

    def test_unittest_cases(self):
        log = "Ran 5 tests in 0.1s\n\nFAILED (failures=1, errors=1, skipped=1)\n"
        self.assertEqual(self.count("FAILED", BAZEL, log), (2, 2, 1))
        self.assertEqual(self.count("PASSED", BAZEL, "Ran 1 test in 0.1s\n\nOK\n"), (1, 0, 0))

    def test_a_script_is_one_case(self):
        self.assertEqual(self.count("PASSED", BAZEL, "fine\n"), (1, 0, 0))
        self.assertEqual(self.count("TIMEOUT", BAZEL, "Ran 3 tests\n"), (3, 1, 0))
        self.assertEqual(tuple(test_summary.count_target("FAILED", None, None)), (0, 1, 0))

    def test_a_target_that_did_not_build_fails(self):
        events = [
            {"id": {"targetConfigured": {"label": "//a:t"}},
             "configured": {"targetKind": "cc_test rule"}},
            {"id": {"targetCompleted": {"label": "//a:t"}}},
            {"id": {"testResult": {"label": "//a:u"}},
             "testResult": {"status": "PASSED", "cachedLocally": True, "testActionOutput": [
                 {"name": "test.xml", "uri": "file://" + self.write("u", GTEST)}]}},
        ]
        path = self.write("events", "".join(json.dumps(e) + "\n" for e in events))
        rows = {label: (status, tuple(counts))
                for label, status, _, _, counts in test_summary.read_events(path)}
        self.assertEqual(rows, {"//a:t": ("NOT BUILT", (0, 1, 0)), "//a:u": ("PASSED", (1, 1, 2))})


if __name__ == "__main__":
    unittest.main()
