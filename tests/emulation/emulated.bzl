"""emulated_library: CUDA sources compiled for the CPU, against the headers of this folder."""

# Kernels' inner loops run one lane at a time: without -O2 the tests take minutes. The parameter is
# for AddressSanitizer, which would make a second stack for each fiber, at forty times the cost.
EMULATION_COPTS = ["-O2", "--param=asan-use-after-return=0"]

# For kernels that tell the detector of races (races.h) each of their loads and stores, with lines to
# name them. It is not ThreadSanitizer: that is linked only where linkopts say so.
RACE_COPTS = ["-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0", "-Wno-tsan", "-g1"]

def emulated_library(name, srcs, deps, copts = [], **kwargs):
    """A cc_library of CUDA sources.

    Args:
      name: of the library.
      srcs: labels of .cu files (and .cc files that call CUDA's runtime).
      deps: of the sources; the emulation is added.
      copts: of the sources, besides those that all have.
      **kwargs: passed on to cc_library.
    """
    wrapped = []
    for src in srcs:
        path = src.replace("//", "").replace(":", "/")
        out = name + "/" + path.replace("/", "_") + ".cc"
        native.genrule(
            name = out + "_wrapper",
            outs = [out],
            cmd = "echo '#include \"%s\"' > $@" % path,
        )
        wrapped.append(out)
    native.cc_library(
        name = name,
        srcs = wrapped,
        testonly = True,
        textual_hdrs = srcs,
        copts = EMULATION_COPTS + ["-Wno-unknown-pragmas"] + copts,
        deps = deps + ["//tests/emulation"],
        **kwargs
    )
