// OlmoHybridForCausalLM: what its config.json says and is read as, and what its files may call.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "models/config.h"
#include "models/cpu_model.h"
#include "tests/models/config_text.h"
#include "tests/models/golden.h"
#include "tests/models/model_files.h"

namespace packrat {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Olmo-Hybrid-7B's, shortened in layers.
constexpr char kOlmo[] = R"({"architectures": ["OlmoHybridForCausalLM"], "attention_bias": false,
  "attention_dropout": 0.0, "bos_token_id": null, "dtype": "bfloat16", "eos_token_id": 100257,
  "hidden_act": "silu", "hidden_size": 3840, "initializer_range": 0.02, "intermediate_size": 11008,
  "layer_types": ["linear_attention", "full_attention"], "linear_a_log_max": 16.0,
  "linear_a_log_min": 0.0, "linear_allow_neg_eigval": true, "linear_conv_kernel_dim": 4,
  "linear_dt_init_floor": 0.0001, "linear_dt_max": 0.1, "linear_dt_min": 0.001,
  "linear_key_head_dim": 96, "linear_num_key_heads": 30, "linear_num_value_heads": 30,
  "linear_value_head_dim": 192, "max_position_embeddings": 65536, "model_type": "olmo_hybrid",
  "num_attention_heads": 30, "num_hidden_layers": 2, "num_key_value_heads": 30,
  "pad_token_id": 100277, "rms_norm_eps": 1e-06,
  "rope_parameters": {"rope_theta": null, "rope_type": "default"},
  "tie_word_embeddings": false, "use_cache": true, "vocab_size": 100352})";

const GatedDeltaSpec& Delta(const ModelConfig& config) {
  return std::get<GatedDeltaSpec>(config.mixers.at(0));
}
const AttentionSpec& Attention(const ModelConfig& config) {
  return std::get<AttentionSpec>(config.mixers.at(1));
}

TEST(OlmoHybrid, ReadsAllFields) {
  const ModelConfig config = Parse(kOlmo);
  EXPECT_EQ(config.vocab_size, 100352);
  EXPECT_EQ(config.hidden_size, 3840);
  EXPECT_EQ(config.intermediate_size, 11008);
  EXPECT_EQ(config.max_context, 65536);
  EXPECT_EQ(config.bos_id, -1);
  EXPECT_THAT(config.eos_ids, ElementsAre(100257));
  EXPECT_EQ(config.num_layers(), 2);
  ASSERT_EQ(config.sublayers.size(), 4u);
  EXPECT_EQ(config.sublayers[0].norm, "input_layernorm.weight");
  EXPECT_EQ(config.sublayers[1].norm, "post_attention_layernorm.weight");
  EXPECT_EQ(config.sublayers[2].norm, "post_attention_layernorm.weight");
  EXPECT_EQ(config.sublayers[3].norm, "post_feedforward_layernorm.weight");
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(config.sublayers[i].norm_after, i >= 2);
    EXPECT_EQ(config.sublayers[i].mixers.size(), i % 2 == 0 ? 1u : 0u);
  }
  const GatedDeltaSpec& delta = Delta(config);
  EXPECT_EQ(delta.num_key_heads, 30);
  EXPECT_EQ(delta.num_value_heads, 30);
  EXPECT_EQ(delta.key_dim, 96);
  EXPECT_EQ(delta.value_dim, 192);
  EXPECT_EQ(delta.conv_size, 4);
  EXPECT_EQ(delta.beta_scale, 2.0f);
  EXPECT_EQ(delta.norm_eps, 1e-5f);
  const AttentionSpec& attention = Attention(config);
  EXPECT_EQ(attention.num_heads, 30);
  EXPECT_EQ(attention.head_dim, 128);
  EXPECT_EQ(attention.rotary_dim, 0);
  EXPECT_TRUE(attention.qk_norm && attention.qk_norm_whole);
  EXPECT_FALSE(attention.qkv_bias || attention.out_bias);
}

