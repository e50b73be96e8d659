"""CUDA: the toolkit of the machine as @cuda, sources compiled by its nvcc, and the backend's library."""

load("@bazel_tools//tools/cpp:toolchain_utils.bzl", "find_cpp_toolchain")

# Machine code for Ampere, Hopper and both kinds of Blackwell, and PTX that drivers compile for what comes after. From
# two PTX: from Hopper on kernels may begin before those before them have ended (kernels/device.cuh).
# --define=PACKRAT_GPU=sm_90: for that one alone.
_ARCHITECTURES = "sm_80,sm_90,sm_100,sm_120"
_HOPPER = 90

def _code(architectures):
    """{number of a PTX: what nvcc is to make of it}.

    The second PTX itself is kept. The first is not: what drivers made of it for newer devices would not wait."""
    code = {}
    for arch in architectures:
        code.setdefault(_HOPPER if int(arch[3:]) >= _HOPPER else 80, []).append(arch)
    if _HOPPER in code:
        code[_HOPPER].append("compute_%d" % _HOPPER)
    return code

def _kept(code, arch):
    """How the name of the machine code for `arch` ends among what nvcc keeps."""
    ptx = [number for number, made in code.items() if arch in made][0]
    names = ([] if len(code) == 1 else ["compute_%d" % ptx]) + ([] if code[ptx] == [arch] else [arch])
    return "".join(["." + name for name in names + ["cubin"]])

_FOUND = """
cc_library(
    name = "cudart",
    hdrs = glob(["include/**"]),
    includes = ["include"],
    linkopts = ["-L{root}/lib64", "-lcudart_static", "-lpthread", "-ldl", "-lrt"],
    visibility = ["//visibility:public"],
)
# Opened when it is needed, from here or elsewhere: see kernels/cublas_lt.h.
cc_library(
    name = "cublas_lt",
    linkopts = ["-Wl,-rpath,{root}/lib64"],
    visibility = ["//visibility:public"],
    deps = [":cudart"],
)
"""

_MISSING = """
genrule(name = "missing", outs = ["missing.h"], cmd = "echo 'no CUDA toolkit at {root}: set CUDA_PATH' >&2; false")
[cc_library(name = n, hdrs = ["missing.h"], visibility = ["//visibility:public"]) for n in ["cudart", "cublas_lt"]]
"""

def _local_cuda_impl(ctx):
    root = ctx.os.environ.get("CUDA_PATH", "/usr/local/cuda")
    found = ctx.path(root + "/bin/nvcc").exists
    if found:
        ctx.symlink(root + "/include", "include")
    ctx.file("info.bzl", "CUDA_FOUND = %r\nCUDA_ROOT = %r\n" % (found, root))
    ctx.file("BUILD.bazel", (_FOUND if found else _MISSING).format(root = root))

local_cuda = repository_rule(
    implementation = _local_cuda_impl,
    local = True,
    configure = True,
    environ = ["CUDA_PATH"],
)

