// GGUF files as folders: the same bits, what is refused, and defaults.
#include "models/tools/convert_gguf.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/quantized.h"
#include "kernels/rope.h"
#include "models/cpu_model.h"
#include "models/files/checkpoint.h"
#include "models/files/json.h"
#include "tests/models/gguf_writer.h"
#include "tests/models/golden.h"
#include "tests/models/model_files.h"

namespace packrat {
namespace {

constexpr char kBlocks[] = "tests/data/gguf/blocks.gguf";

std::vector<float> Expected(const std::string& name) {
  auto file = *Checkpoint::OpenFile("tests/data/gguf/blocks.safetensors");
  const TensorView view = *file->Find(name);
  std::vector<float> values(view.NumElements());
  EXPECT_TRUE(file->Read(view, 0, view.bytes, values.data()).ok());
  return values;
}

TEST(ConvertGguf, WhatBecomesOfThem) {
  const auto file = *GgufFile::Open(kBlocks);
  for (const auto& [name, tensor] : file->header().tensors) {
    const auto converted = ConvertGgufTensor(tensor, *file->Read(tensor));
    ASSERT_TRUE(converted.ok()) << converted.status();
    EXPECT_EQ(converted->bytes.size(), TensorBytes(converted->type, tensor.shape)) << name;
    const std::vector<float> expected = Expected(name);
    if (GgufBlock(tensor.type) == 1) {
      EXPECT_EQ(TensorTypeName(converted->type), name);
      continue;
    }
    const bool eight = name == "Q8_0" || name == "Q6_K";
    ASSERT_EQ(converted->type, eight ? TensorType::kInt8 : TensorType::kInt4) << name;
    const DType format = eight ? DType::kInt8 : DType::kInt4;
    for (size_t i = 0; i < expected.size(); i += kQuantGroup) {
      const QuantGroup group =
          LoadQuantGroup(&converted->bytes[i / kQuantGroup * StoredGroupBytes(format)], format);
      float wide[kQuantGroup];
      WidenQuantGroup(group, format, wide);
      const double scale = std::fabs(LoadAsFloat(&group.scale, 0, DType::kF16));
      const double minimum = std::fabs(LoadAsFloat(&group.minimum, 0, DType::kF16));
      for (int k = 0; k < kQuantGroup; ++k) {
        // Of Q4_K, two roundings to float16 and those of float32; of Q6_K, to the nearest.
        const double error = name == "Q4_K"   ? 0x1.01p-11 * (15 * scale + minimum) + 16 * 0x1p-25
                             : name == "Q6_K" ? scale * 0.5001
                                              : 0;
        ASSERT_NEAR(wide[k], expected[i + k], error) << name << " " << i + k;
      }
    }
  }
}

TEST(ConvertGguf, ScalesThatDoNotFitAreRefused) {
  const GgufTensor tensor{GgufType::kQ4_0, {1, 32}, 0, 18};
  std::vector<uint8_t> data(18);
  data[1] = 0x70;  // 8,192: eight times that is 65,536.
  EXPECT_EQ(ConvertGgufTensor(tensor, data).status().code(), absl::StatusCode::kInvalidArgument);
  data[1] = 0x6c;
  EXPECT_TRUE(ConvertGgufTensor(tensor, data).ok());
  const auto converts = [](GgufType type, size_t bytes, size_t scale, const char* half,
                           size_t first, uint8_t value) {
    std::vector<uint8_t> block(bytes);
    block[first] = value;
    std::memcpy(&block[scale], half, 2);
    const absl::Status status = ConvertGgufTensor({type, {1, 256}, 0, bytes}, block).status();
    EXPECT_TRUE(status.ok() || absl::IsInvalidArgument(status)) << status;
    return status.ok();
  };
  // 32,768 times a scale of 2, then of 1; the same of its minimum.
  EXPECT_FALSE(converts(GgufType::kQ4_K, 144, 0, "\x00\x78", 4, 2));
  EXPECT_TRUE(converts(GgufType::kQ4_K, 144, 0, "\x00\x78", 4, 1));
  EXPECT_FALSE(converts(GgufType::kQ4_K, 144, 2, "\x00\x78", 8, 2));
  EXPECT_TRUE(converts(GgufType::kQ4_K, 144, 2, "\x00\x78", 8, 1));
  // No numbers.
  EXPECT_FALSE(converts(GgufType::kQ8_0, 34, 0, "\x00\x7e", 2, 1));
  EXPECT_FALSE(converts(GgufType::kQ8_0, 34, 0, "\x00\xfc", 2, 1));
  EXPECT_TRUE(converts(GgufType::kQ8_0, 34, 0, "\xff\x7b", 2, 1));
  EXPECT_FALSE(converts(GgufType::kQ4_1, 20, 0, "\x00\x7c", 4, 1));
  EXPECT_FALSE(converts(GgufType::kQ4_1, 20, 2, "\x01\x7e", 4, 1));
  EXPECT_TRUE(converts(GgufType::kQ4_1, 20, 2, "\xff\xfb", 4, 1));
  EXPECT_FALSE(converts(GgufType::kQ4_0, 18, 0, "\x00\x7e", 2, 1));
  EXPECT_FALSE(converts(GgufType::kQ4_K, 144, 0, "\x00\x7e", 4, 1));
  EXPECT_FALSE(converts(GgufType::kQ6_K, 210, 208, "\x00\x7e", 192, 1));
  // 32,768 times 127 times -32, and without a scale of its own nothing.
  EXPECT_TRUE(converts(GgufType::kQ6_K, 210, 208, "\x00\x78", 192, 0));
  EXPECT_FALSE(converts(GgufType::kQ6_K, 210, 208, "\x00\x78", 192, 127));
}

// A golden as a GGUF file, all in the type that it is stored in.
// Without the keys that are `left_out`, and the tensor that is `lost`.
GgufWriter FromGolden(const std::string& name, const std::string& left_out = "-",
                      const std::string& lost = "") {
  const Json config = Json::parse(std::ifstream("tests/golden/" + name + "/config.json"));
  const ModelFiles files(name);
  const std::string architecture = config.at("model_type");
  GgufWriter writer;
  writer.Text("general.architecture", architecture);
  for (const auto& [key, field] :
       std::map<std::string, std::string>{{"block_count", "num_hidden_layers"},
                                          {"embedding_length", "hidden_size"},
                                          {"feed_forward_length", "intermediate_size"},
                                          {"attention.head_count", "num_attention_heads"},
                                          {"attention.head_count_kv", "num_key_value_heads"},
                                          {"attention.key_length", "head_dim"},
                                          {"context_length", "max_position_embeddings"}}) {
    if (key.find(left_out) == std::string::npos) {
      writer.Integer(architecture + "." + key, config.at(field));
    }
  }
  const Json rope = config.value("rope_parameters", config);
  if (left_out != "rope") writer.Number(architecture + ".rope.freq_base", rope.at("rope_theta"));
  if (left_out != "rms_epsilon") {
    writer.Number(architecture + ".attention.layer_norm_rms_epsilon", config.at("rms_norm_eps"));
  }
  const std::map<std::string, std::string> names = {{"model.embed_tokens.", "token_embd."},
                                                    {"model.norm.", "output_norm."},
                                                    {"lm_head.", "output."},
                                                    {"input_layernorm.", "attn_norm."},
                                                    {"self_attn.q_proj.", "attn_q."},
                                                    {"self_attn.k_proj.", "attn_k."},
                                                    {"self_attn.v_proj.", "attn_v."},
                                                    {"self_attn.o_proj.", "attn_output."},
                                                    {"self_attn.q_norm.", "attn_q_norm."},
                                                    {"self_attn.k_norm.", "attn_k_norm."},
                                                    {"mlp.gate_proj.", "ffn_gate."},
                                                    {"mlp.up_proj.", "ffn_up."},
                                                    {"mlp.down_proj.", "ffn_down."},
                                                    {"model.layers.", "blk."},
                                                    {"post_attention_layernorm.", "ffn_norm."}};
  const int dim = config.at("head_dim");
  for (const TensorToWrite& tensor : files.tensors) {
    std::string renamed = tensor.name;
    for (const auto& [ours, theirs] : names) {
      const size_t at = renamed.find(ours);
      if (at != std::string::npos) renamed.replace(at, ours.size(), theirs);
    }
    const size_t bytes = TensorBytes(tensor.type, tensor.shape);
    std::string data(static_cast<const char*>(tensor.data), bytes);
    // Llamas' rotary pairs, half a head apart, lie side by side there.
    if (architecture == "llama" && (renamed.find("attn_q.") != std::string::npos ||
                                    renamed.find("attn_k.") != std::string::npos)) {
      const size_t row = bytes / tensor.shape[0];
      for (int r = 0; r < tensor.shape[0]; ++r) {
        const int from = r / dim * dim + r % dim / 2 + r % 2 * (dim / 2);
        std::memcpy(&data[r * row], static_cast<const char*>(tensor.data) + from * row, row);
      }
    }
    if (renamed == lost) continue;
    const GgufType type = tensor.type == TensorType::kF32 ? GgufType::kF32 : GgufType::kBF16;
    writer.Tensor(renamed, type, tensor.shape, data);
  }
  return writer;
}

TEST(ConvertGguf, AFileBecomesAFolderThatGivesTheSameBits) {
  for (const std::string name : {"llama", "llama_biases", "qwen3"}) {
    TempDir temp;
    const std::string file = temp.Write("model.gguf", FromGolden(name).File());
    const absl::Status status = ConvertGguf({file, temp.File("out")});
    ASSERT_TRUE(status.ok()) << status;
    const Golden golden = ReadGolden(name);
    ModelOptions options;
    options.max_batch_tokens = options.max_logit_rows = 1024;
    const auto logits = [&](const std::string& dir) {
      const auto model = LoadCpuModel(dir, options);
      EXPECT_TRUE(model.ok()) << model.status();
      return Feed(model->get(), golden, false, [] { return 1000; });
    };
    EXPECT_TRUE(SameBits(logits(temp.File("out")), logits("tests/golden/" + name))) << name;
    EXPECT_FALSE(std::filesystem::exists(temp.File("out/tokenizer.json")));
    // A folder that is not empty is left as it is.
    const absl::Status twice = ConvertGguf({file, temp.File("out")});
    EXPECT_NE(twice.message().find("is not empty"), std::string::npos) << twice;
  }
}

Json ConfigOf(const GgufWriter& writer) {
  TempDir temp;
  const absl::Status status =
      ConvertGguf({temp.Write("model.gguf", writer.File()), temp.File("out")});
  EXPECT_TRUE(status.ok()) << status;
  return Json::parse(std::ifstream(temp.File("out/config.json")), nullptr, false);
}

TEST(ConvertGguf, WhatAFileLeavesOutHasItsDefault) {
  const Json plain = ConfigOf(FromGolden("llama", "rope"));
  EXPECT_EQ(plain["rope_theta"], 10000.0);
  // Written, since a llama's configuration without them has ends of its own.
  EXPECT_TRUE(plain.contains("eos_token_id") && plain["eos_token_id"].is_null());
  EXPECT_TRUE(plain.contains("bos_token_id") && plain["bos_token_id"].is_null());
  EXPECT_EQ(plain["tie_word_embeddings"], true);
  EXPECT_EQ(ConfigOf(FromGolden("qwen3", "rope"))["tie_word_embeddings"], false);
  EXPECT_EQ(ConfigOf(FromGolden("llama", "key_length"))["head_dim"], 16);
  GgufWriter ends = FromGolden("llama");
  ends.Text("llama.rope.scaling.type", "none");
  ends.Integer("tokenizer.ggml.bos_token_id", 7);
  ends.Integer("tokenizer.ggml.eos_token_id", 9);
  ends.Text("tokenizer.ggml.model", "none");
  const Json config = ConfigOf(ends);
  EXPECT_EQ(config["bos_token_id"], 7);
  EXPECT_EQ(config["eos_token_id"], 9);
}

void ExpectRefused(const GgufWriter& writer, const std::string& part,
                   const std::string& more = "") {
  TempDir temp;
  const std::string file = temp.Write("model.gguf", writer.File());
  const absl::Status status = ConvertGguf({file, temp.File("out")});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_NE(status.message().find(file + ": " + part), std::string::npos) << status;
  EXPECT_NE(status.message().find(more), std::string::npos) << status;
  EXPECT_FALSE(std::filesystem::exists(temp.File("out")));
}

// A download that ended early, or another model's heads.
TEST(ConvertGguf, WhatIsNoWholeModelIsRefused) {
  GgufWriter other_heads = FromGolden("llama", "key_length");
  other_heads.Integer("llama.attention.key_length", 64);
  ExpectRefused(other_heads, "makes no model: ", "q_proj.weight has shape [64, 64]");
  ExpectRefused(FromGolden("llama", "head_count_kv"),
                "makes no model: ", "k_proj.weight has shape");
  ExpectRefused(FromGolden("qwen3", "-", "blk.1.ffn_down.weight"),
                "makes no model: ", "model.layers.1.mlp.down_proj.weight");
}

TEST(ConvertGguf, WhatIsNotSupportedIsRefusedByName) {
  GgufWriter none;
  none.Text("general.architecture", "mamba");
  ExpectRefused(
      none,
      "general.architecture is \"mamba\"; falcon-h1, granite, granitehybrid, lfm2, "
      "lfm2moe, llama, nemotron_h, qwen2, qwen3, qwen35, qwen35moe and qwen3next are read");
  GgufWriter scaled = FromGolden("llama");
  scaled.Text("llama.rope.scaling.type", "longrope");
  ExpectRefused(scaled, "llama.rope.scaling.type is \"longrope\"; none, linear and yarn are read");
  GgufWriter nan = FromGolden("llama");
  nan.Number("llama.rope.scaling.factor", NAN);
  ExpectRefused(nan, "llama.rope.scaling.factor is nan; must be finite");
  GgufWriter stretched = FromGolden("llama");
  stretched.Number("llama.rope.scaling.attn_factor", 1.5);
  ExpectRefused(stretched, "llama.rope.scaling.attn_factor is 1.5; must be 1");
  GgufWriter part = FromGolden("llama");
  part.Integer("split.count", 3);
  ExpectRefused(part, "split.count is 3; join the parts first");
  GgufWriter beyond = FromGolden("llama");
  beyond.Tensor("blk.99.attn_norm.weight", GgufType::kF32, {16}, std::string(64, '\0'));
  ExpectRefused(beyond, "tensor \"blk.99.attn_norm.weight\" has no place in a llama");
  ExpectRefused(FromGolden("llama", "rms_epsilon"),
                "llama.attention.layer_norm_rms_epsilon is 0 or missing; must be above 0");
  GgufWriter experts = FromGolden("llama");
  experts.Integer("llama.expert_count", 8);
  ExpectRefused(experts, "llama.expert_count");
  GgufWriter extra = FromGolden("qwen3");
  extra.Tensor("rope_freqs.weight", GgufType::kF32, {16}, std::string(64, '\0'));
  ExpectRefused(extra, "tensor \"rope_freqs.weight\": its factors are not at least 1");
  GgufWriter unknown = FromGolden("qwen3");
  unknown.Tensor("blk.0.attn_sinks.weight", GgufType::kF32, {16}, std::string(64, '\0'));
  ExpectRefused(unknown, "tensor \"blk.0.attn_sinks.weight\" has no place in a qwen3");
  GgufWriter partial = FromGolden("qwen3");
  partial.Integer("qwen3.rope.dimension_count", 16);
  ExpectRefused(partial,
                "qwen3.rope.dimension_count is 16 of 32 channels; all of them must be rotated");
  for (const char* key :
       {"block_count", "embedding_length", "feed_forward_length", "context_length"}) {
    ExpectRefused(FromGolden("llama", key),
                  std::string("llama.") + key + " is missing; must be 1 to 2147483647");
  }
  GgufWriter odd = FromGolden("llama", "key_length");
  odd.Integer("llama.attention.key_length", 15);
  ExpectRefused(odd, "llama.attention.key_length is 15; must be an even number of channels");
  GgufWriter vector;
  vector.Text("general.architecture", "llama");
  for (const char* key : {"block_count", "embedding_length", "feed_forward_length",
                          "attention.head_count", "context_length"}) {
    vector.Integer(std::string("llama.") + key, key == std::string("embedding_length") ? 16 : 2);
  }
  vector.Tensor("token_embd.weight", GgufType::kF32, {8}, std::string(32, '\0'));
  ExpectRefused(vector, "tensor \"token_embd.weight\" is missing or no matrix");
  GgufWriter pieces = FromGolden("llama");
  pieces.Text("tokenizer.ggml.model", "bert");
  ExpectRefused(pieces, "tokenizer.ggml.model is \"bert\"; gpt2, llama and t5 are read");
  GgufWriter words = FromGolden("llama");
  words.Text("tokenizer.ggml.model", "gpt2");
  words.Text("tokenizer.ggml.pre", "unheard-of");
  words.Texts("tokenizer.ggml.tokens", {"a"});
  ExpectRefused(words, "tokenizer.ggml.pre is \"unheard-of\"");
}

// The factors of a scaling, as a file has them.
std::string Factors(double base, int head_dim, const RopeScaling& scaling) {
  const auto plain = RopeFrequencies(base, head_dim);
  const auto scaled = RopeFrequencies(base, head_dim, scaling);
  std::string bytes;
  for (size_t i = 0; i < plain.size(); ++i) {
    const auto factor = static_cast<float>(plain[i] / scaled[i]);
    bytes.append(reinterpret_cast<const char*>(&factor), sizeof(factor));
  }
  return bytes;
}

TEST(ConvertGguf, ScaledRotaryFrequencies) {
  const double base = ConfigOf(FromGolden("llama"))["rope_theta"];
  for (const auto& [factor, context] : {std::pair(8.0, 8192), {32.0, 8192}, {2.0, 1024}}) {
    GgufWriter writer = FromGolden("llama");
    writer.Tensor("rope_freqs.weight", GgufType::kF32, {8},
                  Factors(base, 16, {factor, 1.0, 4.0, context}));
    const Json config = ConfigOf(writer);
    EXPECT_EQ(config["rope_scaling"], Json({{"rope_type", "llama3"},
                                            {"factor", factor},
                                            {"low_freq_factor", 1.0},
                                            {"high_freq_factor", 4.0},
                                            {"original_max_position_embeddings", context}}));
  }
  EXPECT_TRUE(ConfigOf(FromGolden("llama"))["rope_scaling"].is_null());
  GgufWriter linear = FromGolden("llama");
  linear.Text("llama.rope.scaling.type", "linear");
  linear.Number("llama.rope.scaling.factor", 2.5);
  EXPECT_EQ(ConfigOf(linear)["rope_scaling"], Json({{"rope_type", "linear"}, {"factor", 2.5}}));
  GgufWriter alone = FromGolden("llama");
  alone.Number("llama.rope.scaling.factor", 2.5);
  EXPECT_EQ(ConfigOf(alone)["rope_scaling"], Json({{"rope_type", "linear"}, {"factor", 2.5}}));
  alone.Text("llama.rope.scaling.type", "none");
  EXPECT_TRUE(ConfigOf(alone)["rope_scaling"].is_null());

  GgufWriter other = FromGolden("llama");
  other.Tensor("rope_freqs.weight", GgufType::kF32, {8}, Factors(base, 16, {8.0, 1.0, 3.0, 8192}));
  ExpectRefused(other, "tensor \"rope_freqs.weight\": its factors are not those of Llama 3.1's");
  GgufWriter wide = FromGolden("llama");
  wide.Tensor("rope_freqs.weight", GgufType::kF32, {4}, Factors(base, 8, {8.0, 1.0, 4.0, 8192}));
  ExpectRefused(wide, "tensor \"rope_freqs.weight\" must be 8 F32 beside no other scaling");
  GgufWriter none = FromGolden("llama");
  none.Text("llama.rope.scaling.type", "linear");
  ExpectRefused(none, "llama.rope.scaling.factor is missing; must be at least 1");
  none.Number("llama.rope.scaling.factor", 0.5);
  ExpectRefused(none, "llama.rope.scaling.factor is 0.5; must be at least 1");
  linear.Tensor("rope_freqs.weight", GgufType::kF32, {8}, Factors(base, 16, {8.0, 1.0, 4.0, 8192}));
  ExpectRefused(linear, "tensor \"rope_freqs.weight\" must be 8 F32 beside no other scaling");
}

TEST(ConvertGguf, RotaryFrequenciesScaledByYarn) {
  const auto yarn = [] {
    GgufWriter writer = FromGolden("llama");
    writer.Text("llama.rope.scaling.type", "yarn");
    return writer;
  };
  GgufWriter plain = yarn();
  ExpectRefused(plain, "llama.rope.scaling.factor is missing; must be at least 1");
  plain.Number("llama.rope.scaling.factor", 2.5);
  ExpectRefused(plain, "llama.rope.scaling.original_context_length is missing");
  plain.Integer("llama.rope.scaling.original_context_length", 64);
  Json expected = {{"rope_type", "yarn"},
                   {"factor", 2.5},
                   {"beta_fast", 32.0},
                   {"beta_slow", 1.0},
                   {"original_max_position_embeddings", 64}};
  EXPECT_EQ(ConfigOf(plain)["rope_scaling"], expected);
  plain.Number("llama.rope.scaling.yarn_beta_fast", 16);
  plain.Number("llama.rope.scaling.yarn_beta_slow", 1.5);
  plain.Number("llama.rope.scaling.yarn_ext_factor", 1);
  expected["beta_fast"] = 16.0, expected["beta_slow"] = 1.5;
  EXPECT_EQ(ConfigOf(plain)["rope_scaling"], expected);
  GgufWriter factors = plain;
  factors.Tensor("rope_freqs.weight", GgufType::kF32, {8}, std::string(32, '\0'));
  ExpectRefused(factors, "tensor \"rope_freqs.weight\" must be 8 F32 beside no other scaling");
  // What llama.cpp makes of it differs from version to version.
  plain.Number("llama.rope.scaling.yarn_attn_factor", 1.25);
  ExpectRefused(plain, "llama.rope.scaling.yarn_attn_factor");
  GgufWriter part = yarn();
  part.Number("llama.rope.scaling.yarn_ext_factor", 0.5);
  part.Number("llama.rope.scaling.factor", 2.5);
  ExpectRefused(part, "llama.rope.scaling.yarn_ext_factor is 0.5; must be 1");
  GgufWriter none = FromGolden("llama");
  none.Number("llama.rope.scaling.yarn_ext_factor", 1);
  ExpectRefused(none, "llama.rope.scaling.yarn_ext_factor is 1; must be 0");
}

TEST(ConvertGguf, ATokenizerComesAlong) {
  GgufWriter writer = FromGolden("llama");
  writer.Text("tokenizer.ggml.model", "gpt2");
  writer.Text("tokenizer.ggml.pre", "smollm");
  writer.Texts("tokenizer.ggml.tokens", {"<|end|>", "a", "b", "ab"});
  writer.Integers("tokenizer.ggml.token_type", {3, 1, 1, 1});
  writer.Texts("tokenizer.ggml.merges", {"a b"});
  writer.Integer("tokenizer.ggml.eos_token_id", 0);
  writer.Integer("tokenizer.ggml.eot_token_id", 2);
  writer.Integer("tokenizer.ggml.eom_token_id", 0);
  writer.Text("tokenizer.chat_template", "{{ messages }}");
  writer.Text("tokenizer.chat_template.tool_use", "{{ tools }}");
  writer.Number("general.sampling.temp", 0.1f);
  writer.Integer("general.sampling.top_k", 20);
  TempDir temp;
  const absl::Status status =
      ConvertGguf({temp.Write("model.gguf", writer.File()), temp.File("out")});
  ASSERT_TRUE(status.ok()) << status;
  const Json json = Json::parse(std::ifstream(temp.File("out/tokenizer.json")));
  EXPECT_EQ(json["model"]["vocab"], Json({{"<|end|>", 0}, {"a", 1}, {"b", 2}, {"ab", 3}}));
  EXPECT_EQ(json["model"]["merges"], Json({"a b"}));
  ASSERT_EQ(json["added_tokens"].size(), 1u);
  EXPECT_EQ(json["added_tokens"][0]["content"], "<|end|>");
  EXPECT_EQ(json["added_tokens"][0]["special"], true);
  EXPECT_EQ(json["pre_tokenizer"]["pretokenizers"][0]["type"], "Digits");
  const Json config = Json::parse(std::ifstream(temp.File("out/tokenizer_config.json")));
  EXPECT_EQ(config["eos_token"], "<|end|>");
  EXPECT_EQ(config["add_bos_token"], false);
  EXPECT_EQ(config["chat_template"], Json({{{"name", "default"}, {"template", "{{ messages }}"}},
                                           {{"name", "tool_use"}, {"template", "{{ tools }}"}}}));
  EXPECT_EQ(
      Json::parse(std::ifstream(temp.File("out/generation_config.json"))),
      Json({{"eos_token_id", {0, 2}}, {"temperature", 0.1}, {"top_k", 20}, {"do_sample", true}}));
}

TEST(ConvertGguf, OneTemplateAndOneEndAreWrittenPlainly) {
  GgufWriter writer = FromGolden("llama");
  writer.Text("tokenizer.ggml.model", "gpt2");
  writer.Texts("tokenizer.ggml.tokens", {"<|end|>", "a"});
  writer.Texts("tokenizer.ggml.merges", {});
  writer.Integer("tokenizer.ggml.eos_token_id", 0);
  writer.Text("tokenizer.chat_template", "{{ messages }}");
  TempDir temp;
  const absl::Status status =
      ConvertGguf({temp.Write("model.gguf", writer.File()), temp.File("out")});
  ASSERT_TRUE(status.ok()) << status;
  const Json config = Json::parse(std::ifstream(temp.File("out/tokenizer_config.json")));
  EXPECT_EQ(config["chat_template"], "{{ messages }}");
  EXPECT_FALSE(std::filesystem::exists(temp.File("out/generation_config.json")));
}

}  // namespace
}  // namespace packrat
