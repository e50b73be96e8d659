#include "tests/bench/step_bench.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "models/cpu_model.h"
#include "models/state_layout.h"
#include "runtime/step_model.h"
#include "tests/bench/model_bench.h"
#include "tests/bench/random_texts.h"
#include "tests/bench/report.h"

namespace packrat {
namespace {

constexpr int kDecoding[] = {0, 1, 8, 64};
constexpr int kPrompt[] = {0, 32, 128, 512};
constexpr int kContext[] = {64, 512, 2048};
// Texts of the longest context: to compute it for all takes longer than the rest.
constexpr int kLongTexts = 8;
constexpr int kRounds = 5;

struct TimedStep {
  int decoding, prompt, context;
  std::vector<double> seconds = {};

  StepContents Contents() const {
    StepContents contents;
    for (int i = 0; i < decoding; ++i) contents.Add(1, context, 1);
    if (prompt > 0) contents.Add(prompt, context, 0);
    return contents;
  }
};

// Texts that are fed without logits, and steps of them as an engine asks for them.
class EngineSteps {
 public:
  EngineSteps(LanguageModel* model, int count, int max_tokens)
      : model_(model), texts_(model, count, max_tokens) {}

  // Seconds. The text `prompt_text` stands for the prompt.
  double Run(const TimedStep& step, int prompt_text) {
    texts_.Clear();
    SamplingRow greedy;
    greedy.num_ids = model_->config().vocab_size;
    const std::vector<SamplingRow> rows(step.decoding, greedy);
    for (int text = 0; text < step.decoding; ++text) texts_.Add(text, 1, step.context, 1);
    if (step.prompt > 0) texts_.Add(prompt_text, step.prompt, step.context, 0);
    return Compute(rows);
  }
  // Takes the first `count` texts from `from` to `to` tokens.
  void Feed(int count, int from, int to) {
    for (int text = 0; text < count; ++text) {
      for (int done = from; done < to; done += 512) {
        texts_.Clear();
        texts_.Add(text, std::min(512, to - done), done, 0);
        Compute({});
      }
    }
  }

 private:
  double Compute(absl::Span<const SamplingRow> rows) {
    const Batch batch = texts_.batch();
    stats_.resize(batch.num_spans);
    sampled_.resize(rows.size());
    const double start = Now();
    PACKRAT_CHECK(model_->Start(batch, texts_.memory(), rows).ok());
    PACKRAT_CHECK(model_->Wait(stats_.data(), sampled_.data()).ok());
    return Now() - start;
  }

  LanguageModel* const model_;
  RandomTexts texts_;
  std::vector<SpanStats> stats_;
  std::vector<SampledToken> sampled_;
};

std::vector<TimedStep> Measure(LanguageModel* model) {
  const int most = *std::max_element(std::begin(kDecoding), std::end(kDecoding));
  const int longest = std::min(model->config().max_context, kContext[2] + 512);
  PACKRAT_CHECK(longest >= kContext[0] + 512, "the model takes too short texts") << longest;
  EngineSteps texts(model, most + 1, longest);
  std::vector<TimedStep> all;
  int fed = 0;
  for (int context : kContext) {
    context = std::min(context, longest - 512);
    const int decoding = context > kContext[1] ? kLongTexts : most;
    texts.Feed(decoding + 1, fed, context);
    fed = context;
    std::vector<TimedStep> steps;
    for (int rows : kDecoding) {
      for (int prompt : kPrompt) {
        if (rows + prompt > 0 && rows <= decoding) steps.push_back({rows, prompt, context});
      }
    }
    for (int round = -1; round < kRounds; ++round) {  // The first one warms.
      for (TimedStep& step : steps) {
        const double seconds = texts.Run(step, decoding);
        if (round >= 0) step.seconds.push_back(seconds);
      }
    }
    all.insert(all.end(), steps.begin(), steps.end());
  }
  return all;
}

}  // namespace

void BenchSteps(const std::string& model_dir, int threads, ActivationType activations,
                const MachineLimits& limits) {
  ModelOptions options;
  options.activations = activations;
  options.threads = threads;
  options.max_batch_tokens = 1024;
  options.max_logit_rows = 64;
  auto model = LoadCpuModel(model_dir, options);
  PACKRAT_CHECK(model.ok()) << model.status().ToString();
  const std::vector<TimedStep> steps = Measure(model->get());
  StepModel fit(0);
  for (const TimedStep& step : steps) fit.Observe(step.Contents(), Median(step.seconds));
  fit.Fit(100000);

  std::vector<double> errors;
  for (const TimedStep& step : steps) {
    const double seconds = Median(step.seconds), foretold = fit.Seconds(step.Contents());
    errors.push_back(std::abs(foretold / seconds - 1));
    Row(absl::StrCat("step: ", step.decoding, " decode, ", step.prompt, " of a prompt, context ",
                     step.context),
        1e3 * seconds, "ms", 1e3 * foretold, "limit: the fit");
  }
  const double error = Median(errors), worst = *std::max_element(errors.begin(), errors.end());
  Row("step: error of the fit, median", 100 * error, "%", 0,
      absl::StrCat("the largest ", 100 * worst));
  const auto& [step, token, row, read, pair] = fit.prices();
  const auto weights = static_cast<double>((*model)->weight_bytes());
  const double peak = PeakOf(**model, limits);
  Row("step: price of a step", 1e3 * step, "ms", 1e3 * weights / limits.read_bytes_per_second,
      "limit: to read the weights");
  Row("step: price of a token", 1e6 * token, "us", 1e6 * FlopsPerToken(**model, false) / peak,
      "limit: its products at the matrix peak");
  Row("step: price of a row of logits", 1e6 * row, "us");
  const StateLayout& layout = (*model)->state_layout();
  const double entry =
      static_cast<double>(layout.SequenceBytes(2048) - layout.SequenceBytes(1024)) / 1024;
  Row("step: price of an entry that a decoding token reads", 1e9 * read, "ns",
      1e9 * entry / limits.read_bytes_per_second, "limit: to read its part of the state");
  Row("step: price of a prompt's token and an entry", 1e9 * pair, "ns");
}

}  // namespace packrat
