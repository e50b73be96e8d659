#include "models/tools/convert_gguf.h"

#include <algorithm>
#include <deque>
#include <fstream>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/files/json.h"
#include "models/tools/gguf_rope.h"
#include "models/tools/gguf_tokenizer.h"
#include "models/tools/quantize.h"

namespace packrat {
namespace {

// What stands behind "blk.N." and what it is called in "model.layers.N.".
const std::map<std::string, std::string> kLayerNames = {
    {"attn_norm.weight", "input_layernorm.weight"},
    {"attn_q.weight", "self_attn.q_proj.weight"},
    {"attn_k.weight", "self_attn.k_proj.weight"},
    {"attn_v.weight", "self_attn.v_proj.weight"},
    {"attn_output.weight", "self_attn.o_proj.weight"},
    {"attn_q_norm.weight", "self_attn.q_norm.weight"},
    {"attn_k_norm.weight", "self_attn.k_norm.weight"},
    {"ffn_norm.weight", "post_attention_layernorm.weight"},
    {"ffn_gate.weight", "mlp.gate_proj.weight"},
    {"ffn_up.weight", "mlp.up_proj.weight"},
    {"ffn_down.weight", "mlp.down_proj.weight"},
};
const std::map<std::string, std::string> kOtherNames = {
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
};

class Converter {
 public:
  explicit Converter(const GgufFile& file) : file_(file), header_(file.header()) {}

  absl::StatusOr<Json> Config();
  absl::Status Tensors(std::vector<TensorToWrite>* tensors);
  // As stated; `missing` where it is not.
  int64_t Integer(const std::string& key, int64_t missing = -1) const {
    const auto found = header_.metadata.find(key);
    return found == header_.metadata.end() ? missing : found->second.integer;
  }

 private:
  absl::Status Invalid(const std::string& why) const {
    return absl::InvalidArgumentError(absl::StrCat(file_.path(), ": ", why));
  }
  double Number(const std::string& key, double missing) const {
    const auto found = header_.metadata.find(key);
    return found == header_.metadata.end() ? missing : found->second.number;
  }
  std::string Text(const std::string& key) const {
    const auto found = header_.metadata.find(key);
    return found == header_.metadata.end() ? "" : found->second.text;
  }
  std::string NameOf(const std::string& name) const;
  // Rotary pairs lie side by side in a llama's file, half a head apart in ours.
  void SplitPairs(const std::string& name, const GgufTensor& tensor, ConvertedTensor* converted);

