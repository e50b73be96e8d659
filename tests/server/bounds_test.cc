// The contract's comments say the ranges that are checked.
#include "models/bounds.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "server/generation/request_rules.h"

namespace packrat {
namespace {

// The line of a field of this message, with the comment on it and on the lines below.
std::string FieldIn(const std::string& message, const std::string& field) {
  std::ifstream file("proto/packrat/v1/inference.proto");
  std::string line, text;
  bool inside = false;
  while (std::getline(file, line)) {
    if (absl::StartsWith(line, "message "))
      inside = line == absl::StrCat("message ", message, " {");
    if (!inside) continue;
    const size_t comment = line.find("//");
    const bool declares = line.substr(0, comment).find('=') != std::string::npos;
    if (declares) {
      if (!text.empty()) return text;
      if (!absl::StrContains(line, absl::StrCat(" ", field, " = "))) continue;
    }
    if (declares || !text.empty()) absl::StrAppend(&text, line, "\n");
  }
  return text;
}

TEST(Bounds, TheContractSaysThem) {
  const struct {
    const char* message;
    const char* field;
    std::string words;
  } kCases[] = {
      {"SamplingParams", "temperature", bounds::kTemperature.Range()},
      {"SamplingParams", "top_p", bounds::kTopP.Range()},
      {"SamplingParams", "min_p", bounds::kMinP.Range()},
      {"SamplingParams", "repetition_penalty", bounds::kRepetitionPenalty.Range()},
      {"SamplingParams", "presence_penalty", bounds::kPresencePenalty.Range()},
      {"SamplingParams", "frequency_penalty", bounds::kFrequencyPenalty.Range()},
      {"SamplingParams", "logit_bias", absl::StrCat("At most ", bounds::kLogitBias.high)},
      {"SamplingParams", "num_logprobs", bounds::kNumLogprobs.Range()},
      {"LogitBias", "bias", bounds::kBias.Range()},
      {"StopParams", "strings",
       absl::StrCat("At most ", bounds::kStopStrings.high, ", each ", bounds::kStopStringBytes.low,
                    " to ", bounds::kStopStringBytes.high, " bytes")},
      {"StopParams", "token_ids", absl::StrCat("At most ", bounds::kStopIds.high)},
      {"SolverParams", "cg_tolerance", bounds::kCgTolerance.Range()},
      {"SolverParams", "cg_max_steps", bounds::kCgMaxSteps.Range()},
      {"GenerateRequest", "priority", bounds::kPriority.Range()},
      {"GenerateRequest", "num_choices", bounds::kNumChoices.Range()},
      {"ScoreRequest", "num_logprobs", bounds::kNumLogprobs.Range()},
      {"ScoreRequest", "priority", bounds::kPriority.Range()},
      {"ScoreRequest", "parse_special", absl::StrCat("At most ", bounds::kCandidates.high)},
      {"ScoreRequest", "parse_special", absl::StrCat(kMaxScoreTokens, " tokens at most")},
      {"GenerateRequest", "cache_salt", absl::StrCat("At most ", bounds::kCacheSalt.high)},
  };
  for (const auto& c : kCases) {
    EXPECT_TRUE(absl::StrContains(FieldIn(c.message, c.field), c.words))
        << c.field << " should say: " << c.words << "\nbut says: " << FieldIn(c.message, c.field);
  }
}

TEST(Bounds, ReadAsPeopleWriteThem) {
  EXPECT_EQ(bounds::kTopP.Range(), "(0, 1]");
  EXPECT_EQ(bounds::kMinP.Range(), "[0, 1)");
  EXPECT_EQ(bounds::kCgTolerance.Range(), "[1e-7, 0.1]");
  EXPECT_EQ(bounds::kStopIds.Check("x", 257).message(), "x has 257 ids; range [0, 256]");
  EXPECT_EQ(bounds::kTemperature.Check("x", 1e30).message(), "x is 1e+30; range [0, 100]");
  EXPECT_EQ(bounds::kTopK.UpTo(7).Check("x", 8, " (why)").message(), "x is 8; range [0, 7] (why)");
}

}  // namespace
}  // namespace packrat
