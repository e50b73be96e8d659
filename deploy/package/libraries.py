"""The shared libraries that programs need, and the Debian packages that they come from."""

import collections
import os
import pathlib
import re
import subprocess

# Part of every system; no copy of one would work with the dynamic linker of another.
SYSTEM_PACKAGES = ("libc6",)
# Made from a library of this package when the project is built: see deploy/bazel/private_library.bzl.
PRIVATE = {"libsentencepiece-p.so": "libsentencepiece0"}
# Compiled into the programs from headers.
HEADERS_ONLY = ("libboost1.74-dev", "nlohmann-json3-dev")
# Brought by NVIDIA, not by Debian: the CUDA backend opens it by name, see kernels/cublas_lt.h.
CUBLAS_LT = "libcublasLt.so.13"

# `name`: what programs ask for; `path`: the file; `package`: of Debian.
Library = collections.namedtuple("Library", ["name", "path", "package"])
Package = collections.namedtuple("Package", ["name", "version", "source", "source_version",
                                             "homepage"])


def _owners(paths):
    """{path: its Debian package}."""
    # dpkg knows a file under the name that its package has for it, which may be /lib or /usr/lib.
    names = {}
    for path in paths:
        real = os.path.realpath(path)
        names[real] = path
        names[real[len("/usr"):] if real.startswith("/usr/lib") else "/usr" + real] = path
    # It fails where it does not know one of the names, but tells the others.
    text = subprocess.run(["dpkg-query", "--search", *names], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, check=False, encoding="utf-8").stdout
    owners = {names[name]: package for package, name in
              re.findall(r"^([^:,\s]+)(?::\w+)?: (/.*)$", text, re.MULTILINE) if name in names}
    for path in paths:
        if path not in owners:
            raise ValueError("%s belongs to no Debian package" % path)
    return owners


def _loaded(programs):
    """{name: path} of what the dynamic linker loads for the programs, itself among it."""
    paths = {}
    for program in programs:
        text = subprocess.run(["ldd", program], stdout=subprocess.PIPE, check=True,
                              encoding="utf-8").stdout
        for line in text.splitlines():
            found = re.match(r"\s+(\S+) => (.*?)(?: \(0x|$)", line)
            linker = re.match(r"\s+(/\S+) \(0x", line)
            if linker:
                paths[os.path.basename(linker.group(1))] = linker.group(1)
            elif found and not found.group(2).startswith("/"):
                raise ValueError("%s needs %s: %s" % (program, found.group(1), found.group(2)))
            elif found:
                paths[found.group(1)] = found.group(2)
    return paths


def needed(programs, with_system=False):
    """The libraries of Debian and of this project that the programs need, by name.

    Args:
      programs: paths of programs and libraries.
      with_system: with those of SYSTEM_PACKAGES.
    """
    paths = _loaded(programs)
    owners = _owners([path for name, path in paths.items() if name not in PRIVATE])
    libraries = [Library(name, path, PRIVATE.get(name) or owners[path])
                 for name, path in sorted(paths.items())]
    return [library for library in libraries
            if with_system or library.package not in SYSTEM_PACKAGES]


def of_cuda(library):
    """[(name, path)] of CUDA's own libraries that the backend's library opens, from where it was built to look."""
    with open(library, "rb") as file:
        if CUBLAS_LT.encode() not in file.read():
            return []  # Of the emulated device.
    folders = subprocess.run(["patchelf", "--print-rpath", library], stdout=subprocess.PIPE, check=True,
                             encoding="utf-8").stdout.strip().split(":")
    for folder in folders:
        path = os.path.join(folder, CUBLAS_LT)
        if os.path.exists(path):
            return [(CUBLAS_LT, path)]
    raise ValueError("%s opens %s, which is not in %s" % (library, CUBLAS_LT, ":".join(folders)))


def cuda_licences(path):
    """The texts that NVIDIA puts into the toolkit of one of its libraries, as far as there are any."""
    for folder in pathlib.Path(os.path.realpath(path)).parents:
        texts = sorted([*folder.glob("EULA.txt"),
                        *folder.glob("dist-info/nvidia_cublas-*/licenses/License.txt")])
        if texts:
            return texts
    return []


def cuda_package(path):
    """The package that stands for one of CUDA's libraries: NVIDIA's names, as far as files tell them."""
    name, version = os.path.basename(os.path.realpath(path)).split(".so.")
    return Package(name, version, "cuda", version, "https://developer.nvidia.com/cuda-toolkit")


def package(name):
    """What dpkg knows of an installed package."""
    fields = ("Version", "source:Package", "source:Version", "Homepage")
    text = subprocess.run(
        ["dpkg-query", "--show", "--showformat=" + "\\n".join("${%s}" % f for f in fields), name],
        stdout=subprocess.PIPE, check=True, encoding="utf-8").stdout
    # A package may be installed for more than one architecture; they have one version.
    version, source, source_version, homepage = text.split("\n")[:4]
    return Package(name, version, source, source_version, homepage)
