// Kernels that begin before the ones before them have ended (GpuOptions::overlap_kernels) make the
// same bits of every golden case. With the detector of races (overlap_test_races) none of them
// reads, before it has waited, what those may still write.
#include <memory>
#include <string>

#include "models/gpu/model.h"
#include "tests/gpu/gpu.h"
#include "tests/models/golden.h"
#include "tests/models/model_files.h"

namespace packrat {
namespace {

// Steps of single tokens: the first of a size runs uncaptured, and the second is captured. On a
// device all are, since what is wrong now and then must show, and the library may take another
// algorithm for a prompt.
#ifdef PACKRAT_EMULATED
constexpr int kDecoded = 4, kTimes = 1;
#else
constexpr int kDecoded = 1000, kTimes = 8;
#endif

absl::StatusOr<std::unique_ptr<LanguageModel>> Load(const std::string& dir, bool overlap,
                                                    WeightFormat weights = WeightFormat::kStored,
                                                    bool deterministic = false) {
  ModelOptions options;
  options.max_batch_tokens = options.max_logit_rows = 512;
  options.max_context = 1024;
  options.weights = weights;
  gpu::GpuOptions gpu_options;
  gpu_options.overlap_kernels = overlap;
  gpu_options.deterministic = deterministic;
  return gpu::LoadGpuModel(dir, options, gpu_options);
}

// A prompt of each row, then single tokens of all rows together.
std::vector<float> Decode(LanguageModel* model, const Golden& golden) {
  int pieces = 0;
  return Feed(model, golden, true,
              [&] { return pieces++ < golden.batch ? std::max(golden.tokens - kDecoded, 1) : 1; });
}

void ExpectSameBits(const std::string& dir, const Golden& golden,
                    WeightFormat weights = WeightFormat::kStored, bool deterministic = false) {
  const auto alone = Load(dir, false, weights, deterministic);
  const auto overlapping = Load(dir, true, weights, deterministic);
  ASSERT_TRUE(alone.ok()) << alone.status();
  ASSERT_TRUE(overlapping.ok()) << overlapping.status();
  const std::vector<float> logits = Decode(alone->get(), golden);
#ifdef PACKRAT_EMULATED
  EXPECT_EQ(emulation::counters.overlapping_launches, 0);
#endif
  for (int time = 0; time < kTimes; ++time) {
    ASSERT_TRUE(SameBits(logits, Decode(overlapping->get(), golden))) << "time " << time;
  }
#ifdef PACKRAT_EMULATED
  EXPECT_GT(emulation::counters.overlapping_launches, 2 * kDecoded);
  emulation::counters = {};
#endif
}

class GpuOverlapTest : public GpuTest, public testing::WithParamInterface<std::string> {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    cudaDeviceProp properties;
    if (IsSkipped() || cudaGetDeviceProperties(&properties, 0) != cudaSuccess) return;
    if (properties.major < 9) GTEST_SKIP() << "kernels of " << properties.name << " cannot overlap";
  }

  // Of the case's model, its weights widened or narrowed.
  void ExpectSame(bool wide, const Golden& golden, WeightFormat weights = WeightFormat::kStored) {
    SCOPED_TRACE(wide ? "float32" : "bfloat16");
    ModelFiles files(GetParam());
    if (wide) files.Widen();
    if (!wide) files.Narrow();
    files.Write();
    ExpectSameBits(files.dir().path(), golden, weights);
  }
};

TEST_P(GpuOverlapTest, SameBits) {
  const Golden golden = ReadGolden(GetParam());
  for (const bool wide : {false, true}) {
    ExpectSame(wide, golden);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, GpuOverlapTest, testing::ValuesIn(kGoldenCases),
                         [](const auto& info) { return info.param; });

class GpuOverlapQuantizedTest : public GpuOverlapTest {};

TEST_P(GpuOverlapQuantizedTest, SameBits) {
  const Golden golden = ReadGolden(GetParam());
  for (const WeightFormat weights : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    for (const bool wide : {false, true}) {
      ExpectSame(wide, golden, weights);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, GpuOverlapQuantizedTest,
                         testing::Values("packrat", "rat_plus", "llama", "qwen3_5_moe"),
                         [](const auto& info) { return info.param; });

// So many texts that products take other kernels, on the emulated device also the library's.
TEST_P(GpuOverlapQuantizedTest, ManyTexts) {
  const Golden golden = ReadGolden(GetParam());
  ModelFiles files(GetParam());
  files.Narrow();
  files.Write();
  for (const int texts : {12, 40}) {
    SCOPED_TRACE(texts);
    Golden many{texts, 6, golden.vocab, {}, {}};
    for (int i = 0; i < texts * many.tokens; ++i) {
      many.ids.push_back(golden.ids[i % golden.ids.size()]);
    }
    many.logits.resize(many.ids.size() * many.vocab);
    ExpectSameBits(files.dir().path(), many, WeightFormat::kStored, /*deterministic=*/true);
#ifdef PACKRAT_EMULATED
    ExpectSameBits(files.dir().path(), many);
#endif
  }
}

// It is not left undone in silence.
TEST_F(GpuTest, OlderDevicesDoNotOverlap) {
#ifdef PACKRAT_EMULATED
  emulation::machine.major = 8;
  const absl::Status status = Load("tests/golden/qwen3", true).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(), "--overlap_kernels needs compute capability 9.0; Emulated has 8.0");
  EXPECT_TRUE(Load("tests/golden/qwen3", false).ok());
#endif
}

}  // namespace
}  // namespace packrat
