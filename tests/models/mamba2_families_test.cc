// FalconH1ForCausalLM and NemotronHForCausalLM: what their config.json says and is read as.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <variant>
#include <vector>

#include "models/config.h"
#include "tests/models/config_text.h"

namespace packrat {
namespace {

using testing::ElementsAre;

// Falcon-H1-0.5B's, shortened in layers.
constexpr char kFalcon[] = R"({"architectures": ["FalconH1ForCausalLM"], "attention_bias": false,
  "attention_dropout": 0.0, "attention_in_multiplier": 1.5, "attention_out_multiplier": 0.9375,
  "attn_layer_indices": null, "bos_token_id": 1, "embedding_multiplier": 5.656854249492381,
  "eos_token_id": 11, "head_dim": 64, "hidden_act": "silu", "hidden_size": 1024,
  "initializer_range": 0.02, "intermediate_size": 2048, "key_multiplier": 0.390625,
  "lm_head_multiplier": 0.0390625, "mamba_chunk_size": 128, "mamba_conv_bias": true,
  "mamba_d_conv": 4, "mamba_d_head": 64, "mamba_d_ssm": 1536, "mamba_d_state": 128,
  "mamba_expand": 2, "mamba_n_groups": 1, "mamba_n_heads": 24, "mamba_norm_before_gate": false,
  "mamba_proj_bias": false, "mamba_rms_norm": false, "mamba_use_mlp": true,
  "max_position_embeddings": 16384, "mlp_bias": false, "mlp_expansion_factor": 8,
  "mlp_multipliers": [0.8838834764831844, 0.5859375], "model_type": "falcon_h1",
  "num_attention_heads": 8, "num_hidden_layers": 2, "num_key_value_heads": 2,
  "num_logits_to_keep": 1, "pad_token_id": 0, "projectors_bias": false, "rms_norm_eps": 1e-05,
  "rope_scaling": null, "rope_theta": 100000000000.0, "ssm_in_multiplier": 1.25,
  "ssm_multipliers": [0.3535533905932738, 0.25, 0.1767766952966369, 0.5, 0.3535533905932738],
  "ssm_out_multiplier": 0.23570226039551587, "tie_word_embeddings": false,
  "torch_dtype": "bfloat16", "transformers_version": "4.52.0", "use_cache": true,
  "vocab_size": 32784})";

const Mamba2Spec& Mamba(const ModelConfig& config, int i = 0) {
  return std::get<Mamba2Spec>(config.mixers.at(i));
}
const AttentionSpec& Attention(const ModelConfig& config, int i) {
  return std::get<AttentionSpec>(config.mixers.at(i));
}

TEST(FalconH1, ReadsAllFields) {
  const ModelConfig config = Parse(kFalcon);
  EXPECT_EQ(config.vocab_size, 32784);
  EXPECT_EQ(config.hidden_size, 1024);
  EXPECT_EQ(config.intermediate_size, 2048);
  EXPECT_EQ(config.norm_eps, 1e-5f);
  EXPECT_EQ(config.embedding_scale, 5.656854249492381f);
  EXPECT_EQ(config.logits_scale, 0.0390625f);
  EXPECT_EQ(config.gate_scale, 0.8838834764831844f);
  EXPECT_EQ(config.feed_forward_scale, 0.5859375f);
  EXPECT_FALSE(config.feed_forward_bias);
  EXPECT_THAT(config.eos_ids, ElementsAre(11));
  EXPECT_EQ(config.num_layers(), 2);
  ASSERT_EQ(config.sublayers.size(), 4u);
  ASSERT_EQ(config.mixers.size(), 4u);
  const std::vector<MixerPlace>& places = config.sublayers[2].mixers;
  ASSERT_EQ(places.size(), 2u);
  EXPECT_EQ(config.sublayers[2].layer, 1);
  EXPECT_EQ(config.sublayers[2].norm, "input_layernorm.weight");
  EXPECT_EQ(places[0].tensors, "mamba.");
  EXPECT_EQ(places[0].input_scale, 1.25f);
  EXPECT_EQ(places[0].scale, 0.23570226039551587f);
  EXPECT_EQ(places[1].tensors, "self_attn.");
  EXPECT_EQ(places[1].input_scale, 1.5f);
  EXPECT_EQ(places[1].scale, 0.9375f);
  EXPECT_EQ(config.sublayers[3].norm, "pre_ff_layernorm.weight");
  EXPECT_TRUE(config.sublayers[3].mixers.empty());
  const Mamba2Spec& mamba = Mamba(config);
  EXPECT_EQ(mamba.num_heads, 24);
  EXPECT_EQ(mamba.head_dim, 64);
  EXPECT_EQ(mamba.state_size, 128);
  EXPECT_EQ(mamba.num_groups, 1);
  EXPECT_EQ(mamba.conv_size, 4);
  EXPECT_EQ(mamba.norm, Mamba2Norm::kNone);
  EXPECT_TRUE(mamba.conv_bias);
  EXPECT_FALSE(mamba.in_bias || mamba.out_bias);
  EXPECT_EQ(mamba.gate_scale, 0.3535533905932738f);
  EXPECT_EQ(mamba.x_scale, 0.25f);
  EXPECT_EQ(mamba.b_scale, 0.1767766952966369f);
  EXPECT_EQ(mamba.c_scale, 0.5f);
  EXPECT_EQ(mamba.dt_scale, 0.3535533905932738f);
  const AttentionSpec& attention = Attention(config, 1);
  EXPECT_EQ(attention.num_heads, 8);
  EXPECT_EQ(attention.num_kv_heads, 2);
  EXPECT_EQ(attention.head_dim, 64);
  EXPECT_EQ(attention.rope_base, 1e11);
  EXPECT_EQ(attention.scale, 0.390625 / 8);
}

