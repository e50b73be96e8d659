// The config.json files of tests/bench/published, as they were published (of Nemotron 3 Nano 4B and
// OLMo-Hybrid 7B the fields that decide shapes, as others quote them), and the fields in which
// larger models of those families differ from them: all are read.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "models/config.h"
#include "models/state_layout.h"
#include "tests/models/config_text.h"

namespace packrat {
namespace {

constexpr char kFolder[] = "tests/bench/published/";

TEST(Published, AllAreRead) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kFolder)) {
    const auto config = ParseModelConfig(ReadConfig(entry.path().string()).dump());
    EXPECT_TRUE(config.ok()) << entry.path() << ": " << config.status();
    ++files;
  }
  EXPECT_GE(files, 7);
}

// A list of `layers` names: `attention` at those places, else `other`.
Json Layers(int layers, const std::vector<int>& at, const char* attention, const char* other) {
  Json list = Json::array();
  for (int i = 0; i < layers; ++i) {
    list.push_back(std::count(at.begin(), at.end(), i) != 0 ? attention : other);
  }
  return list;
}

struct Larger {
  const char* name;
  const char* file;
  Json fields;
  int layers, attentions;
  int64_t parameters;  // Of embedding, feed-forwards and output matrix alone.
  int64_t slot_bytes;
};

void PrintTo(const Larger& larger, std::ostream* os) { *os << larger.name; }

class LargerSizes : public testing::TestWithParam<Larger> {};

TEST_P(LargerSizes, AreRead) {
  const Larger& larger = GetParam();
  Json json = larger.file == std::string() ? Json::object()
                                           : ReadConfig(std::string(kFolder) + larger.file);
  json.update(larger.fields);
  const ModelConfig config = Parse(json.dump());
  EXPECT_EQ(config.num_layers(), larger.layers);
  const std::vector<std::string> kinds = Kinds(config);
  EXPECT_EQ(std::count(kinds.begin(), kinds.end(), "attention"), larger.attentions);
  const int64_t matrices = IsGated(config.activation) ? 3 : 2;
  const int64_t feed_forwards =
      std::count_if(config.sublayers.begin(), config.sublayers.end(),
                    [](const Sublayer& sublayer) { return sublayer.mixers.empty(); });
  EXPECT_EQ(
      int64_t{config.hidden_size} * (feed_forwards * matrices * config.intermediate_size +
                                     int64_t{config.vocab_size} * (config.tie_embeddings ? 1 : 2)),
      larger.parameters);
  EXPECT_EQ(StateLayout(config).slot_bytes, static_cast<size_t>(larger.slot_bytes));
}

// Nemotron-H's layers: a letter each.
constexpr char kNemotronH[] = "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-";
constexpr char kNemotronNano[] = "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-";

Json Nemotron(const char* pattern, int hidden_size, int intermediate_size, int heads,
              int mamba_heads, int mamba_head_dim) {
  return {{"model_type", "nemotron_h"},
          {"attention_bias", false},
          {"chunk_size", 128},
          {"conv_kernel", 4},
          {"expand", 2},
          {"head_dim", 128},
          {"hidden_size", hidden_size},
          {"hybrid_override_pattern", pattern},
          {"intermediate_size", intermediate_size},
          {"layer_norm_epsilon", 1e-5},
          {"mamba_head_dim", mamba_head_dim},
          {"mamba_hidden_act", "silu"},
          {"mamba_num_heads", mamba_heads},
          {"max_position_embeddings", 8192},
          {"mlp_hidden_act", "relu2"},
          {"n_groups", 8},
          {"num_attention_heads", heads},
          {"num_hidden_layers", std::string(pattern).size()},
          {"num_key_value_heads", 8},
          {"ssm_state_size", 128},
          {"time_step_limit", {0.0, "Infinity"}},
          {"use_bias", false},
          {"use_conv_bias", true},
          {"vocab_size", 131072}};
}

