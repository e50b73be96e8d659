// Models whose matrices are quantised, when they are loaded or ahead: the promise about bits, that
// the right tensors are, and who is refused.
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/quantized.h"
#include "models/cpu_model.h"
#include "models/tools/quantize.h"
#include "models/weights.h"
#include "tests/models/golden.h"
#include "tests/models/model_files.h"

namespace packrat {
namespace {

using Loaded = absl::StatusOr<std::unique_ptr<LanguageModel>>;

ModelOptions Options(WeightFormat weights, std::optional<WeightFormat> output,
                     ActivationType activations, int threads = 1) {
  ModelOptions options;
  options.max_batch_tokens = options.max_logit_rows = 1024;
  options.threads = threads;
  options.weights = weights;
  options.output_weights = output;
  options.activations = activations;
  return options;
}

std::vector<float> Logits(LanguageModel* model, const Golden& golden) {
  return Feed(model, golden, false, [] { return 1000; });
}

// What stays as it is stored: embeddings and gates.
bool StaysStored(const std::string& name) {
  for (const char* part : {"embed", "a_proj", "b_proj", "in_proj_a", "in_proj_b"}) {
    if (name.find(part) != std::string::npos) return true;
  }
  return false;
}

// Replaces matrices by what is left of them, in float32.
void Round(ModelFiles* files, DType format, DType output_format) {
  files->Widen();
  for (TensorToWrite& tensor : files->tensors) {
    if (tensor.shape.size() != 2 || StaysStored(tensor.name)) continue;
    const DType to = tensor.name == "lm_head.weight" ? output_format : format;
    auto* values = reinterpret_cast<float*>(files->Bytes(tensor.name).data());
    for (int64_t i = 0; i < tensor.shape[0] * tensor.shape[1]; i += kQuantGroup) {
      QuantGroup group;
      ASSERT_TRUE(QuantizeGroup(values + i, to, &group).ok());
      WidenQuantGroup(group, to, values + i);
    }
  }
  files->Write();
}

const std::string kCases[] = {"llama", "qwen3", "packrat", "qwen3_5", "mesa_net"};

class QuantizedWeightsTest : public testing::TestWithParam<std::string> {};

TEST_P(QuantizedWeightsTest, TheRightTensorsAreRounded) {
  const Golden golden = ReadGolden(GetParam());
  const std::string dir = "tests/golden/" + GetParam();
  const bool tied = GetParam() != "qwen3" && GetParam() != "mesa_net";
  for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    ModelFiles rounded(GetParam());
    Round(&rounded, format == WeightFormat::kInt8 ? DType::kInt8 : DType::kInt4, DType::kInt8);
    const auto expected = *LoadCpuModel(
        rounded.dir().path(),
        Options(WeightFormat::kStored, WeightFormat::kStored, ActivationType::kFloat32));
    const auto quantized =
        *LoadCpuModel(dir, Options(format, tied ? WeightFormat::kStored : WeightFormat::kInt8,
                                   ActivationType::kFloat32));
    EXPECT_TRUE(SameBits(Logits(quantized.get(), golden), Logits(expected.get(), golden)))
        << WeightFormatName(format);
  }
}

TEST_P(QuantizedWeightsTest, GivesTheSameBitsInEveryWayAndStaysNear) {
  const Golden golden = ReadGolden(GetParam());
  const std::string dir = "tests/golden/" + GetParam();
  const auto exact = *LoadCpuModel(
      dir, Options(WeightFormat::kStored, WeightFormat::kStored, ActivationType::kFloat32));
  std::vector<double> errors;
  for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    const auto one = *LoadCpuModel(dir, Options(format, std::nullopt, ActivationType::kAuto));
    const auto three = *LoadCpuModel(dir, Options(format, std::nullopt, ActivationType::kAuto, 3));
    const auto whole = Logits(one.get(), golden);
    EXPECT_TRUE(SameBits(whole, Feed(one.get(), golden, false, [] { return 1; })));
    std::mt19937 random(7);
    const auto any = [&] { return 1 + static_cast<int>(random() % 40); };
    EXPECT_TRUE(SameBits(whole, Feed(one.get(), golden, false, any)));
    EXPECT_TRUE(SameBits(whole, Feed(three.get(), golden, true, any)));
    EXPECT_TRUE(SameBits(whole, Feed(three.get(), golden, true, [&] { return 1 + any() % 4; })));
    errors.push_back(RelativeError(whole, Logits(exact.get(), golden)));
    EXPECT_EQ(one->numerics_id().substr(0, exact->numerics_id().size()), exact->numerics_id());
    const std::string name = WeightFormatName(format);
    EXPECT_NE(one->numerics_id().find("-int8-weights-" + name + "-output-int8"), std::string::npos)
        << one->numerics_id();
  }
  // Grids of 254 steps, of weights and of inputs, are 17 times as fine as those of 15: their errors
  // together, of equal size, 12 times as small. A third of it is left for what a model makes of
  // errors so large that it is no longer linear in them.
  EXPECT_GT(errors[0], 0);
  EXPECT_LT(errors[0], errors[1] / 4);
  EXPECT_LT(errors[1], 1);
}