TEST(OlmoHybrid, DefaultsAreThoseOfTransformers) {
  const ModelConfig config = Parse(R"({"model_type": "olmo_hybrid"})");
  EXPECT_EQ(config.num_layers(), 32);
  EXPECT_EQ(config.hidden_size, 3840);
  EXPECT_THAT(config.eos_ids, ElementsAre(100257));
  EXPECT_THAT(config.others, ElementsAre("mtp."));
  const std::vector<std::string> kinds = Kinds(config);
  for (int i = 0; i < 32; ++i) {
    EXPECT_EQ(kinds[i], i % 4 == 3 ? "attention" : "gated_delta_net");
  }
  EXPECT_EQ(Delta(config).num_key_heads, 30);
  EXPECT_EQ(Delta(config).num_value_heads, 30);
  EXPECT_EQ(Delta(config).key_dim, 96);
  EXPECT_EQ(Delta(config).value_dim, 192);
  EXPECT_EQ(Delta(config).beta_scale, 2.0f);
  const auto& attention = std::get<AttentionSpec>(config.mixers.at(3));
  EXPECT_FALSE(attention.rotary_dim.has_value());
  EXPECT_EQ(attention.rope_base, 10000.0);
  // A short model has one layer of attention all the same.
  EXPECT_THAT(Kinds(Parse(R"({"model_type": "olmo_hybrid", "num_hidden_layers": 3})")),
              ElementsAre("gated_delta_net", "gated_delta_net", "attention"));
}

TEST(OlmoHybrid, FlagsCount) {
  EXPECT_EQ(Delta(Parse(With(kOlmo, "eigval\": true", "eigval\": false"))).beta_scale, 1.0f);
  EXPECT_EQ(Delta(Parse(With(kOlmo, "eigval\": true", "eigval\": null"))).beta_scale, 1.0f);
  const ModelConfig biased = Parse(With(kOlmo, "_bias\": false", "_bias\": true"));
  EXPECT_TRUE(Attention(biased).qkv_bias && Attention(biased).out_bias);
  const ModelConfig turned = Parse(With(kOlmo, "\"rope_theta\": null", "\"rope_theta\": 5e5"));
  EXPECT_FALSE(Attention(turned).rotary_dim.has_value());
  EXPECT_EQ(Attention(turned).rope_base, 5e5);
}

// The authors' converter says so beside rope_parameters, which it leaves out.
TEST(OlmoHybrid, AThetaOfNullIsNoRotation) {
  const std::string rope = R"("rope_parameters": {"rope_theta": null, "rope_type": "default"})";
  const auto rotary_dim = [&](const std::string& fields) {
    return Attention(Parse(With(kOlmo, rope, fields))).rotary_dim;
  };
  EXPECT_EQ(rotary_dim("\"rope_theta\": null"), 0);
  EXPECT_EQ(rotary_dim("\"rope_theta\": null, \"rope_parameters\": {}"), 0);
  EXPECT_EQ(rotary_dim(R"("rope_scaling": {"rope_theta": null, "rope_type": "default"})"), 0);
  EXPECT_EQ(rotary_dim(R"("rope_theta": null, "rope_scaling": {"rope_type": "default"})"), 0);
  EXPECT_EQ(rotary_dim(R"("rope_theta": null, "rope_scaling": {"rope_theta": 5e5})"), std::nullopt);
  EXPECT_EQ(rotary_dim("\"rope_theta\": null, \"rope_parameters\": {\"rope_theta\": 5e5}"),
            std::nullopt);
  EXPECT_EQ(rotary_dim("\"rope_parameters\": null"), std::nullopt);
  EXPECT_EQ(rotary_dim("\"rope_parameters\": {}"), std::nullopt);
}

TEST_P(Refused, ByName) { ExpectRefused(GetParam()); }
INSTANTIATE_TEST_SUITE_P(
    OlmoHybrid, Refused,
    Changes(
        kOlmo,
        {{"Kind", "\"full_attention\"", "\"sliding_attention\"",
          "layer_types: layer 1 is \"sliding_attention\"; must be linear_attention or "
          "full_attention"},
         {"NoObject", R"("rope_parameters": {"rope_theta": null, "rope_type": "default"})",
          R"("rope_theta": null, "rope_parameters": "none")", "rope_parameters: must be an object"},
         {"Activation", "\"silu\"", "\"gelu\"", "hidden_act: is \"gelu\"; must be silu or swish"},
         {"NoGate", "\"silu\"", "\"silu\", \"linear_use_gate\": false",
          "linear_use_gate: is false; only true is served"},
         {"KeyHeads", "key_heads\": 30", "key_heads\": 4",
          "linear_num_key_heads: is 4; must divide the 30 heads"},
         {"WideKeys", "\"linear_key_head_dim\": 96, \"linear_num_key_heads\": 30",
          "\"linear_num_key_heads\": 1",
          "linear_key_head_dim: is 2880 by default; must be at most 256"},
         {"MlpBias", "\"use_cache\"", "\"mlp_bias\": true, \"use_cache\"",
          "mlp_bias: is true; only false is served"}}),
    NameOfChange);

