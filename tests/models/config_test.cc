#include "models/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <variant>

#include "tests/models/test_files.h"

namespace packrat {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

const RatSpec& Rat(const ModelConfig& config, int layer) {
  return std::get<RatSpec>(config.layers.at(layer));
}
const AttentionSpec& Attention(const ModelConfig& config, int layer) {
  return std::get<AttentionSpec>(config.layers.at(layer));
}
const MesaSpec& Mesa(const ModelConfig& config, int layer) {
  return std::get<MesaSpec>(config.layers.at(layer));
}
const GatedDeltaSpec& GatedDelta(const ModelConfig& config, int layer) {
  return std::get<GatedDeltaSpec>(config.layers.at(layer));
}
std::vector<std::string> Names(const ModelConfig& config) {
  std::vector<std::string> names;
  for (const MixerSpec& layer : config.layers) names.push_back(InfoOf(layer).type);
  return names;
}

ModelConfig LoadGolden(const std::string& name) {
  auto config = LoadModelConfig("tests/golden/" + name);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.value_or(ModelConfig());
}

ModelConfig Parse(const std::string& text) {
  auto config = ParseModelConfig(text);
  EXPECT_TRUE(config.ok()) << config.status() << "\n" << text;
  return config.value_or(ModelConfig());
}

std::string Refusal(const std::string& text) {
  const auto config = ParseModelConfig(text);
  EXPECT_FALSE(config.ok()) << text;
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(config.status().message());
}

// `text` with the first `from` replaced.
std::string With(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

constexpr char kRat[] = R"({"model_type": "rat", "vocab_size": 100, "d_model": 64, "d_ffn": 256,
    "num_layers": 4, "num_head": 4, "ngroups": 2, "chunk_size": 16})";
constexpr char kMesaNet[] = R"({"model_type": "mesa_net", "vocab_size": 100, "hidden_size": 64,
    "num_heads": 3, "head_dim": 21, "num_hidden_layers": 4})";
constexpr char kPackrat[] = R"({"model_type": "packrat", "vocab_size": 100, "hidden_size": 64,
    "intermediate_size": 160, "num_hidden_layers": 2, "layer_types": ["rat", "mesa"],
    "rat": {"num_heads": 4, "num_groups": 2, "chunk_size": 16},
    "mesa": {"num_heads": 2, "head_dim": 32}})";

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
  EXPECT_THAT(Names(config), ElementsAre("rat", "rat"));
  EXPECT_EQ(Rat(config, 1).num_heads, 4);
  EXPECT_EQ(Rat(config, 1).num_groups, 2);
  EXPECT_EQ(Rat(config, 1).head_dim, 16);
  EXPECT_EQ(Rat(config, 1).chunk_size, 16);
  EXPECT_EQ(Rat(config, 1).rope_base, 10000.0);
}

TEST(Golden, RatLocalSeesOneKeyMoreThanItsWindowSize) {
  const ModelConfig config = LoadGolden("rat_local");
  EXPECT_THAT(Names(config), ElementsAre("rat", "local_attention", "rat", "local_attention"));
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
  EXPECT_THAT(Names(config), ElementsAre("mesa", "mesa"));
  EXPECT_EQ(Mesa(config, 0).num_heads, 2);
  EXPECT_EQ(Mesa(config, 0).head_dim, 32);
  EXPECT_EQ(Mesa(config, 0).conv_size, 4);
  EXPECT_EQ(Mesa(config, 0).lambda_lower_bound, 0.25f);
  EXPECT_FALSE(Mesa(config, 0).use_output_gate);
}