TEST(FalconH1, DefaultsAreThoseOfTransformers) {
  // mamba_d_ssm of 1,024 in 128 heads.
  const ModelConfig config = Parse(R"({"model_type": "falcon_h1"})");
  EXPECT_EQ(config.num_layers(), 32);
  EXPECT_EQ(config.norm_eps, 1e-5f);
  EXPECT_EQ(Mamba(config).num_heads, 128);
  EXPECT_EQ(Mamba(config).head_dim, 8);
  EXPECT_EQ(Mamba(config).state_size, 256);
  EXPECT_EQ(Attention(config, 1).num_kv_heads, 8);
  EXPECT_EQ(Attention(config, 1).head_dim, 128);
  EXPECT_EQ(config.sublayers[0].mixers[0].scale, 1.0f);
}

TEST(FalconH1, FlagsCount) {
  const ModelConfig wide =
      Parse(With(With(kFalcon, "\"mamba_n_heads\": 24", "\"mamba_n_heads\": 32"),
                 "\"mamba_d_head\": 64, \"mamba_d_ssm\": 1536",
                 "\"mamba_d_head\": \"auto\", \"mamba_d_ssm\": null"));
  EXPECT_EQ(Mamba(wide).head_dim, 64);  // Of mamba_expand * hidden_size.
  const std::string normed = With(kFalcon, "rms_norm\": false", "rms_norm\": true");
  EXPECT_EQ(Mamba(Parse(normed)).norm, Mamba2Norm::kAfterGate);
  EXPECT_EQ(Mamba(Parse(With(normed, "before_gate\": false", "before_gate\": true"))).norm,
            Mamba2Norm::kBeforeGate);
  // A null is false, as in Python; what is left out is true.
  EXPECT_EQ(Mamba(Parse(With(normed, "before_gate\": false", "before_gate\": null"))).norm,
            Mamba2Norm::kAfterGate);
  EXPECT_EQ(Mamba(Parse(With(normed, "\"mamba_norm_before_gate\": false,", ""))).norm,
            Mamba2Norm::kBeforeGate);
  EXPECT_FALSE(Mamba(Parse(With(kFalcon, "conv_bias\": true", "conv_bias\": null"))).conv_bias);
  EXPECT_TRUE(Mamba(Parse(With(kFalcon, "\"mamba_conv_bias\": true,", ""))).conv_bias);
  const ModelConfig grouped = Parse(With(kFalcon, "n_groups\": 1", "n_groups\": 2"));
  EXPECT_EQ(Mamba(grouped).num_groups, 2);
  EXPECT_EQ(Mamba(grouped).norm_groups, 2);
  EXPECT_TRUE(Mamba(Parse(With(kFalcon, "proj_bias\": false", "proj_bias\": true"))).in_bias);
  EXPECT_TRUE(Mamba(Parse(With(kFalcon, "ors_bias\": false", "ors_bias\": true"))).out_bias);
  EXPECT_TRUE(Parse(With(kFalcon, "mlp_bias\": false", "mlp_bias\": true")).feed_forward_bias);
  const ModelConfig biased =
      Parse(With(kFalcon, "attention_bias\": false", "attention_bias\": true"));
  EXPECT_TRUE(Attention(biased, 1).qkv_bias && Attention(biased, 1).out_bias);
  const ModelConfig limited =
      Parse(With(kFalcon, "\"use_cache\"", "\"time_step_limit\": [0.1, 0.5], \"use_cache\""));
  EXPECT_EQ(Mamba(limited).dt_min, 0.1f);
  EXPECT_EQ(Mamba(limited).dt_max, 0.5f);
}