// transformers keeps one convolution and writes three, of equal size whatever q, k and v have; and
// its code calls norms otherwise than its files.
TEST(OlmoHybrid, TensorsMayHaveEitherName) {
  const Golden golden = ReadGolden("olmo_hybrid");
  const auto logits = [&](const std::string& dir) {
    ModelOptions options;
    options.max_batch_tokens = options.max_logit_rows = 256;
    const auto model = LoadCpuModel(dir, options);
    EXPECT_TRUE(model.ok()) << model.status();
    return model.ok() ? Feed(model->get(), golden, false, [] { return 1000; })
                      : std::vector<float>();
  };
  ModelFiles files("olmo_hybrid");
  std::vector<uint8_t> whole;
  std::vector<TensorToWrite> tensors;
  const std::string conv = "model.layers.0.linear_attn.";
  for (const char* part : {"q_conv1d.weight", "k_conv1d.weight", "v_conv1d.weight"}) {
    const std::vector<uint8_t>& bytes = files.Bytes(conv + part);
    whole.insert(whole.end(), bytes.begin(), bytes.end());
  }
  const auto rename = [](std::string* name, const std::string& from, const std::string& to) {
    const size_t at = name->find(from);
    if (at != std::string::npos) name->replace(at, from.size(), to);
  };
  for (TensorToWrite tensor : files.tensors) {
    if (tensor.name == conv + "k_conv1d.weight" || tensor.name == conv + "v_conv1d.weight") {
      continue;
    }
    if (tensor.name == conv + "q_conv1d.weight") {
      tensor.name = conv + "conv1d.weight";
      tensor.shape[0] = static_cast<int64_t>(whole.size() / 16);
      tensor.data = whole.data();
    }
    rename(&tensor.name, ".attention_layer_norm.", ".input_layernorm.");
    rename(&tensor.name, ".feedforward_layer_norm.", ".post_attention_layernorm.");
    tensors.push_back(tensor);
  }
  files.tensors = tensors;
  files.Write();
  EXPECT_TRUE(SameBits(logits(files.dir().path()), logits("tests/golden/olmo_hybrid")));

  ModelFiles broken("olmo_hybrid");
  TensorToWrite& part = broken.Tensor(conv + "v_conv1d.weight");
  part.shape[0] -= 1;
  broken.Bytes(conv + "v_conv1d.weight").resize(part.shape[0] * 16);
  part.data = broken.Bytes(conv + "v_conv1d.weight").data();
  broken.Write();
  EXPECT_THAT(LoadCpuModel(broken.dir().path(), ModelOptions()).status().message(),
              HasSubstr("tensor model.layers.0.linear_attn.v_conv1d.weight ends 127 channels of "
                        "convolutions; the config asks for 128"));
}

// Whatever the tensors do not show of how a model is put together.
TEST(OlmoHybrid, TheFingerprintTellsArrangementsApart) {
  const ModelConfig config = Parse(kOlmo);
  std::set<std::string> all = {Fingerprint(config, 1)};
  size_t count = 1;
  const auto with = [&](const auto& change) {
    ModelConfig other = config;
    change(&other);
    all.insert(Fingerprint(other, 1));
    EXPECT_EQ(all.size(), ++count);
  };
  with([](ModelConfig* c) { c->embedding_scale = 2; });
  with([](ModelConfig* c) { c->logits_scale = 2; });
  with([](ModelConfig* c) { c->logits_cap = 2; });
  with([](ModelConfig* c) { c->gate_scale = 2; });
  with([](ModelConfig* c) { c->feed_forward_scale = 2; });
  with([](ModelConfig* c) { c->activation = Activation::kGeglu; });
  with([](ModelConfig* c) { c->activation = Activation::kSquaredRelu; });
  with([](ModelConfig* c) { c->sublayers[2].norm_after = false; });
  with([](ModelConfig* c) { c->sublayers[0].mixers[0].scale = 2; });
  with([](ModelConfig* c) { c->sublayers[2].mixers[0].scale = 2; });
  with([](ModelConfig* c) { c->sublayers[0].mixers[0].input_scale = 2; });
  with([](ModelConfig* c) { std::get<GatedDeltaSpec>(c->mixers[0]).beta_scale = 1; });
  with([](ModelConfig* c) { std::get<GatedDeltaSpec>(c->mixers[0]).norm_eps = 0; });
  with([](ModelConfig* c) { std::get<AttentionSpec>(c->mixers[1]).scale = 2; });
}

}  // namespace
}  // namespace packrat
