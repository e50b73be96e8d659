"""A certificate authority and one certificate, for balancers and replicas alike."""

import os
import subprocess

NAMES = "subjectAltName=DNS:packrat.internal,DNS:localhost,IP:127.0.0.1"


def make(folder):
    """Writes ca.crt, tls.crt, tls.key, and both.pem (certificate and key, as HAProxy wants them)."""
    def openssl(*arguments):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", *arguments],
                       cwd=folder, check=True, stderr=subprocess.DEVNULL)
    openssl("-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=tests of Packrat")
    openssl("-keyout", "tls.key", "-out", "tls.crt", "-subj", "/CN=packrat.internal",
            "-CA", "ca.crt", "-CAkey", "ca.key", "-addext", NAMES,
            "-addext", "basicConstraints=critical,CA:false")
    with open(os.path.join(folder, "both.pem"), "w", encoding="utf-8") as both:
        for name in ("tls.crt", "tls.key"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                both.write(file.read())
    return folder