TEST(FalconH1, KeyHeadsOfNullAreThoseOfQueries) {
  const ModelConfig config =
      Parse(With(With(kFalcon, "attention_heads\": 8", "attention_heads\": 16"),
                 "key_value_heads\": 2", "key_value_heads\": null"));
  EXPECT_EQ(Attention(config, 1).num_kv_heads, 16);
}

TEST_P(Refused, ByName) { ExpectRefused(GetParam()); }
INSTANTIATE_TEST_SUITE_P(
    FalconH1, Refused,
    Changes(kFalcon,
            {{"Activation", "\"silu\"", "\"gelu\"",
              "hidden_act: is \"gelu\"; must be silu or swish"},
             {"NoKeys", "\"key_multiplier\": 0.390625", "\"key_multiplier\": 0",
              "key_multiplier: is 0; must not be 0"},
             {"TinyKeys", "\"key_multiplier\": 0.390625", "\"key_multiplier\": 1e-300",
              "key_multiplier: is 1e-300; must not be 0"},
             {"TooFew", "[0.8838834764831844, 0.5859375]", "[0.5]",
              "mlp_multipliers: must be a list of 2 numbers"},
             {"NotANumber", "0.25, 0.17", "null, 0.17", "ssm_multipliers: holds null"},
             {"Width", "\"mamba_d_ssm\": 1536", "\"mamba_d_ssm\": 1537",
              "mamba_n_heads: is 24, of 64 channels; must have 1537 together"},
             {"Groups", "n_groups\": 1", "n_groups\": 5", "mamba_n_groups: is 5; must divide"},
             {"NoMlp", "use_mlp\": true", "use_mlp\": false", "mamba_use_mlp: is false; only true"},
             {"Unknown", "\"mamba_expand\"", "\"mamba_expanse\"", "mamba_expanse: is unknown"}}),
    NameOfChange);

// Nemotron-H-4B's, shortened in layers.
constexpr char kNemotron[] = R"({"architectures": ["NemotronHForCausalLM"],
  "attention_bias": false, "attention_dropout": 0.0, "attention_head_dim": 128,
  "auto_map": {"AutoConfig": "configuration_nemotron_h.NemotronHConfig"}, "bos_token_id": 1,
  "chunk_size": 128, "conv_kernel": 4, "eos_token_id": 2, "expand": 2, "hidden_dropout": 0.0,
  "hidden_size": 3072, "hybrid_override_pattern": "M-M*-", "initializer_range": 0.02,
  "intermediate_size": 12288, "layer_norm_epsilon": 1e-05, "mamba_head_dim": 64,
  "mamba_hidden_act": "silu", "mamba_num_heads": 112, "mamba_proj_bias": false,
  "max_position_embeddings": 8192, "mlp_bias": false, "mlp_hidden_act": "relu2",
  "model_type": "nemotron_h", "n_groups": 8, "num_attention_heads": 32, "num_hidden_layers": 5,
  "num_key_value_heads": 8, "num_logits_to_keep": 1, "pad_token_id": 0,
  "rescale_prenorm_residual": true, "residual_in_fp32": false, "rms_norm_eps": 1e-05,
  "sliding_window": null, "ssm_state_size": 128, "tie_word_embeddings": false,
  "time_step_floor": 0.0001, "time_step_limit": [0.0, Infinity], "time_step_max": 0.1,
  "time_step_min": 0.001, "torch_dtype": "bfloat16", "transformers_version": "4.48.0",
  "use_bias": false, "use_cache": true, "use_conv_bias": true, "use_mamba_kernels": true,
  "vocab_size": 131072})";

