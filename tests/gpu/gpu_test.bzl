"""gpu_test: one source, tested against the emulation everywhere and against CUDA where it is."""

load("@cuda//:info.bzl", "CUDA_FOUND")

def gpu_test(name, emulated, cuda, srcs = None, deps = [], emulated_tags = [], races = [], quick_races = None, **kwargs):
    """Makes NAME_emulated, NAME_device unless cuda is None, and NAME_races if there are such libraries.

    NAME_quick_races is a part of NAME_races.

    Args:
      name: also of the source, unless srcs are given.
      emulated: libraries of code compiled for the emulation.
      cuda: their counterparts compiled for CUDA.
      srcs: sources.
      deps: of both.
      emulated_tags: of NAME_emulated.
      races: the libraries of `emulated` as the detector of races needs them.
      quick_races: the cases of NAME_quick_races, if there is to be one.
      **kwargs: passed on to both tests.
    """
    srcs = srcs or [name + ".cc"]
    native.cc_test(
        name = name + "_emulated",
        srcs = srcs,
        copts = ["-DPACKRAT_EMULATED", "-DPACKRAT_GPU", "-O2"],
        tags = emulated_tags,
        deps = deps + emulated + ["//tests/emulation", "@gtest"],
        **kwargs
    )
    if races:
        native.cc_test(
            name = name + "_races",
            srcs = srcs,
            copts = ["-DPACKRAT_EMULATED", "-DPACKRAT_RACES", "-DPACKRAT_GPU", "-O2"],
            # Run by name, as //tests/emulation:races.
            tags = ["manual", "no_sanitizer"],
            visibility = ["//tests/emulation:__pkg__"],
            deps = deps + races + ["//tests/emulation", "@gtest"],
            **kwargs
        )
    if quick_races:
        native.sh_test(
            name = name + "_quick_races",
            srcs = ["//tests/gpu:cases.sh"],
            args = ["$(location :%s_races)" % name] + quick_races,
            data = [":%s_races" % name],
            tags = ["manual", "no_sanitizer"],
            visibility = ["//tests/emulation:__pkg__"],
        )
    if cuda == None:
        return
    native.cc_test(
        name = name + "_device",
        # A shared library of models/gpu would not find CUDA's runtime, which is linked statically.
        linkstatic = True,
        srcs = srcs,
        copts = ["-DPACKRAT_GPU"],
        tags = ["cuda"] if CUDA_FOUND else ["manual"],
        deps = deps + cuda + ["@cuda//:cudart", "@gtest"],
        **kwargs
    )
