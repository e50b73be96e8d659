"""private_library: a system library that carries a copy of another one, with that copy hidden."""

_MISSING = """
genrule(name = "missing", srcs = ["error.txt"], outs = ["missing.h"], cmd = "cat $< >&2; false")
cc_library(name = {name}, hdrs = ["missing.h"], visibility = ["//visibility:public"])
"""

_FOUND = """
cc_import(
    name = "import",
    shared_library = {file},
)
cc_library(
    name = {name},
    visibility = ["//visibility:public"],
    deps = [":import"],
)
"""

def _missing(ctx, why):
    ctx.file("error.txt", why + "\nRun ./dev deps to install the missing packages.\n")
    ctx.file("BUILD.bazel", _MISSING.format(name = repr(ctx.name)))

def _impl(ctx):
    pkg_config = ctx.which("pkg-config")
    if not pkg_config:
        return _missing(ctx, "pkg-config not found")
    folder = ctx.execute([pkg_config, "--variable=libdir", ctx.attr.module])
    if folder.return_code != 0:
        return _missing(ctx, folder.stderr)
    source = "%s/lib%s.so" % (folder.stdout.strip(), ctx.attr.module)

    # A name of its own: a program that does not find the copy says so, instead of taking the
    # original and crashing. Of the same length as NAME.so.0, which it replaces inside the file.
    soname = "lib%s-p.so" % ctx.attr.module
    done = ctx.execute(
        ["python3", ctx.path(ctx.attr._hide_symbols), source, soname] + ctx.attr.hidden,
    )
    if done.return_code != 0:
        return _missing(ctx, done.stderr)
    ctx.file("BUILD.bazel", _FOUND.format(name = repr(ctx.name), file = repr(soname)))
    return None

private_library = repository_rule(
    implementation = _impl,
    attrs = {
        "module": attr.string(mandatory = True, doc = "Name in pkg-config, and of the library."),
        "hidden": attr.string_list(mandatory = True, doc = "Parts of mangled names."),
        "_hide_symbols": attr.label(default = "//deploy/bazel:hide_symbols.py"),
    },
    local = True,
    configure = True,
    environ = ["PKG_CONFIG_PATH", "PATH"],
)
