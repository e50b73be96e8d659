"""CUDA: the toolkit of the machine as @cuda, and cuda_library, sources compiled by its nvcc."""

load("@bazel_tools//tools/cpp:toolchain_utils.bzl", "find_cpp_toolchain")

# Machine code for Ampere and Hopper, and PTX that drivers compile for what comes after.
_ARCHITECTURES = [
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90,code=sm_90",
    "-gencode=arch=compute_90,code=compute_90",
]

_FOUND = """
cc_library(
    name = "cudart",
    hdrs = glob(["include/**"]),
    includes = ["include"],
    linkopts = ["-L{root}/lib64", "-lcudart_static", "-lpthread", "-ldl", "-lrt"],
    visibility = ["//visibility:public"],
)
cc_library(
    name = "cublas_lt",
    linkopts = ["-L{root}/lib64", "-Wl,-rpath,{root}/lib64", "-lcublasLt"],
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
    objects = []
    for src in ctx.files.srcs:
        object_file = ctx.actions.declare_file("_objs/%s/%s.pic.o" % (ctx.label.name, src.basename))
        args = ctx.actions.args()
        args.add_all(["-x", "cu", "-c", src, "-o", object_file, "-std=c++17", "-O3", "-DNDEBUG"])
        args.add_all(["-ccbin", cc.compiler_executable, "-Xcompiler", "-fPIC,-Wall,-ffp-contract=off"])

        # The kernels say fmaf() where they mean one rounding. -objtemp: names that do not clash.
        args.add_all(["-fmad=false", "-lineinfo", "-objtemp", "--expt-relaxed-constexpr"])
        args.add_all(["-Xptxas", "-v"] if ctx.attr.report else [])
        args.add_all(_ARCHITECTURES)
        args.add("-I.")
        args.add_all(context.defines, format_each = "-D%s")
        args.add_all(context.includes, format_each = "-I%s")
        args.add_all(context.system_includes, before_each = "-isystem")
        args.add_all(context.quote_includes, before_each = "-I")
        ctx.actions.run(
            executable = ctx.attr.nvcc,
            arguments = [args],
            inputs = depset([src] + ctx.files.hdrs, transitive = [context.headers, cc.all_files]),
            outputs = [object_file],
            mnemonic = "CudaCompile",
            progress_message = "Compiling %s with nvcc" % src.short_path,
            use_default_shell_env = True,
        )
        objects.append(object_file)
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
        cc_common.merge_cc_infos(cc_infos = [own, deps]),
    ]

cuda_library = rule(
    implementation = _cuda_library_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".cu"]),
        "hdrs": attr.label_list(allow_files = [".h", ".cuh"]),
        "deps": attr.label_list(providers = [CcInfo]),
        "nvcc": attr.string(mandatory = True),
        "report": attr.bool(doc = "Print registers, spills and shared memory of every kernel."),
        "_cc_toolchain": attr.label(default = "@bazel_tools//tools/cpp:current_cc_toolchain"),
    },
    fragments = ["cpp"],
    toolchains = ["@bazel_tools//tools/cpp:toolchain_type"],
)
