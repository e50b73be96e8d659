// The golden cases: weights, tokens and the logits of every position that the server must meet,
// fed whole, in pieces, token by token, and in company, on every instruction set of this machine.
// All ways must give the same bits.
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

std::unique_ptr<LanguageModel> Load(const std::string& dir, int threads) {
  ModelOptions options;
  options.max_batch_tokens = options.max_logit_rows = 1024;
  options.threads = threads;
  auto model = LoadCpuModel(dir, options);
  EXPECT_TRUE(model.ok()) << model.status();
  return std::move(*model);
}

class GoldenTest : public testing::TestWithParam<std::string> {
 protected:
  ~GoldenTest() override { EXPECT_TRUE(SetCpuTarget("auto").ok()); }
};

// The bound that the cases' authors state for float32 arithmetic and a solver at 1e-6.
TEST_P(GoldenTest, MeetsTheReferenceAndEveryWayGivesTheSameBits) {
  const Golden golden = ReadGolden(GetParam());
  for (const std::string& target : SupportedCpuTargets()) {
    SCOPED_TRACE(target);
    ASSERT_TRUE(SetCpuTarget(target).ok());
    const std::string dir = "tests/golden/" + GetParam();
    const auto one = Load(dir, 1), three = Load(dir, 3);
    const auto whole = Feed(one.get(), golden, false, [] { return 1000; });
    EXPECT_LT(RelativeError(whole, golden.logits), 5e-6);
    EXPECT_TRUE(SameBits(whole, Feed(one.get(), golden, false, [] { return 1; })));
    std::mt19937 random(7);
    const auto any = [&] { return 1 + static_cast<int>(random() % 40); };
    EXPECT_TRUE(SameBits(whole, Feed(one.get(), golden, false, any)));
    EXPECT_TRUE(SameBits(whole, Feed(three.get(), golden, true, any)));
    EXPECT_TRUE(SameBits(whole, Feed(three.get(), golden, true, [&] { return 1 + any() % 4; })));
    EXPECT_TRUE(SameBits(whole, Feed(three.get(), golden, true, [] { return 16; })));
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, GoldenTest, testing::ValuesIn(kGoldenCases),
                         [](const auto& info) { return info.param; });

// Checkpoints of mesa_net may have biases of convolutions, which no golden has.
TEST(MesaNet, BiasesOfConvolutionsCount) {
  const Golden golden = ReadGolden("mesa_net");
  const auto logits = [&](const std::string& name, float bias) {
    ModelFiles files("mesa_net");
    const std::vector<float> values(64, bias);
    if (!name.empty()) {
      files.tensors.push_back(
          {"model.layers.1.attn." + name, TensorType::kF32, {64}, values.data()});
    }
    files.Write();
    return Feed(Load(files.dir().path(), 1).get(), golden, false, [] { return 1000; });
  };
  const auto plain = logits("", 0), with_q = logits("q_conv1d.bias", 0.5f),
             with_k = logits("k_conv1d.bias", 0.5f);
  EXPECT_TRUE(SameBits(logits("q_conv1d.bias", 0), plain));
  EXPECT_GT(RelativeError(with_q, plain), 1e-3);
  EXPECT_GT(RelativeError(with_k, plain), 1e-3);
  EXPECT_GT(RelativeError(with_q, with_k), 1e-3);
}

}  // namespace
}  // namespace packrat
