// Quantised weights on a GPU against the CPU with the same ones: in float32, in which both do the
// same, and in bfloat16, where activations are rounded.
#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/quantized.h"
#include "models/cpu_model.h"
#include "models/gpu/model.h"
#include "models/tools/quantize.h"
#include "tests/bench/random_model.h"
#include "tests/gpu/gpu.h"
#include "tests/models/golden.h"
#include "tests/models/model_files.h"

namespace packrat {
namespace {

constexpr WeightFormat kWeightFormats[] = {WeightFormat::kInt8, WeightFormat::kInt4};

ModelOptions Options(WeightFormat weights) {
  ModelOptions options;
  options.max_batch_tokens = options.max_logit_rows = 256;
  options.max_context = 1024;
  options.threads = 2;
  options.weights = weights;
  return options;
}

absl::StatusOr<std::unique_ptr<LanguageModel>> LoadOnGpu(const std::string& dir,
                                                         const ModelOptions& options) {
  gpu::GpuOptions gpu_options;
  gpu_options.deterministic = true;
  return gpu::LoadGpuModel(dir, options, gpu_options);
}

std::unique_ptr<LanguageModel> Load(const std::string& dir, WeightFormat weights, bool on_gpu) {
  auto model = on_gpu ? LoadOnGpu(dir, Options(weights)) : LoadCpuModel(dir, Options(weights));
  EXPECT_TRUE(model.ok()) << model.status();
  return std::move(*model);
}

std::vector<float> Whole(LanguageModel* model, const Golden& golden) {
  return Feed(model, golden, false, [] { return 1000; });
}

void ExpectSameInEveryWay(LanguageModel* model, const Golden& golden,
                          const std::vector<float>& whole) {
#ifdef PACKRAT_EMULATED
  // A step takes as long there as for many tokens.
  EXPECT_TRUE(SameBits(whole, Feed(model, golden, true, DecodedMostly())));
#else
  std::mt19937 random(7);
  const auto any = [&] { return 1 + static_cast<int>(random() % 40); };
  EXPECT_TRUE(SameBits(whole, Feed(model, golden, true, any)));
  EXPECT_TRUE(SameBits(whole, Feed(model, golden, true, [] { return 1; })));
#endif
}

// Models whose rows are whole groups, one for each kind of mixer.
class GpuQuantizedTest : public GpuTest, public testing::WithParamInterface<std::string> {};
INSTANTIATE_TEST_SUITE_P(Cases, GpuQuantizedTest,
                         testing::Values("packrat", "rat_plus", "qwen3_5_moe", "granite_h_moe",
                                         "falcon_h1", "lfm2", "mesa_net", "llama"),
                         [](const auto& info) { return info.param; });

// The bound of golden_test.cc: with float32 activations both multiply by the same numbers.
TEST_P(GpuQuantizedTest, InFloat32IsTheCpuWithTheSameWeights) {
  const Golden golden = ReadGolden(GetParam());
  ModelFiles files(GetParam());
  files.Widen();
  files.Write();
  for (const WeightFormat format : kWeightFormats) {
    SCOPED_TRACE(WeightFormatName(format));
    const auto cpu = Load(files.dir().path(), format, false);
    const auto gpu = Load(files.dir().path(), format, true);
    const std::vector<float> whole = Whole(gpu.get(), golden);
    EXPECT_LT(RelativeError(whole, Whole(cpu.get(), golden)), 5e-6);
    ExpectSameInEveryWay(gpu.get(), golden, whole);
  }
}

// The median over tokens of the relative error of a token's logits. Over all tokens at once it
// would be that of the few whose systems Mesa's solves find ill-conditioned.
double MedianError(const std::vector<float>& out, const std::vector<float>& reference, int vocab) {
  std::vector<double> errors;
  for (size_t i = 0; i < out.size(); i += vocab) {
    errors.push_back(RelativeError({out.begin() + i, out.begin() + i + vocab},
                                   {reference.begin() + i, reference.begin() + i + vocab}));
  }
  std::nth_element(errors.begin(), errors.begin() + errors.size() / 2, errors.end());
  return errors[errors.size() / 2];
}

// What bfloat16 activations cost is seen where the weights are stored: the same errors, of other
// weights. So twice as much has room for the one and the other, and a group's scale in another's
// place has not.
TEST_P(GpuQuantizedTest, InBFloat16IsAsNearAsStoredWeights) {
  const Golden golden = ReadGolden(GetParam());
  ModelFiles files(GetParam());
  files.Narrow();
  files.Write();
  const auto error = [&](WeightFormat format) {
    const auto cpu = Load(files.dir().path(), format, false);
    const auto gpu = Load(files.dir().path(), format, true);
    EXPECT_NE(gpu->numerics_id().find("-bfloat16-"), std::string::npos) << gpu->numerics_id();
    const std::vector<float> whole = Whole(gpu.get(), golden);
    if (format != WeightFormat::kStored) ExpectSameInEveryWay(gpu.get(), golden, whole);
    return MedianError(whole, Whole(cpu.get(), golden), golden.vocab);
  };
  const double stored = error(WeightFormat::kStored);
  for (const WeightFormat format : kWeightFormats) {
    const double quantized = error(format);
    RecordProperty(WeightFormatName(format), std::to_string(quantized / stored));
    EXPECT_GT(quantized, 0);
    EXPECT_LT(quantized, 2 * stored) << WeightFormatName(format);
  }
}

// Folders that `packrat quantize` wrote, and what the plan says of both.
TEST_P(GpuQuantizedTest, AFolderQuantisedAheadIsTheSame) {
  const Golden golden = ReadGolden(GetParam());
  const std::string dir = "tests/golden/" + GetParam();
  size_t before = Load(dir, WeightFormat::kStored, true)->weight_bytes();
  for (const WeightFormat format : kWeightFormats) {
    TempDir temp;
    const absl::Status status = QuantizeModel({dir, temp.File("ahead"), WeightFormatName(format)});
    ASSERT_TRUE(status.ok()) << status;
    const auto ahead = Load(temp.File("ahead"), WeightFormat::kStored, true);
    const auto now = Load(dir, format, true);
    EXPECT_TRUE(SameBits(Whole(ahead.get(), golden), Whole(now.get(), golden)));
    EXPECT_EQ(ahead->weight_bytes(), now->weight_bytes());
    EXPECT_LT(now->weight_bytes(), before);
    before = now->weight_bytes();
    const std::string id = std::string("-weights-") + WeightFormatName(format) + "-output-int8";
    EXPECT_NE(now->numerics_id().find(id), std::string::npos) << now->numerics_id();
  }
}

class GpuQuantizedModelTest : public GpuTest {
 protected:
  // Stores a matrix (out, in) of float32 in the format.
  static void Quantize(ModelFiles* files, const std::string& name, DType format,
                       std::vector<uint8_t>* bytes) {
    TensorToWrite& tensor = files->Tensor(name);
    const auto* values = reinterpret_cast<const float*>(files->Bytes(name).data());
    for (int64_t i = 0; i < tensor.shape[0] * tensor.shape[1]; i += kQuantGroup) {
      QuantGroup group;
      ASSERT_TRUE(QuantizeGroup(values + i, format, &group).ok());
      AppendQuantGroup(group, format, bytes);
    }
    tensor.type = format == DType::kInt8 ? TensorType::kInt8 : TensorType::kInt4;
    tensor.data = bytes->data();
  }
};

// As GGUF files have it: the embedding is quantised, is the output matrix too, and leaves no matrix
// by which activations would be float32. Queries in another format than keys and values.
TEST_F(GpuQuantizedModelTest, AllMatricesMayBeQuantisedInAnyFormats) {
  const Golden golden = ReadGolden("llama");
  ModelFiles files("llama");
  std::vector<std::vector<uint8_t>> bytes(files.tensors.size());
  for (size_t i = 0; i < files.tensors.size(); ++i) {
    const std::string name = files.tensors[i].name;
    if (files.tensors[i].shape.size() != 2) continue;
    const bool queries = name.find("q_proj") != std::string::npos;
    Quantize(&files, name, queries ? DType::kInt4 : DType::kInt8, &bytes[i]);
  }
  files.Write();
  const auto cpu = Load(files.dir().path(), WeightFormat::kStored, false);
  const auto gpu = Load(files.dir().path(), WeightFormat::kStored, true);
  EXPECT_NE(gpu->numerics_id().find("-bfloat16-"), std::string::npos) << gpu->numerics_id();
  const std::vector<float> whole = Whole(gpu.get(), golden);
  // model_test.cc counts the roundings of a layer's activations: 8. The mixed matrix's is one more.
  EXPECT_LT(RelativeError(whole, Whole(cpu.get(), golden)), (9 * 2 + 1) * 0x1p-9);
  ExpectSameInEveryWay(gpu.get(), golden, whole);

  // With one matrix in float32 all is: there the mixed one loses nothing.
  ModelFiles one("llama");
  std::vector<uint8_t> queries, keys;
  Quantize(&one, "model.layers.0.self_attn.q_proj.weight", DType::kInt4, &queries);
  Quantize(&one, "model.layers.0.self_attn.k_proj.weight", DType::kInt8, &keys);
  one.Write();
  ModelOptions options = Options(WeightFormat::kStored);
  options.output_weights = WeightFormat::kInt4;  // Tied, and quantised for itself.
  const auto mixed = LoadOnGpu(one.dir().path(), options);
  ASSERT_TRUE(mixed.ok()) << mixed.status();
  const auto expected = *LoadCpuModel(one.dir().path(), options);
  EXPECT_LT(RelativeError(Whole(mixed->get(), golden), Whole(expected.get(), golden)), 5e-6);
  options.output_weights = WeightFormat::kStored;
  EXPECT_EQ((*mixed)->fingerprint(), (*LoadOnGpu(one.dir().path(), options))->fingerprint());
  EXPECT_EQ((*mixed)->fingerprint(), expected->fingerprint());
}

// Its tiles go to the device in several copies, of which the last one is shorter.
TEST_F(GpuQuantizedModelTest, ALargeMatrixArrivesInSeveralCopies) {
  RandomModelShape shape;
  shape.layer_types = {"attention"};
  shape.hidden_size = 128;
  shape.intermediate_size = 10016;
  shape.vocab_size = 64;
  shape.heads = 2;
  shape.kv_heads = 1;
  TempDir dir;
  WriteRandomModel(dir.path(), shape);
  const Golden golden{1, 3, 64, {5, 6, 7}, std::vector<float>(3 * 64)};
  for (const WeightFormat format : kWeightFormats) {
    SCOPED_TRACE(WeightFormatName(format));
    const auto cpu = Load(dir.path(), format, false);
    const auto gpu = Load(dir.path(), format, true);
    // The roundings of a layer's activations, as above.
    EXPECT_LT(RelativeError(Whole(gpu.get(), golden), Whole(cpu.get(), golden)), 8 * 0x1p-9);
  }
}

TEST_F(GpuQuantizedModelTest, WhatCannotBeIsRefusedByName) {
  const absl::Status status =
      LoadOnGpu("tests/golden/packrat_wide", Options(WeightFormat::kInt8)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("has rows of 48 values; int8 takes multiples of 32"),
            std::string::npos)
      << status;
  // A value that no scale holds.
  ModelFiles files("llama");
  const std::string name = "model.layers.1.self_attn.o_proj.weight";
  reinterpret_cast<float*>(files.Bytes(name).data())[70] = 1e9f;
  files.Write();
  const absl::Status large = LoadOnGpu(files.dir().path(), Options(WeightFormat::kInt4)).status();
  EXPECT_EQ(large.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(large.message().find("tensor " + name), std::string::npos) << large;
  EXPECT_NE(large.message().find("is too large for int4"), std::string::npos) << large;
}

#ifdef PACKRAT_EMULATED

// A device that the weights fit when they are quantised, and else do not.
TEST_F(GpuQuantizedModelTest, ThePlanCountsWhatTheyTake) {
  const std::string dir = "tests/golden/llama";
  const auto stored = Load(dir, WeightFormat::kStored, true);
  const auto quantized = Load(dir, WeightFormat::kInt8, true);
  const size_t saved = stored->weight_bytes() - quantized->weight_bytes();
  emulation::Reset();
  const auto status = [&](size_t memory, WeightFormat format) {
    emulation::machine.memory = memory;
    return LoadOnGpu(dir, Options(format)).status();
  };
  // The least with which it can be planned: beyond, only allocations may fail.
  size_t low = 0, high = size_t{1} << 30;
  while (high - low > 1) {
    const size_t middle = (low + high) / 2;
    const bool fits = status(middle, WeightFormat::kStored).message().find("weights take") ==
                      absl::string_view::npos;
    (fits ? high : low) = middle;
  }
  EXPECT_NE(status(high - saved, WeightFormat::kStored).message().find("weights take"),
            absl::string_view::npos);
  EXPECT_EQ(status(high - saved, WeightFormat::kInt8).message().find("weights take"),
            absl::string_view::npos);
  EXPECT_NE(status(high - saved - 1, WeightFormat::kInt8).message().find("weights take"),
            absl::string_view::npos);
}

#endif

}  // namespace
}  // namespace packrat
