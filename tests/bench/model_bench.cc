#include "tests/bench/model_bench.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cpu_target.h"
#include "models/cpu_model.h"
#include "models/owned_state.h"
#include "tests/bench/random_model.h"
#include "tests/bench/report.h"

namespace packrat {
namespace {

std::unique_ptr<LanguageModel> Load(const std::string& dir, int threads, ActivationType activations,
                                    int tokens) {
  ModelOptions options;
  options.activations = activations;
  options.threads = threads;
  options.max_batch_tokens = tokens;
  options.max_logit_rows = 64;
  auto model = LoadCpuModel(dir, options);
  PACKRAT_CHECK(model.ok()) << model.status().ToString();
  return std::move(*model);
}

// A number of sequences that can be fed and decoded together.
class Sequences {
 public:
  Sequences(LanguageModel* model, int count, int max_tokens)
      : model_(model), state_(*OwnedState::Create(model, count, max_tokens)), position_(count, 0) {}

  // Feeds `tokens` tokens to each of the first `count` sequences, all in one batch.
  SpanStats Feed(int count, int tokens) {
    ids_.clear();
    spans_.clear();
    for (int s = 0; s < count; ++s) {
      spans_.push_back(state_->SpanFor(s, static_cast<int>(ids_.size()), tokens, position_[s]));
      spans_.back().num_logits = 1;
      for (int t = 0; t < tokens; ++t) {
        random_ = random_ * 6364136223846793005u + 1442695040888963407u;
        ids_.push_back(static_cast<int32_t>((random_ >> 33) % model_->config().vocab_size));
      }
      position_[s] += tokens;
    }
    stats_.resize(spans_.size());
    const auto logits = model_->Forward({ids_.data(), static_cast<int>(ids_.size()), spans_.data(),
                                         static_cast<int>(spans_.size())},
                                        state_->memory(), stats_.data());
    PACKRAT_CHECK(logits.ok() && stats_[0].finite);
    return stats_[0];
  }
  void MoveTo(int position) {  // Pretends: what lies before is whatever the memory holds.
    for (int& p : position_) p = position;
  }

 private:
  LanguageModel* model_;
  std::unique_ptr<OwnedState> state_;
  std::vector<int> position_;
  uint64_t random_ = 1;
  std::vector<int32_t> ids_;
  std::vector<Span> spans_;
  std::vector<SpanStats> stats_;
};

// What binds these rows is the bandwidth or the peak of products, be they float32 or bfloat16.
void BenchRates(LanguageModel* model, const std::vector<int>& batches,
                const std::vector<int>& prompts, int threads, double peak,
                const MachineLimits& limits) {
  const auto bytes = static_cast<double>(model->weight_bytes());
  {
    Sequences one(model, 1, 1024);
    one.Feed(1, 256);
    // Other machines on the same host make the bandwidth come and go within seconds, so each step
    // is held against a reading made just before it.
    ReadLoop read(threads);
    const double moved = bytes + static_cast<double>(model->state_layout().SequenceBytes(272));
    SpanStats stats;
    std::vector<double> seconds, shares;
    for (int i = 0; i < 33; ++i) {
      const double limit = std::max(read.BytesPerSecond(), limits.mbw);
      const double start = Now();
      stats = one.Feed(1, 1);
      seconds.push_back(Now() - start);
      shares.push_back(moved / seconds.back() / limit);
    }
    const double rate = moved / Median(seconds);
    Row("decode batch 1", rate / 1e9, "GB/s", rate / Median(shares) / 1e9,
        absl::StrCat(1 / Median(seconds), " tokens/s; limit read between the steps",
                     stats.solver.solves == 0
                         ? ""
                         : absl::StrCat("; solver steps ", static_cast<double>(stats.solver.steps) /
                                                               stats.solver.solves)));
  }
  for (const int batch : batches) {
    Sequences many(model, batch, 1024);
    for (int fed = 0; fed < 256; fed += 512 / batch) many.Feed(batch, 512 / batch);
    const double seconds = MedianSeconds(33, [&] { many.Feed(batch, 1); });
    const double by_bytes = bytes / limits.read_bytes_per_second;
    const double by_flops = batch * FlopsPerToken(*model, true) / peak;
    Row(absl::StrCat("decode batch ", batch), batch / seconds, "tokens/s",
        batch / std::max(by_bytes, by_flops),
        by_flops > by_bytes ? "bound by the matrix peak" : "bound by bandwidth");
  }
  for (const int tokens : prompts) {
    Sequences one(model, 1, tokens + 1024);
    const double seconds = MedianSeconds(5, [&] {
      one.MoveTo(0);
      for (int done = 0; done < tokens; done += 512) one.Feed(1, 512);
    });
    Row(absl::StrCat("prompt of ", tokens), tokens * FlopsPerToken(*model, false) / seconds / 1e9,
        "GFLOP/s", peak / 1e9, absl::StrCat(tokens / seconds, " tokens/s"));
  }
}

double PeakOf(ActivationType activations, const MachineLimits& limits) {
  return activations != ActivationType::kFloat32 && CpuHasBFloat16()
             ? limits.bfloat16_flops_per_second
             : limits.flops_per_second;
}

}  // namespace

double FlopsPerToken(const LanguageModel& model, bool logits) {
  const double embedding = 2.0 * model.config().vocab_size * model.config().hidden_size;  // bf16
  const double weights = static_cast<double>(model.weight_bytes()) - (logits ? 0 : embedding);
  return weights;  // Two operations per parameter of two bytes.
}

void BenchModel(const std::string& dir, int threads, ActivationType activations,
                const MachineLimits& limits) {
  WriteRandomModel(dir + "/hybrid350m", Hybrid350M());
  const double start = Now();
  auto model = Load(dir + "/hybrid350m", threads, activations, 512);
  Row("load hybrid350m", Now() - start, "s", 0, absl::StrCat(model->weight_bytes() >> 20, " MiB"));
  BenchRates(model.get(), {16, 64}, {512, 2048}, threads, PeakOf(activations, limits), limits);
}

void BenchModelIn(const std::string& dir, int threads, ActivationType activations,
                  const MachineLimits& limits) {
  const auto model = Load(dir, threads, activations, 512);
  BenchRates(model.get(), {8, 32}, {2048}, threads, PeakOf(activations, limits), limits);
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
    auto model = Load(dir + "/context_" + type, threads, ActivationType::kFloat32, 512);
    Sequences one(model.get(), 1, 17408);
    double n = 0, sx = 0, sy = 0, sxx = 0, sxy = 0;
    int fed = 0;
    for (int context : {1024, 2048, 4096, 8192, 16384}) {
      for (; fed < context; fed += 512) {
        one.MoveTo(fed);
        one.Feed(1, 512);
      }
      const double seconds = MedianSeconds(33, [&] { one.Feed(1, 1); });
      fed = context;  // The measured tokens are written over.
      one.MoveTo(context);
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
