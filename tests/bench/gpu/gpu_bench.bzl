"""gpu_bench: one program, for CUDA and against the emulation of tests/emulation."""

load("@cuda//:info.bzl", "CUDA_FOUND")

def gpu_bench(name, srcs, deps):
    """Makes NAME and NAME_emulated.

    Args:
      name: of the program.
      srcs: sources.
      deps: of both.
    """
    native.cc_binary(
        name = name,
        srcs = srcs,
        tags = ["cuda"] if CUDA_FOUND else ["manual"],
        deps = deps + [
            "//kernels:gpu",
            "//models/gpu",
            "@cuda//:cudart",
        ],
    )
    native.cc_binary(
        name = name + "_emulated",
        srcs = srcs,
        copts = ["-DPACKRAT_EMULATED", "-O2"],
        deps = deps + [
            "//tests/emulation",
            "//tests/emulation:kernels",
            "//tests/emulation:model",
        ],
    )
