#include "tests/bench/random_model.h"

#include <sys/stat.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/check.h"
#include "models/files/checkpoint.h"

namespace packrat {
namespace {

uint16_t ToBf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

class Writer {
 public:
  // Uniform noise with this standard deviation around `mean`.
  void Add(const std::string& name, std::vector<int64_t> shape, float deviation, float mean = 0) {
    size_t count = 1;
    for (int64_t n : shape) count *= static_cast<size_t>(n);
    data_.emplace_back(count);
    for (uint16_t& value : data_.back()) {
      state_ = state_ * 6364136223846793005u + 1442695040888963407u;
      const float uniform = static_cast<float>(state_ >> 40) * 0x1p-23f - 1.0f;
      value = ToBf16(mean + deviation * std::sqrt(3.0f) * uniform);
    }
    tensors_.push_back({name, TensorType::kBF16, std::move(shape), data_.back().data()});
  }
  // A linear layer whose output has about the variance of its input.
  void Linear(const std::string& name, int64_t out, int64_t in) {
    Add(name, {out, in}, 1.0f / std::sqrt(static_cast<float>(in)));
  }
  void Write(const std::string& path) {
    const absl::Status status = WriteSafetensors(path, tensors_);
    PACKRAT_CHECK(status.ok()) << status.ToString();
  }

