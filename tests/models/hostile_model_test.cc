// Model folders that do not fit together: each is refused with a message that names file, tensor
// and reason, and none crashes, hangs or makes the process allocate by what a file claims.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "models/cpu_model.h"
#include "models/files/checkpoint.h"
#include "models/owned_state.h"
#include "tests/models/model_files.h"
#include "tests/models/test_files.h"

namespace packrat {
namespace {

using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;
using testing::StartsWith;

const std::vector<std::string>& Goldens() {
  static const std::vector<std::string> names = {
      "rat",          "rat_local",       "mesa_net",         "packrat",
      "packrat_wide", "mesa_net_hybrid", "gated_delta_net",  "mamba2",
      "short_conv",   "rg_lru",          "rat_plus",         "llama",
      "qwen3_5",      "falcon_h1_flags", "granite_h_biases", "nemotron_h",
      "olmo_hybrid",  "lfm2_flags",      "recurrent_gemma",  "qwen2",
      "qwen3",        "experts",         "lfm2_moe",         "granite_h_moe",
      "qwen3_next",   "qwen3_5_moe",     "llama_biases",     "qwen3_5_biases"};
  return names;
}

class Model : public ModelFiles {
 public:
  explicit Model(const std::string& golden) : ModelFiles(golden) {
    Widen();
    // The golden of RAT+ has the head of a tied model, which is not needed.
    if (golden == "rat_plus") {
      tensors.erase(tensors.begin() + (&Tensor("head.lm_head.weight") - tensors.data()));
    }
  }

