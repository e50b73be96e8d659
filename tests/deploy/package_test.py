"""What ./dev package makes, of the real programs (and of the emulated GPU's library in place of CUDA's)."""

import gzip
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import unittest

from deploy.package import flags, libraries, licences
from tests.deploy import packed
from tests.deploy.containers import Container
from tests.deploy.debian_package import DebianPackageTest, ServiceTest
from tests.deploy.packed import DEMO, TIME, Running, digest, package, run
from tests.server.processes import CLIENT, ROOT, SERVER

# Run here too, of what was packed here: once for all takes long enough.
ALSO = (DebianPackageTest, ServiceTest)
PYTHON = os.path.join(ROOT, "server/client/python")
CUDA = os.path.join(ROOT, "tests/gpu/libpackrat_cuda.so")
# The files of the C library that a root needs in which nothing else is.
GLIBC = ("/lib64/ld-linux-x86-64.so.2",) + tuple(
    "/lib/x86_64-linux-gnu/" + name for name in
    ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libresolv.so.2"))


def setUpModule():
    packed.make()


class TarTest(unittest.TestCase):

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = os.path.realpath(temporary.name)

    def test_it_answers_where_there_is_only_a_c_library(self):
        for file in GLIBC:
            os.makedirs(self.folder + os.path.dirname(file), exist_ok=True)
            shutil.copy(file, self.folder + file)
        shutil.copytree(packed.BUNDLE, self.folder + "/opt/packrat")

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
            path = os.path.join(packed.BUNDLE, "bin", program)
            text = run("ldd", path, env={"LD_LIBRARY_PATH": self.folder})
            for name, place in re.findall(r"(\S+) => (.*) \(0x", text):
                if not name.startswith(("libc.", "libm.")):
                    self.assertEqual(os.path.realpath(place),
                                     os.path.realpath(os.path.join(packed.BUNDLE, "lib", name)))
            self.assertIn("(RPATH)", run("readelf", "--dynamic", path))
            self.assertIn(packed.VERSION, run(path, "--version", env={"LD_LIBRARY_PATH": self.folder}))

    def test_layout(self):
        with tarfile.open(packed.TAR) as tar:
            members = tar.getmembers()
        top = {member.name.split("/")[0] for member in members}
        self.assertEqual(top, {os.path.basename(packed.BUNDLE)})
        self.assertEqual(sorted(os.listdir(packed.BUNDLE)), ["bin", "lib", "share"])
        self.assertEqual([m.name for m in members], sorted(m.name for m in members))
        for member in members:
            self.assertEqual((member.uid, member.gid, member.mtime), (0, 0, int(TIME)), member.name)
            program = (member.isdir() or "/bin/" in member.name or
                       member.name.endswith("/lib/packrat/packrat_tools"))
            self.assertEqual(member.mode, 0o755 if program else 0o644, member.name)
            self.assertFalse(member.issym() or member.islnk(), member.name)

    def test_every_licence_is_there(self):
        texts = os.path.join(packed.BUNDLE, "share/doc/packrat/licences")
        names = {library.package for library in libraries.needed([SERVER, CLIENT])}
        self.assertGreater(len(names), 10)
        for name in names | set(libraries.HEADERS_ONLY):
            path = os.path.join(texts, name)
            # Long ones are packed.
            with open(path, "rb") if os.path.exists(path) else gzip.open(path + ".gz") as text:
                self.assertGreater(len(text.read()), 300, name)
        self.assertIn("Apache-2.0", os.listdir(os.path.join(texts, "common")))
        self.assertTrue(os.path.exists(os.path.join(packed.BUNDLE, "share/doc/packrat/LICENSE")))

    def test_a_library_whose_licence_nobody_read_is_refused(self):
        unknown = libraries.Package("libnew1", "1", "new", "1", "")
        with self.assertRaisesRegex(ValueError, "libnew1"):
            licences.expression(unknown)


def examples(folder):
    """Those below a folder, with their digests; Bazel puts an __init__.py among the sources."""
    names = [name for name in os.listdir(folder + "/examples")
             if name.endswith(".py") and (folder, name) != (PYTHON, "__init__.py")]
    return {name: digest(os.path.join(folder, "examples", name)) for name in names}


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
        self.path = os.path.join(packed.BUNDLE, "share/doc/packrat/packrat.spdx.json")
        with open(self.path, encoding="utf-8") as file:
            self.bill = json.load(file)

    def test_it_is_spdx(self):
        for path in (self.path, os.path.join(packed.INSTALLED, "usr/share/doc/packrat/packrat.spdx.json")):
            validate(self, path)
        self.bill["packages"][0]["licenseDeclared"] = "No such licence"
        with tempfile.NamedTemporaryFile("w", suffix=".spdx.json") as file:
            json.dump(self.bill, file)
            file.flush()
            validate(self, file.name, good=False)

    def test_it_has_every_file_and_every_library_s_package(self):
        for root, bill in ((packed.BUNDLE, self.path), (packed.INSTALLED, os.path.join(
                packed.INSTALLED, "usr/share/doc/packrat/packrat.spdx.json"))):
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
        self.assertEqual(versions["packrat"], packed.VERSION)
        self.assertIn("nlohmann-json3-dev", versions)
        with open(os.path.join(packed.MADE, "packrat-%s.spdx.json" % packed.VERSION), encoding="utf-8") as file:
            self.assertEqual(json.load(file), self.bill)


    def test_nothing_that_is_compiled_in_is_forgotten(self):
        """The bill finds shared libraries by itself; who adds one of headers alone adds it by hand."""
        with open(os.path.join(ROOT, "deploy/install.sh"), encoding="utf-8") as file:
            names = re.search(r"^BUILD_PACKAGES=\((.*?)\)", file.read(), re.MULTILINE | re.DOTALL)
        built_with = {name for name in names.group(1).split() if name.endswith("-dev")}
        headers = built_with - {"libprotobuf-dev", "libgrpc++-dev", "libabsl-dev",
                                "prometheus-cpp-dev", "libsentencepiece-dev", "libpcre2-dev",
                                "libhwy-dev", "libssl-dev", "libutf8proc-dev", "libhiredis-dev",
                                "libedit-dev"}
        # Boost's own package is but a name for that of a version.
        listed = {re.sub(r"^libboost[\d.]+-dev$", "libboost-dev", name)
                  for name in libraries.HEADERS_ONLY}
        self.assertEqual(headers, listed)
        names = {package["name"] for package in self.bill["packages"]}
        self.assertLessEqual(set(libraries.HEADERS_ONLY), names)


class DocumentsTest(unittest.TestCase):

    def test_man_pages(self):
        for name in ("packrat", "packrat_server"):
            page = os.path.join(packed.BUNDLE, "share/man/man1/%s.1.gz" % name)
            with gzip.open(page, "rt", encoding="utf-8") as file:
                text = file.read()
            self.assertNotRegex(text, "@[A-Z_]+@")
            self.assertIn("Packrat " + packed.VERSION, text)
            for flag in flags.flags(os.path.join(packed.BUNDLE, "bin", name)):
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

    def test_examples_of_the_python_client(self):
        self.assertGreaterEqual(len(examples(PYTHON)), 7)
        for root in (packed.BUNDLE, packed.INSTALLED + "/usr"):
            self.assertEqual(examples(root + "/share/doc/packrat"), examples(PYTHON))

    def completed(self, program, *words):
        script = os.path.join(packed.BUNDLE, "share/bash-completion/completions", program)
        return run("bash", "-c", 'source "$1"; shift; COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); '
                   '_%s; printf "%%s\\n" "${COMPREPLY[@]}"' % program, "bash", script, program,
                   *words).split()

    def test_bash_completes(self):
        self.assertEqual(self.completed("packrat", "comp"), ["complete"])
        self.assertEqual(self.completed("packrat", "complete", "--max_tok"), ["--max_tokens"])
        self.assertEqual(self.completed("packrat", "plan", "--sess"), ["--session"])
        self.assertEqual(self.completed("packrat", "complete", "--", "--max_tok"), [])
        self.assertEqual(self.completed("packrat_server", "--http_l"), ["--http_listen"])
        self.assertEqual(self.completed("packrat_server", "x"), [])


class WheelTest(unittest.TestCase):

    def test_pip_installs_it(self):
        """Into an environment that has Debian's gRPC."""
        wheel = os.path.join(packed.MADE, "packrat_client-%s-py3-none-any.whl" % packed.VERSION)
        with tempfile.TemporaryDirectory() as folder:
            run("/usr/bin/python3", "-m", "venv", "--system-site-packages", folder)
            python = folder + "/bin/python"
            run(python, "-m", "pip", "install", "--no-index", "--disable-pip-version-check", wheel)
            self.assertEqual(run(python, "-c", "import importlib.metadata as m, packrat_client\n"
                                 "print(m.version('packrat-client'), packrat_client.__file__)").split(),
                             [packed.VERSION, folder + "/lib/python3.11/site-packages/packrat_client/__init__.py"])
            self.assertEqual(examples(folder + "/share/doc/packrat-client"), examples(PYTHON))
            with Running(packed.BUNDLE + "/bin/packrat_server", model=os.path.join(packed.BUNDLE, DEMO)) as server:
                text = run(python, folder + "/share/doc/packrat-client/examples/complete.py", "Once upon a time",
                           "--max_tokens=8", "--address=" + server.address)
            self.assertRegex(text, "^Once upon a time.{8}")


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
            self.assertEqual(digest(os.path.join(made, os.path.basename(packed.DEB))), digest(packed.DEB))
            with tarfile.open(os.path.join(made, os.path.basename(packed.TAR))) as tar:
                tar.extractall(folder)
            bundle = os.path.join(folder, os.path.basename(packed.BUNDLE))
            library = "lib/packrat/libpackrat_cuda.so"
            bill = "share/doc/packrat-cuda/packrat-cuda.spdx.json"
            self.same(packed.BUNDLE, bundle, {library, bill})
            with open(os.path.join(bundle, bill), encoding="utf-8") as file:
                self.assertIn(digest(os.path.join(bundle, library)), file.read())
            validate(self, os.path.join(bundle, bill))
            with Running(os.path.join(bundle, "bin/packrat_server"), "--device=cuda",
                         model=os.path.join(ROOT, "tests/golden/packrat")) as server:
                info = run(os.path.join(bundle, "bin/packrat"), "info", "--json",
                           "--address=" + server.address, env={})
                self.assertEqual(json.loads(info)["device"], "Emulated")

            cuda = os.path.join(made, "packrat-cuda_%s_amd64.deb" % packed.VERSION)
            self.assertIn("packrat (= %s)" % packed.VERSION, run("dpkg-deb", "--field", cuda, "Depends"))
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
