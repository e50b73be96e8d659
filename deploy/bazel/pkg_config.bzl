"""pkg_config_library: a system library, found with pkg-config, as a cc_library."""

_MISSING = """
genrule(name = "missing", srcs = ["error.txt"], outs = ["missing.h"], cmd = "cat $< >&2; false")
cc_library(name = {name}, hdrs = ["missing.h"], visibility = ["//visibility:public"])
"""

_FOUND = """
cc_library(
    name = {name},
    hdrs = glob(["include*/**/*.h"], allow_empty = True),
    defines = {defines},
    includes = {includes},
    linkopts = {linkopts},
    visibility = ["//visibility:public"],
)
"""

def _last_of_each(items):
    """Static archives want dependencies last, so the last mention is the one that counts."""
    seen = {}
    kept = []
    for item in reversed(items):
        if item not in seen:
            seen[item] = True
            kept.append(item)
    return reversed(kept)

def _impl(ctx):
    tool = ctx.which("pkg-config")
    result = ctx.execute([tool, "--cflags", "--libs"] + ctx.attr.modules) if tool else None
    if not result or result.return_code != 0:
        # Stay loadable: only what needs the library fails, and says why.
        why = result.stderr if result else "pkg-config not found\n"
        ctx.file("error.txt", why + "Run ./dev deps to install the missing packages.\n")
        ctx.file("BUILD.bazel", _MISSING.format(name = repr(ctx.name)))
        return
    defines, includes, linkopts = [], [], []
    for token in result.stdout.strip().split(" "):
        if token.startswith("-D"):
            defines.append(token[2:])
        elif token.startswith("-I"):
            link = "include%d" % len(includes)
            ctx.symlink(token[2:], link)
            includes.append(link)
        elif token:
            linkopts.append(token)
    ctx.file("BUILD.bazel", _FOUND.format(
        name = repr(ctx.name),
        defines = _last_of_each(defines),
        includes = includes,
        linkopts = _last_of_each(ctx.attr.linkopts + linkopts),
    ))

pkg_config_library = repository_rule(
    implementation = _impl,
    attrs = {
        "modules": attr.string_list(mandatory = True),
        "linkopts": attr.string_list(doc = "Libraries of the same package without a module of their own."),
    },
    local = True,
    configure = True,
    environ = ["PKG_CONFIG_PATH", "PATH"],
)