TEST(NemotronH, ReadsAllFields) {
  const ModelConfig config = Parse(kNemotron);
  EXPECT_EQ(config.hidden_size, 3072);
  EXPECT_EQ(config.intermediate_size, 12288);
  EXPECT_EQ(config.activation, Activation::kSquaredRelu);
  EXPECT_EQ(config.norm_eps, 1e-5f);
  EXPECT_EQ(config.nested, "backbone.");
  ASSERT_EQ(config.sublayers.size(), 5u);
  EXPECT_EQ(config.num_layers(), 5);
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(config.sublayers[i].layer, i);
    EXPECT_EQ(config.sublayers[i].norm, "norm.weight");
    EXPECT_EQ(config.sublayers[i].mixers.empty(), i == 1 || i == 4);
  }
  EXPECT_THAT(Kinds(config), ElementsAre("mamba2", "mamba2", "attention"));
  EXPECT_EQ(config.sublayers[3].mixers[0].tensors, "mixer.");
  EXPECT_EQ(Mamba(config).num_heads, 112);
  EXPECT_EQ(Mamba(config).head_dim, 64);
  EXPECT_EQ(Mamba(config).num_groups, 8);
  EXPECT_EQ(Mamba(config).norm_groups, 8);
  EXPECT_EQ(Mamba(config).state_size, 128);
  EXPECT_EQ(Mamba(config).norm, Mamba2Norm::kAfterGate);
  EXPECT_EQ(Mamba(config).dt_min, 0.001f);
  EXPECT_EQ(Mamba(config).dt_max, std::numeric_limits<float>::infinity());
  EXPECT_EQ(Attention(config, 2).head_dim, 128);
  EXPECT_EQ(Attention(config, 2).num_kv_heads, 8);
  EXPECT_EQ(Attention(config, 2).rotary_dim, 0);
}

TEST(NemotronH, ANullIsFalse) {
  EXPECT_TRUE(Mamba(Parse(kNemotron)).conv_bias);
  EXPECT_FALSE(Mamba(Parse(With(kNemotron, "conv_bias\": true", "conv_bias\": null"))).conv_bias);
}

TEST(NemotronH, LayersHaveNamesOfTodayAndOlderOnes) {
  const std::string pattern = "\"hybrid_override_pattern\": \"M-M*-\"";
  for (const char* list :
       {R"("layers_block_type": ["linear_attention", "full_attention", "mlp"])",
        R"("layers_block_type": ["mamba", "attention", "mlp"], "hybrid_override_pattern": "E")",
        R"("layer_types": ["mamba", "attention", "mlp"])"}) {
    const ModelConfig config = Parse(With(kNemotron, pattern, list));
    EXPECT_THAT(Kinds(config), ElementsAre("mamba2", "attention")) << list;
    EXPECT_EQ(config.sublayers.size(), 3u);
  }
}

TEST(NemotronH, FlagsCount) {
  const ModelConfig biased = Parse(With(kNemotron, "use_bias\": false", "use_bias\": true"));
  EXPECT_TRUE(Mamba(biased).in_bias && Mamba(biased).out_bias);
  EXPECT_FALSE(Mamba(Parse(With(kNemotron, "conv_bias\": true", "conv_bias\": false"))).conv_bias);
  EXPECT_TRUE(Parse(With(kNemotron, "mlp_bias\": false", "mlp_bias\": true")).feed_forward_bias);
  // transformers has lm_head.weight in any case.
  EXPECT_FALSE(Parse(With(kNemotron, "embeddings\": false", "embeddings\": true")).tie_embeddings);
}

