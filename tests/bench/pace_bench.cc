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

#include "kernels/check.h"
#include "models/cpu_model.h"
#include "tests/bench/random_texts.h"

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
    texts_ = std::make_unique<RandomTexts>(model_.get(), kTexts, kLongest);
    for (int fed = 0; fed < kContext; fed += 16) texts_->Feed(0, kTexts - 1, 16);
  }

  double Decode(int texts) {
    PACKRAT_CHECK(texts > 0 && texts < kTexts) << texts;
    const double start = Now();
    for (int i = 0; i < 16; ++i) texts_->Feed(0, texts, 1);
    const double seconds = Now() - start;
    // The next go is at the same context.
    for (int text = 0; text < texts; ++text) texts_->MoveTo(text, kContext);
    return seconds / 16;
  }
  double Prompt(int tokens) {
    PACKRAT_CHECK(tokens > 0 && tokens <= kLongest) << tokens;
    texts_->MoveTo(kTexts - 1, 0);
    const double start = Now();
    for (int done = 0; done < tokens; done += kPiece) {
      texts_->Feed(kTexts - 1, 1, std::min(kPiece, tokens - done));
    }
    return Now() - start;
  }

 private:
  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<RandomTexts> texts_;
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
