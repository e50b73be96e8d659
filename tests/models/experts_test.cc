// Mixtures of experts in checkpoints: in tensors of their own or all in one, stored or quantised.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/cpu_model.h"
#include "models/tools/describe.h"
#include "models/tools/quantize.h"
#include "tests/models/golden.h"
#include "tests/models/model_files.h"

namespace packrat {
namespace {

using testing::AllOf;
using testing::HasSubstr;

struct Case {
  const char* golden;
  const char *gate, *up, *down;  // Of an expert.
};
constexpr Case kCases[] = {
    {"lfm2_moe", "w1", "w3", "w2"},
    {"qwen3_next", "gate_proj", "up_proj", "down_proj"},
    {"qwen3_5_moe", "gate_proj", "up_proj", "down_proj"},
};

// A golden whose experts are all in one tensor.
class Stacked : public ModelFiles {
 public:
  explicit Stacked(const Case& c) : ModelFiles(c.golden) {
    const std::string first = absl::StrCat("experts.0.", c.gate, ".weight");
    std::vector<std::string> layers;  // Up to "experts."
    for (const TensorToWrite& tensor : tensors) {
      if (!absl::EndsWith(tensor.name, first)) continue;
      layers.push_back(tensor.name.substr(0, tensor.name.size() - first.size() + 8));
    }
    EXPECT_FALSE(layers.empty());
    for (const std::string& layer : layers) {
      Gather(layer, {c.gate, c.up}, "gate_up_proj");
      Gather(layer, {c.down}, "down_proj");
    }
    Write();
  }

 private:
  void Gather(const std::string& layer, const std::vector<std::string>& parts,
              const std::string& name) {
    std::vector<uint8_t>& bytes = bytes_.emplace_back();
    TensorToWrite all = {layer + name, TensorType::kF32, {0}, nullptr};
    for (int expert = 0;; ++expert) {
      int64_t rows = 0;
      for (const std::string& part : parts) {
        const std::string own = absl::StrCat(layer, expert, ".", part, ".weight");
        const auto found = std::find_if(tensors.begin(), tensors.end(),
                                        [&](const auto& tensor) { return tensor.name == own; });
        if (found == tensors.end()) break;
        bytes.insert(bytes.end(), Bytes(own).begin(), Bytes(own).end());
        rows += found->shape[0];
        all.type = found->type;
        all.shape = {expert + 1, rows, found->shape[1]};
        tensors.erase(found);
      }
      if (rows == 0) break;
    }
    all.data = bytes.data();
    tensors.push_back(all);
  }

  std::deque<std::vector<uint8_t>> bytes_;
};

ModelOptions Options(WeightFormat format = WeightFormat::kStored) {
  ModelOptions options;
  options.max_batch_tokens = options.max_logit_rows = 256;
  options.threads = 2;
  options.weights = format;
  return options;
}

std::vector<float> Logits(const std::string& dir, const Golden& golden,
                          const ModelOptions& options = Options()) {
  const auto model = LoadCpuModel(dir, options);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? Feed(model->get(), golden, true, [] { return 7; }) : std::vector<float>();
}

class ExpertsInOne : public testing::TestWithParam<Case> {};

TEST_P(ExpertsInOne, AreTheSame) {
  const Golden golden = ReadGolden(GetParam().golden);
  const Stacked files(GetParam());
  EXPECT_TRUE(SameBits(Logits(files.dir().path(), golden),
                       Logits(std::string("tests/golden/") + GetParam().golden, golden)));
}

INSTANTIATE_TEST_SUITE_P(Families, ExpertsInOne, testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.golden); });

// What transformers writes with save_original_format=False.
TEST(Experts, OfGraniteHaveTheNamesOfTransformersCodeToo) {
  const Golden golden = ReadGolden("granite_h_moe");
  ModelFiles files("granite_h_moe");
  int renamed = 0;
  for (TensorToWrite& tensor : files.tensors) {
    for (const auto& [from, to] :
         {std::pair<std::string, std::string>("moe.router.layer.weight", "moe.router.weight"),
          {"moe.input_linear.weight", "moe.experts.gate_up_proj"},
          {"moe.output_linear.weight", "moe.experts.down_proj"}}) {
      const size_t at = tensor.name.find(from);
      if (at == std::string::npos) continue;
      tensor.name.replace(at, from.size(), to);
      ++renamed;
    }
  }
  EXPECT_GE(renamed, 6);
  files.Write();
  EXPECT_TRUE(
      SameBits(Logits(files.dir().path(), golden), Logits("tests/golden/granite_h_moe", golden)));
}