// Where a file has both, transformers takes the older one.
TEST(NemotronH, FieldsHaveOlderNames) {
  const ModelConfig config =
      Parse(With(kNemotron, "\"model_type\"", R"("mamba_n_groups": 4, "mamba_d_conv": 3,
      "mamba_conv_bias": false, "mamba_dt_min": 0.25, "mamba_chunk_size": 64, "model_type")"));
  EXPECT_EQ(Mamba(config).num_groups, 4);
  EXPECT_EQ(Mamba(config).norm_groups, 4);
  EXPECT_EQ(Mamba(config).conv_size, 3);
  EXPECT_FALSE(Mamba(config).conv_bias);
  EXPECT_EQ(Mamba(config).dt_min, 0.25f);
}

TEST(NemotronH, SizesMayStandTwice) {
  const ModelConfig config =
      Parse(With(kNemotron, "\"model_type\"",
                 R"("mamba_num_groups": 8, "mamba_state_dim": 128, "model_type")"));
  EXPECT_EQ(Fingerprint(config, 1), Fingerprint(Parse(kNemotron), 1));
}

TEST(NemotronH, WhatNoModelReadsMayStand) {
  const ModelConfig config = Parse(
      With(kNemotron, "\"model_type\"",
           R"("norm_eps": 0.5, "rope_theta": 5, "partial_rotary_factor": 0.5, "model_type")"));
  EXPECT_EQ(config.norm_eps, 1e-5f);
  EXPECT_EQ(Attention(config, 2).rotary_dim, 0);
}

TEST(NemotronH, ABoundOfStepsIsTold) {
  EXPECT_THAT(Parse(kNemotron).warnings,
              ElementsAre(testing::HasSubstr("at least 0.001 (time_step_min), as transformers")));
  EXPECT_THAT(
      Parse(With(kNemotron, "\"model_type\"", "\"mamba_dt_min\": 0, \"model_type\"")).warnings,
      testing::IsEmpty());
}

TEST(NemotronH, DefaultsAreThoseOfTransformers) {
  const ModelConfig config =
      Parse(R"({"model_type": "nemotron_h", "hybrid_override_pattern": "M*"})");
  EXPECT_EQ(Mamba(config).num_heads, 128);
  EXPECT_EQ(Mamba(config).num_groups, 8);
  EXPECT_EQ(Mamba(config).dt_min, 0.001f);
  EXPECT_EQ(Attention(config, 1).num_kv_heads, 8);
  EXPECT_EQ(config.norm_eps, 1e-5f);
  const ModelConfig null =
      Parse(With(kNemotron, "key_value_heads\": 8", "key_value_heads\": null"));
  EXPECT_EQ(Attention(null, 2).num_kv_heads, 32);
  EXPECT_THAT(config.others, ElementsAre("mtp."));
}

INSTANTIATE_TEST_SUITE_P(
    NemotronH, Refused,
    Changes(kNemotron,
            {{"Experts", "\"M-M*-\"", "\"M-ME\"",
              "hybrid_override_pattern: layer 3 is \"E\"; experts are not served, a Nemotron-H "
              "without them is"},
             {"Kind", "\"M-M*-\"", "\"M-m\"",
              "hybrid_override_pattern: layer 2 is \"m\"; must be linear_attention"},
             {"TwoLists", "\"hybrid_override_pattern\": \"M-M*-\"",
              R"("layers_block_type": ["mamba", "mlp"], "layer_types": ["mlp", "mamba"])",
              "layer_types: is not as layers_block_type; must be the same"},
             {"AnEmptyList", "\"hybrid_override_pattern\": \"M-M*-\"", "\"layer_types\": []",
              "layer_types: must list the kinds of 1 to 1024 layers"},
             {"NoLayers", "\"hybrid_override_pattern\": \"M-M*-\", ", "",
              "hybrid_override_pattern: must have a letter for each"},
             {"Activation", "\"relu2\"", "\"silu\"", "mlp_hidden_act: is \"silu\"; only \"relu2\""},
             {"TwoWidths", "attention_head_dim\": 128", "attention_head_dim\": 64",
              "attention_head_dim: is 64; only 128"},
             {"Groups", "n_groups\": 8", "n_groups\": 9", "n_groups: is 9; must divide the 112"},
             {"OtherGroups", "\"model_type\"", "\"mamba_num_groups\": 4, \"model_type\"",
              "mamba_num_groups: is 4; only 8 is served"},
             {"OtherStates", "\"model_type\"", "\"mamba_state_dim\": 64, \"model_type\"",
              "mamba_state_dim: is 64; only 128 is served"}}),
    NameOfChange);

}  // namespace
}  // namespace packrat
