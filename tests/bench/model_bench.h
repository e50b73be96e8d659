// The model alone: decoding, prompts, and the time per token against the length of the context.
#ifndef PACKRAT_TESTS_BENCH_MODEL_BENCH_H_
#define PACKRAT_TESTS_BENCH_MODEL_BENCH_H_

#include <string>

#include "models/model.h"
#include "tests/bench/machine.h"

namespace packrat {

// `dir`: scratch folder for models of random weights; a gigabyte. Of `options` threads, activations
// and the formats of weights.
void BenchModel(const std::string& dir, const ModelOptions& options, const MachineLimits& limits);
void BenchContext(const std::string& dir, int threads);

// Operations of the matrix products for one token, of weights stored in bfloat16.
double FlopsPerToken(const LanguageModel& model, bool logits);
// What most of the model's products multiply in, and the operations a second of that.
Arithmetic ArithmeticOf(const LanguageModel& model);
double PeakOf(const LanguageModel& model, const MachineLimits& limits);

}  // namespace packrat

#endif  // PACKRAT_TESTS_BENCH_MODEL_BENCH_H_
