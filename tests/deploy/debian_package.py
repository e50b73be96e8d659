"""The Debian package that ./dev package makes, and its service; part of package_test."""

import ctypes
import os
import re
import shutil
import socket
import stat
import subprocess
import tempfile
import unittest

from deploy.package import flags, libraries
from tests.deploy import packed
from tests.deploy.packed import DEMO, Running, run
from tests.server.processes import CLIENT, SERVER

PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1


def setUpModule():
    packed.make()


class DebianPackageTest(unittest.TestCase):

    def field(self, name):
        return run("dpkg-deb", "--field", packed.DEB, name).strip()

    def test_it_asks_for_what_the_programs_need(self):
        depends = set(re.findall(r"[a-z0-9][a-z0-9.+-]+", re.sub(r"\(.*?\)", "",
                                                                 self.field("Depends"))))
        for program in ("packrat_server", "packrat"):
            path = os.path.join(packed.INSTALLED, "usr/bin", program)
            self.assertNotIn("not found", run("ldd", path, env={}))
            self.assertIn(packed.VERSION, run(path, "--version", env={}))
        self.assertNotIn("not found", run(
            "ldd", os.path.join(packed.INSTALLED, "usr/lib/packrat/packrat_tools"), env={}))
        for root in (packed.INSTALLED + "/usr", packed.BUNDLE):
            self.assertIn("--tokens", run(root + "/bin/packrat", "logits", "--help", env={}))
        direct = set()
        for path in (SERVER, CLIENT):
            direct |= set(re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "--dynamic", path)))
        for library in libraries.needed([SERVER, CLIENT]):
            if library.name in direct and library.name not in libraries.PRIVATE:
                self.assertIn(library.package, depends)
        self.assertIn("libc6", depends)
        self.assertNotIn("libsentencepiece0", depends)

    def test_the_service_s_flags_serve(self):
        with Running(os.path.join(packed.INSTALLED, "usr/bin/packrat_server"),
                     "--flagfile=" + os.path.join(packed.INSTALLED, "etc/packrat/packrat.flags"),
                     # The one that names a place of the installed system.
                     model=os.path.join(packed.INSTALLED, "usr", DEMO)) as server:
            self.assertGreater(len(server.complete(os.path.join(packed.INSTALLED, "usr/bin/packrat"))), 10)
        with open(os.path.join(packed.INSTALLED, "etc/packrat/packrat.flags"), encoding="utf-8") as file:
            text = file.read()
        model = re.search(r"^--model=(.*)$", text, re.MULTILINE).group(1)
        self.assertTrue(os.path.exists(packed.INSTALLED + model + "/config.json"))
        known = {flag.name for flag in flags.flags(SERVER)}
        self.assertLessEqual(set(re.findall(r"^#?--(\w+)", text, re.MULTILINE)), known)

    def test_control(self):
        with tempfile.TemporaryDirectory() as folder:
            run("dpkg-deb", "--control", packed.DEB, folder)

            def read(name):
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    return file.read()
            self.assertEqual(read("conffiles"), "/etc/packrat/packrat.flags\n")
            postinst = read("postinst")
            self.assertLess(postinst.index("systemd-sysusers"), postinst.index("deb-systemd-invoke"))
            self.assertIn("deb-systemd-invoke stop", read("prerm"))
        self.assertEqual(self.field("Version"), packed.VERSION)

    def test_lintian(self):
        if not shutil.which("lintian"):
            self.skipTest("there is no lintian")
        self.assertEqual(run("lintian", "--allow-root", "--fail-on=error,warning", packed.DEB,
                             env=dict(os.environ, HOME=os.environ["TEST_TMPDIR"])), "")


class ServiceTest(unittest.TestCase):

    def setUp(self):
        self.path = os.path.join(packed.INSTALLED, "lib/systemd/system/packrat.service")
        with open(self.path, encoding="utf-8") as file:
            self.unit = dict(re.findall(r"^(\w+)=(.*)$", file.read(), re.MULTILINE))

    def test_systemd_reads_it_and_finds_it_closed(self):
        if not shutil.which("systemd-analyze"):
            self.skipTest("there is no systemd-analyze")
        text = run("systemd-analyze", "security", "--offline=yes", "--threshold=20",
                   "--root=" + packed.INSTALLED, "packrat.service", env=dict(os.environ, SYSTEMD_COLORS="0"))
        self.assertRegex(text, r"Overall exposure level for packrat.service: 1\.\d OK")
        # It fails for units of the system, which this root has not.
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", "--root=" + packed.INSTALLED,
                               "/lib/systemd/system/packrat.service"], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False, encoding="utf-8")
        self.assertNotRegex(done.stdout, "packrat.service:[0-9]+:|ot executable|nknown|gnoring")

    def test_it_starts_what_is_in_the_package_as_its_user(self):
        program, flagfile = self.unit["ExecStart"].split()
        self.assertTrue(os.stat(packed.INSTALLED + program).st_mode & stat.S_IXUSR)
        self.assertTrue(os.path.exists(packed.INSTALLED + flagfile[len("--flagfile="):]))
        with open(os.path.join(packed.INSTALLED, "usr/lib/sysusers.d/packrat.conf"),
                  encoding="utf-8") as file:
            self.assertIn("u " + self.unit["User"], file.read())

    def test_systemd_is_told_when_it_is_ready_and_when_it_stops(self):
        self.assertEqual(self.unit["Type"], "notify")
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "notify")
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
                systemd.bind(path)
                systemd.settimeout(60)

                def wait_for(word):
                    while word not in systemd.recv(4096).decode().split("\n"):
                        pass
                with Running(os.path.join(packed.BUNDLE, "bin/packrat_server"),
                             environment={"NOTIFY_SOCKET": path},
                             model=os.path.join(packed.BUNDLE, DEMO)) as server:
                    wait_for("READY=1")
                    server.drain()
                    wait_for("STOPPING=1")

    def test_it_waits_for_the_drain(self):
        seconds = 0
        for flag in flags.flags(SERVER):
            if flag.name in ("drain_delay", "drain_grace"):
                seconds += int(re.fullmatch(r"(\d+)s", flag.default).group(1))
        self.assertGreaterEqual(seconds, 10)
        self.assertGreater(int(self.unit["TimeoutStopSec"]), seconds + 5)

    def test_memory_is_never_both_written_and_run(self):
        """MemoryDenyWriteExecute, as the kernel itself offers it."""
        libc = ctypes.CDLL(None, use_errno=True)

        def deny():
            if libc.prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) != 0:
                os._exit(99)
        if subprocess.run(["/bin/true"], preexec_fn=deny, check=False).returncode == 99:
            self.skipTest("this kernel has no PR_SET_MDWE")
        with Running(os.path.join(packed.BUNDLE, "bin/packrat_server"), prepare=deny,
                     model=os.path.join(packed.BUNDLE, DEMO)) as server:
            self.assertGreater(len(server.complete(os.path.join(packed.BUNDLE, "bin/packrat"))), 10)
