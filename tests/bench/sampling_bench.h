// What drawing a token costs.
#ifndef PACKRAT_TESTS_BENCH_SAMPLING_BENCH_H_
#define PACKRAT_TESTS_BENCH_SAMPLING_BENCH_H_

namespace packrat {

// Rows of 151,936 logits: one, and eight of which `threads` threads take their share.
void BenchSampling(int threads);

}  // namespace packrat

#endif  // PACKRAT_TESTS_BENCH_SAMPLING_BENCH_H_