def _cuda_library_impl(ctx):
    cc = find_cpp_toolchain(ctx)
    features = cc_common.configure_features(
        ctx = ctx,
        cc_toolchain = cc,
        requested_features = ctx.features,
        unsupported_features = ctx.disabled_features,
    )
    deps = cc_common.merge_cc_infos(cc_infos = [d[CcInfo] for d in ctx.attr.deps])
    context = deps.compilation_context
    architectures = ctx.var.get("PACKRAT_GPU", _ARCHITECTURES).split(",")
    code = _code(architectures)
    objects = []
    cubins = []
    for src in ctx.files.srcs:
        object_file = ctx.actions.declare_file("_objs/%s/%s.pic.o" % (ctx.label.name, src.basename))
        of_src = [
            ctx.actions.declare_file("_objs/%s/%s.%s.cubin" % (ctx.label.name, src.basename[:-3], arch))
            for arch in architectures
        ]
        args = ctx.actions.args()
        args.add_all(["-x", "cu", "-c", src, "-o", object_file, "-std=c++17", "-O3", "-DNDEBUG"])
        args.add_all(["-ccbin", cc.compiler_executable, "-Xcompiler", "-fPIC,-Wall,-ffp-contract=off"])

        # The kernels say fmaf() where they mean one rounding.
        args.add_all(["-fmad=false", "-lineinfo", "--expt-relaxed-constexpr", "-I."])
        args.add_all(["-gencode=arch=compute_%d,code=[%s]" % (ptx, ",".join(made)) for ptx, made in code.items()])
        args.add_all(["--keep", "--keep-dir", object_file.dirname])
        args.add_all(context.defines, format_each = "-D%s")
        args.add_all(context.includes, format_each = "-I%s")
        args.add_all(context.system_includes, before_each = "-isystem")
        args.add_all(context.quote_includes, before_each = "-I")

        stem = object_file.dirname + "/" + src.basename[:-3]
        command = '"$@"' + "".join([
            " && mv %s%s %s.%s.cubin" % (stem, _kept(code, arch), stem, arch)
            for arch in architectures
            if _kept(code, arch) != ".%s.cubin" % arch
        ])
        ctx.actions.run_shell(
            command = command,
            arguments = [ctx.attr.nvcc, args],
            inputs = depset([src] + ctx.files.hdrs, transitive = [context.headers, cc.all_files]),
            outputs = [object_file] + of_src,
            mnemonic = "CudaCompile",
            progress_message = "Compiling %s with nvcc" % src.short_path,
            use_default_shell_env = True,
        )
        objects.append(object_file)
        cubins += of_src
    linking_context, _ = cc_common.create_linking_context_from_compilation_outputs(
        actions = ctx.actions,
        name = ctx.label.name,
        feature_configuration = features,
        cc_toolchain = cc,
        compilation_outputs = cc_common.create_compilation_outputs(
            objects = depset(objects),
            pic_objects = depset(objects),
        ),
        linking_contexts = [deps.linking_context],
        disallow_dynamic_library = True,
    )
    own = CcInfo(
        compilation_context = cc_common.create_compilation_context(headers = depset(ctx.files.hdrs)),
        linking_context = linking_context,
    )
    return [
        DefaultInfo(files = depset(objects)),
        OutputGroupInfo(cubins = depset(cubins)),
        cc_common.merge_cc_infos(cc_infos = [own, deps]),
    ]

cuda_library = rule(
    implementation = _cuda_library_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".cu"]),
        "hdrs": attr.label_list(allow_files = [".h", ".cuh"]),
        "deps": attr.label_list(providers = [CcInfo]),
        "nvcc": attr.string(mandatory = True),
        "_cc_toolchain": attr.label(default = "@bazel_tools//tools/cpp:current_cc_toolchain"),
    },
    fragments = ["cpp"],
    toolchains = ["@bazel_tools//tools/cpp:toolchain_type"],
)

def _build_id_impl(ctx):
    headers = [
        f
        for dep in ctx.attr.deps
        for f in dep[CcInfo].compilation_context.headers.to_list()
        if f.is_source and f.owner and not f.owner.workspace_name
    ]
    args = ctx.actions.args()
    args.add(ctx.outputs.out)
    args.add(ctx.var.get("PACKRAT_COMMIT", ""))
    args.add_all(headers)
    ctx.actions.run_shell(
        command = """
out=$1 commit=$2
shift 2
id=$(cat "$@" | sha256sum | cut -c 1-16)
cat >"$out" <<END
// Made by //deploy/bazel:cuda.bzl.
#ifndef PACKRAT_MODELS_BUILD_ID_H_
#define PACKRAT_MODELS_BUILD_ID_H_

namespace packrat {

// Equal for two binaries that were compiled with the same interfaces (and, in packages, from the
// same commit).
inline constexpr char kBuildId[] = "build-$id$commit";

}  // namespace packrat

#endif  // PACKRAT_MODELS_BUILD_ID_H_
END""",
        arguments = [args],
        inputs = headers,
        outputs = [ctx.outputs.out],
    )

# A header with kBuildId: a hash of all headers of this workspace that the deps show.
build_id = rule(
    implementation = _build_id_impl,
    attrs = {
        "out": attr.output(mandatory = True),
        "deps": attr.label_list(providers = [CcInfo]),
    },
)

def cuda_backend(name, deps, **kwargs):
    """The shared library of the backend, which shows packrat_cuda_backend() and nothing else.

    Args:
      name: file name, libpackrat_cuda.so: a program finds the library that is beside it.
      deps: the backend's libraries.
      **kwargs: passed on to cc_binary.
    """
    exports = "//deploy/bazel:cuda_backend.lds"
    native.cc_binary(
        name = name,
        linkshared = True,
        linkopts = ["-Wl,--version-script=$(location %s)" % exports, "-Wl,-z,defs", "-Wl,-rpath,$$ORIGIN"],
        deps = ["//models:cuda_backend"] + deps + [exports],
        **kwargs
    )
