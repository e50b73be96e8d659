// GGUF files: what their blocks mean, by the `gguf` package; files as folders; bad files.
#include "models/files/gguf.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "kernels/quantized.h"
#include "models/cpu_model.h"
#include "models/files/checkpoint.h"
#include "models/files/json.h"
#include "models/tools/convert_gguf.h"
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

TEST(GgufTest, MetadataAreRead) {
  const auto file = GgufFile::Open(kBlocks);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto& metadata = (*file)->header().metadata;
  EXPECT_EQ(metadata.at("general.architecture").text, "none");
  EXPECT_EQ(metadata.at("a.text").text, "caf\xc3\xa9");
  EXPECT_EQ(metadata.at("a.list").texts, (std::vector<std::string>{"x", "", "yz"}));
  EXPECT_EQ(metadata.at("a.numbers").numbers, (std::vector<double>{1, -2, 3}));
  EXPECT_EQ(metadata.at("a.number").number, 0.375);
  EXPECT_EQ(metadata.at("a.flag").integer, 1);
}

TEST(GgufTest, BlocksMeanWhatTheirPackageSays) {
  const auto file = *GgufFile::Open(kBlocks);
  ASSERT_EQ(file->header().tensors.size(), 8u);
  for (const auto& [name, tensor] : file->header().tensors) {
    EXPECT_EQ(GgufTypeName(tensor.type), name);
    const std::vector<float> expected = Expected(name);
    ASSERT_EQ(tensor.shape, (std::vector<int64_t>{2, static_cast<int64_t>(expected.size()) / 2}));
    const auto data = *file->Read(tensor);
    const int block = GgufBlock(tensor.type);
    std::vector<float> values(expected.size());
    for (size_t i = 0; i < values.size() / block; ++i) {
      WidenGgufBlock(tensor.type, &data[i * GgufBlockBytes(tensor.type)], &values[i * block]);
    }
    EXPECT_TRUE(SameBits(values, expected)) << name;
  }
}

TEST(GgufTest, WhatBecomesOfThem) {
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

TEST(GgufTest, ScalesThatDoNotFitAreRefused) {
  const GgufTensor tensor{GgufType::kQ4_0, {1, 32}, 0, 18};
  std::vector<uint8_t> data(18);
  data[1] = 0x70;  // 8,192: eight times that is 65,536.
  EXPECT_EQ(ConvertGgufTensor(tensor, data).status().code(), absl::StatusCode::kInvalidArgument);
  data[1] = 0x6c;
  EXPECT_TRUE(ConvertGgufTensor(tensor, data).ok());
}

// A golden as a GGUF file, all in the type that it is stored in.
GgufWriter FromGolden(const std::string& name) {
  const Json config = Json::parse(std::ifstream("tests/golden/" + name + "/config.json"));
  const ModelFiles files(name);
  GgufWriter writer;
  writer.Text("general.architecture", name);
  for (const auto& [key, field] :
       std::map<std::string, std::string>{{"block_count", "num_hidden_layers"},
                                          {"embedding_length", "hidden_size"},
                                          {"feed_forward_length", "intermediate_size"},
                                          {"attention.head_count", "num_attention_heads"},
                                          {"attention.head_count_kv", "num_key_value_heads"},
                                          {"attention.key_length", "head_dim"},
                                          {"context_length", "max_position_embeddings"}}) {
    writer.Integer(name + "." + key, config.at(field));
  }
  const Json rope = config.value("rope_parameters", config);
  writer.Number(name + ".rope.freq_base", rope.at("rope_theta"));
  writer.Number(name + ".attention.layer_norm_rms_epsilon", config.at("rms_norm_eps"));
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
    if (name == "llama" && (renamed.find("attn_q.") != std::string::npos ||
                            renamed.find("attn_k.") != std::string::npos)) {
      const size_t row = bytes / tensor.shape[0];
      for (int r = 0; r < tensor.shape[0]; ++r) {
        const int from = r / dim * dim + r % dim / 2 + r % 2 * (dim / 2);
        std::memcpy(&data[r * row], static_cast<const char*>(tensor.data) + from * row, row);
      }
    }
    const GgufType type = tensor.type == TensorType::kF32 ? GgufType::kF32 : GgufType::kBF16;
    writer.Tensor(renamed, type, tensor.shape, data);
  }
  return writer;
}

TEST(GgufTest, AFileBecomesAFolderThatGivesTheSameBits) {
  for (const std::string name : {"llama", "qwen3"}) {
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
  }
}

void ExpectRefused(const GgufWriter& writer, const std::string& part) {
  TempDir temp;
  const std::string file = temp.Write("model.gguf", writer.File());
  const absl::Status status = ConvertGguf({file, temp.File("out")});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_NE(status.message().find(file + ": " + part), std::string::npos) << status;
  EXPECT_FALSE(std::filesystem::exists(temp.File("out")));
}

