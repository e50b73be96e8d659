"""The bill of materials of a folder, as SPDX 2.3 in JSON."""

import datetime
import hashlib
import json
import os

from deploy.package import licences


def _digest(path, algorithm):
    with open(path, "rb") as file:
        return hashlib.new(algorithm, file.read()).hexdigest()


def _verification_code(files):
    """SPDX's own: of the sums of a package's files."""
    return hashlib.sha1("".join(sorted(f["checksums"][0]["checksumValue"] for f in files))
                        .encode()).hexdigest()


class _Document:

    def __init__(self):
        self.packages, self.files, self.relationships = [], [], []

    def relate(self, one, kind, other):
        self.relationships.append({"spdxElementId": one, "relationshipType": kind,
                                   "relatedSpdxElement": other})

    def add_package(self, reference, name, version, expression, files, **more):
        package = {"SPDXID": reference, "name": name, "versionInfo": version,
                   "licenseConcluded": expression, "licenseDeclared": expression,
                   "copyrightText": "NOASSERTION", "downloadLocation": "NOASSERTION",
                   "filesAnalyzed": bool(files), **more}
        if files:
            package["packageVerificationCode"] = {
                "packageVerificationCodeValue": _verification_code(files)}
            package["licenseInfoFromFiles"] = ["NOASSERTION"]
        self.packages.append(package)
        for file in files:
            self.relate(reference, "CONTAINS", file["SPDXID"])

    def add_files(self, root, paths):
        added = []
        for path in paths:
            name = os.path.relpath(path, root)
            added.append({
                "SPDXID": "SPDXRef-File-" + hashlib.sha1(name.encode()).hexdigest()[:16],
                "fileName": "./" + name,
                # The first one is asked for by the format, the second one is worth something.
                "checksums": [{"algorithm": "SHA1", "checksumValue": _digest(path, "sha1")},
                              {"algorithm": "SHA256", "checksumValue": _digest(path, "sha256")}],
                "licenseConcluded": "NOASSERTION", "licenseInfoInFiles": ["NOASSERTION"],
                "copyrightText": "NOASSERTION"})
        self.files.extend(added)
        return added


def _origin(package):
    """Where SPDX says that a package comes from."""
    if package.source == "cuda":
        return {"supplier": "Organization: NVIDIA"}
    return {"supplier": "Organization: Debian",
            "sourceInfo": "built by Debian from source package %s %s" % (package.source,
                                                                         package.source_version),
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                "referenceLocator": "pkg:deb/debian/%s@%s?arch=amd64&distro=bookworm" % (
                    package.name.replace("+", "%2B"), package.version.replace("+", "%2B"))}]}


def document(root, name, version, expression, own, parts, compiled_in, created):
    """The bill as a dictionary.

    Args:
      root: the folder; names of files are relative to it.
      name: of what is described.
      version: of Packrat.
      expression: the licence of its own files.
      own: paths of Packrat's own files.
      parts: {libraries.Package: paths of its files}.
      compiled_in: libraries.Package of what is inside of Packrat's own files.
      created: seconds since 1970.
    """
    result = _Document()
    main = "SPDXRef-Package-" + name
    result.add_package(main, name, version, expression, result.add_files(root, sorted(own)),
                       supplier="NOASSERTION", primaryPackagePurpose="APPLICATION")
    for package, paths in sorted({**{p: [] for p in compiled_in}, **parts}.items()):
        reference = "SPDXRef-Package-" + package.name.replace("+", ".p")
        result.add_package(
            reference, package.name, package.version, licences.expression(package),
            result.add_files(root, sorted(paths)), primaryPackagePurpose="LIBRARY",
            **_origin(package), **({"homepage": package.homepage} if package.homepage else {}))
        result.relate(main, "CONTAINS" if package in compiled_in else "DYNAMIC_LINK", reference)
    result.relate("SPDXRef-DOCUMENT", "DESCRIBES", main)
    body = {"packages": result.packages, "files": result.files,
            "relationships": result.relationships}
    text = json.dumps(body, sort_keys=True)
    others = [{"licenseId": licence, "extractedText": what}
              for licence, what in licences.OTHERS.items() if licence in text]
    if others:
        body["hasExtractedLicensingInfos"] = others
    return {
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT",
        "name": "%s-%s" % (name, version),
        "documentNamespace": "https://packrat.invalid/spdx/%s" % (
            hashlib.sha256(text.encode()).hexdigest()[:32]),
        "creationInfo": {
            "created": datetime.datetime.fromtimestamp(created, datetime.timezone.utc)
                       .strftime("%Y-%m-%dT%H:%M:%SZ"),
            "creators": ["Tool: packrat-package-" + version]},
        **body}


def write(path, *arguments):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(document(*arguments), file, indent=1)
        file.write("\n")
