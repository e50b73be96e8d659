"""./dev as it is used all day: when it asks Bazel, whose paths it takes, what it installs.

Bazel and the package manager are stand-ins that write down how they were called: the first "builds" a
program that prints the source it was built from.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import unittest

BAZEL = r"""#!/bin/bash
echo "bazel $*" >>'{log}'
case $1 in
  info) echo '{folder}/bazel-bin' ;;
  build)
    [[ ! -e '{folder}/broken' ]] || exit 1
    make() {{
      printf '#!/bin/bash\necho "%s"\nprintf "%%s\\n" "in $PWD" "$@"\n' "$(cat "$1")" >"$2.new"
      chmod +x "$2.new"
      if cmp -s "$2.new" "$2"; then rm "$2.new"; else mv "$2.new" "$2"; fi
    }}
    mkdir -p '{folder}'/bazel-bin/server/client/python
    make server/client/main.cc '{folder}/bazel-bin/server/client/packrat'
    make server/main.cc '{folder}/bazel-bin/server/packrat_server'
    if [[ -e tests/clients/clients.py ]]; then
      mkdir -p '{folder}'/bazel-bin/tests/clients
      make tests/clients/clients.py '{folder}/bazel-bin/tests/clients/clients'
    fi
    (cd '{folder}' && touch packrat_client.py &&
      python3 -m zipfile -c bazel-bin/server/client/python/packrat_client.whl packrat_client.py)
    ;;
esac
"""
# Says that all packages are installed but those in the file `lacking`.
DPKG_QUERY = r"""#!/bin/bash
for package in "${{@:4}}"; do
  grep -qx -- "$package" '{folder}/lacking' || printf 'installed:%s ' "$package"
