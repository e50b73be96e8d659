#!/usr/bin/env python3
"""Counts test cases over Bazel test runs, from the event files that Bazel writes.

Prints a line for each test target and ends with 'N passed, N failed, N skipped'. A target that
crashed, ran out of time or did not build counts as at least one failed case, and so does a run of
Bazel that failed for any other reason, so that nothing goes missing between the lines.
"""

import argparse
import collections
import json
import re
import sys
import urllib.parse
import xml.etree.ElementTree

LOG_LINES = 150
Counts = collections.namedtuple("Counts", "passed failed skipped")


def count_gtest(root):
    passed = failed = skipped = 0
    for case in root.iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif (case.find("skipped") is not None or case.get("status") == "notrun"
              or case.get("result") in ("skipped", "suppressed")):
            skipped += 1
        else:
            passed += 1
    return Counts(passed, failed, skipped)


def count_log(text):
    """Counts of Python's unittest, or of a script that prints 'Ran N tests'; None if there are none."""
    ran = re.findall(r"^Ran (\d+) tests?\b", text, re.MULTILINE)
    if not ran:
        return None
    total = sum(map(int, ran))
    numbers = {"failures": 0, "errors": 0, "skipped": 0}
    for line in re.findall(r"^(?:OK|FAILED) \((.*)\)$", text, re.MULTILINE):
        for key, value in re.findall(r"(\w+)=(\d+)", line):
            if key in numbers:
                numbers[key] += int(value)
    failed = numbers["failures"] + numbers["errors"]
    return Counts(max(total - failed - numbers["skipped"], 0), failed, numbers["skipped"])


def count_target(status, xml_path, log_path):
    counts = None
    try:
        root = xml.etree.ElementTree.parse(xml_path).getroot()
        # Bazel writes a report of its own, with one case, for tests that write none.
        if root.get("name") == "AllTests":
            counts = count_gtest(root)
    except (OSError, TypeError, xml.etree.ElementTree.ParseError):
        pass
    if counts is None:
        try:
            with open(log_path, encoding="utf-8", errors="replace") as log:
                counts = count_log(log.read())
        except (OSError, TypeError):
            pass
    ok = status in ("PASSED", "FLAKY")
    if counts is None:
        counts = Counts(1, 0, 0) if ok else Counts(0, 1, 0)
    if not ok and counts.failed == 0:
        counts = counts._replace(failed=1)
    return counts


def print_log(label, path):
    """Shows the end of a failed test's log, which Bazel was told to keep to itself."""
    try:
        with open(path, encoding="utf-8", errors="replace") as log:
            lines = log.read().splitlines()
    except (OSError, TypeError):
        return
    print("---- %s, the last %d of %d lines of %s" % (
        label, min(len(lines), LOG_LINES), len(lines), path))
    print("\n".join(lines[-LOG_LINES:]))
    print("----")


def read_events(path):
    """Yields (label, status, milliseconds, cached, Counts) for each test target of one run."""
    tests = {}
    results = collections.defaultdict(list)
    broken = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            event = json.loads(line)
            identity = event["id"]
            if "targetConfigured" in identity:
                label = identity["targetConfigured"]["label"]
                kind = event.get("configured", {}).get("targetKind", "")
                tests[label] = kind.endswith("_test rule")
            elif "testResult" in identity:
                results[identity["testResult"]["label"]].append(event["testResult"])
            elif "targetCompleted" in identity and "aspect" not in identity["targetCompleted"]:
                if not event.get("completed", {}).get("success"):
                    broken.append(identity["targetCompleted"]["label"])
    for label in broken:
        if label not in results:
            yield label, "NOT BUILT", 0, False, Counts(0, 1, 0)
    for label, runs in results.items():
        total = Counts(0, 0, 0)
        worst = "PASSED"
        for run in runs:
            files = {f["name"]: urllib.parse.unquote(urllib.parse.urlparse(f["uri"]).path)
                     for f in run.get("testActionOutput", []) if "uri" in f}
            counts = count_target(run["status"], files.get("test.xml"), files.get("test.log"))
            total = Counts(*map(sum, zip(total, counts)))
            if run["status"] not in ("PASSED", "FLAKY"):
                worst = run["status"]
                print_log(label, files.get("test.log"))
        milliseconds = sum(int(run.get("testAttemptDurationMillis", 0)) for run in runs)
        cached = all(run.get("cachedLocally") or run.get("executionInfo", {}).get("cachedRemotely")
                     for run in runs)
        yield label, worst, milliseconds, cached, total
    # A target that was neither run nor reported broken was skipped by a failure elsewhere.
    for label, is_test in tests.items():
        if is_test and label not in results and label not in broken:
            yield label, "NOT RUN", 0, False, Counts(0, 0, 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--status", type=int, default=0, help="the worst exit status of Bazel")
    parser.add_argument("--script", action="append", default=[], metavar="NAME,STATUS,LOG",
                        help="a test that ran outside Bazel")
    parser.add_argument("events", nargs="*", help="files of --build_event_json_file")
    args = parser.parse_args()

    rows = []
    for path in args.events:
        rows += sorted(read_events(path))
    for script in args.script:
        name, status, log = script.split(",")
        word = "PASSED" if status == "0" else "FAILED"
        rows.append((name, word, 0, False, count_target(word, None, log)))

    total = Counts(0, 0, 0)
    for label, status, milliseconds, cached, counts in rows:
        total = Counts(*map(sum, zip(total, counts)))
        time = "cached" if cached else "%.1f s" % (milliseconds / 1000)
        skipped = ", %d skipped" % counts.skipped if counts.skipped else ""
        cases = "%d failed, %d passed" % (counts.failed, counts.passed) if counts.failed else (
            "%d passed" % counts.passed)
        print("%-9s %s: %s%s (%s)" % (status, label, cases, skipped, time))
    if args.status and not total.failed:
        print("Bazel failed with status %d" % args.status)
        total = total._replace(failed=1)
    if not total.passed and not total.failed:
        print("no test ran")
    print("%d passed, %d failed, %d skipped" % total)
    return 0 if total.passed and not total.failed else 1


if __name__ == "__main__":
    sys.exit(main())
