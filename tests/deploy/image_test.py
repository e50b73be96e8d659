"""The container images: built by buildah without network, daemon or registry, and run under the restrictions
of a cluster."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from deploy.package import flags
from tests.deploy.containers import Container
from tests.server.processes import CLIENT, ROOT, SERVER

IMAGE = os.path.join(ROOT, "deploy/container/image.sh")
MIB = 1 << 20
MEMORY = 300 * MIB


def run(*command, **options):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                          encoding="utf-8", timeout=300, **options)


def checked(*command, **options):
    done = run(*command, **options)
    if done.returncode:
        raise AssertionError("%s: %s%s" % (command, done.stdout, done.stderr))
    return done.stdout


def size(root):
    """Bytes of all files."""
    return sum(os.lstat(os.path.join(folder, name)).st_size
               for folder, _, names in os.walk(root) for name in names)


def setUpModule():
    if os.geteuid() != 0:
        raise unittest.SkipTest("needs root: images are built and entered")
    if not shutil.which("buildah"):
        raise unittest.SkipTest("there is no buildah")
    folder = tempfile.mkdtemp()
    unittest.addModuleCleanup(shutil.rmtree, folder)
    # Images of its own; files in plain folders need no driver.
    settings = os.path.join(folder, "storage.conf")
    with open(settings, "w", encoding="utf-8") as file:
        file.write('[storage]\ndriver = "vfs"\ngraphroot = "%s/graph"\nrunroot = "%s/run"\n'
                   % (folder, folder))
    os.environ.update(CONTAINERS_STORAGE_CONF=settings, BUILDAH_ISOLATION="chroot",
                      PACKRAT_IMAGE_TOOL="buildah", SOURCE_DATE_EPOCH="1700000000",
                      PACKRAT_REVISION="0123abc")
    for target in ("bare", "cpu"):
        checked(IMAGE, target, "localhost/packrat-test:" + target, SERVER, CLIENT)


class Image:

    def __init__(self, target):
        self.name = "localhost/packrat-test:" + target
        self.container = checked("buildah", "from", self.name).strip()
        self.root = checked("buildah", "mount", self.container).strip()
        self.config = json.loads(checked("buildah", "inspect", "--type=image", self.name))["Docker"][
            "config"]

    def remove(self):
        checked("buildah", "rm", self.container)


class ImageTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.bare, cls.cpu = Image("bare"), Image("cpu")
        cls.addClassCleanup(cls.bare.remove)
        cls.addClassCleanup(cls.cpu.remove)

    def test_sizes(self):
        self.assertLess(size(self.bare.root), 35e6)
        self.assertLess(size(self.cpu.root), 70e6)

    def test_there_is_nothing_but_the_programs(self):
        programs, own = [], set()
        for folder, _, names in os.walk(self.cpu.root):
            for name in names:
                path = os.path.join(folder, name)
                own.add((os.lstat(path).st_uid, os.lstat(path).st_gid))
                self.assertFalse(os.lstat(path).st_mode & 0o6022, path)
                if os.lstat(path).st_mode & 0o111:
                    programs.append(os.path.relpath(path, self.cpu.root))
        self.assertEqual(sorted(programs), ["lib64/ld-linux-x86-64.so.2", "usr/bin/packrat",
                                            "usr/bin/packrat_server"])
        self.assertEqual(own, {(0, 0)})

    def test_configuration(self):
        config = self.cpu.config
        self.assertEqual(config["User"], "65534:65534")
        self.assertEqual(config["StopSignal"], "SIGTERM")
        self.assertEqual(set(config["ExposedPorts"]), {"50051/tcp", "8080/tcp"})
        labels = config["Labels"]
        self.assertEqual(labels["org.opencontainers.image.version"], flags.version(SERVER))
        self.assertEqual(labels["org.opencontainers.image.revision"], "0123abc")
        self.assertEqual(labels["org.opencontainers.image.created"], "2023-11-14T22:13:20Z")
        self.assertEqual(config["Healthcheck"]["Test"], ["CMD", "/usr/bin/packrat", "health"])
        self.assertIn("--listen=0.0.0.0:50051", config["Cmd"])
        self.assertIn("--http_listen=0.0.0.0:8080", config["Cmd"])
        self.assertIn("--model=/model", self.bare.config["Cmd"])

    def test_bill_of_materials(self):
        with open(os.path.join(self.bare.root, "usr/share/doc/packrat/packrat.spdx.json"),
                  encoding="utf-8") as file:
            bill = json.load(file)
        listed = {entry["fileName"] for entry in bill["files"]}
        there = {"./" + os.path.relpath(os.path.join(folder, name), self.bare.root)
                 for folder, _, names in os.walk(self.bare.root) for name in names}
        self.assertEqual(there - listed, {"./usr/share/doc/packrat/packrat.spdx.json"})
        self.assertEqual(listed - there, set())
        self.assertIn("libc6", {package["name"] for package in bill["packages"]})

    def start(self, image, **options):
        """The image's own command."""
        return Container(image.root, *image.config["Entrypoint"], *image.config["Cmd"],
                         "--log_format=json", **options)

    def test_it_serves_confined_and_ends_at_sigterm(self):
        with self.start(self.cpu, memory=MEMORY) as container:
            container.wait_for("ready")
            with open("/proc/%s/status" % container.pid, encoding="ascii") as file:
                status = dict(re.findall(r"^(\w+):\s*(.*)$", file.read(), re.MULTILINE))
            self.assertEqual(status["Uid"].split(), ["65534"] * 4)
            self.assertEqual((int(status["CapEff"], 16), int(status["CapBnd"], 16)), (0, 0))
            self.assertEqual(status["NoNewPrivs"], "1")
            self.assertEqual(status["NSpid"].split()[-1], "1")
            with open("/proc/%s/mountinfo" % container.pid, encoding="ascii") as file:
                root, = [line.split() for line in file if line.split()[4] == "/"]
            self.assertIn("ro", root[5].split(","))
            if not container.limited:
                print("no memory limit can be set here", file=sys.stderr)

            health = container.run(*self.cpu.config["Healthcheck"]["Test"][1:])
            self.assertEqual((health.returncode, health.stdout), (0, "SERVING\n"), health.stderr)
            done = container.run("/usr/bin/packrat", "complete", "Once upon a time",
                                 "--max_tokens=20", "--temperature=0", "--echo=no")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertGreater(len(done.stdout), 20)
            self.assertEqual(container.stop(), 0)

    def test_sigterm_while_it_loads(self):
        with self.start(self.cpu) as container:
            container.wait_for("listening")
            # Whether it still loads or is just ready: it ends, and well.
            self.assertEqual(container.stop(), 0)

    def test_without_a_model_it_says_so(self):
        with self.start(self.bare) as container:
            _, log = container.process.communicate(timeout=60)
            self.assertEqual(container.process.returncode, 1, log)
            self.assertIn("/model", log)


class MistakesTest(unittest.TestCase):

    def refused(self, *arguments, **environment):
        done = run(IMAGE, *arguments, env=dict(os.environ, **environment))
        self.assertEqual(done.returncode, 1)
        return done.stderr

    def test_messages(self):
        self.assertIn("none of cpu, bare and cuda", self.refused("gpu", "x", SERVER, CLIENT))
        self.assertIn("needs the library", self.refused("cuda", "x", SERVER, CLIENT))
        self.assertIn("no-such-tool", self.refused("cpu", "x", SERVER, CLIENT,
                                                   PACKRAT_IMAGE_TOOL="no-such-tool"))


if __name__ == "__main__":
    unittest.main()
