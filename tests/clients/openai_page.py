"""The block of docs/http.md that uses OpenAI's Python package, as it stands there but for the address and the key.
Run by with_openai.py, as openai_calls.py is."""

import os
import re
import subprocess
import sys
import unittest

PAGE = "docs/http.md"


class PageTest(unittest.TestCase):

    def test_the_block_runs(self):
        with open(PAGE, encoding="utf-8") as file:
            page = file.read()
        (block,) = re.findall(r"^```py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        self.assertIn("from openai import", block)
        # The address is that at which the page's own server listens.
        listens = re.search(r"^\./dev serve .*--http_listen=(\S+)", page, re.MULTILINE).group(1)
        for shown, real in (('"http://%s/v1"' % listens, '"%s/v1"' % os.environ["PACKRAT_SMALL"]),
                            ('"KEY"', '"%s"' % os.environ["PACKRAT_KEY"])):
            self.assertEqual(block.count(shown), 1, shown)
            block = block.replace(shown, real)
        done = subprocess.run([sys.executable, "-c", block], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              check=False, timeout=120, encoding="utf-8")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertGreater(len(done.stdout.split()), 3, done.stdout)
