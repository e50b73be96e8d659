"""docs/python.md, by ./dev python against a real server."""

import os
import re
import tempfile
import unittest

from tests.docs import live_server


class PythonPageTest(unittest.TestCase):

    def test_every_block_runs(self):
        with open("docs/python.md", encoding="utf-8") as file:
            blocks = re.findall(r"^```python\n(.*?)^```$", file.read(), re.MULTILINE | re.DOTALL)
        self.assertGreaterEqual(len(blocks), 5)
        with tempfile.TemporaryDirectory() as folder:
            checkout = live_server.Checkout(folder)
            server = live_server.Server(checkout, "./dev serve")
            try:
                # One after the other, as somebody who reads the page would type them.
                with open(os.path.join(folder, "page.py"), "w", encoding="utf-8") as file:
                    file.write("\nprint('\\n---')\n".join(blocks))
                page = checkout.run("./dev python page.py")
            finally:
                self.assertEqual(server.stop(), 0)
        self.assertEqual(page.returncode, 0, page.stderr)
        said = page.stdout.split("---")
        self.assertEqual(len(said), len(blocks))
        for block, text in zip(blocks, said):
            self.assertTrue(text.strip(), block)
        self.assertIn("INVALID_ARGUMENT", said[-1])


if __name__ == "__main__":
    unittest.main()
