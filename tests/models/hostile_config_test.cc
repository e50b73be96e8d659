// Every field of the configurations of tests/golden and tests/bench/published, of any depth, with
// values that it cannot have: it is refused by its name, or was never read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cctype>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "models/config.h"
#include "models/files/json.h"
#include "models/state_layout.h"
#include "tests/models/config_text.h"

namespace packrat {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

std::vector<std::string> Paths() {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator("tests/golden")) {
    const std::string path = entry.path().string() + "/config.json";
    if (std::filesystem::exists(path)) paths.push_back(path);
  }
  for (const auto& entry : std::filesystem::directory_iterator("tests/bench/published")) {
    paths.push_back(entry.path().string());
  }
  return paths;
}

// All that a configuration says of the model.
std::string Summary(const ModelConfig& c) {
  std::string text = absl::StrCat(c.family, " ", Fingerprint(c, 0), " ", c.vocab_size, " ",
                                  c.hidden_size, " ", c.intermediate_size, " ", c.feed_forward_bias,
                                  " ", c.tie_embeddings, " ", c.max_context, " ", c.bos_id, " ",
                                  c.names.up, " ", StateLayout(c).SequenceBytes(1));
  for (const int id : c.eos_ids) absl::StrAppend(&text, " ", id);
  for (const Sublayer& sublayer : c.sublayers) {
    absl::StrAppend(&text, "\n", sublayer.layer, " ", sublayer.norm);
    for (const MixerPlace& place : sublayer.mixers) absl::StrAppend(&text, " ", place.tensors);
  }
  for (const MixerSpec& mixer : c.mixers) {
    const MixerInfo info = InfoOf(mixer);
    absl::StrAppend(&text, "\n", info.type, " ", info.num_heads, " ", info.head_dim, " ",
                    info.num_kv_heads, " ", IdentityOf(mixer));
  }
  return text;
}

class HostileConfig : public testing::TestWithParam<std::string> {
 protected:
  // The summary, or what it is refused for.
  struct Read {
    bool ok;
    std::string text;
  };
  static Read ReadOf(const Json& json) {
    const auto config = ParseModelConfig(json.dump());
    if (config.ok()) return {true, Summary(*config)};
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(config.status().message()), StartsWith("config.json: "));
    return {false, std::string(config.status().message())};
  }

  // body(pointer, name) of every field.
  template <class Body>
  static void ForEachField(const Json& json, const Json::json_pointer& at, const Body& body) {
    for (const auto& [name, value] : json.items()) {
      body(at / name, name);
      if (value.is_object()) ForEachField(value, at / name, body);
    }
  }
};

TEST_P(HostileConfig, FieldsOfTheWrongTypeAreRefusedOrWereNeverRead) {
  const Json json = ReadConfig(GetParam());
  ForEachField(
      json, Json::json_pointer(), [&](const Json::json_pointer& at, const std::string& name) {
        SCOPED_TRACE(at.to_string());
        Json without = json;
        without.at(at.parent_pointer()).erase(name);
        const Read absent = ReadOf(without);
        for (const Json& wrong : {Json("no such"), Json{{"no", "such"}}, Json{{{"no", "such"}}}}) {
          Json changed = json;
          changed[at] = wrong;
          const Read read = ReadOf(changed);
          if (read.ok) {
            EXPECT_TRUE(absent.ok) << absent.text;
            EXPECT_EQ(read.text, absent.text) << wrong;
          } else {
            EXPECT_THAT(read.text, HasSubstr(name)) << wrong;
          }
        }
      });
}

TEST_P(HostileConfig, NumbersOutOfRangeAreRefusedByName) {
  const Json json = ReadConfig(GetParam());
  ForEachField(json, Json::json_pointer(),
               [&](const Json::json_pointer& at, const std::string& name) {
                 SCOPED_TRACE(at.to_string());
                 for (const Json& wrong :
                      {Json(-1), Json(0), Json(0.5), Json(1e300), Json(-1e300), Json(true),
                       Json(uint64_t{1} << 63), Json(nullptr), Json::array()}) {
                   Json changed = json;
                   changed[at] = wrong;
                   const Read read = ReadOf(changed);
                   if (!read.ok && wrong.is_number()) {
                     EXPECT_THAT(read.text, HasSubstr(name)) << wrong;
                   }
                 }
               });
}

std::string NameOf(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  return name;
}

INSTANTIATE_TEST_SUITE_P(Files, HostileConfig, testing::ValuesIn(Paths()), NameOf);

}  // namespace
}  // namespace packrat
