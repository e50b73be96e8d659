// What a model on a GPU refuses, and how it says so: machines that cannot run it, and models that
// do not fit. Of emulated machines alone.
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "models/gpu/model.h"
#include "tests/emulation/emulation.h"
#include "tests/gpu/gpu.h"
#include "tests/models/model_files.h"

namespace packrat {
namespace {

constexpr char kModel[] = "tests/golden/packrat";

class GpuRefusalsTest : public GpuTest {
 protected:
  static absl::StatusOr<std::unique_ptr<LanguageModel>> Load(const std::string& dir,
                                                             int tokens = 64) {
    ModelOptions options;
    options.max_batch_tokens = options.max_logit_rows = tokens;
    options.max_context = 1024;
    return gpu::LoadGpuModel(dir, options, gpu::GpuOptions());
  }
};

TEST_F(GpuRefusalsTest, NoDeviceIsSaid) {
  emulation::machine.devices = 0;
  auto model = Load(kModel);
  EXPECT_EQ(model.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(model.status().message().find("no CUDA device"), absl::string_view::npos);
  EXPECT_FALSE(gpu::DeviceUsable().ok());
}

TEST_F(GpuRefusalsTest, OldDriverIsSaidWithTheVersions) {
  emulation::machine.driver = 11040;
  const absl::Status status = gpu::DeviceUsable();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("11.4"), absl::string_view::npos) << status;
  EXPECT_NE(status.message().find("13.0"), absl::string_view::npos) << status;
  EXPECT_NE(status.message().find("driver 580"), absl::string_view::npos) << status;
}

TEST_F(GpuRefusalsTest, OldDeviceIsSaid) {
  emulation::machine.major = 7;
  EXPECT_NE(gpu::DeviceUsable().message().find("compute capability 7.0"), absl::string_view::npos);
}

// The kernels that sample count in fixed point, which has room for so many.
TEST_F(GpuRefusalsTest, AVocabularyThatCannotBeSampledIsRefusedAtLoad) {
  ModelFiles files("packrat");
  files.ReplaceInConfig("\"vocab_size\": 257", "\"vocab_size\": 524289");
  files.Write();
  const absl::Status status = Load(files.dir().path(), 16).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), files.dir().File("config.json") +
                                  ": vocab_size is 524289; on a GPU at most 524288 (the CPU takes "
                                  "more)");
}

TEST_F(GpuRefusalsTest, TooLittleSharedMemoryIsSaid) {
  emulation::machine.shared_bytes = 10 << 10;
  auto model = Load(kModel);
  EXPECT_EQ(model.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(model.status().message().find("--state_type=bfloat16"), absl::string_view::npos)
      << model.status();
  model = Load("tests/golden/gated_delta_net");
  EXPECT_EQ(model.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(model.status().message().find("gated delta heads of 12 key channels need"),
            absl::string_view::npos)
      << model.status();
  model = Load("tests/golden/mamba2");
  EXPECT_EQ(model.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(model.status().message().find("heads with a state of 24 channels need"),
            absl::string_view::npos)
      << model.status();
}

TEST_F(GpuRefusalsTest, TooLittleMemoryIsSaidWithThePlan) {
  for (const size_t memory : {size_t{100} << 10, size_t{2} << 20}) {
    emulation::machine.memory = memory;
    auto model = Load(kModel, 256);
    ASSERT_EQ(model.status().code(), absl::StatusCode::kResourceExhausted) << model.status();
    EXPECT_NE(model.status().message().find("weights take"), absl::string_view::npos)
        << model.status();
  }
}

}  // namespace
}  // namespace packrat