done
"""
# What would run as root: `env` where the caller is root, else `sudo`.
AS_ROOT = r"""#!/bin/bash
echo "root $*" >>'{log}'
[[ "$*" != *apt-get\ install* ]] || : >'{folder}/lacking'
"""


class DailyTest(unittest.TestCase):

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = temporary.name
        self.log = os.path.join(self.folder, "log")
        self.checkout = os.path.join(self.folder, "checkout")
        for name, text in (("server/main.cc", "server 1"), ("server/client/main.cc", "client 1"),
                           ("docs/page.md", "page"), ("WORKSPACE", "")):
            self.write(name, text)
        shutil.copy("dev", self.checkout)
        os.mkdir(os.path.join(self.checkout, "deploy"))
        shutil.copy("deploy/install.sh", os.path.join(self.checkout, "deploy"))
        self.environment = dict(os.environ, HOME=self.folder,
                                PATH=os.path.join(self.folder, "bin") + ":/usr/bin:/bin")
        for name in ("XDG_CACHE_HOME", "PACKRAT_BAZEL_FLAGS"):
            self.environment.pop(name, None)
        os.mkdir(os.path.join(self.folder, "bin"))
        for name, text in (("bazel", BAZEL), ("dpkg-query", DPKG_QUERY), ("env", AS_ROOT),
                           ("sudo", AS_ROOT)):
            self.tool(name, text.format(folder=self.folder, log=self.log))
        self.lack()

    def tool(self, name, text):
        path = os.path.join(self.folder, "bin", name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, 0o755)

    def lack(self, *packages):
        with open(os.path.join(self.folder, "lacking"), "w", encoding="utf-8") as file:
            file.writelines(package + "\n" for package in packages)

    def write(self, name, text):
        path = os.path.join(self.checkout, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text + "\n")

    def run_dev(self, *arguments, cwd=None, **environment):
        """What it prints, and what Bazel and root were asked meanwhile."""
        open(self.log, "w", encoding="utf-8").close()
        done = subprocess.run([os.path.join(self.checkout, "dev"), *arguments],
                              cwd=cwd or self.checkout, env=dict(self.environment, **environment),
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=60, check=False, encoding="utf-8")
        with open(self.log, encoding="utf-8") as file:
            return done, file.read()

    def expect(self, first_line, built, *arguments, **environment):
        done, log = self.run_dev(*arguments, **environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stdout.splitlines()[0], first_line)
        self.assertEqual("bazel build" in log, built, log)
        if not built:
            self.assertEqual((log, done.stderr), ("", ""))

    def test_bazel_is_asked_once(self):
        self.expect("client 1", True, "complete", "text")
        self.expect("client 1", False, "complete", "text")
        self.expect("client 1", False, "chat")
        self.expect("server 1", True, "serve")
        self.expect("server 1", False, "serve")
        self.expect("client 1", False, "packrat", "info")

    def test_any_change_of_a_source_counts(self):
        self.expect("client 1", True, "complete", "text")
        self.write("server/client/main.cc", "client 2")
        self.expect("client 2", True, "complete", "text")
        self.write("docs/page.md", "another page")
        self.expect("client 2", False, "complete", "text")
        self.write("kernels/new.h", "")
        self.expect("client 2", True, "complete", "text")
        os.remove(os.path.join(self.checkout, "kernels/new.h"))
        self.expect("client 2", True, "complete", "text")
        # As old as a file from an archive, and of the same size.
        source = os.path.join(self.checkout, "server/client/main.cc")
        self.write("server/client/main.cc", "client 3")
        os.utime(source, (1, 1))
        self.expect("client 3", True, "complete", "text")
        self.expect("client 3", False, "complete", "text")
        self.write(".bazelrc.user", "build -c dbg")
        self.expect("client 3", True, "complete", "text")
        self.expect("client 3", True, "complete", "text", PACKRAT_BAZEL_FLAGS="-c dbg")

    def git(self, *arguments):
        subprocess.run(["git", "-c", "user.name=Test", "-c", "user.email=test@example.com",
                        *arguments], cwd=self.checkout, check=True, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, env=dict(os.environ, HOME=self.folder))

    @unittest.skipUnless(shutil.which("git"), "there is no git")
    def test_another_commit_is_checked_out(self):
        self.git("init", "-q", "-b", "main")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "one")
        self.expect("client 1", True, "complete", "text")
        self.git("checkout", "-q", "-b", "other")
        self.expect("client 1", False, "complete", "text")
        self.write("server/client/main.cc", "client 2")
        self.git("commit", "-q", "-a", "-m", "two")
        self.expect("client 2", True, "complete", "text")
        self.git("checkout", "-q", "main")
        self.expect("client 1", True, "complete", "text")
        self.git("checkout", "-q", "other")
        self.expect("client 2", True, "complete", "text")
        self.expect("client 2", False, "complete", "text")

    def with_clients(self, text):
        """A checkout with a program of the tests, and the environment that such programs have."""
        self.write("tests/clients/clients.py", text)
        self.write("deploy/requirements-test.txt", "nothing")
        environment = os.path.join(self.folder, ".cache/packrat-python",
                                   hashlib.sha256(b"nothing\n").hexdigest()[:16])
        os.makedirs(environment)
        open(environment + "/complete", "w", encoding="utf-8").close()

    def test_programs_of_the_tests_have_the_tests_as_sources_too(self):
        self.with_clients("clients 1")
        self.expect("clients 1", True, "clients")
        self.expect("clients 1", False, "clients")
        self.expect("client 1", True, "complete", "text")
        self.write("tests/clients/clients.py", "clients 2")
        self.expect("client 1", False, "complete", "text")
        self.expect("clients 2", True, "clients")
        self.write("tests/clients/new.py", "")
        self.expect("clients 2", True, "clients")
        self.write("tests/clients/new.pyc", "")
        self.expect("clients 2", False, "clients")

    @unittest.skipUnless(shutil.which("git"), "there is no git")
    def test_clients_know_their_commit(self):
        self.with_clients("at $PACKRAT_COMMIT")
        self.expect("at unknown", True, "clients")
        self.git("init", "-q", "-b", "main")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "one")
        commit = subprocess.run(["git", "rev-parse", "--short=8", "HEAD"], cwd=self.checkout, check=True,
                                stdout=subprocess.PIPE, encoding="utf-8").stdout.strip()
        done, _ = self.run_dev("clients", "--output=a file", cwd=self.folder)
        self.assertEqual(done.stdout.splitlines(), ["at " + commit, "in " + self.folder, "--output=a file"])
        self.write("tests/bench/results/clients.tsv", "what was made of it")
        self.expect("at " + commit, True, "clients")
        self.write("docs/page.md", "another page")
        self.expect("at %s.dirty" % commit, True, "clients")

    def test_a_program_that_is_gone_or_another_is_built_again(self):
        self.expect("client 1", True, "complete", "text")
        program = os.path.join(self.folder, "bazel-bin/server/client/packrat")
        os.remove(program)
        self.expect("client 1", True, "complete", "text")
        shutil.copy("/bin/true", program)
        self.expect("client 1", True, "complete", "text")

    def test_what_did_not_build_is_not_run(self):
        self.expect("client 1", True, "complete", "text")
        broken = os.path.join(self.folder, "broken")
        self.write("server/client/main.cc", "client 2")
        open(broken, "w", encoding="utf-8").close()
        for _ in range(2):
            done, log = self.run_dev("complete", "text")
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertIn("did not build", done.stderr)
            self.assertIn("bazel build", log)
        os.remove(broken)
        self.expect("client 2", True, "complete", "text")

    def test_two_checkouts_do_not_share_what_they_know(self):
        self.expect("client 1", True, "complete", "text")
        shutil.copytree(self.checkout, self.checkout + "2", copy_function=shutil.copy2)
        self.checkout += "2"
        self.expect("client 1", True, "complete", "text")

    def test_paths_are_those_of_the_caller(self):
        elsewhere = os.path.join(self.folder, "else where")
        os.mkdir(elsewhere)
        done, _ = self.run_dev("packrat", "perplexity", "--file", "a b.txt", cwd=elsewhere)
        self.assertEqual(done.stdout.splitlines(),
                         ["client 1", "in " + elsewhere, "perplexity", "--file", "a b.txt"])
        done, _ = self.run_dev("serve", "--model=mine", cwd=elsewhere)
        self.assertEqual(done.stdout.splitlines(),
                         ["server 1", "in " + elsewhere,
                          "--model=%s/models/demo" % self.checkout, "--model=mine"])
        with open(os.path.join(elsewhere, "where.py"), "w", encoding="utf-8") as file:
            file.write("import os, sys; print(os.getcwd(), *sys.argv)")
        done, _ = self.run_dev("python", "where.py", "x", cwd=elsewhere)
        self.assertEqual(done.stdout, "%s where.py x\n" % elsewhere, done.stderr)

    def test_called_through_a_link(self):
        link = os.path.join(self.folder, "link")
        os.symlink(os.path.join(self.checkout, "dev"), link)
        done = subprocess.run([link, "complete", "text"], cwd="/", env=self.environment,
                              stdout=subprocess.PIPE, check=True, encoding="utf-8")
        self.assertEqual(done.stdout.splitlines()[:2], ["client 1", "in /"])

    def test_python_of_the_page_where_only_serve_has_run(self):
        with open("docs/client.md", encoding="utf-8") as file:
            python = file.read().split("## Python")[1].split("\n## ")[0]
        command, = re.findall(r"```sh\n(.*)\n```", python)
        # The page's script is replaced by one that needs what that one needs, and says what it got.
        script = command.split()[2]
        with open(script, encoding="utf-8") as file:
            self.assertIn("from packrat_client import", file.read())
        self.write(script, "import packrat_client\nimport sys\nprint(*sys.argv[1:])")
        done, _ = self.run_dev("serve")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.lack("python3-grpcio", "python3-protobuf")
        open(self.log, "w", encoding="utf-8").close()
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=self.checkout,
                              env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              stdin=subprocess.DEVNULL, check=False, encoding="utf-8")
        self.assertEqual((done.returncode, done.stdout), (0, "Once upon a time\n"), done.stderr)
        with open(self.log, encoding="utf-8") as file:
            installed = [line for line in file if "apt-get install" in line]
        self.assertEqual(len(installed), 1)
        self.assertIn("python3-grpcio python3-protobuf", installed[0])


if __name__ == "__main__":
    unittest.main()
