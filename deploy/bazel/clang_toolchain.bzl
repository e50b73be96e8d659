"""A second C++ toolchain: clang, for --config=clang and --config=fuzz, beside the default gcc."""

load("@bazel_tools//tools/cpp:unix_cc_configure.bzl", "configure_unix_toolchain")

def _impl(ctx):
    clang = ctx.which("clang")
    if not clang:
        # Stay loadable: only builds with --config=clang or fuzz fail.
        ctx.file("BUILD.bazel", "")
        return
    configure_unix_toolchain(ctx, "k8", {"gcc": str(clang)})

clang_toolchain = repository_rule(
    implementation = _impl,
    local = True,
    configure = True,
    environ = ["PATH"],
)
