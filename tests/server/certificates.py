"""Real certificates, made by openssl."""

import os
import subprocess


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.PIPE)


class Authority:
    """Signs certificates; .path is its own. All files are in `folder`."""

    def __init__(self, folder, name):
        self.folder = folder
        self.path = os.path.join(folder, name + ".pem")
        self.key = os.path.join(folder, name + ".key")
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-keyout", self.key, "-out", self.path, "-days", "30", "-subj", "/CN=" + name)

    def sign(self, name, days=30, host="localhost"):
        """The paths of a certificate for `host` and 127.0.0.1, and of its key."""
        path, key, request = (os.path.join(self.folder, name + end) for end in
                              (".pem", ".key", ".csr"))
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                "-keyout", key, "-out", request, "-subj", "/CN=" + name)
        extensions = os.path.join(self.folder, name + ".ext")
        with open(extensions, "w", encoding="ascii") as file:
            file.write("subjectAltName=DNS:%s,IP:127.0.0.1\n" % host)
        openssl("x509", "-req", "-in", request, "-CA", self.path, "-CAkey", self.key,
                "-CAcreateserial", "-days", str(days), "-extfile", extensions, "-out", path)
        return path, key
