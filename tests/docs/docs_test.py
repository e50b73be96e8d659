"""Runs every shell block of the README and of docs/, and checks the pages of options and metrics."""

import glob
import json
import os
import re
import subprocess
import tempfile
import unittest

from tests.docs import live_server, reference

# In the order in which they are read; the blocks of a page use the server that was started last.
PAGES = ("README.md", "docs/deploying.md", "docs/client.md", "docs/python.md", "docs/chat.md",
         "docs/sessions.md", "docs/openai.md", "docs/http.md", "docs/running.md", "docs/models.md", "docs/options.md", "docs/metrics.md",
         "docs/operations.md", "docs/capacity.md", "docs/design.md")
# Those of docs/rat_plus.md take a model that is not here.
LINKED = ("README.md", *sorted(glob.glob("docs/*.md")))


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


class ShellBlocksTest(unittest.TestCase):

    def test_every_block_runs(self):
        with tempfile.TemporaryDirectory() as folder:
            checkout = live_server.Checkout(folder)
            server = None
            served = ran = 0
            try:
                for page in PAGES:
                    for block in live_server.blocks(read(page)):
                        with self.subTest(page=page, block=block):
                            if block.startswith("./dev serve"):
                                if server:
                                    self.assertEqual(server.stop(), 0)
                                server = live_server.Server(checkout, block)
                                served += 1
                                continue
                            done = checkout.run(block)
                            self.assertEqual(done.returncode, 0, done.stderr)
                            self.assertTrue(done.stdout.strip(), "it says nothing")
                            ran += 1
            finally:
                if server:
                    self.assertEqual(server.stop(), 0)
        self.assertGreaterEqual(served, 2)
        self.assertGreaterEqual(ran, 4)

    def test_links_lead_somewhere(self):
        self.assertGreater(set(LINKED), set(PAGES))
        for page in LINKED:
            for target in re.findall(r"\]\(([^)#]+)[^)]*\)", read(page)):
                if not target.startswith("http"):
                    path = os.path.normpath(os.path.join(os.path.dirname(page), target))
                    self.assertTrue(os.path.exists(path), "%s: %s" % (page, target))


class ReferencePagesTest(unittest.TestCase):

    def test_options(self):
        shown = subprocess.run(["server/packrat_server", "--help"], stdout=subprocess.PIPE,
                               check=True, encoding="utf-8").stdout
        table = reference.options_table(shown)
        self.assertIn("`--model`", table)
        self.assertEqual(reference.generated(read("docs/options.md")), table, "run ./dev docs")

    def test_readme_tells_the_bundled_model_s_state(self):
        with tempfile.TemporaryDirectory() as folder:
            checkout = live_server.Checkout(folder)
            server = live_server.Server(
                checkout, "./dev serve --listen=127.0.0.1:50051 --http_listen=127.0.0.1:8091 "
                "--activations=float32")  # On every processor.
            try:
                info = json.loads(checkout.run("./dev packrat info --json").stdout)
            finally:
                self.assertEqual(server.stop(), 0)
        state = {name: int(value) for name, value in info["state"].items()}
        # Keys and values of all heads in float32, in every layer.
        full = len(info["layers"]) * 2 * 4 * info["hidden_size"]
        self.assertIn("a sequence in {:,.0f} KB and {} bytes a token; full attention of the same "
                      "shape would take {:,} bytes a token".format(
                          (state["fixed_bytes"] + state["window_bytes"]) / 1000,
                          state["bytes_per_token"], full),
                      " ".join(read("README.md").split()))

    def test_chat_page_tells_what_was_compared(self):
        lines = read("tests/data/chat_templates/compared.tsv").splitlines()
        rows = [dict(zip(lines[0].split("\t"), line.split("\t"))) for line in lines[1:]]
        texts, equal, refused = (sum(int(row[name]) for row in rows) for name in ("texts", "equal", "refused by both"))
        page = " ".join(read("docs/chat.md").split())
        for told in ("On %d published ones (in %d files)" % (len({row["sha256"] for row in rows}), len(rows)),
                     "{:,} of the {:,} texts".format(equal, texts), "%d conversations are refused by both" % refused):
            self.assertIn(told, page)

    def test_metrics(self):
        with tempfile.TemporaryDirectory() as folder:
            checkout = live_server.Checkout(folder)
            flags = "--listen=127.0.0.1:50071 --http_listen=127.0.0.1:8091"
            server = live_server.Server(checkout, "./dev serve " + flags)
            try:
                table = reference.metrics_table(server.metrics())
            finally:
                self.assertEqual(server.stop(), 0)
        self.assertIn("histogram", table)
        self.assertEqual(reference.generated(read("docs/metrics.md")), table, "run ./dev docs")


if __name__ == "__main__":
    unittest.main()
