"""Suites that run over gRPC and over HTTP."""

def both_fronts_test(name, srcs, deps, grpc_only = [], **more):
    """Makes the test NAME, and NAME_over_http of the same objects: see test_server.h.

    Args:
      name: of the test over gRPC.
      srcs: of both.
      deps: of both.
      grpc_only: names of test cases that ask what gRPC alone has.
      **more: of both tests.
    """
    native.cc_library(
        name = name + "_cases",
        testonly = True,
        srcs = srcs,
        deps = deps,
        alwayslink = True,
    )
    native.cc_test(
        name = name,
        deps = [":%s_cases" % name],
        **more
    )
    native.cc_test(
        name = name + "_over_http",
        args = ["--gtest_filter=-" + ":".join(grpc_only)],
        env = {"PACKRAT_FRONT": "http"},
        deps = [":%s_cases" % name],
        **more
    )
