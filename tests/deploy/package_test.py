"""What ./dev package makes, of the real programs (and of the emulated GPU's library in place of CUDA's)."""

import ctypes
import gzip
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tarfile
import tempfile
import unittest

from deploy.package import flags, libraries, licences
from tests.deploy.containers import Container
from tests.server.processes import CLIENT, ROOT, SERVER

CUDA = os.path.join(ROOT, "tests/gpu/libpackrat_cuda.so")
PACKAGE = os.path.join(ROOT, "deploy/package/package.sh")
DEMO = "share/packrat/models/demo"
TIME = "1700000000"
# The files of the C library that a root needs in which nothing else is.
GLIBC = ("/lib64/ld-linux-x86-64.so.2",) + tuple(
    "/lib/x86_64-linux-gnu/" + name for name in
    ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libresolv.so.2"))
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1


def run(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                          encoding="utf-8", timeout=1200, **options)
    if done.returncode:
        raise AssertionError("%s: %s%s" % (command, done.stdout, done.stderr))
    return done.stdout


def package(output, *cuda, **environment):
    run(PACKAGE, output, SERVER, CLIENT, *cuda, cwd=environment.pop("cwd", "/"),
        env=dict(os.environ, SOURCE_DATE_EPOCH=TIME, **environment))


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


class Running:
    """A packaged server, wherever it was put; None of the caller's environment reaches it."""

    def __init__(self, program, *arguments, model, prepare=None, environment=()):
        self.process = subprocess.Popen(
            [program, *arguments, "--model=" + model, "--listen=127.0.0.1:0",
             "--http_listen=127.0.0.1:0", "--log_format=json", "--threads=1"],
            env=dict(environment), cwd="/",
            preexec_fn=prepare, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8")
        self.draining = False
        self.log = []
        for line in self.process.stderr:
            self.log.append(json.loads(line) if line.startswith("{") else line)
            if isinstance(self.log[-1], dict) and self.log[-1]["message"] == "ready":
                break
        else:
            raise RuntimeError("%s: %s" % (self.process.wait(60), self.log))
        listening = [line for line in self.log if line["message"] == "listening"][0]
        self.address = "127.0.0.1:%s" % listening["grpc_port"]

    def complete(self, client):
        return run(client, "complete", "Once upon a time", "--max_tokens=8", "--temperature=0",
                   "--echo=no", "--address=" + self.address, env={})

    def drain(self):
        """A second signal would end it at once."""
        if not self.draining:
            self.draining = True
            self.process.send_signal(signal.SIGTERM)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.drain()
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0, self.process.returncode


def setUpModule():
    folder = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(folder.cleanup)
    global MADE, TAR, DEB, BUNDLE, INSTALLED, VERSION  # pylint: disable=global-variable-undefined
    VERSION = flags.version(SERVER)
    MADE = os.path.join(folder.name, "made")
    package(MADE)
    TAR = os.path.join(MADE, "packrat-%s-linux-amd64.tar.gz" % VERSION)
    DEB = os.path.join(MADE, "packrat_%s_amd64.deb" % VERSION)
    elsewhere = os.path.join(folder.name, "some where")
    with tarfile.open(TAR) as tar:
        tar.extractall(elsewhere)
    BUNDLE = os.path.join(elsewhere, "packrat-%s-linux-amd64" % VERSION)
    INSTALLED = os.path.join(folder.name, "root")
    run("dpkg-deb", "--extract", DEB, INSTALLED)


class TarTest(unittest.TestCase):

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = os.path.realpath(temporary.name)

    def test_it_answers_where_there_is_only_a_c_library(self):
        for file in GLIBC:
            os.makedirs(self.folder + os.path.dirname(file), exist_ok=True)
            shutil.copy(file, self.folder + file)
        shutil.copytree(BUNDLE, self.folder + "/opt/packrat")

        for name in ("dev", "proc", "sys"):
            os.mkdir(os.path.join(self.folder, name))
        os.chmod(self.folder, 0o755)  # The server runs as another user.
        with Container(self.folder, "/opt/packrat/bin/packrat_server", "--log_format=json",
                       "--model=/opt/packrat/" + DEMO) as container:
            container.wait_for("ready")
            done = container.run("/opt/packrat/bin/packrat", "complete", "Once upon a time",
                                 "--max_tokens=8", "--temperature=0", "--echo=no")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertGreater(len(done.stdout), 10)
            self.assertEqual(container.stop(), 0)

    def test_its_libraries_are_its_own_whatever_the_environment_says(self):
        wrong = os.path.join(self.folder, "libgrpc++.so.1.51")
        with open(wrong, "w", encoding="utf-8") as file:
            file.write("This is no library.\n" * 10)
        for program in ("packrat", "packrat_server"):
            path = os.path.join(BUNDLE, "bin", program)
            text = run("ldd", path, env={"LD_LIBRARY_PATH": self.folder})
            for name, place in re.findall(r"(\S+) => (.*) \(0x", text):
                if not name.startswith(("libc.", "libm.")):
                    self.assertEqual(os.path.realpath(place),
                                     os.path.realpath(os.path.join(BUNDLE, "lib", name)))
            self.assertIn("(RPATH)", run("readelf", "--dynamic", path))
            self.assertIn(VERSION, run(path, "--version", env={"LD_LIBRARY_PATH": self.folder}))

    def test_layout(self):
        with tarfile.open(TAR) as tar:
            members = tar.getmembers()
        top = {member.name.split("/")[0] for member in members}
        self.assertEqual(top, {os.path.basename(BUNDLE)})
        self.assertEqual(sorted(os.listdir(BUNDLE)), ["bin", "lib", "share"])
        self.assertEqual([m.name for m in members], sorted(m.name for m in members))
        for member in members:
            self.assertEqual((member.uid, member.gid, member.mtime), (0, 0, int(TIME)), member.name)
            program = member.isdir() or "/bin/" in member.name
            self.assertEqual(member.mode, 0o755 if program else 0o644, member.name)
            self.assertFalse(member.issym() or member.islnk(), member.name)

    def test_every_licence_is_there(self):
        texts = os.path.join(BUNDLE, "share/doc/packrat/licences")
        names = {library.package for library in libraries.needed([SERVER, CLIENT])}
        self.assertGreater(len(names), 10)
        for name in names | set(libraries.HEADERS_ONLY):
            self.assertGreater(os.path.getsize(os.path.join(texts, name)), 300, name)
        self.assertIn("Apache-2.0", os.listdir(os.path.join(texts, "common")))
        self.assertTrue(os.path.exists(os.path.join(BUNDLE, "share/doc/packrat/LICENSE")))

    def test_a_library_whose_licence_nobody_read_is_refused(self):
        unknown = libraries.Package("libnew1", "1", "new", "1", "")
        with self.assertRaisesRegex(ValueError, "libnew1"):
            licences.expression(unknown)


def validate(test, path, good=True):
    """SPDX's own tool takes the bill (or does not)."""
    tool = os.path.join(os.environ.get("PACKRAT_PYTHON_ENV", ""), "bin/pyspdxtools")
    if not os.path.exists(tool):
        test.skipTest("needs spdx-tools: ./dev deps test")
    done = subprocess.run([tool, "--infile", path], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, check=False, encoding="utf-8")
    test.assertEqual(done.returncode == 0, good, done.stdout)


class BillTest(unittest.TestCase):

    def setUp(self):
        self.path = os.path.join(BUNDLE, "share/doc/packrat/packrat.spdx.json")
        with open(self.path, encoding="utf-8") as file:
            self.bill = json.load(file)

    def test_it_is_spdx(self):
        for path in (self.path, os.path.join(INSTALLED, "usr/share/doc/packrat/packrat.spdx.json")):
            validate(self, path)
        self.bill["packages"][0]["licenseDeclared"] = "No such licence"
        with tempfile.NamedTemporaryFile("w", suffix=".spdx.json") as file:
            json.dump(self.bill, file)
            file.flush()
            validate(self, file.name, good=False)

    def test_it_has_every_file_and_every_library_s_package(self):
        for root, bill in ((BUNDLE, self.path), (INSTALLED, os.path.join(
                INSTALLED, "usr/share/doc/packrat/packrat.spdx.json"))):
            with open(bill, encoding="utf-8") as file:
                files = {entry["fileName"]: entry["checksums"][1]["checksumValue"]
                         for entry in json.load(file)["files"]}
            there = {"./" + os.path.relpath(os.path.join(folder, name), root)
                     for folder, _, names in os.walk(root) for name in names}
            # What debhelper adds, and the bill itself.
            there = {name for name in there
                     if not re.search(r"spdx.json$|changelog.gz$|copyright$|^./(etc|lib/systemd)/"
                                      r"|sysusers.d/", name)}
            self.assertEqual(set(files), there)
            for name, value in files.items():
                self.assertEqual(digest(os.path.join(root, name)), value, name)
        versions = {entry["name"]: entry["versionInfo"] for entry in self.bill["packages"]}
        for library in libraries.needed([SERVER, CLIENT]):
            self.assertEqual(versions[library.package], libraries.package(library.package).version)
        self.assertEqual(versions["packrat"], VERSION)
        self.assertIn("nlohmann-json3-dev", versions)
        with open(os.path.join(MADE, "packrat-%s.spdx.json" % VERSION), encoding="utf-8") as file:
            self.assertEqual(json.load(file), self.bill)


    def test_nothing_that_is_compiled_in_is_forgotten(self):
        """The bill finds shared libraries by itself; who adds one of headers alone adds it by hand."""
        with open(os.path.join(ROOT, "dev"), encoding="utf-8") as file:
            names = re.search(r"^BUILD_PACKAGES=\((.*?)\)", file.read(), re.MULTILINE | re.DOTALL)
        built_with = {name for name in names.group(1).split() if name.endswith("-dev")}
        headers = built_with - {"libprotobuf-dev", "libgrpc++-dev", "libabsl-dev",
                                "prometheus-cpp-dev", "libsentencepiece-dev", "libpcre2-dev",
                                "libhwy-dev", "libssl-dev", "libutf8proc-dev"}
        # Boost's own package is but a name for that of a version.
        listed = {re.sub(r"^libboost[\d.]+-dev$", "libboost-dev", name)
                  for name in libraries.HEADERS_ONLY}
        self.assertEqual(headers, listed)
        names = {package["name"] for package in self.bill["packages"]}
        self.assertLessEqual(set(libraries.HEADERS_ONLY), names)


class DebianPackageTest(unittest.TestCase):

    def field(self, name):
        return run("dpkg-deb", "--field", DEB, name).strip()

    def test_it_asks_for_what_the_programs_need(self):
        depends = set(re.findall(r"[a-z0-9][a-z0-9.+-]+", re.sub(r"\(.*?\)", "",
                                                                 self.field("Depends"))))
        for program in ("packrat_server", "packrat"):
            path = os.path.join(INSTALLED, "usr/bin", program)
            self.assertNotIn("not found", run("ldd", path, env={}))
            self.assertIn(VERSION, run(path, "--version", env={}))
        self.assertNotIn("not found", run(
            "ldd", os.path.join(INSTALLED, "usr/lib/packrat/packrat_tools"), env={}))
        for root in (INSTALLED + "/usr", BUNDLE):
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
        with Running(os.path.join(INSTALLED, "usr/bin/packrat_server"),
                     "--flagfile=" + os.path.join(INSTALLED, "etc/packrat/packrat.flags"),
                     # The one that names a place of the installed system.
                     model=os.path.join(INSTALLED, "usr", DEMO)) as server:
            self.assertGreater(len(server.complete(os.path.join(INSTALLED, "usr/bin/packrat"))), 10)
        with open(os.path.join(INSTALLED, "etc/packrat/packrat.flags"), encoding="utf-8") as file:
            text = file.read()
        model = re.search(r"^--model=(.*)$", text, re.MULTILINE).group(1)
        self.assertTrue(os.path.exists(INSTALLED + model + "/config.json"))
        known = {flag.name for flag in flags.flags(flags.help_text(SERVER))}
        self.assertLessEqual(set(re.findall(r"^#?--(\w+)", text, re.MULTILINE)), known)

    def test_control(self):
        with tempfile.TemporaryDirectory() as folder:
            run("dpkg-deb", "--control", DEB, folder)

            def read(name):
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    return file.read()
            self.assertEqual(read("conffiles"), "/etc/packrat/packrat.flags\n")
            postinst = read("postinst")
            self.assertLess(postinst.index("systemd-sysusers"), postinst.index("deb-systemd-invoke"))
            self.assertIn("deb-systemd-invoke stop", read("prerm"))
        self.assertEqual(self.field("Version"), VERSION)

    def test_lintian(self):
        if not shutil.which("lintian"):
            self.skipTest("there is no lintian")
        self.assertEqual(run("lintian", "--allow-root", "--fail-on=error,warning", DEB,
                             env=dict(os.environ, HOME=os.environ["TEST_TMPDIR"])), "")


class ServiceTest(unittest.TestCase):

    def setUp(self):
        self.path = os.path.join(INSTALLED, "lib/systemd/system/packrat.service")
        with open(self.path, encoding="utf-8") as file:
            self.unit = dict(re.findall(r"^(\w+)=(.*)$", file.read(), re.MULTILINE))

    def test_systemd_reads_it_and_finds_it_closed(self):
        if not shutil.which("systemd-analyze"):
            self.skipTest("there is no systemd-analyze")
        text = run("systemd-analyze", "security", "--offline=yes", "--threshold=20",
                   "--root=" + INSTALLED, "packrat.service", env=dict(os.environ, SYSTEMD_COLORS="0"))
        self.assertRegex(text, r"Overall exposure level for packrat.service: 1\.\d OK")
        # It fails for units of the system, which this root has not.
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", "--root=" + INSTALLED,
                               "/lib/systemd/system/packrat.service"], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False, encoding="utf-8")
        self.assertNotRegex(done.stdout, "packrat.service:[0-9]+:|ot executable|nknown|gnoring")

    def test_it_starts_what_is_in_the_package_as_its_user(self):
        program, flagfile = self.unit["ExecStart"].split()
        self.assertTrue(os.stat(INSTALLED + program).st_mode & stat.S_IXUSR)
        self.assertTrue(os.path.exists(INSTALLED + flagfile[len("--flagfile="):]))
        with open(os.path.join(INSTALLED, "usr/lib/sysusers.d/packrat.conf"),
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
                with Running(os.path.join(BUNDLE, "bin/packrat_server"),
                             environment={"NOTIFY_SOCKET": path},
                             model=os.path.join(BUNDLE, DEMO)) as server:
                    wait_for("READY=1")
                    server.drain()
                    wait_for("STOPPING=1")

    def test_it_waits_for_the_drain(self):
        seconds = 0
        for flag in flags.flags(flags.help_text(SERVER)):
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
        with Running(os.path.join(BUNDLE, "bin/packrat_server"), prepare=deny,
                     model=os.path.join(BUNDLE, DEMO)) as server:
            self.assertGreater(len(server.complete(os.path.join(BUNDLE, "bin/packrat"))), 10)


class DocumentsTest(unittest.TestCase):

    def test_man_pages(self):
        for name in ("packrat", "packrat_server"):
            page = os.path.join(BUNDLE, "share/man/man1/%s.1.gz" % name)
            with gzip.open(page, "rt", encoding="utf-8") as file:
                text = file.read()
            self.assertNotRegex(text, "@[A-Z]")
            self.assertIn("Packrat " + VERSION, text)
            for flag in flags.flags(flags.help_text(os.path.join(BUNDLE, "bin", name))):
                self.assertIn("\\-\\-%s\n" % flag.name, text)
            checks = [("man", "--warnings", "--local-file", "-Tutf8", "--ditroff"),
                      ("mandoc", "-Tlint", "-Wwarning")]
            for command in checks:
                if not shutil.which(command[0]):
                    self.skipTest("there is no " + command[0])
                done = subprocess.run([*command, page], stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, check=False, encoding="utf-8",
                                      env=dict(os.environ, LC_ALL="C.UTF-8"))
                self.assertEqual(done.stderr, "")
                if command[0] == "mandoc":
                    self.assertEqual(done.stdout, "")

    def completed(self, program, *words):
        script = os.path.join(BUNDLE, "share/bash-completion/completions", program)
        return run("bash", "-c", 'source "$1"; shift; COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); '
                   '_%s; printf "%%s\\n" "${COMPREPLY[@]}"' % program, "bash", script, program,
                   *words).split()

    def test_bash_completes(self):
        self.assertEqual(self.completed("packrat", "comp"), ["complete"])
        self.assertEqual(self.completed("packrat", "complete", "--max_tok"), ["--max_tokens"])
        self.assertEqual(self.completed("packrat", "complete", "--", "--max_tok"), [])
        self.assertEqual(self.completed("packrat_server", "--http_l"), ["--http_listen"])
        self.assertEqual(self.completed("packrat_server", "x"), [])


class CudaTest(unittest.TestCase):

    def test_with_the_cuda_backend(self):
        """Packed once more, elsewhere and otherwise: what both have is the same, bit by bit."""
        with tempfile.TemporaryDirectory() as folder:
            made, other = os.path.join(folder, "made"), os.path.join(folder, "tmp")
            os.mkdir(other)
            before = os.umask(0o077)
            try:
                package(made, CUDA, TMPDIR=other, cwd=folder, LANG="C", HOME=folder)
            finally:
                os.umask(before)
            self.assertEqual(os.listdir(other), [])
            self.assertEqual(digest(os.path.join(made, os.path.basename(DEB))), digest(DEB))
            with tarfile.open(os.path.join(made, os.path.basename(TAR))) as tar:
                tar.extractall(folder)
            bundle = os.path.join(folder, os.path.basename(BUNDLE))
            library = "lib/packrat/libpackrat_cuda.so"
            bill = "share/doc/packrat-cuda/packrat-cuda.spdx.json"
            self.same(BUNDLE, bundle, {library, bill})
            with open(os.path.join(bundle, bill), encoding="utf-8") as file:
                self.assertIn(digest(os.path.join(bundle, library)), file.read())
            validate(self, os.path.join(bundle, bill))
            with Running(os.path.join(bundle, "bin/packrat_server"), "--device=cuda",
                         model=os.path.join(ROOT, "tests/golden/packrat")) as server:
                info = run(os.path.join(bundle, "bin/packrat"), "info", "--json",
                           "--address=" + server.address, env={})
                self.assertEqual(json.loads(info)["device"], "Emulated")

            cuda = os.path.join(made, "packrat-cuda_%s_amd64.deb" % VERSION)
            self.assertIn("packrat (= %s)" % VERSION, run("dpkg-deb", "--field", cuda, "Depends"))
            contents = run("dpkg-deb", "--contents", cuda)
            self.assertIn("./usr/" + library, contents)
            self.assertIn("packrat.service.d/cuda.conf", contents)

    def same(self, one, other, more):
        def files(root):
            return {os.path.relpath(os.path.join(folder, name), root)
                    for folder, _, names in os.walk(root) for name in names}
        self.assertEqual(files(one) ^ files(other), more)
        for name in files(one):
            self.assertEqual(digest(os.path.join(one, name)), digest(os.path.join(other, name)), name)


if __name__ == "__main__":
    unittest.main()
