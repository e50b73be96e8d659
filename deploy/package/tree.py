#!/usr/bin/env python3
"""Lays out what is installed, as the tar, the Debian package and the images need it.

  tree.py --kind=bundle|system|image --output=DIR --server=FILE --client=FILE [--cuda=FILE]

- bundle: a folder that runs wherever it is unpacked, with all libraries but the C library.
- system: a root for a package of Debian 12, which asks for Debian's libraries instead. The CUDA backend goes
  into DIR/../cuda.
- image: a root of its own, with the C library. The model goes into DIR/../model, the CUDA backend with
  cuBLASLt into DIR/../cuda.

The time in SOURCE_DATE_EPOCH is that of the files.
"""

import argparse
import gzip
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(os.path.abspath(__file__)).parent.parent.parent
sys.path.insert(0, str(ROOT))

# pylint: disable=wrong-import-position
from deploy.package import completion, flags, libraries, licences, man, sbom

CUDA_LIBRARY = "libpackrat_cuda.so"
TOOLS = "packrat_tools"
MODEL = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.model",
         "tokenizer_config.json", "README.md", "curves.svg")
# An image has no other users, and nothing that looks further.
ACCOUNTS = {"etc/passwd": "root:x:0:0:root:/:/sbin/nologin\n"
                          "nobody:x:65534:65534:nobody:/:/sbin/nologin\n",
            "etc/group": "root:x:0:\nnogroup:x:65534:\n",
            "etc/nsswitch.conf": "hosts: files dns\n"}
# Where runtimes mount something into a root that is read-only.
MOUNT_POINTS = ("dev", "proc", "sys", "tmp", "model")