// Of both layouts: experts of their own, and all in one tensor.
TEST(Experts, MayBeQuantisedAheadOrWhenTheyAreLoaded) {
  for (const std::string name : {"qwen3_5_moe", "granite_h_moe"}) {
    const Golden golden = ReadGolden(name);
    const std::string dir = "tests/golden/" + name;
    const std::vector<float> exact = Logits(dir, golden);
    for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
      SCOPED_TRACE(name + " " + WeightFormatName(format));
      const std::vector<float> now = Logits(dir, golden, Options(format));
      EXPECT_FALSE(SameBits(now, exact));
      const auto model = *LoadCpuModel(dir, Options(format));
      for (const int piece : {1, 16, 1000}) {
        EXPECT_TRUE(SameBits(Feed(model.get(), golden, false, [&] { return piece; }), now));
      }
      TempDir temp;
      const absl::Status status =
          QuantizeModel({dir, temp.File("ahead"), WeightFormatName(format)});
      ASSERT_TRUE(status.ok()) << status;
      EXPECT_TRUE(SameBits(Logits(temp.File("ahead"), golden), now));
      EXPECT_EQ((*LoadCpuModel(temp.File("ahead"), Options()))->weight_bytes(),
                model->weight_bytes());
      EXPECT_LT(model->weight_bytes(), (*LoadCpuModel(dir, Options()))->weight_bytes());
    }
  }
}

// Experts of which no two are alike, so that one in another's place shows.
TEST(Experts, EachIsInItsPlace) {
  const Golden golden = ReadGolden("lfm2_moe");
  const std::string dir = "tests/golden/lfm2_moe";
  const std::vector<float> right = Logits(dir, golden);
  ModelFiles files("lfm2_moe");
  files.Tensor("model.layers.1.feed_forward.experts.0.w1.weight").data =
      files.Bytes("model.layers.1.feed_forward.experts.1.w1.weight").data();
  files.Write();
  EXPECT_GT(RelativeError(Logits(files.dir().path(), golden), right), 1e-3);
}

TEST(Experts, WhatIsMissingOrOfAnotherShapeIsNamed) {
  const auto refusal = [](ModelFiles* files) {
    files->Write();
    return std::string(LoadCpuModel(files->dir().path(), Options()).status().message());
  };
  ModelFiles missing("lfm2_moe");
  const std::string name = "model.layers.2.feed_forward.experts.3.w3.weight";
  missing.tensors.erase(missing.tensors.begin() + (&missing.Tensor(name) - &missing.tensors[0]));
  EXPECT_THAT(refusal(&missing), HasSubstr(name));
  ModelFiles wrong("granite_h_moe");
  TensorToWrite& tensor = wrong.Tensor("model.layers.0.block_sparse_moe.input_linear.weight");
  std::swap(tensor.shape[0], tensor.shape[1]);
  EXPECT_THAT(refusal(&wrong), AllOf(HasSubstr("block_sparse_moe.input_linear.weight has shape ["),
                                     HasSubstr("the config asks for [5, 64, 64]")));
  ModelFiles surplus("qwen3_5_moe");
  surplus.ReplaceInConfig("\"num_experts\": 6", "\"num_experts\": 5");
  EXPECT_THAT(refusal(&surplus), HasSubstr("mlp.gate.weight has shape [6, 64]"));
}

TEST(Experts, AreInTheReport) {
  const ModelReport report = DescribeModel("tests/golden/granite_h_moe", Options());
  // Three of five experts of three matrices (32, 64) in each of three layers.
  EXPECT_EQ(report.parameters - report.active_parameters, 3 * 3 * 3 * 32 * 64);
  EXPECT_THAT(ReportText(report), HasSubstr(absl::StrCat(report.active_parameters, " active")));
  EXPECT_THAT(report.layers, testing::Contains("attention, then experts + feed_forward"));
  const ModelReport plain = DescribeModel("tests/golden/granite_h", Options());
  EXPECT_EQ(plain.parameters, plain.active_parameters);
  EXPECT_THAT(ReportText(plain), testing::Not(HasSubstr(" active")));
}

}  // namespace
}  // namespace packrat
