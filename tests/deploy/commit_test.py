"""What a version says of the commit."""

import os
import shutil
import subprocess
import tempfile
import unittest

GIT_TIME = "2026-01-02T23:59:58Z"
SECONDS = "1767398398"


@unittest.skipUnless(shutil.which("git"), "there is no git")
class CommitTest(unittest.TestCase):

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = temporary.name
        os.makedirs(os.path.join(self.folder, "deploy/package"))
        shutil.copy("deploy/package/commit.sh", os.path.join(self.folder, "deploy/package"))
        self.environment = {
            "PATH": os.environ["PATH"], "HOME": self.folder, "TZ": "Asia/Tokyo",
            "GIT_AUTHOR_DATE": GIT_TIME, "GIT_COMMITTER_DATE": GIT_TIME, "GIT_CEILING_DIRECTORIES":
            os.path.dirname(self.folder)}

    def git(self, *arguments):
        return subprocess.run(["git", "-c", "user.name=Test", "-c", "user.email=test@example.com",
                               *arguments], cwd=self.folder, check=True, env=self.environment,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              encoding="utf-8").stdout.strip()

    def said(self, **environment):
        return subprocess.run(["deploy/package/commit.sh"], cwd=self.folder, check=True,
                              env=dict(self.environment, **environment), stdout=subprocess.PIPE,
                              encoding="utf-8").stdout.split("\n")[:2]

    def test_of_a_checkout(self):
        self.git("init", "-q", "-b", "main")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "one")
        commit = self.git("rev-parse", "--short=7", "HEAD")
        suffix = "+20260102." + commit
        self.assertEqual(self.said(), [suffix, SECONDS])
        self.assertEqual(self.said(SOURCE_DATE_EPOCH="7"), [suffix, "7"])
        new = os.path.join(self.folder, "new")
        with open(new, "w", encoding="utf-8"):
            self.assertEqual(self.said(), [suffix + ".dirty", SECONDS])
        self.git("tag", "-a", "v0.1.0", "-m", "release")
        self.assertEqual(self.said(), [suffix + ".dirty", SECONDS])
        os.remove(new)
        self.assertEqual(self.said(), ["", SECONDS])

    def test_of_no_checkout(self):
        suffix, seconds = self.said()
        self.assertEqual(suffix, "")
        self.assertGreater(int(seconds), int(SECONDS))


if __name__ == "__main__":
    unittest.main()
