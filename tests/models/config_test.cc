// What config.json is read as.
#include "models/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "tests/models/config_text.h"
#include "tests/models/test_files.h"

namespace packrat {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

const RatSpec& Rat(const ModelConfig& config, int layer) {
  return std::get<RatSpec>(config.mixers.at(layer));
}
const AttentionSpec& Attention(const ModelConfig& config, int layer) {
  return std::get<AttentionSpec>(config.mixers.at(layer));
}
const MesaSpec& Mesa(const ModelConfig& config, int layer) {
  return std::get<MesaSpec>(config.mixers.at(layer));
}
const Mamba2Spec& Mamba(const ModelConfig& config, int layer) {
  return std::get<Mamba2Spec>(config.mixers.at(layer));
}
const GatedDeltaSpec& GatedDelta(const ModelConfig& config, int layer) {
  return std::get<GatedDeltaSpec>(config.mixers.at(layer));
}
ModelConfig LoadGolden(const std::string& name) {
  auto config = LoadModelConfig("tests/golden/" + name);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.value_or(ModelConfig());
}

TEST(Limits, TheWidestHeadAndTheContextWhereNoneIsSaid) {
  const ModelConfig widest = Parse(With(kRat, "\"d_model\": 64", "\"d_model\": 1024"));
  EXPECT_EQ(Rat(widest, 0).head_dim, 256);
  EXPECT_NE(Refusal(With(kRat, "\"d_model\": 64", "\"d_model\": 1032"))
                .find("heads of 258 channels; must be even and at most 256"),
            std::string::npos);
  EXPECT_EQ(Parse(kPackrat).max_context, 4096);
  EXPECT_EQ(
      Parse(With(kPackrat, "\"vocab_size\"", "\"max_position_embeddings\": 77, \"vocab_size\""))
          .max_context,
      77);
}

TEST(Golden, Rat) {
  const ModelConfig config = LoadGolden("rat");
  EXPECT_EQ(config.family, "rat");
  EXPECT_EQ(config.vocab_size, 257);
  EXPECT_EQ(config.hidden_size, 64);
  EXPECT_EQ(config.intermediate_size, 256);
  EXPECT_EQ(config.activation, Activation::kGelu);
  EXPECT_EQ(config.norm_eps, 1e-6f);
  EXPECT_TRUE(config.tie_embeddings);
  EXPECT_EQ(config.max_context, 4096);
  EXPECT_EQ(config.bos_id, -1);
  EXPECT_THAT(config.eos_ids, IsEmpty());
  EXPECT_THAT(Kinds(config), ElementsAre("rat", "rat"));
  EXPECT_EQ(Rat(config, 1).num_heads, 4);
  EXPECT_EQ(Rat(config, 1).num_groups, 2);
  EXPECT_EQ(Rat(config, 1).head_dim, 16);
  EXPECT_EQ(Rat(config, 1).chunk_size, 16);
  EXPECT_EQ(Rat(config, 1).rope_base, 10000.0);
}

TEST(Golden, RatLocalSeesOneKeyMoreThanItsWindowSize) {
  const ModelConfig config = LoadGolden("rat_local");
  EXPECT_THAT(Kinds(config), ElementsAre("rat", "local_attention", "rat", "local_attention"));
  EXPECT_EQ(Attention(config, 1).window, 21);
  EXPECT_EQ(Attention(config, 1).num_heads, 2);
  EXPECT_EQ(Attention(config, 1).num_kv_heads, 2);
  EXPECT_EQ(Attention(config, 1).head_dim, 32);
  EXPECT_TRUE(Attention(config, 1).fused_in_proj);
  EXPECT_FALSE(Attention(config, 1).qkv_bias);
}

TEST(Golden, MesaNet) {
  const ModelConfig config = LoadGolden("mesa_net");
  EXPECT_EQ(config.family, "mesa_net");
  EXPECT_EQ(config.activation, Activation::kSwiglu);
  EXPECT_FALSE(config.tie_embeddings);
  EXPECT_EQ(config.max_context, 2048);
  EXPECT_EQ(config.bos_id, 1);
  EXPECT_THAT(config.eos_ids, ElementsAre(2));
  EXPECT_THAT(Kinds(config), ElementsAre("mesa", "mesa"));
  EXPECT_EQ(Mesa(config, 0).num_heads, 2);
  EXPECT_EQ(Mesa(config, 0).head_dim, 32);
  EXPECT_EQ(Mesa(config, 0).conv_size, 4);
  EXPECT_EQ(Mesa(config, 0).lambda_lower_bound, 0.25f);
  EXPECT_FALSE(Mesa(config, 0).use_output_gate);
}

TEST(Golden, MesaNetHybrid) {
  const ModelConfig config = LoadGolden("mesa_net_hybrid");
  EXPECT_THAT(Kinds(config), ElementsAre("mesa", "local_attention", "mesa", "attention"));
  EXPECT_EQ(config.intermediate_size, 192);
  EXPECT_TRUE(Mesa(config, 0).use_output_gate);
  EXPECT_EQ(Attention(config, 1).num_heads, 4);
  EXPECT_EQ(Attention(config, 1).num_kv_heads, 2);
  EXPECT_EQ(Attention(config, 1).head_dim, 16);
  EXPECT_EQ(Attention(config, 1).window, 24);
  EXPECT_FALSE(Attention(config, 1).fused_in_proj);
  EXPECT_EQ(Attention(config, 3).head_dim, 32);
  EXPECT_EQ(Attention(config, 3).window, 0);
}

TEST(Golden, Packrat) {
  const ModelConfig config = LoadGolden("packrat");
  EXPECT_EQ(config.family, "packrat");
  EXPECT_TRUE(config.tie_embeddings);
  EXPECT_EQ(config.intermediate_size, 160);
  EXPECT_THAT(Kinds(config), ElementsAre("rat", "local_attention", "mesa", "attention"));
  EXPECT_EQ(Attention(config, 1).window, 20);
  EXPECT_EQ(Attention(config, 1).num_kv_heads, 2);
  EXPECT_EQ(Attention(config, 3).num_kv_heads, 4);
  const ModelConfig wide = LoadGolden("packrat_wide");
  EXPECT_FALSE(wide.tie_embeddings);
  EXPECT_EQ(Mesa(wide, 0).num_heads, 5);  // 5 * 16 channels in a model of 48
  EXPECT_EQ(Mesa(wide, 2).conv_size, 2);
  EXPECT_EQ(Mesa(wide, 2).lambda_lower_bound, 0.1f);
  EXPECT_EQ(Rat(wide, 1).chunk_size, 8);
  EXPECT_EQ(Attention(wide, 3).window, 100);
}

TEST(Golden, RatPlus) {
  const ModelConfig config = LoadGolden("rat_plus");
  EXPECT_THAT(Kinds(config), ElementsAre("rat_plus", "rat_plus", "rat_plus"));
  EXPECT_EQ(config.max_context, 4096);
  EXPECT_TRUE(config.tie_embeddings);
  const auto& last = std::get<RatPlusSpec>(config.mixers[2]);
  EXPECT_EQ(last.num_heads, 4);
  EXPECT_EQ(last.head_dim, 16);
  EXPECT_EQ(last.dial.dilation, 4);
  EXPECT_EQ(last.dial.window, 0);
  EXPECT_EQ(last.dial.sinks, 2);
  const auto& middle = std::get<RatPlusSpec>(config.mixers[1]);
  EXPECT_EQ(middle.dial.dilation, 16);
  EXPECT_EQ(middle.dial.window, 8);
  EXPECT_EQ(middle.dial.sinks, 4);
  EXPECT_TRUE(std::get<RatPlusSpec>(config.mixers[0]).dial.dense());
}

TEST(Golden, GatedDeltaNet) {
  const ModelConfig config = LoadGolden("gated_delta_net");
  EXPECT_THAT(Kinds(config), ElementsAre("gated_delta_net", "attention", "gated_delta_net"));
  EXPECT_EQ(GatedDelta(config, 0).num_key_heads, 2);
  EXPECT_EQ(GatedDelta(config, 0).num_value_heads, 6);
  EXPECT_EQ(GatedDelta(config, 0).key_dim, 12);
  EXPECT_EQ(GatedDelta(config, 0).value_dim, 20);
  EXPECT_EQ(GatedDelta(config, 0).conv_size, 3);
  const MixerInfo info = InfoOf(config.mixers[0]);
  EXPECT_EQ(info.num_heads, 6);
  EXPECT_EQ(info.head_dim, 20);
  EXPECT_EQ(info.num_kv_heads, 2);
}

TEST(Golden, Mamba2) {
  const ModelConfig config = LoadGolden("mamba2");
  EXPECT_THAT(Kinds(config), ElementsAre("mamba2", "attention", "mamba2"));
  EXPECT_EQ(Mamba(config, 0).num_heads, 6);
  EXPECT_EQ(Mamba(config, 0).num_groups, 2);
  EXPECT_EQ(Mamba(config, 0).head_dim, 20);
  EXPECT_EQ(Mamba(config, 0).state_size, 24);
  EXPECT_EQ(Mamba(config, 0).conv_size, 3);
  EXPECT_EQ(Mamba(config, 0).norm, Mamba2Norm::kAfterGate);
  EXPECT_EQ(Mamba(config, 0).norm_groups, 2);
  EXPECT_TRUE(Mamba(config, 0).conv_bias);
  EXPECT_TRUE(Mamba(config, 0).in_bias);
  EXPECT_EQ(Mamba(config, 0).dt_min, 0.02f);
  EXPECT_EQ(Mamba(config, 0).dt_max, std::numeric_limits<float>::infinity());
  const MixerInfo info = InfoOf(config.mixers[0]);
  EXPECT_EQ(info.num_heads, 6);
  EXPECT_EQ(info.head_dim, 20);
  EXPECT_EQ(info.num_kv_heads, 2);
}

TEST(Golden, ShortConv) {
  const ModelConfig config = LoadGolden("short_conv");
  EXPECT_THAT(Kinds(config), ElementsAre("short_conv", "short_conv"));
  const auto& conv = std::get<ShortConvSpec>(config.mixers[1]);
  EXPECT_EQ(conv.channels, 40);
  EXPECT_EQ(conv.conv_size, 4);
  EXPECT_EQ(InfoOf(config.mixers[0]).num_heads, 0);
}

TEST(Rat, LayersFollowInterleaveStepWhereNoListSaysOtherwise) {
  EXPECT_THAT(Kinds(Parse(kRat)), ElementsAre("rat", "rat", "rat", "rat"));
  const std::string stepped =
      With(kRat, "\"num_layers\"", "\"window_size\": 8, \"interleave_step\": 3, \"num_layers\"");
  EXPECT_THAT(Kinds(Parse(stepped)),
              ElementsAre("rat", "local_attention", "local_attention", "rat"));
  const std::string listed =
      With(stepped, "\"num_layers\"",
           R"("layer_types": ["local_attention", "rat", "rat", "rat"], "num_layers")");
  EXPECT_THAT(Kinds(Parse(listed)), ElementsAre("local_attention", "rat", "rat", "rat"));
}

TEST(Rat, DefaultsAndOptions) {
  const ModelConfig config = Parse(kRat);
  EXPECT_EQ(config.max_context, 4096);
  EXPECT_EQ(Rat(config, 0).rope_base, 10000.0);
  EXPECT_EQ(config.activation, Activation::kGelu);
  EXPECT_EQ(config.norm_eps, 1e-6f);
  EXPECT_TRUE(config.tie_embeddings);
  const ModelConfig other =
      Parse(With(kRat, "\"d_ffn\"", R"("act_fn": "swiglu", "rope_base": 500000,
          "norm_eps": 1e-5, "tie_embedding": false, "d_ffn")"));
  EXPECT_EQ(other.activation, Activation::kSwiglu);
  EXPECT_EQ(other.norm_eps, 1e-5f);
  EXPECT_FALSE(other.tie_embeddings);
  EXPECT_EQ(Rat(other, 0).rope_base, 500000.0);
}

TEST(Rat, FieldsOfMixersThatNoLayerUsesMayBeAbsent) {
  const std::string only_local = With(
      With(kRat, "\"ngroups\": 2, \"chunk_size\": 16", "\"window_size\": 0, \"chunk_size\": null"),
      "\"num_layers\": 4", R"("num_layers": 1, "layer_types": ["local_attention"])");
  EXPECT_EQ(Attention(Parse(only_local), 0).window, 1);
  EXPECT_THAT(Refusal(With(kRat, "\"num_layers\"", "\"interleave_step\": 2, \"num_layers\"")),
              HasSubstr("window_size: missing"));
}

TEST(Rat, FullAttentionHasNoWindow) {
  const ModelConfig config = Parse(With(kRat, "\"num_layers\"", R"("window_size": 8,
      "layer_types": ["local_attention", "attention", "rat", "rat"], "num_layers")"));
  EXPECT_EQ(Attention(config, 0).window, 9);
  EXPECT_EQ(Attention(config, 1).window, 0);
  EXPECT_TRUE(Attention(config, 1).fused_in_proj);
}

TEST(MesaNet, DefaultsAreThoseOfFlashLinearAttention) {
  const ModelConfig config = Parse(R"({"model_type": "mesa_net"})");
  EXPECT_EQ(config.vocab_size, 32000);
  EXPECT_EQ(config.hidden_size, 2048);
  EXPECT_EQ(config.mixers.size(), 24u);
  EXPECT_EQ(config.intermediate_size, 5632);  // int(2048 * 4 * 2/3) = 5461, up to a multiple of 256
  EXPECT_EQ(Mesa(config, 0).num_heads, 16);
  EXPECT_EQ(Mesa(config, 0).head_dim, 128);
  EXPECT_EQ(Mesa(config, 0).conv_size, 4);
  EXPECT_FALSE(config.tie_embeddings);
  EXPECT_EQ(config.max_context, 2048);
  EXPECT_EQ(config.bos_id, 1);
  EXPECT_THAT(config.eos_ids, ElementsAre(2));
}

TEST(MesaNet, IntermediateSizeFromRatio) {
  EXPECT_EQ(Parse(kMesaNet).intermediate_size, 256);  // int(170.67) rounded up
  const std::string wide = With(kMesaNet, "\"num_heads\"", "\"hidden_ratio\": 8, \"num_heads\"");
  EXPECT_EQ(Parse(wide).intermediate_size, 512);  // int(341.3) rounded up
  const std::string even = With(kMesaNet, "\"hidden_size\": 64", "\"hidden_size\": 96");
  EXPECT_EQ(Parse(even).intermediate_size, 256);     // 256 is a multiple itself.
  EXPECT_EQ(Mesa(Parse(kMesaNet), 0).head_dim, 21);  // Odd is fine where nothing is rotated.
}

TEST(MesaNet, AttentionMayBeOneObject) {
  const ModelConfig config = Parse(With(kMesaNet, "\"num_heads\"", R"("attn": {"layers": [0, 3],
      "num_heads": 4, "qkv_bias": true, "rope_theta": 1000.5}, "num_heads")"));
  EXPECT_THAT(Kinds(config), ElementsAre("attention", "mesa", "mesa", "attention"));
  EXPECT_EQ(Attention(config, 0).num_kv_heads, 4);
  EXPECT_TRUE(Attention(config, 0).qkv_bias);
  EXPECT_EQ(Attention(config, 0).rope_base, 1000.5);
  EXPECT_EQ(Attention(config, 0).window, 0);
}

TEST(MesaNet, AttentionIsPlainByDefault) {
  const ModelConfig config = Parse(
      With(kMesaNet, "\"num_heads\"", R"("attn": {"layers": [2], "num_heads": 4}, "num_heads")"));
  EXPECT_FALSE(Attention(config, 2).qkv_bias);
  EXPECT_EQ(Attention(config, 2).rope_base, 10000.0);
  EXPECT_EQ(Attention(config, 2).num_kv_heads, 4);
}

TEST(Eos, OneIdAListOrNone) {
  const auto with = [](const std::string& value) {
    return Parse(With(kRat, "\"d_ffn\"", "\"eos_token_id\": " + value + ", \"d_ffn\"")).eos_ids;
  };
  EXPECT_THAT(with("7"), ElementsAre(7));
  EXPECT_THAT(with("[7, 3, 7]"), ElementsAre(7, 3));
  EXPECT_THAT(with("null"), IsEmpty());
  EXPECT_THAT(with("[]"), IsEmpty());
}

TEST(Load, NamesTheFile) {
  const TempDir dir;
  EXPECT_EQ(LoadModelConfig(dir.path()).status().code(), absl::StatusCode::kNotFound);
  const std::string path = dir.Write("config.json", "");
  EXPECT_THAT(std::string(LoadModelConfig(dir.path()).status().message()), StartsWith(path));
  dir.Write("config.json", std::string((1 << 20) + 1, ' '));
  EXPECT_THAT(std::string(LoadModelConfig(dir.path()).status().message()),
              StartsWith(path + ": has 1048577 bytes"));
  std::filesystem::remove(path);
  std::filesystem::create_directory(path);
  EXPECT_THAT(std::string(LoadModelConfig(dir.path()).status().message()),
              StartsWith(path + ": not a regular file"));
}

TEST(Unknown, NullsAndListedFieldsMayBeThere) {
  const ModelConfig plain = Parse(kPackrat);
  const ModelConfig config = Parse(With(kPackrat, "\"rat\": {", R"("rope_scaling": null,
      "attnres_block_size": null, "hidden_act": "silu", "attention_bias": false,
      "architectures": ["PackratForCausalLM"], "dtype": "bfloat16", "use_cache": true,
      "_attn_implementation_autoset": true, "model_name": "unsloth/m", "unsloth_fixed": true, "unsloth_version": "2026.3.3",
      "transformers_version": "5.1.0", "repetition_penalty": 1.5, "attention": "nobody's",
      "rat": {)"));
  EXPECT_EQ(Fingerprint(config, 1), Fingerprint(plain, 1));
  EXPECT_THAT(config.warnings, IsEmpty());
}

TEST(Unknown, ArchitecturesMayBeSeveralOrNone) {
  for (const char* list :
       {"null", "[]", R"(["LlamaModel", "LlamaForCausalLM"])", R"(["GPT2LMHeadModel"])"}) {
    const std::string fields = absl::StrCat("\"architectures\": ", list, ", \"rat\": {");
    EXPECT_EQ(Fingerprint(Parse(With(kPackrat, "\"rat\": {", fields)), 1),
              Fingerprint(Parse(kPackrat), 1))
        << list;
  }
}

TEST(Rope, ThetaIsReadWhereTransformers5WritesIt) {
  const std::string five = R"("rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"})";
  EXPECT_EQ(Rat(Parse(With(kPackrat, "\"rat\": {", five + ", \"rat\": {")), 0).rope_base, 5e5);
  const ModelConfig hybrid =
      Parse(With(kMesaNet, "\"num_heads\"",
                 "\"attn\": {\"layers\": [0], \"num_heads\": 4, " + five + "}, \"num_heads\""));
  EXPECT_EQ(Attention(hybrid, 0).rope_base, 5e5);
  const std::string both = R"("rope_theta": 7.5, "rope_parameters": {"rope_theta": 7.5}, "rat": {)";
  EXPECT_EQ(Rat(Parse(With(kPackrat, "\"rat\": {", both)), 0).rope_base, 7.5);
  const std::string empty = five + ", \"rope_scaling\": {}, \"rat\": {";
  EXPECT_EQ(Rat(Parse(With(kPackrat, "\"rat\": {", empty)), 0).rope_base, 5e5);
}

TEST(MesaNet, ShortConvolutionsAreThereWhateverTheFieldSays) {
  const ModelConfig config =
      Parse(With(kMesaNet, "\"num_heads\"", "\"use_short_conv\": false, \"num_heads\""));
  EXPECT_EQ(Mesa(config, 0).conv_size, 4);
}

TEST(MesaNet, TheOutputGateByItsEarlierName) {
  const auto gated = [](const std::string& fields) {
    return Mesa(Parse(With(kMesaNet, "\"num_heads\"", fields + ", \"num_heads\"")), 0)
        .use_output_gate;
  };
  EXPECT_TRUE(gated("\"use_gate\": true"));
  EXPECT_FALSE(gated("\"use_gate\": false"));
  EXPECT_FALSE(gated("\"use_gate\": true, \"use_output_gate\": false"));
}

TEST(MesaNet, FewSolverStepsAreWarnedOf) {
  const auto warnings = [](const std::string& steps) {
    return Parse(With(kMesaNet, "\"num_heads\"",
                      "\"max_cg_step_decoding\": " + steps + ", \"num_heads\""))
        .warnings;
  };
  EXPECT_THAT(warnings("10"), IsEmpty());
  EXPECT_THAT(warnings("9"), ElementsAre(StartsWith("max_cg_step_decoding is 9")));
}

// Two models with the same tensors differ by these alone.
TEST(Fingerprint, TellsWhatTensorsDoNotShow) {
  const std::string text = R"({"model_type": "packrat", "vocab_size": 100, "hidden_size": 64,
    "intermediate_size": 160, "num_hidden_layers": 5, "norm_eps": 1e-6, "rope_theta": 10000,
    "layer_types": ["rat", "local_attention", "mesa", "gated_delta_net", "mamba2"],
    "rat": {"num_heads": 4, "num_groups": 2, "chunk_size": 16},
    "local_attention": {"num_heads": 8, "window_size": 9},
    "mesa": {"num_heads": 2, "head_dim": 32, "lambda_lower_bound": 0.5},
    "gated_delta_net": {"num_key_heads": 3, "num_value_heads": 6, "key_dim": 16, "value_dim": 16,
                        "conv_size": 4},
    "mamba2": {"num_heads": 12, "num_groups": 2, "head_dim": 8, "state_size": 16,
               "norm": "after_gate", "norm_groups": 3, "time_step_limit": [0.0, 0.5]}})";
  const std::string plain = Fingerprint(Parse(text), 1);
  for (const auto& [from, to] : {std::pair{"1e-6", "1e-5"},
                                 {"\"rope_theta\": 10000", "\"rope_theta\": 20000"},
                                 {"\"num_heads\": 4", "\"num_heads\": 2"},
                                 {"\"chunk_size\": 16", "\"chunk_size\": 8"},
                                 {"\"num_heads\": 8", "\"num_heads\": 4"},
                                 {"\"window_size\": 9", "\"window_size\": 10"},
                                 {"\"lambda_lower_bound\": 0.5", "\"lambda_lower_bound\": 0.25"},
                                 {"\"num_key_heads\": 3", "\"num_key_heads\": 2"},
                                 {"\"num_value_heads\": 6", "\"num_value_heads\": 12"},
                                 {"\"num_heads\": 12", "\"num_heads\": 6"},
                                 {"\"num_groups\": 2, \"head", "\"num_groups\": 3, \"head"},
                                 {"after_gate", "before_gate"},
                                 {"\"norm_groups\": 3", "\"norm_groups\": 1"},
                                 {"[0.0, 0.5]", "[0.1, 0.5]"},
                                 {"[0.0, 0.5]", "[0.0, 0.4]"}}) {
    EXPECT_NE(Fingerprint(Parse(With(text, from, to)), 1), plain) << to;
  }
}

TEST(Fingerprint, TellsEveryDigitApart) {
  const auto print = [](const std::string& theta) {
    return Fingerprint(
        Parse(With(kPackrat, "\"rat\": {", "\"rope_theta\": " + theta + ", \"rat\": {")), 1);
  };
  EXPECT_NE(print("1000000.5"), print("1000000"));
  EXPECT_EQ(print("1000000.0"), print("1000000"));
}

}  // namespace
}  // namespace packrat
