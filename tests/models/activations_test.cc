// Products that round their activations to bfloat16: the promise about bits, how near the logits
// stay, and who is refused.
#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu_target.h"
#include "models/cpu_model.h"
#include "tests/models/golden.h"
#include "tests/models/model_files.h"

namespace packrat {
namespace {

absl::StatusOr<std::unique_ptr<LanguageModel>> Load(const std::string& dir,
                                                    ActivationType activations, int threads = 1) {
  ModelOptions options;
  options.max_batch_tokens = options.max_logit_rows = 1024;
  options.threads = threads;
  options.activations = activations;
  return LoadCpuModel(dir, options);
}

// A rounding moves an activation, and so a term of a product, by at most 2^-8 of it. What that may
// do to the logits depends on the model, so it is asked: all terms are moved by so much, up or
// down, by moving the weights.
double EffectOfMovedWeights(const std::string& name, const Golden& golden,
                            const std::vector<float>& reference) {
  ModelFiles files(name);
  files.Narrow();
  files.Widen();
  if (name == "rat_plus") {  // Its tied head is stored twice, and both would move apart.
    files.tensors.erase(std::find_if(files.tensors.begin(), files.tensors.end(), [](const auto& t) {
      return t.name == "head.lm_head.weight";
    }));
  }
  std::mt19937 random(8);
  for (const TensorToWrite& tensor : files.tensors) {
    if (tensor.shape.size() != 2) continue;
    std::vector<uint8_t>& bytes = files.Bytes(tensor.name);
    for (size_t i = 0; i < bytes.size(); i += sizeof(float)) {
      float weight;
      std::memcpy(&weight, &bytes[i], sizeof weight);
      weight *= 1 + (random() % 2 == 0 ? 0x1p-8f : -0x1p-8f);
      std::memcpy(&bytes[i], &weight, sizeof weight);
    }
  }
  files.Write();
  const auto model = *Load(files.dir().path(), ActivationType::kFloat32);
  return RelativeError(Feed(model.get(), golden, false, [] { return 1000; }), reference);
}

class ActivationsTest : public testing::TestWithParam<std::string> {};

TEST_P(ActivationsTest, BFloat16GivesTheSameBitsInEveryWayAndStaysNear) {
  if (!CpuHasBFloat16()) GTEST_SKIP() << "this processor has no AVX512-BF16";
  const Golden golden = ReadGolden(GetParam());
  ModelFiles files(GetParam());
  files.Narrow();
  files.Write();
  const std::string dir = files.dir().path();
  const auto exact = *Load(dir, ActivationType::kFloat32);
  const auto one = *Load(dir, ActivationType::kBFloat16);
  const auto three = *Load(dir, ActivationType::kBFloat16, 3);
  const auto whole = Feed(one.get(), golden, false, [] { return 1000; });
  EXPECT_TRUE(SameBits(whole, Feed(one.get(), golden, false, [] { return 1; })));
  std::mt19937 random(7);
  const auto any = [&] { return 1 + static_cast<int>(random() % 40); };
  EXPECT_TRUE(SameBits(whole, Feed(one.get(), golden, false, any)));
  EXPECT_TRUE(SameBits(whole, Feed(three.get(), golden, true, any)));
  EXPECT_TRUE(SameBits(whole, Feed(three.get(), golden, true, [&] { return 1 + any() % 4; })));
  EXPECT_TRUE(SameBits(whole, Feed(three.get(), golden, true, [] { return 16; })));
  const auto reference = Feed(exact.get(), golden, false, [] { return 1000; });
  const double error = RelativeError(whole, reference);
  EXPECT_LE(error, EffectOfMovedWeights(GetParam(), golden, reference));
  EXPECT_GT(error, 0) << "were they rounded at all?";
  EXPECT_EQ(one->numerics_id(), exact->numerics_id() + "-bfloat16");
}

INSTANTIATE_TEST_SUITE_P(Cases, ActivationsTest, testing::ValuesIn(kGoldenCases),
                         [](const auto& info) { return info.param; });

bool Rounds(const std::string& dir, ActivationType activations) {
  const auto model = Load(dir, activations);
  EXPECT_TRUE(model.ok()) << model.status();
  return (*model)->numerics_id().find("-bfloat16") != std::string::npos;
}

TEST(Activations, AutoGoesByWeightsAndProcessor) {
  EXPECT_EQ(Rounds("tests/golden/qwen3", ActivationType::kAuto), CpuPrefersBFloat16());
  EXPECT_FALSE(Rounds("tests/golden/qwen3", ActivationType::kFloat32));
  EXPECT_FALSE(Rounds("tests/golden/packrat", ActivationType::kAuto)) << "float32 as stored";
  ASSERT_TRUE(SetCpuTarget("sse4").ok());
  EXPECT_FALSE(Rounds("tests/golden/qwen3", ActivationType::kAuto));
  ASSERT_TRUE(SetCpuTarget("auto").ok());
}

void ExpectRefused(const std::string& dir, absl::StatusCode code, const std::string& part) {
  for (const absl::Status& status : {Load(dir, ActivationType::kBFloat16).status(),
                                     MeasureModel(dir,
                                                  [] {
                                                    ModelOptions options;
                                                    options.activations = ActivationType::kBFloat16;
                                                    return options;
                                                  }())
                                         .status()}) {
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_NE(status.message().find(part), std::string::npos) << status;
  }
}

TEST(Activations, WhatCannotBeIsRefusedByName) {
  ASSERT_TRUE(SetCpuTarget("sse4").ok());
  ExpectRefused("tests/golden/qwen3", absl::StatusCode::kFailedPrecondition,
                "activations: bfloat16 takes a processor with AVX512-BF16");
  ASSERT_TRUE(SetCpuTarget("auto").ok());
  if (!CpuHasBFloat16()) GTEST_SKIP() << "this processor has no AVX512-BF16";
  ExpectRefused("tests/golden/packrat", absl::StatusCode::kInvalidArgument,
                "activations: bfloat16 is for weights stored in bfloat16");
  // An embedding is looked up and multiplied with nothing.
  const std::string embedding = "model.embed_tokens.weight";
  ModelFiles files("qwen3");
  const std::vector<uint8_t> halves = files.Bytes(embedding);
  files.Widen();
  TensorToWrite& tensor = files.Tensor(embedding);
  tensor.type = TensorType::kBF16;
  tensor.data = halves.data();
  files.Write();
  ExpectRefused(files.dir().path(), absl::StatusCode::kInvalidArgument,
                "activations: bfloat16 is for weights stored in bfloat16");
}

TEST(Activations, Names) {
  EXPECT_EQ(*ActivationTypeOf("auto"), ActivationType::kAuto);
  EXPECT_EQ(*ActivationTypeOf("float32"), ActivationType::kFloat32);
  EXPECT_EQ(*ActivationTypeOf("bfloat16"), ActivationType::kBFloat16);
  for (const char* name : {"", "Auto", "bf16", "float16"}) {
    const absl::Status status = ActivationTypeOf(name).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find(std::string("activations is \"") + name), std::string::npos);
  }
}

}  // namespace
}  // namespace packrat