  absl::Status Load() {
    Write();
    ModelOptions options;
    options.max_batch_tokens = options.max_logit_rows = 16;
    options.threads = 1;
    return LoadCpuModel(dir().path(), options).status();
  }
  std::string Refusal() {
    const absl::Status status = Load();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  }
  // Of three tokens.
  SpanStats Run() {
    Write();
    SpanStats stats;
    const auto model = LoadCpuModel(dir().path(), ModelOptions());
    EXPECT_TRUE(model.ok()) << model.status();
    if (!model.ok()) return stats;
    const auto state = OwnedState::Create(model->get(), 1, 16);
    EXPECT_TRUE(state.ok()) << state.status();
    if (!state.ok()) return stats;
    const int32_t tokens[] = {1, 2, 3};
    const Span span = (*state)->SpanFor(0, 0, 3, 0);
    EXPECT_TRUE((*model)->Forward({tokens, 3, &span, 1}, (*state)->memory(), &stats).ok());
    return stats;
  }
};

TEST(HostileModel, UnchangedGoldensLoad) {
  for (const std::string& name : Goldens()) {
    Model model(name);
    const absl::Status status = model.Load();
    EXPECT_TRUE(status.ok()) << name << ": " << status;
  }
}

TEST(HostileModel, EveryTensorIsNeeded) {
  for (const std::string& name : Goldens()) {
    Model model(name);
    const std::vector<TensorToWrite> all = model.tensors;
    for (const TensorToWrite& tensor : all) {
      model.tensors = all;
      model.tensors.erase(model.tensors.begin() + (&tensor - all.data()));
      EXPECT_THAT(model.Refusal(),
                  AllOf(StartsWith(model.File()), HasSubstr(tensor.name), HasSubstr("missing")));
    }
  }
}

TEST(HostileModel, EveryShapeIsChecked) {
  for (const std::string& name : Goldens()) {
    Model model(name);
    for (TensorToWrite& tensor : model.tensors) {
      const std::vector<int64_t> shape = tensor.shape;
      std::vector<std::vector<int64_t>> others = {shape, shape, shape};
      others[0][0] -= 1;
      others[1].push_back(1);                            // The same elements in another rank...
      std::reverse(others[2].begin(), others[2].end());  // ...and order.
      for (const std::vector<int64_t>& other : others) {
        if (other == shape) continue;
        tensor.shape = other;
        EXPECT_THAT(
            model.Refusal(),
            AnyOf(AllOf(HasSubstr(model.File()), HasSubstr(tensor.name), HasSubstr("shape")),
                  // Three convolutions of a length that they have together.
                  AllOf(HasSubstr(model.File()), HasSubstr("v_conv1d.weight ends"))));
      }
      tensor.shape = shape;
    }
  }
}

TEST(HostileModel, EveryDtypeIsChecked) {
  for (const std::string& name : Goldens()) {
    Model model(name);
    for (TensorToWrite& tensor : model.tensors) {
      ASSERT_EQ(tensor.type, TensorType::kF32);
      tensor.type = TensorType::kI32;
      EXPECT_THAT(model.Refusal(),
                  AllOf(HasSubstr(model.File()), HasSubstr(tensor.name), HasSubstr("dtype I32")));
      tensor.type = TensorType::kF32;
    }
  }
}

// Wherever the value stands, in a matrix or not: else every answer would fail, or be noise.
TEST(HostileModel, ValuesThatAreNotFiniteAreNamed) {
  for (const float value : {NAN, INFINITY, -INFINITY}) {
    for (const char* name : {"model.embeddings.weight", "model.norm.weight"}) {
      Model model("packrat");
      std::vector<uint8_t>& bytes = model.Bytes(name);
      std::memcpy(bytes.data() + 4 * 37, &value, 4);
      EXPECT_THAT(model.Refusal(), AllOf(StartsWith(model.File()), HasSubstr(name),
                                         HasSubstr("not finite: element 37 is")));
    }
  }
  // The last element of the largest type of each width is finite.
  Model model("packrat");
  std::vector<uint16_t> halves(257 * 64, 0x7f7f);
  TensorToWrite& embedding = model.Tensor("model.embeddings.weight");
  embedding.data = halves.data();
  embedding.type = TensorType::kBF16;
  EXPECT_TRUE(model.Load().ok());
  halves.back() = 0xff80;
  EXPECT_THAT(model.Refusal(), HasSubstr("not finite: element 16447 is -inf"));
  embedding.type = TensorType::kF16;
  std::fill(halves.begin(), halves.end(), 0x7bff);
  EXPECT_TRUE(model.Load().ok());
  halves.front() = 0x7c01;
  EXPECT_THAT(model.Refusal(), HasSubstr("not finite: element 0 is nan"));
}

// Finite weights may still make what is not: the sequence fails, whichever layers there are.
TEST(HostileModel, WeightsThatOverflowAreReportedWhenTheyAreUsed) {
  Model files("llama");
  std::vector<uint8_t>& bytes = files.Bytes("model.layers.0.mlp.down_proj.weight");
  for (size_t at = 0; at < bytes.size(); at += sizeof(float)) {
    const float large = 3e38f;
    std::memcpy(&bytes[at], &large, sizeof large);
  }
  EXPECT_FALSE(files.Run().finite);
}

// Nemotron-H's pattern may be feed-forwards alone, which transformers runs.
TEST(HostileModel, OneWithoutStateRuns) {
  Model files("nemotron_h");
  const size_t list = files.config.find("\"layers_block_type\"");
  files.config.replace(list, files.config.find("\"mamba_head_dim\"") - list,
                       "\"layers_block_type\": [\"mlp\"], ");
  std::vector<TensorToWrite> kept;
  for (TensorToWrite tensor : files.tensors) {
    const size_t number = tensor.name.find("layers.1.");
    if (number != std::string::npos) tensor.name[number + 7] = '0';
    if (number != std::string::npos || tensor.name.find("layers.") == std::string::npos) {
      kept.push_back(tensor);
    }
  }
  files.tensors = kept;
  EXPECT_TRUE(files.Run().finite);
}

TEST(HostileModel, SurplusTensors) {
  for (const std::string& name : Goldens()) {
    const float value = 1;
    Model model(name);
    model.tensors.push_back({"stray.weight", TensorType::kF32, {1}, &value});
    EXPECT_THAT(model.Refusal(),
                AllOf(HasSubstr(model.File()), HasSubstr("stray.weight"), HasSubstr("surplus")));
  }
  // Where the files say "backbone." for "model.", it is named as they have it.
  const float value = 1;
  Model nested("nemotron_h");
  nested.tensors.push_back({"model.stray.weight", TensorType::kF32, {1}, &value});
  nested.tensors.push_back({"backbone.lost.weight", TensorType::kF32, {1}, &value});
  EXPECT_THAT(nested.Refusal(),
              AllOf(HasSubstr(": model.stray.weight"), HasSubstr(": backbone.lost.weight")));
}

// transformers writes the matrix of a tied model once more where somebody asks for it.
TEST(HostileModel, AnOutputMatrixOfATiedModelMustBeTheEmbedding) {
  for (const char* golden : {"packrat", "rat"}) {
    Model model(golden);
    const std::string prefix = golden == std::string("rat") ? "head." : "";
    const char* embedding =
        golden == std::string("rat") ? "embedding.wte.weight" : "model.embeddings.weight";
    TensorToWrite head = model.Tensor(embedding);
    head.name = prefix + "lm_head.weight";
    std::vector<uint8_t> copy = model.Bytes(embedding);
    head.data = copy.data();
    model.tensors.push_back(head);
    EXPECT_TRUE(model.Load().ok()) << model.Load();
    copy.back() ^= 1;
    EXPECT_THAT(model.Refusal(), AllOf(HasSubstr(head.name), HasSubstr("surplus")));
  }
  Model untied("packrat");
  TensorToWrite head = untied.Tensor("model.embeddings.weight");
  head.name = "lm_head.weight";
  untied.tensors.push_back(head);
  untied.ReplaceInConfig("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
  EXPECT_TRUE(untied.Load().ok());
}

TEST(HostileModel, TensorsThatNobodyNeedsAreLeftOut) {
  const float values[2] = {1, 2};
  Model model("packrat");
  model.tensors.push_back({"model.steps", TensorType::kI32, {2}, values});
  model.tensors.push_back(
      {"model.layers.0.mixer.rotary_emb.inv_freq", TensorType::kF32, {2}, values});
  EXPECT_TRUE(model.Load().ok()) << model.Load();
}

TEST(HostileModel, ConfigThatAsksForOtherTensors) {
  Model rat("rat");
  rat.ReplaceInConfig("\"ngroups\": 2", "\"ngroups\": 4");
  EXPECT_THAT(rat.Refusal(), AllOf(HasSubstr("in_proj.weight"), HasSubstr("[320, 64]")));

  Model gated("mesa_net");
  gated.ReplaceInConfig("\"use_output_gate\": false", "\"use_output_gate\": true");
  EXPECT_THAT(gated.Refusal(),
              AllOf(HasSubstr("model.layers.0.attn.g_proj.weight"), HasSubstr("missing")));

  Model fewer("packrat_wide");
  fewer.ReplaceInConfig("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 3");
  fewer.ReplaceInConfig("\"mesa\",\n  \"local_attention\"", "\"mesa\"");
  EXPECT_THAT(fewer.Refusal(), AllOf(HasSubstr("surplus"), HasSubstr("model.layers.3.")));

  Model biased("mesa_net_hybrid");
  biased.ReplaceInConfig("\"num_kv_heads\": 2,", "\"num_kv_heads\": 2, \"qkv_bias\": true,");
  EXPECT_THAT(biased.Refusal(), HasSubstr("attn.q_proj.bias"));
}

// The largest sizes that a config may state: nothing may be allocated before the weights agree.
TEST(HostileModel, HugeConfigBesideASmallFile) {
  Model model("packrat");
  model.ReplaceInConfig("\"vocab_size\": 257", "\"vocab_size\": 1048576");
  model.ReplaceInConfig("\"intermediate_size\": 160", "\"intermediate_size\": 524288");
  model.ReplaceInConfig("\"max_position_embeddings\": 4096",
                        "\"max_position_embeddings\": 1073741824");
  const auto peak_kb = [] {
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
  };
  const long before = peak_kb();
  EXPECT_THAT(model.Refusal(), HasSubstr("model.embeddings.weight"));
  model.ReplaceInConfig("\"vocab_size\": 1048576", "\"vocab_size\": 257");
  EXPECT_THAT(model.Refusal(), HasSubstr("mlp.gate_proj.weight"));
  EXPECT_LT(peak_kb() - before, 100'000);
}

TEST(HostileModel, NanAndOtherConfigErrorsNameTheConfig) {
  for (const char* value : {"NaN", "Infinity", "-Infinity", "1e999", "-1e-6", "\"1e-6\""}) {
    Model model("packrat");
    model.ReplaceInConfig("\"norm_eps\": 1e-06", std::string("\"norm_eps\": ") + value);
    EXPECT_THAT(model.Refusal(), StartsWith(model.dir().File("config.json") + ": ")) << value;
  }
}

TEST(HostileModel, MissingFilesAreNamed) {
  const TempDir dir;
  absl::Status status = LoadCpuModel(dir.path(), ModelOptions()).status();
  EXPECT_THAT(std::string(status.message()), StartsWith(dir.File("config.json")));
  std::filesystem::copy_file("tests/golden/rat/config.json", dir.File("config.json"));
  status = LoadCpuModel(dir.path(), ModelOptions()).status();
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(dir.path()), HasSubstr("model.safetensors")));
  status = LoadCpuModel(dir.File("config.json"), ModelOptions()).status();
  EXPECT_THAT(std::string(status.message()), StartsWith(dir.File("config.json")));
  EXPECT_FALSE(status.ok());
}

// Bytes of a file flipped at random: whatever loads or not, nothing may crash. Header and config
// are hit hardest, since there a byte means most.
TEST(HostileModel, DamagedBytes) {
  Model model("packrat_wide");
  ASSERT_TRUE(model.Load().ok());
  std::ifstream file(model.File(), std::ios::binary);
  const std::string good{std::istreambuf_iterator<char>(file), {}};
  uint32_t random = 1;
  const auto below = [&random](size_t n) {
    random = random * 1664525u + 1013904223u;
    return (random >> 8) % n;
  };
  ModelOptions options;
  options.max_batch_tokens = options.max_logit_rows = 16;
  options.threads = 1;
  int refused = 0;
  for (int round = 0; round < 300; ++round) {
    std::string bytes = good;
    std::string config = model.config;
    for (size_t i = 0; i <= below(4); ++i) bytes[below(6000)] ^= static_cast<char>(1 << below(8));
    if (round % 3 == 0) config[below(config.size())] ^= static_cast<char>(1 << below(8));
    model.dir().Write("model.safetensors", bytes);
    model.dir().Write("config.json", config);
    if (!LoadCpuModel(model.dir().path(), options).ok()) ++refused;
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace packrat
