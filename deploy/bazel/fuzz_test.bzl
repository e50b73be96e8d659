"""fuzz_test: one LLVMFuzzerTestOneInput, run in two ways.

- In a normal build (any compiler, any sanitizer) the test runs every file of the corpus once.
- With --config=fuzz it is libFuzzer with AddressSanitizer, for `seconds` from the same corpus;
  inputs that fail are kept among the test's outputs.
"""

def fuzz_test(name, srcs, corpus, deps = [], seconds = 20, max_len = 65536, data = [], **kwargs):
    """Makes a cc_test with the tag "fuzz".

    Args:
      name: name of the test.
      srcs: sources, one of which defines LLVMFuzzerTestOneInput.
      corpus: files, at least one (use glob).
      deps: as in cc_test.
      seconds: how long --config=fuzz searches.
      max_len: largest input in bytes that libFuzzer tries.
      data: further files to find at run time.
      **kwargs: passed to cc_test.
    """
    if not corpus:
        fail("%s: the corpus is empty" % name)
    files = ["$(location %s)" % f for f in corpus]
    native.cc_test(
        name = name,
        srcs = srcs,
        args = select({
            "//deploy/bazel:fuzz": [
                "-max_total_time=%d" % seconds,
                "-max_len=%d" % max_len,
                "-timeout=10",
                "-rss_limit_mb=1024",
                "-print_final_stats=1",
                "-seed_inputs=" + ",".join(files),
            ],
            "//conditions:default": files,
        }),
        data = data + corpus,
        linkopts = select({
            "//deploy/bazel:fuzz": ["-fsanitize=fuzzer"],
            "//conditions:default": [],
        }),
        tags = ["fuzz"],
        deps = deps + select({
            "//deploy/bazel:fuzz": [],
            "//conditions:default": ["//tests/tools:replay_corpus"],
        }),
        **kwargs
    )
