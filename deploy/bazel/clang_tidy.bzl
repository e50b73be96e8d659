"""clang_tidy: an aspect that checks every C++ source of the workspace as a cached build action.

    bazel build --config=lint --define=CLANG_TIDY=PROGRAM //...
"""

_RULES = ["cc_library", "cc_binary", "cc_test"]

def _flags(ctx, target):
    compilation = target[CcInfo].compilation_context
    args = ctx.actions.args()
    args.add_all(["-x", "c++", "-std=c++17", "-Wno-everything", "-Wthread-safety"])
    args.add_all(compilation.defines, format_each = "-D%s")
    args.add_all(compilation.local_defines, format_each = "-D%s")
    args.add_all(compilation.quote_includes, before_each = "-iquote")
    args.add_all(compilation.includes, before_each = "-I")
    args.add_all(compilation.system_includes, before_each = "-isystem")
    return args

def _clang_tidy_impl(target, ctx):
    if ctx.rule.kind not in _RULES or target.label.workspace_name:
        return []
    files = [f for src in ctx.rule.attr.srcs for f in src.files.to_list()]
    if hasattr(ctx.rule.attr, "hdrs") and not files:
        return []
    stamps = []
    headers = target[CcInfo].compilation_context.headers
    for src in files:
        if not src.is_source or src.extension != "cc":
            continue
        # By its path in the package: sources of a target in two folders may have one name.
        name = src.short_path[len(target.label.package) + 1:].replace("/", "_")
        stamp = ctx.actions.declare_file("_tidy/%s/%s.ok" % (ctx.rule.attr.name, name))
        own = ctx.actions.args()
        own.add(ctx.var["CLANG_TIDY"])
        own.add_all([stamp, src])
        ctx.actions.run(
            executable = ctx.executable._run,
            arguments = [own, _flags(ctx, target)],
            inputs = depset([src, ctx.file._config], transitive = [headers]),
            outputs = [stamp],
            mnemonic = "ClangTidy",
            progress_message = "Checking %s (clang-tidy)" % src.short_path,
            use_default_shell_env = True,
        )
        stamps.append(stamp)
    return [OutputGroupInfo(clang_tidy = depset(stamps))]

clang_tidy = aspect(
    implementation = _clang_tidy_impl,
    attrs = {
        "_config": attr.label(default = "//:.clang-tidy", allow_single_file = True),
        "_run": attr.label(
            default = "//tests/tools:clang_tidy",
            executable = True,
            cfg = "exec",
        ),
    },
)
