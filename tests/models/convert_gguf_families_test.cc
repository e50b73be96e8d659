// GGUF files of each family, as llama.cpp's converter wrote them of our goldens: what they become,
// and which keys are refused.
#include <cmath>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "models/cpu_model.h"
#include "models/files/gguf.h"
#include "models/files/json.h"
#include "models/tools/convert_gguf.h"
#include "models/tools/gguf_families.h"
#include "models/tools/gguf_fields.h"
#include "tests/models/gguf_writer.h"
#include "tests/models/golden.h"
#include "tests/models/model_files.h"

namespace packrat {
namespace {

std::vector<float> Logits(const std::string& dir, const Golden& golden, int piece) {
  ModelOptions options;
  options.max_batch_tokens = options.max_logit_rows = 1024;
  const auto model = LoadCpuModel(dir, options);
  EXPECT_TRUE(model.ok()) << model.status();
  return model.ok() ? Feed(model->get(), golden, false, [piece] { return piece; })
                    : std::vector<float>(golden.logits.size());
}

std::vector<float> Converted(const std::string& file, const Golden& golden, int piece = 1000) {
  TempDir temp;
  const absl::Status status = ConvertGguf({"tests/data/gguf/" + file + ".gguf", temp.File("out")});
  EXPECT_TRUE(status.ok()) << status;
  return Logits(temp.File("out"), golden, piece);
}

TEST(ConvertGgufFamilies, FilesGiveTheLogitsOfTheirGoldens) {
  for (const std::string name :
       {"lfm2", "granite_h", "granite_h_moe", "falcon_h1", "qwen3_5", "qwen3_5_moe"}) {
    const Golden golden = ReadGolden(name);
    const std::vector<float> logits = Converted(name, golden);
    EXPECT_LT(RelativeError(logits, golden.logits), 5e-6) << name;
    EXPECT_TRUE(SameBits(logits, Converted(name, golden, 7))) << name;
    // The others have numbers that the file's writer computed: Falcon-H1's multipliers are in its
    // weights, and Qwen's norms have their 1 added.
    if (name != "falcon_h1" && name.find("qwen3_5") != 0) {
      EXPECT_TRUE(SameBits(logits, Logits("tests/golden/" + name, golden, 1000))) << name;
    }
  }
}

// A file does not tell of windows, which that golden has and no published model of the family.
TEST(ConvertGgufFamilies, Qwen2WithoutItsWindows) {
  ModelFiles files("qwen2");
  files.ReplaceInConfig("\"use_sliding_window\": true", "\"use_sliding_window\": false");
  files.ReplaceInConfig("\"sliding_attention\"", "\"full_attention\"");
  files.Write();
  const Golden golden = ReadGolden("qwen2");
  const std::vector<float> logits = Converted("qwen2", golden);
  EXPECT_TRUE(SameBits(logits, Logits(files.dir().path(), golden, 1000)));
  EXPECT_TRUE(SameBits(logits, Converted("qwen2", golden, 7)));
}

// Nor of how chosen experts' shares are scaled.
TEST(ConvertGgufFamilies, Lfm2MoeWithItsUsualScale) {
  ModelFiles files("lfm2_moe");
  files.ReplaceInConfig("\"routed_scaling_factor\": 1.5", "\"routed_scaling_factor\": 1.0");
  files.Write();
  const Golden golden = ReadGolden("lfm2_moe");
  const std::vector<float> logits = Converted("lfm2_moe", golden);
  EXPECT_TRUE(SameBits(logits, Logits(files.dir().path(), golden, 1000)));
  EXPECT_TRUE(SameBits(logits, Converted("lfm2_moe", golden, 7)));
}

// Nor of the least step of time, which llama.cpp knows nothing of.
TEST(ConvertGgufFamilies, NemotronHWithStepsOfAnySize) {
  ModelFiles files("nemotron_h");
  files.ReplaceInConfig("\"time_step_min\": 0.1", "\"time_step_min\": 0.0");
  files.Write();
  const Golden golden = ReadGolden("nemotron_h");
  const std::vector<float> logits = Converted("nemotron_h", golden);
  EXPECT_TRUE(SameBits(logits, Logits(files.dir().path(), golden, 1000)));
  EXPECT_TRUE(SameBits(logits, Converted("nemotron_h", golden, 7)));
}

// Of the golden with the same experts in layer 1 as in layer 0: files have them in all layers, and
// no choice of how their shares are scaled.
TEST(ConvertGgufFamilies, Qwen3NextWithExpertsEverywhere) {
  ModelFiles files("qwen3_next");
  std::vector<TensorToWrite> tensors;
  for (TensorToWrite tensor : files.tensors) {
    if (tensor.name.find("model.layers.1.mlp.") == 0) continue;
    tensors.push_back(tensor);
    if (tensor.name.find("model.layers.0.mlp.") != 0) continue;
    tensor.name.replace(0, 14, "model.layers.1");
    tensors.push_back(tensor);
  }
  files.tensors = tensors;
  Json config = Json::parse(files.config);
  config["mlp_only_layers"] = Json::array();
  config["norm_topk_prob"] = true;
  files.config = config.dump();
  files.Write();
  const Golden golden = ReadGolden("qwen3_next");
  const std::vector<float> logits = Converted("qwen3_next", golden);
  EXPECT_LT(RelativeError(logits, Logits(files.dir().path(), golden, 1000)), 5e-6);
  EXPECT_TRUE(SameBits(logits, Converted("qwen3_next", golden, 7)));
}

using Kind = GgufValue::Kind;

// The same file with all weights in float32.
std::string Widened(const std::string& path) {
  const auto file = *GgufFile::Open(path);
  GgufWriter writer;
  for (const auto& [key, value] : file->header().metadata) {
    if (value.kind == Kind::kInteger) writer.Integer(key, static_cast<uint32_t>(value.integer));
    if (value.kind == Kind::kFloat) writer.Number(key, static_cast<float>(value.number));
    if (value.kind == Kind::kString) writer.Text(key, value.text);
    if (value.kind == Kind::kBool) writer.Raw(key, 7, std::string(1, value.integer != 0 ? 1 : 0));
    if (value.kind != Kind::kNumbers) continue;
    writer.Integers(key, {value.numbers.begin(), value.numbers.end()});
  }
  for (const auto& [name, tensor] : file->header().tensors) {
    const std::vector<uint8_t> data = *file->Read(tensor);
    std::string wide(data.begin(), data.end());
    if (tensor.type == GgufType::kQ8_0) {
      std::vector<float> values(data.size() / 34 * 32);
      for (size_t i = 0; i < values.size() / 32; ++i) {
        WidenGgufBlock(tensor.type, &data[i * 34], &values[i * 32]);
      }
      wide.assign(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    }
    writer.Tensor(name, GgufType::kF32, tensor.shape, wide);
  }
  return writer.File();
}

// Eight bits of a weight, in groups of 32, whose value heads are put in another order.
TEST(ConvertGgufFamilies, QuantisedWeightsAreThoseOfTheFile) {
  for (const std::string name : {"qwen3_5", "granite_h_moe"}) {
    const Golden golden = ReadGolden(name);
    const std::string file = name + "_q8";
    TempDir temp;
    const std::string wide = temp.Write("wide.gguf", Widened("tests/data/gguf/" + file + ".gguf"));
    const absl::Status status = ConvertGguf({wide, temp.File("out")});
    ASSERT_TRUE(status.ok()) << status;
    const std::vector<float> expected = Logits(temp.File("out"), golden, 1000);
    EXPECT_LT(RelativeError(Converted(file, golden), expected), 5e-6) << name;
    // All of a tiny random model's matrices are rounded, the embedding too.
    EXPECT_LT(RelativeError(expected, golden.logits), 0.15) << name;
  }
}

GgufValue Integer(int64_t value) { return {Kind::kInteger, value, static_cast<double>(value)}; }
GgufValue Float(double value) { return {Kind::kFloat, 0, value}; }
GgufValue Text(const std::string& text) { return {Kind::kString, 0, 0, text}; }
GgufValue Numbers(const std::vector<double>& list) { return {Kind::kNumbers, 0, 0, "", list}; }

GgufHeader HeaderOf(const std::string& file) {
  return (*GgufFile::Open("tests/data/gguf/" + file + ".gguf"))->header();
}

Json ConfigOf(const GgufHeader& header, absl::Status* status) {
  const std::string file = "FILE";
  GgufFields fields(header, file);
  GgufShape shape;
  Json config = GgufConfig(*FindGgufFamily(fields.architecture()), &fields, &shape);
  *status = fields.status();
  return config;
}

TEST(ConvertGgufFamilies, ValuesThatNoModelHasAreRefusedByName) {
  struct Case {
    std::string file, key;
    GgufValue value;
    std::string why;
  };
  const std::string counts = "; must be 1 to 2147483647";
  for (const Case& c : std::vector<Case>{
           // Of another kind: read as that kind, they would be 0.
           {"lfm2", "lfm2.block_count", Float(4), "is a float; must be an integer"},
           {"lfm2", "lfm2.context_length", Text("256"), "is a string; must be an integer"},
           {"lfm2", "lfm2.rope.freq_base", Text("1e6"), "is a string; must be a number"},
           {"lfm2", "lfm2.attention.head_count", Numbers({4}),
            "is a list of numbers; must be an integer"},
           {"lfm2", "lfm2.attention.head_count_kv", Text("2"), "is a string; must be an integer"},
           {"lfm2",
            "lfm2.attention.head_count_kv",
            {Kind::kStrings},
            "is a list of strings; must be an integer"},
           {"lfm2", "tokenizer.ggml.eos_token_id", Float(2), "is a float; must be an integer"},
           {"lfm2",
            "tokenizer.ggml.bos_token_id",
            {Kind::kBool, 1},
            "is a boolean; must be an integer"},
           {"granite_h", "granitehybrid.rope.scaling.finetuned", Integer(0),
            "is an integer; must be a boolean"},
           {"granite_h", "granitehybrid.logit_scale", Numbers({2}),
            "is a list of numbers; must be a number"},
           {"qwen3_5", "qwen35.attention.recurrent_layers", Integer(1),
            "is an integer; must be a list of numbers"},
           // Out of range.
           {"lfm2", "lfm2.block_count", Integer(0), "is 0" + counts},
           {"lfm2", "lfm2.block_count", Integer(5000), "is 5000; must be 1 to 4096"},
           {"lfm2", "lfm2.embedding_length", Integer(-1), "is -1" + counts},
           {"lfm2", "lfm2.feed_forward_length", Integer(int64_t{1} << 31),
            "is 2147483648" + counts},
           {"lfm2", "lfm2.shortconv.l_cache", Integer(0), "is 0" + counts},
           {"qwen3_5", "qwen35.nextn_predict_layers", Integer(4), "is 4; must be 0 to 3"},
           {"qwen3_5", "qwen35.nextn_predict_layers", Integer(-1), "is -1; must be 0 to 3"},
           {"qwen3_5", "qwen35.full_attention_interval", Integer(0), "is 0; must be at least 1"},
           {"qwen3_5", "qwen35.rope.dimension_count", Integer(33), "is 33; must be 1 to 32"},
           {"qwen3_5", "qwen35.attention.key_length", Integer(15),
            "is 15; must be an even number of channels"},
           {"qwen3_5", "qwen35.attention.value_length", Integer(16), "is 16; must be 32"},
           {"lfm2", "lfm2.rope.dimension_count", Integer(8),
            "is 8 of 16 channels; all of them must be rotated"},
           // That do not fit each other.
           {"lfm2", "lfm2.attention.head_count_kv", Numbers({0, 0, 2}),
            "has 3 entries for 4 layers"},
           {"lfm2", "lfm2.attention.head_count_kv", Numbers({0, 2, 4, 0}),
            "holds 2 and 4; must be one number for all layers with attention"},
           {"lfm2", "lfm2.attention.head_count_kv", Numbers({0, 0.5, 0, 0}),
            "holds 0.5, which is no count"},
           {"lfm2", "lfm2.attention.head_count_kv", Numbers({0, 0, 0, 0}), "has no key heads"},
           {"falcon_h1", "falcon-h1.ssm.inner_size", Integer(97), "is 97, no multiple of 6 heads"},
           {"granite_h", "granitehybrid.ssm.inner_size", Integer(72), "is 72, no multiple of 64"},
           {"qwen3_5", "qwen35.ssm.time_step_rank", Integer(3),
            "is 3, which must divide an inner_size of 128 and be a multiple of a group_count of 2"},
           // What nothing reads may change what the model computes.
           {"qwen2", "qwen2.attention.sliding_window", Integer(4096), "is not supported"},
           {"lfm2", "lfm2.expert_count", Integer(8), "is 8; experts of a lfm2 are not read"},
           {"lfm2_moe", "lfm2moe.expert_gating_func", Integer(1), "is 1; must be 2"},
           {"lfm2_moe", "lfm2moe.expert_weights_scale", Float(1.5), "is 1.5; must be 1"},
           {"lfm2_moe", "lfm2moe.expert_used_count", Integer(0), "is 0" + counts},
           {"qwen3_5_moe",
            "qwen35moe.expert_weights_norm",
            {Kind::kBool},
            "is false; must be true"},
           {"qwen3_5_moe", "qwen35moe.expert_count", Integer(0), "is 0" + counts},
           {"granite_h_moe", "granitehybrid.expert_gating_func", Integer(2), "is 2; must be 1"},
           {"nemotron_h", "nemotron_h.feed_forward_length", Numbers({0, 72, 0, 0, 80}),
            "holds 72 and 80; must be one number for all layers with a feed-forward"},
           {"nemotron_h", "nemotron_h.attention.layer_norm_rms_epsilon", Float(0),
            "is 0 or missing; must be above 0"},
           {"granite_h", "granitehybrid.attention.clamp_kqv", Float(8), "is not supported"},
       }) {
    GgufHeader header = HeaderOf(c.file);
    header.metadata.insert_or_assign(c.key, c.value);
    absl::Status status;
    ConfigOf(header, &status);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.key;
    EXPECT_EQ(status.message(), "FILE: " + c.key + " " + c.why);
  }
}

TEST(ConvertGgufFamilies, WhatAFileSaysIsReadAsItsModelSaysIt) {
  absl::Status status;
  // The float32 next to 1e11 is 99999997952.
  GgufHeader falcon = HeaderOf("falcon_h1");
  falcon.metadata["falcon-h1.rope.freq_base"] = Float(1e11F);
  EXPECT_EQ(ConfigOf(falcon, &status)["rope_theta"], 1e11);
  EXPECT_EQ(ConfigOf(falcon, &status)["rms_norm_eps"], 1e-5);
  falcon.metadata["falcon-h1.rope.freq_base"] = Integer(10000);
  EXPECT_EQ(ConfigOf(falcon, &status)["rope_theta"], 10000.0);
  // Layers that guess ahead come last, and their list may go on with them.
  GgufHeader qwen = HeaderOf("qwen3_5");
  qwen.metadata["qwen35.nextn_predict_layers"] = Integer(1);
  EXPECT_EQ(ConfigOf(qwen, &status)["num_hidden_layers"], 3);
  EXPECT_EQ(ConfigOf(qwen, &status)["layer_types"].size(), 3u);
  qwen = HeaderOf("qwen3_5");
  const Json listed = ConfigOf(qwen, &status)["layer_types"];
  qwen.metadata.erase("qwen35.attention.recurrent_layers");
  EXPECT_EQ(ConfigOf(qwen, &status)["layer_types"], listed);
  EXPECT_TRUE(status.ok()) << status;
}

// Granite without Mamba-2, and so with a rotation.
TEST(ConvertGgufFamilies, GraniteOfAttentionAlone) {
  GgufWriter writer;
  writer.Text("general.architecture", "granite");
  for (const auto& [key, value] :
       std::vector<std::pair<std::string, uint32_t>>{{"block_count", 1},
                                                     {"context_length", 64},
                                                     {"embedding_length", 64},
                                                     {"feed_forward_length", 48},
                                                     {"attention.head_count", 2},
                                                     {"attention.head_count_kv", 1}}) {
    writer.Integer("granite." + key, value);
  }
  // Of a family with Mamba-2 elsewhere: these sizes are in its files, and belong to nothing.
  for (const char* size :
       {"conv_kernel", "state_size", "group_count", "inner_size", "time_step_rank"}) {
    writer.Integer(std::string("granite.ssm.") + size, 4);
  }
  writer.Number("granite.embedding_scale", 12);
  writer.Number("granite.attention.layer_norm_rms_epsilon", 1e-5);
  const auto tensor = [&](const std::string& name, const std::vector<int64_t>& shape) {
    int64_t values = 1;
    for (const int64_t dim : shape) values *= dim;
    writer.Tensor(name, GgufType::kF32, shape, std::string(4 * values, '\0'));
  };
  tensor("token_embd.weight", {40, 64});
  tensor("output_norm.weight", {64});
  tensor("blk.0.attn_norm.weight", {64});
  tensor("blk.0.attn_q.weight", {64, 64});
  tensor("blk.0.attn_k.weight", {32, 64});
  tensor("blk.0.attn_v.weight", {32, 64});
  tensor("blk.0.attn_output.weight", {64, 64});
  tensor("blk.0.ffn_norm.weight", {64});
  tensor("blk.0.ffn_gate.weight", {48, 64});
  tensor("blk.0.ffn_up.weight", {48, 64});
  tensor("blk.0.ffn_down.weight", {64, 48});
  TempDir temp;
  const absl::Status status =
      ConvertGguf({temp.Write("model.gguf", writer.File()), temp.File("out")});
  ASSERT_TRUE(status.ok()) << status;
  const Json config = Json::parse(std::ifstream(temp.File("out/config.json")));
  EXPECT_EQ(config["position_embedding_type"], "rope");
  EXPECT_EQ(config["embedding_multiplier"], 12.0);
  EXPECT_EQ(config["attention_multiplier"], 1 / std::sqrt(32.0));
  const auto model = LoadCpuModel(temp.File("out"), ModelOptions());
  EXPECT_TRUE(model.ok()) << model.status();
}

}  // namespace
}  // namespace packrat