TEST(Golden, MesaNetHybrid) {
  const ModelConfig config = LoadGolden("mesa_net_hybrid");
  EXPECT_THAT(Names(config), ElementsAre("mesa", "local_attention", "mesa", "attention"));
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
  EXPECT_THAT(Names(config), ElementsAre("rat", "local_attention", "mesa", "attention"));
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

TEST(Golden, GatedDeltaNet) {
  const ModelConfig config = LoadGolden("gated_delta_net");
  EXPECT_THAT(Names(config), ElementsAre("gated_delta_net", "attention", "gated_delta_net"));
  EXPECT_EQ(GatedDelta(config, 0).num_key_heads, 2);
  EXPECT_EQ(GatedDelta(config, 0).num_value_heads, 6);
  EXPECT_EQ(GatedDelta(config, 0).key_dim, 12);
  EXPECT_EQ(GatedDelta(config, 0).value_dim, 20);
  EXPECT_EQ(GatedDelta(config, 0).conv_size, 3);
  const MixerInfo info = InfoOf(config.layers[0]);
  EXPECT_EQ(info.num_heads, 6);
  EXPECT_EQ(info.head_dim, 20);
  EXPECT_EQ(info.num_kv_heads, 2);
}

TEST(Rat, LayersFollowInterleaveStepWhereNoListSaysOtherwise) {
  EXPECT_THAT(Names(Parse(kRat)), ElementsAre("rat", "rat", "rat", "rat"));
  const std::string stepped =
      With(kRat, "\"num_layers\"", "\"window_size\": 8, \"interleave_step\": 3, \"num_layers\"");
  EXPECT_THAT(Names(Parse(stepped)),
              ElementsAre("rat", "local_attention", "local_attention", "rat"));
  const std::string listed =
      With(stepped, "\"num_layers\"",
           R"("layer_types": ["local_attention", "rat", "rat", "rat"], "num_layers")");
  EXPECT_THAT(Names(Parse(listed)), ElementsAre("local_attention", "rat", "rat", "rat"));
}

TEST(Rat, DefaultsAndOptions) {
  const ModelConfig config = Parse(kRat);
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

TEST(MesaNet, DefaultsAreThoseOfFlashLinearAttention) {
  const ModelConfig config = Parse(R"({"model_type": "mesa_net"})");
  EXPECT_EQ(config.vocab_size, 32000);
  EXPECT_EQ(config.hidden_size, 2048);
  EXPECT_EQ(config.layers.size(), 24u);
  EXPECT_EQ(config.intermediate_size, 5632);  // int(2048 * 4 * 2/3) = 5461, up to a multiple of 256
  EXPECT_EQ(Mesa(config, 0).num_heads, 16);
  EXPECT_EQ(Mesa(config, 0).head_dim, 128);
  EXPECT_EQ(Mesa(config, 0).conv_size, 4);
  EXPECT_FALSE(config.tie_embeddings);
}

TEST(MesaNet, IntermediateSizeFromRatio) {
  EXPECT_EQ(Parse(kMesaNet).intermediate_size, 256);  // int(170.67) rounded up
  const std::string wide = With(kMesaNet, "\"num_heads\"", "\"hidden_ratio\": 8, \"num_heads\"");
  EXPECT_EQ(Parse(wide).intermediate_size, 512);     // int(341.3) rounded up
  EXPECT_EQ(Mesa(Parse(kMesaNet), 0).head_dim, 21);  // Odd is fine where nothing is rotated.
}

TEST(MesaNet, AttentionMayBeOneObject) {
  const ModelConfig config = Parse(With(kMesaNet, "\"num_heads\"", R"("attn": {"layers": [0, 3],
      "num_heads": 4, "qkv_bias": true, "rope_theta": 1000.5}, "num_heads")"));
  EXPECT_THAT(Names(config), ElementsAre("attention", "mesa", "mesa", "attention"));
  EXPECT_EQ(Attention(config, 0).num_kv_heads, 4);
  EXPECT_TRUE(Attention(config, 0).qkv_bias);
  EXPECT_EQ(Attention(config, 0).rope_base, 1000.5);
  EXPECT_EQ(Attention(config, 0).window, 0);
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

// A config, with one change, and what the refusal must say.
struct Bad {
  const char* name;
  const char* config;
  const char* from;
  const char* to;
  const char* message;
};

class Refused : public testing::TestWithParam<Bad> {};

TEST_P(Refused, WithFieldAndRange) {
  const Bad& bad = GetParam();
  const std::string message = Refusal(With(bad.config, bad.from, bad.to));
  EXPECT_THAT(message, StartsWith("config.json: "));
  EXPECT_THAT(message, HasSubstr(bad.message));
}

INSTANTIATE_TEST_SUITE_P(
    Json, Refused,
    testing::Values(Bad{"Empty", kRat, kRat, "", "not valid JSON"},
                    Bad{"List", kRat, kRat, "[]", "must be an object"},
                    Bad{"NotJson", kRat, "{", "{,", "not valid JSON at byte"},
                    Bad{"Trailing", kRat, "16}", "16} x", "not valid JSON"},
                    Bad{"Duplicate", kRat, "\"d_ffn\"", "\"d_model\": 64, \"d_ffn\"",
                        "duplicate key \"d_model\""},
                    Bad{"DuplicateInside", kPackrat, "\"num_groups\"",
                        "\"chunk_size\": 8, \"num_groups\"", "duplicate key \"chunk_size\""},
                    Bad{"Nan", kRat, "64", "NaN", "d_model: is \"NaN\"; must be an integer"},
                    Bad{"Infinity", kRat, "64", "Infinity", "d_model: is \"Infinity\""},
                    Bad{"TooLargeForADouble", kRat, "64", "1e999", "d_model: is \"1e999\""},
                    Bad{"Deep", kRat, "64",
                        "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]",
                        "nested more than 32 levels"},
                    Bad{"InvalidUtf8", kRat, "rat", "r\xff", "not valid JSON"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Rat, Refused,
    testing::Values(
        Bad{"UnknownFamily", kRat, "\"rat\"", "\"gpt2\"",
            "model_type: is \"gpt2\"; must be rat, mesa_net, llama, qwen2, qwen3, "
            "qwen3_5_text, qwen3_5 or packrat"},
        Bad{"NoFamily", kRat, "\"model_type\"", "\"type\"", "model_type: is \"\""},
        Bad{"FamilyOfWrongType", kRat, "\"rat\"", "3", "model_type: is 3; must be a string"},
        Bad{"Missing", kRat, "\"d_model\"", "\"dmodel\"",
            "d_model: missing; must be an integer from 1 to 65536"},
        Bad{"Zero", kRat, "100", "0", "vocab_size: is 0; must be an integer from 1 to 1048576"},
        Bad{"Negative", kRat, "100", "-5", "vocab_size: is -5"},
        Bad{"Fraction", kRat, "100", "100.5", "vocab_size: is 100.5"},
        Bad{"Huge", kRat, "100", "18446744073709551615", "vocab_size: is 18446744073709551615"},
        Bad{"HugeDouble", kRat, "100", "1e300", "vocab_size: is 1e+300"},
        Bad{"String", kRat, "100", "\"100\"", "vocab_size: is \"100\""},
        Bad{"Layers", kRat, "\"num_layers\": 4", "\"num_layers\": 1025",
            "num_layers: is 1025; must be an integer from 1 to 1024"},
        Bad{"HeadsDoNotDivide", kRat, "\"num_head\": 4", "\"num_head\": 5",
            "num_head: is 5; must divide the hidden size 64"},
        Bad{"OddHeads", kRat, "\"d_model\": 64", "\"d_model\": 60",
            "num_head: is 4, which makes heads of 15 channels; must be even and at most 256"},
        Bad{"WideHeads", kRat, "\"d_model\": 64", "\"d_model\": 2048", "heads of 512 channels"},
        Bad{"GroupsDoNotDivide", kRat, "\"ngroups\": 2", "\"ngroups\": 3",
            "ngroups: is 3; must divide the 4 heads"},
        Bad{"Chunk", kRat, "\"chunk_size\": 16", "\"chunk_size\": 0",
            "chunk_size: is 0; must be an integer from 1 to 4096"},
        Bad{"Activation", kRat, "\"d_ffn\"", "\"act_fn\": \"relu\", \"d_ffn\"",
            "act_fn: is \"relu\"; must be gelu or swiglu"},
        Bad{"Tie", kRat, "\"d_ffn\"", "\"tie_embedding\": 1, \"d_ffn\"",
            "tie_embedding: is 1; must be true or false"},
        Bad{"Eps", kRat, "\"d_ffn\"", "\"norm_eps\": 0, \"d_ffn\"", "norm_eps: is 0"},
        Bad{"Rope", kRat, "\"d_ffn\"", "\"rope_base\": \"x\", \"d_ffn\"", "rope_base: is \"x\""},
        Bad{"Eos", kRat, "\"d_ffn\"", "\"eos_token_id\": [1, 100], \"d_ffn\"",
            "eos_token_id: holds 100; an id must be an integer from 0 to 99"},
        Bad{"Bos", kRat, "\"d_ffn\"", "\"bos_token_id\": 100, \"d_ffn\"", "bos_token_id: is 100"},
        Bad{"LayerTypesTooShort", kRat, "\"d_ffn\"", "\"layer_types\": [\"rat\"], \"d_ffn\"",
            "layer_types: must list the mixers of all 4 layers, has 1"},
        Bad{"LayerTypesNoList", kRat, "\"d_ffn\"", "\"layer_types\": \"rat\", \"d_ffn\"",
            "layer_types: must list the mixers of all 4 layers, has 0"},
        Bad{"LayerType", kRat, "\"d_ffn\"",
            "\"layer_types\": [\"rat\", \"rat\", \"rat\", \"mesa\"], \"d_ffn\"",
            "layer_types: layer 3 is \"mesa\"; must be rat, local_attention or attention"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    MesaNet, Refused,
    testing::Values(
        Bad{"AttnresBlockSize", kMesaNet, "\"num_heads\"",
            "\"attnres_block_size\": 4, \"num_heads\"", "attnres_block_size: is unknown here"},
        Bad{"UnknownOfAttn", kMesaNet, "\"num_heads\"",
            "\"attn\": {\"layers\": [1], \"num_heads\": 4, \"qk_norm\": true}, \"num_heads\"",
            "attn.qk_norm: is unknown here"},
        Bad{"Steps", kMesaNet, "\"num_heads\"", "\"max_cg_step_decoding\": 0, \"num_heads\"",
            "max_cg_step_decoding: is 0"},
        Bad{"ConvSize", kMesaNet, "\"num_heads\"", "\"conv_size\": 17, \"num_heads\"",
            "conv_size: is 17; must be an integer from 1 to 16"},
        Bad{"HeadDim", kMesaNet, "\"head_dim\": 21", "\"head_dim\": 257", "head_dim: is 257"},
        Bad{"HeadsTimesWidth", kMesaNet, "\"num_heads\": 3, \"head_dim\": 21",
            "\"num_heads\": 4096, \"head_dim\": 256", "num_heads * head_dim must be at most 65536"},
        Bad{"Lambda", kMesaNet, "\"num_heads\"", "\"lambda_lower_bound\": -0.5, \"num_heads\"",
            "lambda_lower_bound: is -0.5"},
        Bad{"Activation", kMesaNet, "\"num_heads\"", "\"hidden_act\": \"gelu\", \"num_heads\"",
            "hidden_act: is \"gelu\""},
        Bad{"AttnNoObject", kMesaNet, "\"num_heads\"", "\"attn\": 3, \"num_heads\"",
            "attn: must be an object"},
        Bad{"AttnNoLayers", kMesaNet, "\"num_heads\"",
            "\"attn\": {\"num_heads\": 4}, \"num_heads\"", "attn.layers: must be a list"},
        Bad{"AttnNoHeads", kMesaNet, "\"num_heads\"", "\"attn\": {\"layers\": [1]}, \"num_heads\"",
            "attn.num_heads: missing"},
        Bad{"AttnLayer", kMesaNet, "\"num_heads\"",
            "\"attn\": [{\"layers\": [4], \"num_heads\": 4}], \"num_heads\"",
            "attn[0].layers: holds 4; a layer must be an integer from 0 to 3"},
        Bad{"AttnLayerTwice", kMesaNet, "\"num_heads\"",
            "\"attn\": [{\"layers\": [1], \"num_heads\": 4}, {\"layers\": [1], \"num_heads\": 4}], "
            "\"num_heads\"",
            "attn[1].layers: layer 1 is listed twice"},
        Bad{"AttnKeyHeads", kMesaNet, "\"num_heads\"",
            "\"attn\": {\"layers\": [1], \"num_heads\": 4, \"num_kv_heads\": 3}, \"num_heads\"",
            "attn.num_kv_heads: is 3; must divide the 4 heads"},
        Bad{"AttnWindow", kMesaNet, "\"num_heads\"",
            "\"attn\": {\"layers\": [1], \"num_heads\": 4, \"window_size\": 0}, \"num_heads\"",
            "attn.window_size: is 0"},
        Bad{"AttnOddHeads", kMesaNet, "\"num_heads\"",
            "\"attn\": {\"layers\": [1], \"num_heads\": 64}, \"num_heads\"",
            "heads of 1 channels; must be even"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Packrat, Refused,
    testing::Values(Bad{"NoLayerTypes", kPackrat, "\"layer_types\"", "\"layers\"",
                        "layer_types: missing"},
                    Bad{"LayerType", kPackrat, "[\"rat\", \"mesa\"]", "[\"rat\", \"mamba\"]",
                        "layer_types: layer 1 is \"mamba\""},
                    Bad{"LayerTypeNoString", kPackrat, "[\"rat\", \"mesa\"]", "[\"rat\", 5]",
                        "layer_types: layer 1 is \"5\""},
                    Bad{"MixerMissing", kPackrat, "[\"rat\", \"mesa\"]", "[\"rat\", \"attention\"]",
                        "attention: missing, but layer_types uses it"},
                    Bad{"MixerNull", kPackrat, "\"mesa\": {\"num_heads\": 2, \"head_dim\": 32}",
                        "\"mesa\": null", "mesa: must be an object"},
                    Bad{"Groups", kPackrat, "\"num_groups\": 2", "\"num_groups\": 3",
                        "rat.num_groups: is 3; must divide the 4 heads"},
                    Bad{"Heads", kPackrat, "\"num_heads\": 4", "\"num_heads\": 7",
                        "rat.num_heads: is 7; must divide the hidden size 64"},
                    Bad{"Window", kPackrat, "[\"rat\", \"mesa\"]",
                        "[\"rat\", \"local_attention\"], \"local_attention\": {\"num_heads\": 4}",
                        "local_attention.window_size: missing"}),
    [](const auto& info) { return info.param.name; });

constexpr char kGatedDelta[] = R"({"model_type": "packrat", "vocab_size": 100, "hidden_size": 64,
    "intermediate_size": 160, "num_hidden_layers": 1, "layer_types": ["gated_delta_net"],
    "gated_delta_net": {"num_key_heads": 300, "num_value_heads": 600, "key_dim": 100,
                        "value_dim": 100, "conv_size": 4}})";

INSTANTIATE_TEST_SUITE_P(
    GatedDelta, Refused,
    testing::Values(
        Bad{"KeyHeads", kGatedDelta, "300", "400",
            "gated_delta_net.num_key_heads: is 400; must divide the 600 heads"},
        Bad{"NoValueHeads", kGatedDelta, "600", "0",
            "gated_delta_net.num_value_heads: is 0; must be an integer from 1 to 4096"},
        Bad{"KeyDim", kGatedDelta, "\"key_dim\": 100", "\"key_dim\": 257",
            "gated_delta_net.key_dim: is 257; must be an integer from 1 to 256"},
        Bad{"WideKeys", kGatedDelta, "\"key_dim\": 100", "\"key_dim\": 219",
            "num_key_heads: is 300; num_key_heads * key_dim must be at most 65536"},
        Bad{"WideValues", kGatedDelta, "\"value_dim\": 100", "\"value_dim\": 110",
            "num_value_heads: is 600; num_value_heads * value_dim must be at most 65536"},
        Bad{"NoTaps", kGatedDelta, "\"conv_size\": 4", "\"conv_size\": 0",
            "gated_delta_net.conv_size: is 0; must be an integer from 1 to 16"},
        Bad{"Missing", kGatedDelta, ", \"conv_size\": 4", "",
            "gated_delta_net.conv_size: missing"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Unknown, Refused,
    testing::Values(
        Bad{"Misspelt", kMesaNet, "\"num_heads\"", "\"lambda_lower_bond\": 0.1, \"num_heads\"",
            "lambda_lower_bond: is unknown here"},
        Bad{"Quantized", kPackrat, "\"rat\": {",
            "\"quantization_config\": {\"quant_method\": \"awq\"}, \"rat\": {",
            "quantization_config: is unknown here"},
        Bad{"HiddenAct", kPackrat, "\"rat\": {", "\"hidden_act\": \"gelu\", \"rat\": {",
            "hidden_act: is \"gelu\"; only \"silu\" is served"},
        Bad{"AttentionBias", kPackrat, "\"rat\": {", "\"attention_bias\": true, \"rat\": {",
            "attention_bias: is true; only false is served"},
        Bad{"InAMixer", kPackrat, "\"chunk_size\": 16", "\"chunk_size\": 16, \"dilation\": 4",
            "rat.dilation: is unknown here"},
        Bad{"RopeScaling", kPackrat, "\"rat\": {",
            "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.0}, \"rat\": {",
            "rope_scaling.type: is \"linear\"; only \"default\" is served"},
        Bad{"RopeType", kPackrat, "\"rat\": {",
            "\"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 5e5}, \"rat\": {",
            "rope_parameters.rope_type: is \"llama3\"; only \"default\" is served"},
        Bad{"RopeFactor", kPackrat, "\"rat\": {",
            "\"rope_parameters\": {\"factor\": 2}, \"rat\": {",
            "rope_parameters.factor: is unknown here"},
        Bad{"RopePart", kPackrat, "\"rat\": {",
            "\"rope_parameters\": {\"partial_rotary_factor\": 0.5}, \"rat\": {",
            "rope_parameters.partial_rotary_factor: is 0.5; only 1.0 is served"},
        Bad{"RopeTwice", kPackrat, "\"rat\": {",
            "\"rope_theta\": 10000, \"rope_parameters\": {\"rope_theta\": 5e5}, \"rat\": {",
            "rope_parameters.rope_theta: is 500000, and rope_theta is 10000; must be the same"},
        Bad{"RopeOfRat", kRat, "\"d_ffn\"", "\"rope_parameters\": {\"rope_theta\": 5e5}, \"d_ffn\"",
            "rope_parameters: is unknown here"},
        Bad{"RopeOfMesaNet", kMesaNet, "\"num_heads\"",
            "\"rope_parameters\": {\"rope_theta\": 5e5}, \"num_heads\"",
            "rope_parameters: is unknown here"},
        Bad{"NameThatIsNone", kRat, "\"d_ffn\"", "\"a\\n\": 1, \"d_ffn\"",
            "\"a\\n\": is unknown here"}),
    [](const auto& info) { return info.param.name; });

TEST(Unknown, NullsAndListedFieldsMayBeThere) {
  const ModelConfig plain = Parse(kPackrat);
  const ModelConfig config = Parse(With(kPackrat, "\"rat\": {", R"("rope_scaling": null,
      "attnres_block_size": null, "hidden_act": "silu", "attention_bias": false,
      "architectures": ["PackratForCausalLM"], "dtype": "bfloat16", "use_cache": true,
      "_attn_implementation_autoset": true, "unsloth_fixed": true, "unsloth_version": "2026.3.3",
      "transformers_version": "5.1.0", "repetition_penalty": 1.5, "attention": "nobody's",
      "rat": {)"));
  EXPECT_EQ(Fingerprint(config, 1), Fingerprint(plain, 1));
  EXPECT_THAT(config.warnings, IsEmpty());
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

TEST(Fingerprint, TellsEveryDigitApart) {
  const auto print = [](const std::string& theta) {
    return Fingerprint(
        Parse(With(kPackrat, "\"rat\": {", "\"rope_theta\": " + theta + ", \"rat\": {")), 1);
  };
  EXPECT_NE(print("1000000.5"), print("1000000"));
  EXPECT_EQ(print("1000000.0"), print("1000000"));
}

TEST(Config, MessagesDoNotRepeatWhatAHostileFileSays) {
  const std::string message =
      Refusal(With(kRat, "\"rat\"", "\"" + std::string(100000, 'x') + "\""));
  EXPECT_LT(message.size(), 400u);
}

}  // namespace
}  // namespace packrat
