// What a step costs by what is in it: steps over a grid of decoding texts, prompt tokens and
// context, the prices that fit them (runtime/step_model.h), and how well.
#ifndef PACKRAT_TESTS_BENCH_STEP_BENCH_H_
#define PACKRAT_TESTS_BENCH_STEP_BENCH_H_

#include <string>

#include "models/model.h"
#include "tests/bench/machine.h"

namespace packrat {

void BenchSteps(const std::string& model_dir, int threads, ActivationType activations,
                const MachineLimits& limits);

}  // namespace packrat

#endif  // PACKRAT_TESTS_BENCH_STEP_BENCH_H_
