// RAT+ with every dial that the authors' code was asked for, all over one set of weights: its
// logits in every cut, and the memory that it takes.
#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <string>

#include "kernels/cpu_target.h"
#include "models/cpu_model.h"
#include "models/state_layout.h"
#include "tests/models/golden.h"
#include "tests/models/mixed_dials.h"
#include "tests/models/model_files.h"

namespace packrat {
namespace {

struct Dial {
  const char* name;
  int dilation, window, sinks;
};

class RatPlusDialTest : public testing::TestWithParam<Dial> {
 protected:
  RatPlusDialTest() : files_("rat_plus") {
    const Dial& dial = GetParam();
    files_.ReplaceInConfig("[1, 16, 4]", std::to_string(dial.dilation));
    files_.ReplaceInConfig("[0, 8, 0]", std::to_string(dial.window));
    files_.ReplaceInConfig("[0, 4, 2]", std::to_string(dial.sinks));
    files_.Write();
  }
  ~RatPlusDialTest() override { EXPECT_TRUE(SetCpuTarget("auto").ok()); }

  ModelFiles files_;
};

TEST_P(RatPlusDialTest, MeetsTheReferenceAndEveryWayGivesTheSameBits) {
  const Golden golden =
      ReadGolden("rat_plus", std::string("expected_") + GetParam().name + ".safetensors");
  for (const std::string& target : SupportedCpuTargets()) {
    SCOPED_TRACE(target);
    ASSERT_TRUE(SetCpuTarget(target).ok());
    ModelOptions options;
    options.max_batch_tokens = options.max_logit_rows = 1024;
    options.threads = 2;
    auto model = LoadCpuModel(files_.dir().path(), options);
    ASSERT_TRUE(model.ok()) << model.status();
    const auto whole = Feed(model->get(), golden, false, [] { return 1000; });
    EXPECT_LT(RelativeError(whole, golden.logits), 5e-6);
    EXPECT_TRUE(SameBits(whole, Feed(model->get(), golden, false, [] { return 1; })));
    std::mt19937 random(7);
    const auto any = [&] { return 1 + static_cast<int>(random() % 40); };
    EXPECT_TRUE(SameBits(whole, Feed(model->get(), golden, true, any)));
    EXPECT_TRUE(SameBits(whole, Feed(model->get(), golden, true, [&] { return 1 + any() % 4; })));
  }
}

// The authors' formula for the entries of a text's cache.
int64_t Entries(const Dial& dial, int64_t tokens) {
  if (dial.dilation == 1 || tokens <= dial.sinks + dial.window) return tokens;
  if (dial.dilation < 0) return dial.sinks + dial.window;
  return dial.sinks + dial.window + (tokens - dial.window) / dial.dilation -
         dial.sinks / dial.dilation;
}

TEST_P(RatPlusDialTest, TakesWhatTheFormulaSays) {
  const Dial& dial = GetParam();
  const auto config = LoadModelConfig(files_.dir().path());
  ASSERT_TRUE(config.ok()) << config.status();
  const StateLayout layout(*config);
  constexpr int64_t kEntry = 2 * 64 * 4, kRunning = 2 * 64 * 4;  // Bytes of a layer: width 64.
  const int64_t fixed = dial.dilation == 1 ? 0 : dial.sinks + dial.window;
  for (int tokens = 0; tokens <= 200; ++tokens) {
    int64_t entries = std::max(fixed, Entries(dial, tokens));
    if (dial.dilation == 1) entries = (entries + 15) / 16 * 16;  // Whole pages.
    EXPECT_EQ(static_cast<int64_t>(layout.SequenceBytes(tokens)), 3 * (kRunning + entries * kEntry))
        << tokens;
  }
}

INSTANTIATE_TEST_SUITE_P(Dials, RatPlusDialTest,
                         testing::Values(Dial{"dense", 1, 0, 0}, Dial{"d4", 4, 0, 0},
                                         Dial{"d16", 16, 0, 0}, Dial{"d16_w8", 16, 8, 0},
                                         Dial{"d16_w8_i4", 16, 8, 4}, Dial{"d4_w5_i6", 4, 5, 6},
                                         Dial{"window12_i4", -1, 12, 4}),
                         [](const auto& info) { return info.param.name; });

// The dial that a user chooses: taken where the weights know it, or by name; another model's state.
TEST(RatPlusChoice, IsTakenWhereTheWeightsKnowIt) {
  ModelFiles files("rat_plus");
  files.ReplaceInConfig("[1, 16, 4]", "16");
  files.ReplaceInConfig("[0, 8, 0]", "8");
  files.ReplaceInConfig("[0, 4, 2]", "4");
  const auto fingerprint = [&](const char* dial, bool unadapted) -> absl::StatusOr<std::string> {
    files.Write();
    ModelOptions options;
    options.threads = 1;
    options.choices.rat_plus_unadapted = unadapted;
    if (*dial != '\0') {
      const auto parsed = ParseRatPlusDial(dial);
      EXPECT_TRUE(parsed.ok()) << parsed.status();
      options.choices.rat_plus_dials = {*parsed};
    }
    auto model = LoadCpuModel(files.dir().path(), options);
    return model.ok() ? absl::StatusOr<std::string>((*model)->fingerprint()) : model.status();
  };
  const auto own = fingerprint("", false);
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_EQ(*fingerprint("16,8,4", false), *own);
  const absl::Status refused = fingerprint("16,9,4", false).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(refused.message(),
            "rat_plus_dial: is 16,9,4; the weights of layer 0 were trained for 16,8,4; "
            "rat_plus_unadapted takes others");
  EXPECT_FALSE(fingerprint("1", false).ok());
  EXPECT_NE(*fingerprint("16,9,4", true), *own);
  const auto dense = fingerprint("1", true);
  EXPECT_NE(*dense, *own);
  EXPECT_EQ(*fingerprint("1,5,5", true), *dense);  // All is seen either way.
  files.ReplaceInConfig("\"joint_train\": false", "\"joint_train\": true");
  EXPECT_EQ(*fingerprint("1", false), *dense);
  EXPECT_FALSE(fingerprint("4", false).ok());
}

// Each layer may have its own, which one of these weights were trained for.
TEST(RatPlusChoice, MayBeOfEachLayer) {
  const auto load = [](const char* dial, bool unadapted) {
    ModelOptions options;
    options.threads = 1;
    options.choices.rat_plus_unadapted = unadapted;
    options.choices.rat_plus_dials = {*ParseRatPlusDial(dial)};
    return LoadCpuModel("tests/golden/rat_plus", options);
  };
  const auto own = *LoadCpuModel("tests/golden/rat_plus", {});
  EXPECT_EQ((*load("1:16:4,0:8:0,0:4:2", false))->fingerprint(), own->fingerprint());
  EXPECT_EQ(load("1:16:4,0:8:0,0:4:3", false).status().message(),
            "rat_plus_dial: is 4,0,3; the weights of layer 2 were trained for 4,0,2; "
            "rat_plus_unadapted takes others");
  const auto other = load("1:16:4,0:8:0,0:4:3", true);
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_NE((*other)->fingerprint(), own->fingerprint());
  EXPECT_EQ((*other)->config().dials, std::vector<std::string>{"1:16:4,0:8:0,0:4:3"});
  EXPECT_EQ(*FindDial((*other)->config().dials, "1:16:4,5:8:0,0:4:3"), 0);  // At 1 all is seen.
  EXPECT_EQ(load("1:16,0,0", true).status().message(),
            "rat_plus_dial: is 1:16,0,0, of 2 layers; the model has 3 of RAT+");
  for (const char* bad : {"", ":", "1:", "1:0:4", "1:16:4,0:8", "1,2,3,4", "1:x"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseRatPlusDial(bad).status())) << bad;
  }
  EXPECT_EQ(RatPlusDialText(*ParseRatPlusDial("4:4:4,1:2:1")), "4,1:2:1,0");
}

TEST(RatPlusChoice, NeedsSuchLayers) {
  ModelOptions options;
  options.choices.rat_plus_dials = {RatPlusDial{16, 0, 0}};
  EXPECT_EQ(LoadCpuModel("tests/golden/rat", options).status().message(),
            "rat_plus_dial: is 16,0,0; the model has no layers of RAT+");
}

TEST(RatPlusDials, MixedInABatchHaveTheBitsOfEachAlone) {
  ExpectDialsApart([](const ModelChoices& choices) {
    ModelOptions options;
    options.max_batch_tokens = options.max_logit_rows = 256;
    options.threads = 2;
    options.choices = choices;
    auto model = LoadCpuModel("tests/golden/rat_plus", options);
    EXPECT_TRUE(model.ok()) << model.status();
    return std::move(*model);
  });
}

// What a request may name.
TEST(RatPlusDials, AreFoundByName) {
  auto config = LoadModelConfig("tests/golden/rat_plus");
  ASSERT_TRUE(config.ok()) << config.status();
  ModelChoices choices;
  choices.rat_plus_unadapted = true;
  choices.rat_plus_dials = {{}, RatPlusDial{16, 8, 4}, RatPlusDial{1, 3, 3}};
  ASSERT_TRUE(Choose(choices, &*config).ok());
  EXPECT_EQ(config->dials, (std::vector<std::string>{"own", "16,8,4", "1,3,3"}));
  EXPECT_EQ(*FindDial(config->dials, ""), 0);
  EXPECT_EQ(*FindDial(config->dials, "own"), 0);
  EXPECT_EQ(*FindDial(config->dials, "16,8,4"), 1);
  EXPECT_EQ(*FindDial(config->dials, "1"), 2);  // All is seen either way.
  EXPECT_EQ(FindDial(config->dials, "16").status().message(),
            "is \"16\"; this server has own and 16,8,4 and 1,3,3");
  EXPECT_TRUE(absl::IsFailedPrecondition(FindDial(config->dials, "16").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(FindDial(config->dials, "x").status()));
  choices.rat_plus_dials.emplace_back(RatPlusDial{1, 0, 0});
  auto again = LoadModelConfig("tests/golden/rat_plus");
  EXPECT_EQ(Choose(choices, &*again).message(), "rat_plus_dial: names 1,3,3 twice");
  const auto other = LoadModelConfig("tests/golden/rat");
  EXPECT_EQ(FindDial(other->dials, "1").status().message(),
            "is \"1\"; the model has no layers of RAT+");
}

}  // namespace
}  // namespace packrat
