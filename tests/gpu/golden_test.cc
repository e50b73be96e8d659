// The whole model on a GPU against every golden case.
#include <memory>
#include <random>
#include <string>

#include "models/gpu/model.h"
#include "tests/gpu/gpu.h"
#include "tests/models/golden.h"
#include "tests/models/model_files.h"

namespace packrat {
namespace {

std::unique_ptr<LanguageModel> Load(const std::string& dir, bool deterministic, bool graphs) {
  ModelOptions options;
  options.max_batch_tokens = options.max_logit_rows = 256;
  options.max_context = 1024;
  gpu::GpuOptions gpu_options;
  gpu_options.deterministic = deterministic;
  gpu_options.graphs = graphs;
  auto model = gpu::LoadGpuModel(dir, options, gpu_options);
  EXPECT_TRUE(model.ok()) << model.status();
  return std::move(*model);
}

class GpuGoldenTest : public GpuTest, public testing::WithParamInterface<std::string> {};

// The bound that the cases' authors state for float32 arithmetic and a solver at 1e-6; a model that
// is stored in bfloat16 would be computed in it.
TEST_P(GpuGoldenTest, MeetsTheReferenceAndEveryWayGivesTheSameBits) {
  const Golden golden = ReadGolden(GetParam());
  ModelFiles files(GetParam());
  files.Widen();
  files.Write();
  const std::string dir = files.dir().path();
  const auto model = Load(dir, /*deterministic=*/true, /*graphs=*/true);
  const auto whole = Feed(model.get(), golden, false, [] { return 1000; });
  EXPECT_LT(RelativeError(whole, golden.logits), 5e-6);
  std::mt19937 random(7);
  const auto any = [&] { return 1 + static_cast<int>(random() % 40); };
  EXPECT_TRUE(SameBits(whole, Feed(model.get(), golden, true, any)));
#ifdef PACKRAT_EMULATED
  const auto decoded = DecodedMostly();  // A step takes as long there as for many tokens.
#else
  const auto decoded = [] { return 1; };
#endif
  EXPECT_TRUE(SameBits(whole, Feed(model.get(), golden, true, decoded)));
  const auto plain = Load(dir, /*deterministic=*/true, /*graphs=*/false);
  EXPECT_TRUE(SameBits(whole, Feed(plain.get(), golden, true, any)));
  const auto fast = Load(dir, /*deterministic=*/false, /*graphs=*/true);
  EXPECT_LT(RelativeError(Feed(fast.get(), golden, true, any), golden.logits), 5e-6);
}

INSTANTIATE_TEST_SUITE_P(Cases, GpuGoldenTest, testing::ValuesIn(kGoldenCases),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace packrat