TEST_P(QuantizedWeightsTest, AFolderQuantisedAheadIsTheSame) {
  const Golden golden = ReadGolden(GetParam());
  const std::string dir = "tests/golden/" + GetParam();
  for (const WeightFormat format : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    TempDir temp;
    const std::string output = temp.File("quantised");
    const absl::Status status = QuantizeModel({dir, output, WeightFormatName(format)});
    ASSERT_TRUE(status.ok()) << status;
    const auto ahead =
        LoadCpuModel(output, Options(WeightFormat::kStored, std::nullopt, ActivationType::kAuto));
    ASSERT_TRUE(ahead.ok()) << ahead.status();
    const auto now = *LoadCpuModel(dir, Options(format, std::nullopt, ActivationType::kAuto));
    EXPECT_TRUE(SameBits(Logits(ahead->get(), golden), Logits(now.get(), golden)));
    EXPECT_EQ((*ahead)->weight_bytes(), now->weight_bytes());
    // What is quantised stays so, whatever the server is asked for.
    const auto other = *LoadCpuModel(
        output, Options(format == WeightFormat::kInt8 ? WeightFormat::kInt4 : WeightFormat::kInt8,
                        std::nullopt, ActivationType::kAuto));
    EXPECT_TRUE(SameBits(Logits(other.get(), golden), Logits(now.get(), golden)));
    EXPECT_NE((*ahead)->fingerprint(), now->fingerprint());
    // Twice is refused, since the folder is not empty then.
    const absl::Status twice = QuantizeModel({dir, output, WeightFormatName(format)});
    EXPECT_EQ(twice.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(twice.message().find("is not empty"), std::string::npos) << twice;
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, QuantizedWeightsTest, testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param; });

// A tied output matrix is the embedding, quantised for itself.
TEST(QuantizedWeights, ATiedOutputMatrixIsQuantised) {
  const Golden golden = ReadGolden("llama");
  ModelFiles loose("llama");
  loose.ReplaceInConfig("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
  TensorToWrite head = loose.Tensor("model.embed_tokens.weight");
  head.name = "lm_head.weight";
  loose.tensors.push_back(head);
  loose.Write();
  for (const auto output : {WeightFormat::kInt8, WeightFormat::kInt4}) {
    const ModelOptions options = Options(WeightFormat::kInt8, output, ActivationType::kAuto);
    const auto tied = *LoadCpuModel("tests/golden/llama", options);
    const auto expected = *LoadCpuModel(loose.dir().path(), options);
    EXPECT_TRUE(SameBits(Logits(tied.get(), golden), Logits(expected.get(), golden)));
  }
}

// One of its own in a folder that is quantised ahead is as it was chosen there, until a server is
// asked for another format.
TEST(QuantizedWeights, AnOutputMatrixThatWasLeftAsStoredStaysSo) {
  const Golden golden = ReadGolden("qwen3");
  const std::string dir = "tests/golden/qwen3";
  TempDir temp;
  const std::string out = temp.File("out");
  ASSERT_TRUE(QuantizeModel({dir, out, "int8", "stored"}).ok());
  for (const auto& [asked, as] : std::map<std::optional<WeightFormat>, WeightFormat>{
           {std::nullopt, WeightFormat::kStored},
           {WeightFormat::kStored, WeightFormat::kStored},
           {WeightFormat::kInt8, WeightFormat::kInt8}}) {
    const auto ahead =
        *LoadCpuModel(out, Options(WeightFormat::kStored, asked, ActivationType::kAuto));
    const auto now = *LoadCpuModel(dir, Options(WeightFormat::kInt8, as, ActivationType::kAuto));
    EXPECT_TRUE(SameBits(Logits(ahead.get(), golden), Logits(now.get(), golden)));
  }
}

// A session goes on, without its state, where the same weights are kept in another format.
TEST(QuantizedWeights, TheFingerprintIsOfTheWeightsHoweverTheyAreKept) {
  const WeightFormat formats[] = {WeightFormat::kStored, WeightFormat::kInt8, WeightFormat::kInt4};
  std::set<std::string> ids;
  for (const auto layers : formats) {
    for (const auto output : formats) {
      const auto model =
          *LoadCpuModel("tests/golden/llama", Options(layers, output, ActivationType::kAuto));
      EXPECT_EQ(model->fingerprint(), "74a06fb402c0983e");  // Sessions of earlier versions have it.
      ids.insert(model->numerics_id());
    }
  }
  EXPECT_EQ(ids.size(), 9);  // Their states are not each other's.
}

// Parts of one product that are stored in different types meet in float32.
TEST(QuantizedWeights, PartsOfDifferentTypes) {
  const Golden golden = ReadGolden("llama");
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  ModelFiles plain("llama"), mixed("llama");
  std::vector<uint8_t>& bytes = plain.Bytes(name);
  std::vector<uint8_t> halves;
  for (size_t i = 0; i < bytes.size(); i += 4) {
    bytes[i] = bytes[i + 1] = 0;  // Cut to bfloat16.
    halves.insert(halves.end(), {bytes[i + 2], bytes[i + 3]});
  }
  TensorToWrite& tensor = mixed.Tensor(name);
  tensor.type = TensorType::kBF16;
  tensor.data = halves.data();
  plain.Write();
  mixed.Write();
  const ModelOptions options = Options(WeightFormat::kStored, std::nullopt, ActivationType::kAuto);
  const auto expected = *LoadCpuModel(plain.dir().path(), options);
  const auto model = *LoadCpuModel(mixed.dir().path(), options);
  EXPECT_TRUE(SameBits(Logits(model.get(), golden), Logits(expected.get(), golden)));
}

TEST(QuantizedWeights, LoadingTellsHowFarItIs) {
  constexpr WeightFormat kStored = WeightFormat::kStored, kInt8 = WeightFormat::kInt8;
  const auto told = [](const std::string& dir, const ModelOptions& options) {
    size_t last = 0, total = 0;
    const auto model = LoadCpuModel(dir, options, [&](size_t done, size_t all) {
      EXPECT_GE(done, last);
      last = done;
      total = all;
    });
    EXPECT_TRUE(model.ok()) << model.status();
    EXPECT_EQ(last, total);
    return total > 0;
  };
  const std::string own = "tests/golden/qwen3", tied = "tests/golden/llama";
  EXPECT_TRUE(told(own, Options(kInt8, std::nullopt, ActivationType::kAuto)));
  // The output matrix alone, be it the embedding; and where nothing is quantised, nothing.
  EXPECT_TRUE(told(own, Options(kStored, kInt8, ActivationType::kAuto)));
  EXPECT_TRUE(told(tied, Options(kStored, kInt8, ActivationType::kAuto)));
  EXPECT_FALSE(told(own, Options(kStored, std::nullopt, ActivationType::kAuto)));
}

TEST(SetWeightFormats, TakesBothByName) {
  ModelOptions options;
  ASSERT_TRUE(SetWeightFormats("int8", "int4", &options).ok());
  EXPECT_EQ(options.weights, WeightFormat::kInt8);
  EXPECT_EQ(options.output_weights, WeightFormat::kInt4);
  ASSERT_TRUE(SetWeightFormats("int4", "stored", &options).ok());
  EXPECT_EQ(options.weights, WeightFormat::kInt4);
  EXPECT_EQ(options.output_weights, WeightFormat::kStored);
  ASSERT_TRUE(SetWeightFormats("stored", "auto", &options).ok());
  EXPECT_EQ(options.weights, WeightFormat::kStored);
  EXPECT_EQ(options.output_weights, std::nullopt);
}

TEST(QuantizedWeights, ThePlanCountsThem) {
  size_t before = SIZE_MAX;
  for (const WeightFormat format :
       {WeightFormat::kStored, WeightFormat::kInt8, WeightFormat::kInt4}) {
    const ModelOptions options = Options(format, WeightFormat::kStored, ActivationType::kAuto);
    const auto memory = MeasureModel("tests/golden/mesa_net", options);
    ASSERT_TRUE(memory.ok()) << memory.status();
    const auto model = *LoadCpuModel("tests/golden/mesa_net", options);
    EXPECT_EQ(memory->weight_bytes, model->weight_bytes());
    EXPECT_EQ(memory->scratch_bytes, model->scratch_bytes());
    EXPECT_LT(memory->weight_bytes, before);
    before = memory->weight_bytes;
  }
}

void ExpectRefused(const absl::Status& status, const std::string& part) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_NE(status.message().find(part), std::string::npos) << status;
}

TEST(QuantizedWeights, WhatCannotBeIsRefusedByName) {
  const ModelOptions options = Options(WeightFormat::kInt8, std::nullopt, ActivationType::kAuto);
  // Before anything is read.
  for (const absl::Status& status : {MeasureModel("tests/golden/packrat_wide", options).status(),
                                     LoadCpuModel("tests/golden/packrat_wide", options).status()}) {
    ExpectRefused(status, "has rows of 48 values; int8 takes multiples of 32");
  }
  ModelFiles files("llama");
  const std::string name = "model.layers.1.mlp.down_proj.weight";
  const float large = 1e30f;
  std::memcpy(&files.Bytes(name)[(3 * 160 + 70) * sizeof(float)], &large, sizeof large);
  files.Write();
  ExpectRefused(LoadCpuModel(files.dir().path(), options).status(),
                "tensor " + name + " row 3: value 1e+30 is too large for int8");
  ModelOptions any;
  ExpectRefused(SetWeightFormats("int5", "auto", &any), "weights is \"int5\"");
  ExpectRefused(SetWeightFormats("int8", "Int8", &any), "output_weights is \"Int8\"");
}

// A matrix is read by pieces of about a MiB: an error in the first is not forgotten with the last.
TEST(QuantizedWeights, AnErrorStaysWhileTheRestIsRead) {
  const TempDir temp;
  constexpr int kOut = 4096, kIn = 128;
  std::vector<float> values(kOut * kIn, 0.5f);
  values[3 * kIn + 70] = values[3000 * kIn] = 1e30f;
  ASSERT_TRUE(WriteSafetensors(temp.File("model.safetensors"),
                               {{"w", TensorType::kF32, {kOut, kIn}, values.data()}})
                  .ok());
  const auto checkpoint = *Checkpoint::Open(temp.path());
  WeightLoader loader(checkpoint.get());
  int groups = 0;
  loader.Groups("w", {kOut, kIn}, 0, kOut, DType::kInt8,
                [&](int, int, const QuantGroup&) { ++groups; });
  ExpectRefused(loader.status(), "tensor w row 3: value 1e+30 is too large for int8");
  EXPECT_EQ(groups, 3 * 4 + 2);
  // Rows are counted from the tensor's first, wherever one begins.
  WeightLoader late(checkpoint.get());
  late.Groups("w", {kOut, kIn}, 2, 10, DType::kInt4, [](int, int, const QuantGroup&) {});
  ExpectRefused(late.status(), "tensor w row 3: value 1e+30 is too large for int4");
  WeightLoader behind(checkpoint.get());
  behind.Groups("w", {kOut, kIn}, 4, kOut - 4, DType::kInt4, [](int, int, const QuantGroup&) {});
  ExpectRefused(behind.status(), "tensor w row 3000: value 1e+30 is too large for int4");
}

TEST(QuantizedWeights, BadFilesAreRefusedByName) {
  TempDir temp;
  const std::string dir = temp.File("quantised");
  ASSERT_TRUE(QuantizeModel({"tests/golden/llama", dir, "int4"}).ok());
  std::ifstream stream(dir + "/model.safetensors", std::ios::binary);
  const std::string good(std::istreambuf_iterator<char>(stream), {});
  const auto load = [&](const std::string& text) {
    temp.Write("quantised/model.safetensors", text);
    return LoadCpuModel(dir, Options(WeightFormat::kStored, std::nullopt, ActivationType::kAuto))
        .status();
  };
  EXPECT_TRUE(load(good).ok());
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  auto checkpoint = Checkpoint::Open(dir);
  const TensorView view = *(*checkpoint)->Find(name);
  EXPECT_EQ(view.type, TensorType::kInt4);
  EXPECT_EQ(view.shape, (std::vector<int64_t>{64, 160}));
  for (const size_t at : {size_t{1}, size_t{3}, 7 * StoredGroupBytes(DType::kInt4) + 1}) {
    std::string bad = good;
    bad[view.offset + at] = 0x7c;
    ExpectRefused(load(bad), "tensor " + name + " is not finite: the scale or minimum of group " +
                                 std::to_string(at / 20));
  }
  const std::string version = "\"packrat_quantization\":\"1\"";
  const size_t at = good.find(version);
  ASSERT_NE(at, std::string::npos);
  std::string other = good;
  other[at + version.size() - 2] = '2';
  ExpectRefused(load(other), "packrat_quantization is \"2\"; this version reads \"1\"");
}

TEST(QuantizedWeights, HeadersSayWhatTheyHold) {
  const auto parse = [](const std::string& metadata, const std::string& shape) {
    const std::string header = "{" + metadata + "\"w\":{\"dtype\":\"U8\",\"shape\":" + shape +
                               ",\"data_offsets\":[0,120]}}";
    return ParseSafetensorsHeader(header.data(), header.size(), 0, 120, "FILE");
  };
  const std::string version = "\"__metadata__\":{\"packrat_quantization\":\"1\"},";
  const auto four = parse(version, "[3,2,20]");
  ASSERT_TRUE(four.ok()) << four.status();
  EXPECT_EQ(four->tensors.at("w").type, TensorType::kInt4);
  EXPECT_EQ(four->tensors.at("w").shape, (std::vector<int64_t>{3, 64}));
  for (const char* shape : {"[6,20]", "[120]", "[2,3,4,5]", "[3,4,10]"}) {
    ExpectRefused(parse(version, shape).status(), "FILE: tensor \"w\": shape [");
  }
  // A mask, in a file that says nothing of the kind.
  const auto mask = parse("\"__metadata__\":{\"format\":\"pt\"},", "[3,2,20]");
  ASSERT_TRUE(mask.ok()) << mask.status();
  EXPECT_EQ(mask->tensors.count("w"), 0u);
}

}  // namespace
}  // namespace packrat