class Tree:

    def __init__(self, arguments, created):
        self.kind = arguments.kind
        self.root = pathlib.Path(arguments.output)
        self.usr = self.root if self.kind == "bundle" else self.root / "usr"
        self.doc = self.usr / "share/doc/packrat"
        self.programs = {"packrat_server": arguments.server, "packrat": arguments.client}
        # What the client becomes for some of its commands; nobody else starts it. Images have none:
        # they serve.
        beside = os.path.dirname(os.path.realpath(arguments.client))
        self.tools = [] if self.kind == "image" else [os.path.join(beside, TOOLS)]
        self.cuda = arguments.cuda
        # Roots beside the main one are packed apart, and are not in its bill of materials.
        self.cuda_usr = self.usr if self.kind == "bundle" else self.root.with_name("cuda") / "usr"
        self.model_usr = self.usr if self.kind != "image" else self.root.with_name("model") / "usr"
        self.created = created
        self.version = flags.version(arguments.server)
        self.own = []    # Paths of Packrat's own files.
        self.parts = {}  # Those of others: {libraries.Package: paths}.

    def put(self, source, target, mode=0o644):
        """Copies a file of Packrat's own."""
        self.copy(source, target, mode)
        # The bill of an image is that of its first layer.
        if self.root in target.parents:
            self.own.append(target)
        return target

    def copy(self, source, target, mode=0o644):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(mode)

    def write(self, data, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        target.chmod(0o644)
        self.own.append(target)

    def copy_programs(self):
        # DT_RPATH, not DT_RUNPATH: it holds for the libraries' own libraries too, which so stay the
        # files that Debian made, and LD_LIBRARY_PATH of some other program's does not come before it.
        place = "lib/packrat" if self.kind == "system" else "lib"
        for source, target in [(source, "bin/" + name) for name, source in self.programs.items()] + [
                (source, "lib/packrat/" + TOOLS) for source in self.tools]:
            target = self.put(source, self.usr / target, 0o755)
            path = "$ORIGIN/" + os.path.relpath(self.usr / place, target.parent)
            subprocess.run(["strip", target], check=True)
            subprocess.run(["patchelf", "--force-rpath", "--set-rpath", path, target], check=True)

    def copy_cuda(self):
        """The backend, with a bill of its own; cuBLASLt goes beside it, or is that of a toolkit."""
        target = self.cuda_usr / "lib/packrat" / CUDA_LIBRARY
        doc = self.cuda_usr / "share/doc/packrat-cuda"
        self.copy(self.cuda, target)
        subprocess.run(["strip", "--strip-unneeded", target], check=True)
        subprocess.run(["patchelf", "--set-rpath", "$ORIGIN:$ORIGIN/..:/usr/local/cuda/lib64",
                        target], check=True)
        parts = {} if self.kind == "system" else self.copy_libraries_of_cuda()
        cuda = libraries.of_cuda(self.cuda)
        for text in {text for _, path in cuda for text in libraries.cuda_licences(path)}:
            self.copy(text, doc / "licences" / text.name)
        for name, path in cuda if self.kind == "image" else []:
            self.copy(path, target.with_name(name))
            parts[libraries.cuda_package(path)] = [target.with_name(name)]
        # CUDA's runtime is linked into it.
        expression = "Apache-2.0" + (" AND " + licences.EXPRESSIONS["cuda"] if cuda else "")
        doc.mkdir(parents=True, exist_ok=True)
        sbom.write(doc / "packrat-cuda.spdx.json", str(self.cuda_usr), "packrat-cuda", self.version,
                   expression, [target], parts, [], self.created)

    def copy_libraries(self):
        wanted = libraries.needed([*self.programs.values(), *self.tools], self.kind == "image")
        if self.kind == "system":
            wanted = [library for library in wanted if library.name in libraries.PRIVATE]
        for library in wanted:
            target = self.usr / ("lib/packrat" if self.kind == "system" else "lib") / library.name
            if library.name.startswith("ld-linux"):
                target = self.root / library.path.lstrip("/")
            self.copy(library.path, target, 0o755 if library.name.startswith("ld-") else 0o644)
            self.parts.setdefault(libraries.package(library.package), []).append(target)

    def copy_libraries_of_cuda(self):
        """What the backend needs of Debian beyond what the programs do, as parts of a bill."""
        have = {library.name for library in
                libraries.needed([*self.programs.values(), *self.tools], self.kind == "image")}
        parts = {}
        for library in libraries.needed([self.cuda], self.kind == "image"):
            if library.name not in have:
                target = self.cuda_usr / "lib" / library.name
                self.copy(library.path, target)
                parts.setdefault(libraries.package(library.package), []).append(target)
        return parts

    def copy_model(self):
        for name in MODEL:
            self.put(ROOT / "models/demo" / name, self.model_usr / "share/packrat/models/demo" / name)

    def write_accounts(self):
        for name, text in ACCOUNTS.items():
            self.write(text.encode(), self.root / name)
        for name in MOUNT_POINTS:
            (self.root / name).mkdir()

    def write_documents(self):
        for name, program in self.programs.items():
            template = (ROOT / "deploy/package/man" / (name + ".1.in")).read_text(encoding="utf-8")
            page = man.page(template, program, self.created).encode()
            # Debian wants them compressed, and a system elsewhere reads both.
            self.write(gzip.compress(page, mtime=0), self.usr / "share/man/man1" / (name + ".1.gz"))
            self.write(completion.bash(program).encode(),
                       self.usr / "share/bash-completion/completions" / name)
        self.put(ROOT / "proto/packrat/v1/inference.proto",
                 self.usr / "share/packrat/proto/packrat/v1/inference.proto")
        for example in sorted((ROOT / "server/client/python/examples").glob("[a-z]*.py")):
            self.put(example, self.doc / "examples" / example.name)

    def write_licences_and_bill(self):
        compiled_in = [libraries.package(name) for name in libraries.HEADERS_ONLY]
        if self.kind != "system":  # A Debian package refers to the one that every system has.
            self.put(ROOT / "LICENSE", self.doc / "LICENSE")
        licences.copy_texts(compiled_in + list(self.parts), self.doc / "licences")
        texts = sorted(path for path in (self.doc / "licences").rglob("*") if path.is_file())
        sbom.write(self.doc / "packrat.spdx.json", str(self.root), "packrat", self.version,
                   "Apache-2.0", self.own + texts, self.parts, compiled_in, self.created)

    def settle(self):
        """Modes and times that do not depend on who made the tree, and when."""
        for root in {self.root, self.root.with_name("model"), self.root.with_name("cuda")}:
            for folder, _, files in os.walk(root, topdown=False):
                for name in files:
                    os.utime(os.path.join(folder, name), (self.created, self.created))
                os.chmod(folder, 0o755)
                os.utime(folder, (self.created, self.created))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--kind", choices=("bundle", "system", "image"), required=True)
    for name in ("output", "server", "client"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--cuda")
    arguments = parser.parse_args()
    tree = Tree(arguments, int(os.environ["SOURCE_DATE_EPOCH"]))
    tree.copy_programs()
    tree.copy_libraries()
    tree.copy_model()
    if tree.cuda:
        tree.copy_cuda()
    if tree.kind == "image":
        tree.write_accounts()
    else:
        tree.write_documents()
    tree.write_licences_and_bill()
    tree.settle()


if __name__ == "__main__":
    try:
        main()
    except (ValueError, subprocess.CalledProcessError) as error:
        sys.exit("tree.py: %s" % error)