  const GgufFile& file_;
  const GgufHeader& header_;
  std::string architecture_;
  int64_t heads_ = 0, kv_heads_ = 0, head_dim_ = 0;
  std::deque<std::vector<uint8_t>> data_;
};

absl::StatusOr<Json> Converter::Config() {
  architecture_ = Text("general.architecture");
  if (architecture_ != "llama" && architecture_ != "qwen3") {
    return Invalid(absl::StrCat("general.architecture is ", Quoted(architecture_),
                                "; llama and qwen3 are read"));
  }
  const std::string a = architecture_ + ".";
  if (Integer(a + "expert_count", 0) != 0) return Invalid(a + "expert_count is not 0");
  for (const char* key : {"block_count", "embedding_length", "feed_forward_length",
                          "attention.head_count", "context_length"}) {
    if (Integer(a + key) < 1) return Invalid(absl::StrCat(a, key, " is missing or no count"));
  }
  const int64_t width = Integer(a + "embedding_length");
  heads_ = Integer(a + "attention.head_count");
  kv_heads_ = Integer(a + "attention.head_count_kv", heads_);
  head_dim_ = Integer(a + "attention.key_length", width / heads_);
  const int64_t rotated = Integer(a + "rope.dimension_count", head_dim_);
  if (head_dim_ < 2 || head_dim_ % 2 != 0 || rotated != head_dim_) {
    return Invalid(absl::StrCat(a, "rope.dimension_count is ", rotated, " of ", head_dim_,
                                " channels; all of an even number must be rotated"));
  }
  const auto embedding = header_.tensors.find("token_embd.weight");
  if (embedding == header_.tensors.end() || embedding->second.shape.size() != 2) {
    return Invalid("tensor \"token_embd.weight\" is missing or no matrix");
  }
  const double rope_base = Number(a + "rope.freq_base", 10000.0);
  const auto scaling = RopeScalingOfGguf(file_, architecture_, rope_base, head_dim_);
  if (!scaling.ok()) return scaling.status();
  Json config = {
      {"architectures", {architecture_ == "llama" ? "LlamaForCausalLM" : "Qwen3ForCausalLM"}},
      {"model_type", architecture_},
      {"vocab_size", embedding->second.shape[0]},
      {"hidden_size", width},
      {"intermediate_size", Integer(a + "feed_forward_length")},
      {"num_hidden_layers", Integer(a + "block_count")},
      {"num_attention_heads", heads_},
      {"num_key_value_heads", kv_heads_},
      {"head_dim", head_dim_},
      {"hidden_act", "silu"},
      {"attention_bias", false},
      {"max_position_embeddings", Integer(a + "context_length")},
      {"rms_norm_eps", Number(a + "attention.layer_norm_rms_epsilon", 1e-5)},
      {"rope_theta", rope_base},
      {"rope_scaling", *scaling},
      {"tie_word_embeddings", header_.tensors.count("output.weight") == 0},
  };
  for (const char* end : {"bos", "eos"}) {
    const int64_t id = Integer(absl::StrCat("tokenizer.ggml.", end, "_token_id"));
    // Null: there is none. Left out, it would be the family's default.
    config[absl::StrCat(end, "_token_id")] = id >= 0 ? Json(id) : Json();
  }
  return config;
}

std::string Converter::NameOf(const std::string& name) const {
  if (const auto found = kOtherNames.find(name); found != kOtherNames.end()) return found->second;
  const std::string begin = "blk.";
  const size_t dot = name.find('.', begin.size());
  if (!absl::StartsWith(name, begin) || dot == std::string::npos) return "";
  const auto found = kLayerNames.find(name.substr(dot + 1));
  if (found == kLayerNames.end()) return "";
  return absl::StrCat("model.layers.", name.substr(begin.size(), dot - begin.size()), ".",
                      found->second);
}

void Converter::SplitPairs(const std::string& name, const GgufTensor& tensor,
                           ConvertedTensor* converted) {
  const bool q = absl::EndsWith(name, "attn_q.weight"), k = absl::EndsWith(name, "attn_k.weight");
  const int64_t rows = tensor.shape[0];
  if (architecture_ != "llama" || (!q && !k) || rows != (q ? heads_ : kv_heads_) * head_dim_) {
    return;  // A wrong shape is refused when the folder is loaded.
  }
  const size_t row_bytes = converted->bytes.size() / static_cast<size_t>(rows);
  std::vector<uint8_t> split(converted->bytes.size());
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t head = row / head_dim_, i = row % head_dim_;
    const int64_t to = head * head_dim_ + i % 2 * (head_dim_ / 2) + i / 2;
    std::copy_n(&converted->bytes[row * row_bytes], row_bytes, &split[to * row_bytes]);
  }
  converted->bytes = std::move(split);
}

absl::Status Converter::Tensors(std::vector<TensorToWrite>* tensors) {
  for (const auto& [name, tensor] : header_.tensors) {
    if (name == kGgufRopeFactors) continue;  // Is in the configuration.
    const std::string renamed = NameOf(name);
    if (renamed.empty()) {
      return Invalid(absl::StrCat("tensor ", Quoted(name), " has no place in a ", architecture_));
    }
    auto data = file_.Read(tensor);
    if (!data.ok()) return data.status();
    auto converted = ConvertGgufTensor(tensor, *data);
    if (!converted.ok()) {
      return Invalid(absl::StrCat("tensor ", Quoted(name), ": ", converted.status().message()));
    }
    if (tensor.shape.size() == 2) SplitPairs(name, tensor, &*converted);
    data_.push_back(std::move(converted->bytes));
    tensors->push_back({renamed, converted->type, tensor.shape, data_.back().data()});
  }
  return absl::OkStatus();
}

absl::Status WriteFile(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary);
  file << bytes;
  file.close();
  if (file) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(path, ": cannot write"));
}

absl::Status WriteJson(const std::string& path, const Json& json) {
  return WriteFile(path, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace

absl::Status ConvertGguf(const ConvertOptions& options) {
  auto file = GgufFile::Open(options.gguf);
  if (!file.ok()) return file.status();
  Converter converter(**file);
  auto config = converter.Config();
  if (!config.ok()) return config.status();
  auto tokenizer = TokenizerOfGguf((*file)->header(), options.gguf);
  if (!tokenizer.ok()) return tokenizer.status();
  std::vector<TensorToWrite> tensors;
  absl::Status status = converter.Tensors(&tensors);
  if (!status.ok()) return status;
  if (status = MakeModelFolder(options.output); !status.ok()) return status;
  const std::string dir = options.output + "/";
  status = WriteJson(dir + "config.json", *config);
  if (status.ok() && !tokenizer->json.is_null()) {
    status = WriteJson(dir + "tokenizer.json", tokenizer->json);
  }
  if (status.ok() && !tokenizer->sentence_pieces.empty()) {
    status = WriteFile(dir + "tokenizer.model", tokenizer->sentence_pieces);
  }
  if (status.ok() && !tokenizer->config.is_null()) {
    status = WriteJson(dir + "tokenizer_config.json", tokenizer->config);
  }
  return status.ok() ? WriteSafetensors(dir + "model.safetensors", tensors) : status;
}

}  // namespace packrat