TEST(GgufTest, WhatIsNotSupportedIsRefusedByName) {
  GgufWriter none;
  none.Text("general.architecture", "mamba");
  ExpectRefused(none, "general.architecture is \"mamba\"; llama and qwen3 are read");
  GgufWriter scaled = FromGolden("llama");
  scaled.Text("llama.rope.scaling.type", "yarn");
  ExpectRefused(scaled, "llama.rope.scaling.type is \"yarn\"");
  GgufWriter experts = FromGolden("llama");
  experts.Integer("llama.expert_count", 8);
  ExpectRefused(experts, "llama.expert_count");
  GgufWriter extra = FromGolden("qwen3");
  extra.Tensor("rope_freqs.weight", GgufType::kF32, {16}, std::string(64, '\0'));
  ExpectRefused(extra, "tensor \"rope_freqs.weight\" has no place in a qwen3");
  GgufWriter partial = FromGolden("qwen3");
  partial.Integer("qwen3.rope.dimension_count", 16);
  ExpectRefused(partial, "qwen3.rope.dimension_count is 16 of 32 channels");
  GgufWriter pieces = FromGolden("llama");
  pieces.Text("tokenizer.ggml.model", "llama");
  ExpectRefused(pieces, "tokenizer.ggml.model is \"llama\"; only gpt2 is read");
  GgufWriter words = FromGolden("llama");
  words.Text("tokenizer.ggml.model", "gpt2");
  words.Text("tokenizer.ggml.pre", "unheard-of");
  ExpectRefused(words, "tokenizer.ggml.pre is \"unheard-of\"");
}

TEST(GgufTest, ATokenizerComesAlong) {
  GgufWriter writer = FromGolden("llama");
  writer.Text("tokenizer.ggml.model", "gpt2");
  writer.Text("tokenizer.ggml.pre", "smollm");
  writer.Texts("tokenizer.ggml.tokens", {"<|end|>", "a", "b", "ab"});
  writer.Integers("tokenizer.ggml.token_type", {3, 1, 1, 1});
  writer.Texts("tokenizer.ggml.merges", {"a b"});
  writer.Integer("tokenizer.ggml.eos_token_id", 0);
  writer.Text("tokenizer.chat_template", "{{ messages }}");
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
  EXPECT_EQ(config["chat_template"], "{{ messages }}");
}

absl::Status Parse(const std::string& bytes, size_t given, uint64_t file_bytes) {
  return ParseGgufHeader(reinterpret_cast<const uint8_t*>(bytes.data()), given, file_bytes, "FILE")
      .status();
}

TEST(GgufTest, CutFilesAreRefused) {
  std::ifstream stream(kBlocks, std::ios::binary);
  const std::string good(std::istreambuf_iterator<char>(stream), {});
  ASSERT_TRUE(Parse(good, good.size(), good.size()).ok());
  size_t end = 0;  // Of the last tensor, behind which the file is padded.
  const auto file = *GgufFile::Open(kBlocks);
  for (const auto& [name, tensor] : file->header().tensors) {
    end = std::max<size_t>(end, tensor.offset + tensor.bytes);
  }
  for (size_t n = 0; n < end; ++n) {
    // The file ends there, or only what was read of it.
    EXPECT_EQ(Parse(good, n, n).code(), absl::StatusCode::kInvalidArgument) << n;
    const absl::Status more = Parse(good, n, good.size());
    EXPECT_TRUE(more.ok() || more.code() == absl::StatusCode::kOutOfRange) << n << more;
  }
}

TEST(GgufTest, BadHeadersAreRefused) {
  const auto refused = [](const std::string& bytes, const std::string& part) {
    const absl::Status status = Parse(bytes, bytes.size(), bytes.size());
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_NE(status.message().find("FILE: "), std::string::npos) << status;
    EXPECT_NE(status.message().find(part), std::string::npos) << status;
  };
  GgufWriter writer;
  writer.Text("k", "v");
  const std::string good = writer.File();
  std::string bad = good;
  bad[0] = 'g';
  refused(bad, "is no GGUF file");
  bad = good;
  bad[4] = 1;
  refused(bad, "is GGUF version 1; 2 and 3 are read");
  bad = good;
  bad[15] = 1;  // 2^56 tensors.
  refused(bad, "tensors");
  bad = good;
  bad[24 + 9] = 77;
  refused(bad, "metadata \"k\" has the unknown type 77");
  writer.Text("k", "w");
  refused(writer.File(), "metadata \"k\" is there twice");
  const auto with_tensor = [](uint32_t type, std::vector<int64_t> shape, size_t bytes) {
    GgufWriter w;
    w.Tensor("t", static_cast<GgufType>(type), std::move(shape), std::string(bytes, '\0'));
    return w;
  };
  refused(with_tensor(9, {32}, 64).File(), "tensor \"t\" has type 9, which is not one of");
  refused(with_tensor(8, {2, 48}, 200).File(), "has rows of 48, no multiple of the 32 of Q8_0");
  refused(with_tensor(0, {0, 4}, 0).File(), "has a dimension of 0");
  refused(with_tensor(0, {int64_t{1} << 40, int64_t{1} << 40}, 0).File(), "has a dimension of");
  refused(with_tensor(0, {1, 1, 1, 1, 1}, 4).File(), "has 5 dimensions");
  refused(with_tensor(0, {64}, 32).File(), "ends beyond the file's");
  GgufWriter twice = with_tensor(0, {8}, 32);
  twice.Tensor("u", GgufType::kF32, {8}, std::string(32, '\0'));
  std::string overlap = twice.File();
  const size_t at = overlap.find(std::string("\x20\0\0\0\0\0\0\0", 8));  // The second's offset.
  ASSERT_NE(at, std::string::npos);
  overlap[at] = 4;
  refused(overlap, "tensor \"u\" overlaps tensor \"t\"");
  GgufWriter odd;
  odd.Integer("general.alignment", 24);
  refused(odd.File(), "general.alignment is 24");
}

}  // namespace
}  // namespace packrat
