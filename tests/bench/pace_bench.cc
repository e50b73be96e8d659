// A model that steps when it is told to, so that several builds can be compared in alternation
// (tests/bench/pairs.py): reads "decode N" and "prompt N" from standard input, and prints the
// seconds of a step of N texts (the mean of sixteen, one block), or of a prompt of N tokens.
//
//   pace_bench MODEL_DIR
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "models/cpu_model.h"
#include "models/owned_state.h"

namespace packrat {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// The last text is that of prompts.
constexpr int kTexts = 33, kContext = 32, kLongest = 1024, kPiece = 512;

class Pace {
 public:
  explicit Pace(const std::string& dir) {
    ModelOptions options;
    options.max_batch_tokens = kPiece;
    options.max_logit_rows = kTexts;
    options.activations = ActivationType::kAuto;
    auto model = LoadCpuModel(dir, options);
    PACKRAT_CHECK(model.ok()) << model.status().ToString();
    model_ = std::move(*model);
    state_ = *OwnedState::Create(model_.get(), kTexts, kLongest);
    position_.resize(kTexts, 0);
    for (int fed = 0; fed < kContext; fed += 16) Feed(0, kTexts - 1, 16);
  }

  double Decode(int texts) {
    PACKRAT_CHECK(texts > 0 && texts < kTexts) << texts;
    const double start = Now();
    for (int i = 0; i < 16; ++i) Feed(0, texts, 1);
    const double seconds = Now() - start;
    // The next go is at the same context.
    for (int text = 0; text < texts; ++text) position_[text] -= 16;
    return seconds / 16;
  }
  double Prompt(int tokens) {
    PACKRAT_CHECK(tokens > 0 && tokens <= kLongest) << tokens;
    position_[kTexts - 1] = 0;
    const double start = Now();
    for (int done = 0; done < tokens; done += kPiece)
      Feed(kTexts - 1, 1, std::min(kPiece, tokens - done));
    return Now() - start;
  }

 private:
  void Feed(int first, int count, int tokens) {
    ids_.clear();
    spans_.clear();
    for (int s = first; s < first + count; ++s) {
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
  }

  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<OwnedState> state_;
  std::vector<int> position_;
  uint64_t random_ = 1;
  std::vector<int32_t> ids_;
  std::vector<Span> spans_;
  std::vector<SpanStats> stats_;
};

}  // namespace
}  // namespace packrat

int main(int argc, char** argv) {
  PACKRAT_CHECK(argc == 2) << "pace_bench MODEL_DIR";
  packrat::Pace pace(argv[1]);
  std::printf("ready\n");
  std::fflush(stdout);
  char what[32];
  int n;
  while (std::scanf("%31s %d", what, &n) == 2) {
    const double seconds = std::strcmp(what, "decode") == 0 ? pace.Decode(n) : pace.Prompt(n);
    std::printf("%.9f\n", seconds);
    std::fflush(stdout);
  }
  return 0;
}
