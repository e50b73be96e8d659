#include "tests/bench/model_bench.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/matmul.h"
#include "models/cpu_model.h"
#include "tests/bench/random_model.h"
#include "tests/bench/random_texts.h"
#include "tests/bench/report.h"

namespace packrat {
namespace {

std::unique_ptr<LanguageModel> Load(const std::string& dir, ModelOptions options) {
  options.max_batch_tokens = 512;
  options.max_logit_rows = 64;
  auto model = LoadCpuModel(dir, options);
  PACKRAT_CHECK(model.ok()) << model.status().ToString();
  return std::move(*model);
}

}  // namespace

double FlopsPerToken(const LanguageModel& model, bool logits) {
  const double embedding = 2.0 * model.config().vocab_size * model.config().hidden_size;  // bf16
  const double weights = static_cast<double>(model.weight_bytes()) - (logits ? 0 : embedding);
  return weights;  // Two operations per parameter of two bytes.
}

Arithmetic ArithmeticOf(const LanguageModel& model) {
  const std::string id = model.numerics_id();
  for (const Arithmetic arithmetic : {Arithmetic::kInt8, Arithmetic::kBFloat16}) {
    if (absl::StrContains(id, ArithmeticName(arithmetic))) return arithmetic;
  }
  return Arithmetic::kFloat32;
}

double PeakOf(const LanguageModel& model, const MachineLimits& limits) {
  const Arithmetic arithmetic = ArithmeticOf(model);
  if (arithmetic == Arithmetic::kInt8 && limits.byte_ops_per_second > 0) {
    return limits.byte_ops_per_second;
  }
  return arithmetic == Arithmetic::kBFloat16 ? limits.bfloat16_flops_per_second
                                             : limits.flops_per_second;
}

void BenchModel(const std::string& dir, const ModelOptions& options, const MachineLimits& limits) {
  WriteRandomModel(dir + "/hybrid350m", Hybrid350M());
  ModelOptions stored = options;
  stored.weights = WeightFormat::kStored;
  stored.output_weights.reset();
  const auto as_stored = Load(dir + "/hybrid350m", stored);
  const double all_flops = FlopsPerToken(*as_stored, true);
  const double prompt_flops = FlopsPerToken(*as_stored, false);
  const double start = Now();
  const auto model = Load(dir + "/hybrid350m", options);
  const double peak = PeakOf(*model, limits);
  Row("load hybrid350m", Now() - start, "s", 0, absl::StrCat(model->weight_bytes() >> 20, " MiB"));
  const auto bytes = static_cast<double>(model->weight_bytes());
  {
    RandomTexts one(model.get(), 1, 1024);
    one.Feed(0, 1, 256);
    // Other machines on the same host make the bandwidth come and go within seconds, so each step
    // is held against a reading made just before it.
    ReadLoop read(options.threads);
    const double moved = bytes + static_cast<double>(model->state_layout().SequenceBytes(272));
    SpanStats stats;
    std::vector<double> seconds, shares;
    for (int i = 0; i < 33; ++i) {
      const double limit = std::max(read.BytesPerSecond(), limits.mbw);
      const double start = Now();
      stats = one.Feed(0, 1, 1);
      seconds.push_back(Now() - start);
      shares.push_back(moved / seconds.back() / limit);
    }
    const double rate = moved / Median(seconds);
    Row("decode batch 1", rate / 1e9, "GB/s", rate / Median(shares) / 1e9,
        absl::StrCat(1 / Median(seconds), " tokens/s; limit read between the steps; solver steps ",
                     static_cast<double>(stats.solver.steps) / stats.solver.solves));
  }
  for (const int batch : {16, 64}) {
    RandomTexts many(model.get(), batch, 1024);
    for (int fed = 0; fed < 256; fed += 512 / batch) many.Feed(0, batch, 512 / batch);
    const double seconds = MedianSeconds(33, [&] { many.Feed(0, batch, 1); });
    const double by_bytes = bytes / limits.read_bytes_per_second;
    const double by_flops = batch * all_flops / peak;
    Row(absl::StrCat("decode batch ", batch), batch / seconds, "tokens/s",
        batch / std::max(by_bytes, by_flops),
        by_flops > by_bytes ? "bound by the matrix peak" : "bound by bandwidth");
  }
  for (int tokens : {512, 2048}) {
    RandomTexts one(model.get(), 1, tokens + 1024);
    // As above: each against the peak of a moment before.
    PeakLoop multiply(ArithmeticOf(*model), options.threads);
    std::vector<double> rates, shares;
    for (int run = 0; run < 6; ++run) {
      const double limit = multiply.OpsPerSecond();
      one.MoveTo(0, 0);
      const double start = Now();
      for (int done = 0; done < tokens; done += 512) one.Feed(0, 1, 512);
      if (run == 0) continue;
      rates.push_back(tokens / (Now() - start));
      shares.push_back(rates.back() * prompt_flops / limit);
    }
    const double rate = Median(rates) * prompt_flops;
    Row(absl::StrCat("prompt of ", tokens), rate / 1e9, "GFLOP/s", rate / Median(shares) / 1e9,
        absl::StrCat(Median(rates), " tokens/s; limit measured between the prompts"));
  }
}

void BenchContext(const std::string& dir, int threads) {
  // Small matrices, so that what grows with the context is seen beside what does not.
  double rat_slope = 0, full_slope = 0;
  for (const char* type : {"mesa", "rat", "attention"}) {
    RandomModelShape shape;
    shape.layer_types.assign(8, type);
    shape.kv_heads = shape.heads;  // A cache of the model's width for both, as in RAT's paper.
    shape.intermediate_size = 256;
    shape.vocab_size = 256;
    WriteRandomModel(dir + "/context_" + type, shape);
    ModelOptions options;
    options.threads = threads;
    auto model = Load(dir + "/context_" + type, options);
    RandomTexts one(model.get(), 1, 17408);
    double n = 0, sx = 0, sy = 0, sxx = 0, sxy = 0;
    int fed = 0;
    for (int context : {1024, 2048, 4096, 8192, 16384}) {
      for (; fed < context; fed += 512) {
        one.MoveTo(0, fed);
        one.Feed(0, 1, 512);
      }
      const double seconds = MedianSeconds(33, [&] { one.Feed(0, 1, 1); });
      fed = context;  // The measured tokens are written over.
      one.MoveTo(0, context);
      Row(absl::StrCat("time per token, ", type, " x 8, context ", context), seconds * 1e6, "us");
      n += 1, sx += context, sy += seconds, sxx += double(context) * context,
          sxy += context * seconds;
    }
    const double slope = (n * sxy - sx * sy) / (n * sxx - sx * sx);
    Row(absl::StrCat("slope, ", type), slope * 1e9, "ns per token of context");
    if (std::string(type) == "rat") rat_slope = slope;
    if (std::string(type) == "attention") full_slope = slope;
  }
  Row("slope of RAT / slope of attention", rat_slope / full_slope, "ratio", 0,
      absl::StrCat("target: at most 1.5/16 = ", 1.5 / 16));
}

}  // namespace packrat