 private:
  uint64_t state_ = 42;
  std::deque<std::vector<uint16_t>> data_;
  std::vector<TensorToWrite> tensors_;
};

constexpr int kMambaState = 128;

void AddMixer(const std::string& type, const std::string& prefix, const RandomModelShape& s,
              Writer* writer) {
  const int d = s.hidden_size, dim = d / s.heads, kv = s.kv_heads * dim;
  if (type == "rat") {
    writer->Linear(prefix + "in_proj.weight", 3 * d + 4 * dim, d);
    writer->Add(prefix + "gate_bias", {d}, 1.0f);
    writer->Linear(prefix + "out_proj.weight", d, d);
    return;
  }
  if (type == "gated_delta_net") {
    writer->Linear(prefix + "in_proj_qkv.weight", 3 * d, d);
    writer->Linear(prefix + "in_proj_z.weight", d, d);
    writer->Linear(prefix + "in_proj_b.weight", s.heads, d);
    writer->Linear(prefix + "in_proj_a.weight", s.heads, d);
    writer->Add(prefix + "conv1d.weight", {3 * d, 1, 4}, 0.5f);
    writer->Add(prefix + "A_log", {s.heads}, 0.5f);
    writer->Add(prefix + "dt_bias", {s.heads}, 0.5f, -3.0f);
    writer->Add(prefix + "norm.weight", {dim}, 0.1f, 1.0f);
    writer->Linear(prefix + "out_proj.weight", d, d);
    return;
  }
  if (type == "mamba2") {
    writer->Linear(prefix + "in_proj.weight", 2 * d + 2 * kMambaState + s.heads, d);
    writer->Add(prefix + "conv1d.weight", {d + 2 * kMambaState, 1, 4}, 0.5f);
    writer->Add(prefix + "conv1d.bias", {d + 2 * kMambaState}, 0.5f);
    writer->Add(prefix + "A_log", {s.heads}, 0.5f);
    writer->Add(prefix + "D", {s.heads}, 1.0f);
    writer->Add(prefix + "dt_bias", {s.heads}, 0.5f, -3.0f);
    writer->Add(prefix + "norm.weight", {d}, 0.1f, 1.0f);
    writer->Linear(prefix + "out_proj.weight", d, d);
    return;
  }
  const int64_t kv_width = type == "mesa" ? d : kv;
  writer->Linear(prefix + "q_proj.weight", d, d);
  writer->Linear(prefix + "k_proj.weight", kv_width, d);
  writer->Linear(prefix + "v_proj.weight", kv_width, d);
  writer->Linear(prefix + "o_proj.weight", d, d);
  if (type != "mesa") return;
  writer->Linear(prefix + "g_proj.weight", d, d);
  for (const char* name : {"a_proj", "b_proj"}) {
    writer->Linear(prefix + name + ".weight", s.heads, d);
    // gamma near 0.95: a memory of some twenty tokens.
    writer->Add(prefix + name + ".bias", {s.heads}, 0.5f, name[0] == 'a' ? 3.0f : 0.0f);
  }
  for (const char* name : {"q_conv1d", "k_conv1d"}) {
    writer->Add(prefix + name + ".weight", {d, 1, 4}, 0.5f);
  }
  writer->Add(prefix + "lambda_params", {d}, 1.0f);
  writer->Add(prefix + "o_norm.weight", {dim}, 0.1f, 1.0f);
}

}  // namespace

RandomModelShape Hybrid350M() {
  RandomModelShape shape;
  for (int i = 0; i < 8; ++i) {
    for (const char* type : {"rat", "local_attention", "mesa"}) shape.layer_types.push_back(type);
  }
  return shape;
}

void WriteRandomModel(const std::string& dir, const RandomModelShape& s) {
  mkdir(dir.c_str(), 0755);
  const std::string config = absl::StrCat(
      R"({"model_type": "packrat", "vocab_size": )", s.vocab_size, R"(, "hidden_size": )",
      s.hidden_size, R"(, "intermediate_size": )", s.intermediate_size,
      R"(, "num_hidden_layers": )", s.layer_types.size(), R"(, "layer_types": [")",
      absl::StrJoin(s.layer_types, "\", \""),
      R"("], "norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": true,)",
      R"( "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": )", s.max_context,
      R"(, "rat": {"num_heads": )", s.heads, R"(, "num_groups": 2, "chunk_size": 16},)",
      R"( "local_attention": {"num_heads": )", s.heads, R"(, "num_kv_heads": )", s.kv_heads,
      R"(, "window_size": )", s.window, R"(}, "attention": {"num_heads": )", s.heads,
      R"(, "num_kv_heads": )", s.kv_heads, R"(},)", R"( "mesa": {"num_heads": )", s.heads,
      R"(, "head_dim": )", s.hidden_size / s.heads,
      R"(, "conv_size": 4, "lambda_lower_bound": 0.25, "use_output_gate": true},)",
      R"( "gated_delta_net": {"num_key_heads": )", s.heads, R"(, "num_value_heads": )", s.heads,
      R"(, "key_dim": )", s.hidden_size / s.heads, R"(, "value_dim": )", s.hidden_size / s.heads,
      R"(, "conv_size": 4}, "mamba2": {"num_heads": )", s.heads, R"(, "head_dim": )",
      s.hidden_size / s.heads, R"(, "state_size": )", kMambaState, R"(}})");
  std::ifstream old(dir + "/config.json");
  if (std::string((std::istreambuf_iterator<char>(old)), {}) == config) return;
  Writer writer;
  writer.Linear("model.embeddings.weight", s.vocab_size, s.hidden_size);
  for (size_t i = 0; i < s.layer_types.size(); ++i) {
    const std::string prefix = absl::StrCat("model.layers.", i, ".");
    writer.Add(prefix + "mixer_norm.weight", {s.hidden_size}, 0.1f, 1.0f);
    AddMixer(s.layer_types[i], prefix + "mixer.", s, &writer);
    writer.Add(prefix + "mlp_norm.weight", {s.hidden_size}, 0.1f, 1.0f);
    writer.Linear(prefix + "mlp.gate_proj.weight", s.intermediate_size, s.hidden_size);
    writer.Linear(prefix + "mlp.up_proj.weight", s.intermediate_size, s.hidden_size);
    writer.Linear(prefix + "mlp.down_proj.weight", s.hidden_size, s.intermediate_size);
  }
  writer.Add("model.norm.weight", {s.hidden_size}, 0.1f, 1.0f);
  writer.Write(dir + "/model.safetensors");
  std::ofstream(dir + "/config.json") << config;
}

}  // namespace packrat
