"""Offline stand-ins for what Bazel 4's own @bazel_tools would download."""

_NAMES = [
    "cc_binary",
    "cc_import",
    "cc_library",
    "cc_proto_library",
    "cc_test",
    "cc_toolchain",
    "cc_toolchain_suite",
    "fdo_prefetch_hints",
    "fdo_profile",
    "objc_import",
    "objc_library",
]

def _native_rules_cc_impl(ctx):
    ctx.file("WORKSPACE", "workspace(name = %r)\n" % ctx.name)
    ctx.file("BUILD.bazel", "")
    ctx.file("cc/BUILD.bazel", "")
    ctx.file("cc/defs.bzl", "".join(["%s = native.%s\n" % (n, n) for n in _NAMES]))

# A @rules_cc made of Bazel's native rules (Debian's bazel-rules-cc is too new for this Bazel).
native_rules_cc = repository_rule(implementation = _native_rules_cc_impl)

def _no_coverage_tools_impl(ctx):
    ctx.file("WORKSPACE", "workspace(name = %r)\n" % ctx.name)
    ctx.file("BUILD.bazel", "".join([
        "filegroup(name = %r, visibility = [\"//visibility:public\"])\n" % n
        for n in ["coverage_report_generator", "lcov_merger"]
    ]))

# Every test depends on the coverage tools' labels, whether coverage is asked for or not.
no_coverage_tools = repository_rule(implementation = _no_coverage_tools_impl)