INSTANTIATE_TEST_SUITE_P(
    All, LargerSizes,
    testing::Values(
        Larger{"LFM2_1_2B",
               "lfm2_350m.json",
               {{"hidden_size", 2048},
                {"block_dim", 2048},
                {"conv_dim", 2048},
                {"conv_dim_out", 2048},
                {"block_ff_dim", 12288},
                {"intermediate_size", 12288},
                {"num_attention_heads", 32},
                {"num_heads", 32}},
               16,
               6,
               2048LL * (16 * 3 * 8192 + 65536),
               0},
        Larger{
            "LFM2_2_6B",
            "lfm2_350m.json",
            {{"hidden_size", 2048},
             {"block_auto_adjust_ff_dim", false},
             {"block_dim", 2048},
             {"conv_dim", 2048},
             {"conv_dim_out", 2048},
             {"block_ff_dim", 10752},
             {"intermediate_size", 10752},
             {"layer_types", Layers(30, {2, 5, 9, 13, 17, 21, 24, 27}, "full_attention", "conv")},
             {"num_hidden_layers", 30},
             {"num_attention_heads", 32},
             {"num_heads", 32}},
            30,
            8,
            2048LL * (30 * 3 * 10752 + 65536),
            0},
        Larger{"Granite_4_H_1B",
               "granite_4_h_350m.json",
               {{"hidden_size", 1536},
                {"layer_types", Layers(40, {5, 15, 25, 35}, "attention", "mamba")},
                {"mamba_d_head", 64},
                {"num_hidden_layers", 40},
                {"shared_intermediate_size", 4096}},
               40,
               4,
               1536LL * (40 * 3 * 4096 + 100352),
               36LL * 48 * 64 * 128 * 4},
        Larger{"Granite_4_H_Micro",
               "granite_4_h_350m.json",
               {{"hidden_size", 2048},
                {"layer_types", Layers(40, {5, 15, 25, 35}, "attention", "mamba")},
                {"mamba_d_head", 64},
                {"mamba_n_heads", 64},
                {"num_attention_heads", 32},
                {"num_hidden_layers", 40},
                {"num_key_value_heads", 8},
                {"shared_intermediate_size", 8192}},
               40,
               4,
               2048LL * (40 * 3 * 8192 + 100352),
               36LL * 64 * 64 * 128 * 4},
        Larger{"Falcon_H1_1_5B",
               "falcon_h1_0.5b.json",
               {{"head_dim", 128},
                {"hidden_size", 2048},
                {"intermediate_size", 4608},
                {"mamba_d_ssm", 3072},
                {"mamba_d_state", 256},
                {"mamba_n_heads", 48},
                {"num_hidden_layers", 24},
                {"vocab_size", 65537}},
               24,
               24,
               2048LL * (24 * 3 * 4608 + 2 * 65537),
               24LL * 48 * 64 * 256 * 4},
        Larger{"Nemotron_H_4B", "", Nemotron(kNemotronH, 3072, 12288, 32, 112, 64), 52, 4,
               3072LL * (24 * 2 * 12288 + 2 * 131072), 24LL * 112 * 64 * 128 * 4},
        Larger{"Nemotron_H_8B", "", Nemotron(kNemotronH, 4096, 21504, 32, 128, 64), 52, 4,
               4096LL * (24 * 2 * 21504 + 2 * 131072), 24LL * 128 * 64 * 128 * 4},
        Larger{"Nemotron_Nano_9B", "", Nemotron(kNemotronNano, 4480, 15680, 40, 128, 80), 56, 4,
               4480LL * (25 * 2 * 15680 + 2 * 131072), 27LL * 128 * 80 * 128 * 4},
        Larger{"OLMo_Hybrid_7B",
               "",
               {{"model_type", "olmo_hybrid"}, {"rope_parameters", {{"rope_theta", nullptr}}}},
               32,
               8,
               3840LL * (32 * 3 * 11008 + 2 * 100352),
               24LL * 30 * 96 * 192 * 4}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace packrat
