// What DescribeModel() says of folders, good and bad.
#include "models/tools/describe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "models/cpu_model.h"
#include "models/files/json.h"
#include "tests/models/golden.h"
#include "tests/models/model_files.h"

namespace packrat {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

Json Described(const std::string& dir) {
  const std::string text = ReportJson(DescribeModel(dir, {}));
  auto json = ParseJson(text.data(), text.size(), "report");
  EXPECT_TRUE(json.ok()) << json.status();
  return *std::move(json);
}

TEST(LayerPattern, IsTheShortestThatRepeats) {
  const std::string a = "a", b = "b";
  EXPECT_EQ(LayerPattern({}), "");
  EXPECT_EQ(LayerPattern({a}), "a");
  EXPECT_EQ(LayerPattern({a, a, a}), "3 a");
  EXPECT_EQ(LayerPattern({a, b}), "a, b");
  EXPECT_EQ(LayerPattern({a, a, b, a, a, b}), "2 a, b; 2 times");
  EXPECT_EQ(LayerPattern({a, a, b, a, a}), "2 a, b, 2 a");
  EXPECT_EQ(LayerPattern({"a + b", "a + b", a}), "2 (a + b), a");
}

TEST(LayerNames, OfLayersOfAllKinds) {
  ModelConfig config;
  config.AddLayer(AttentionSpec());
  config.AddLayer(RatSpec());
  EXPECT_THAT(LayerNames(config), ElementsAre("attention", "rat"));
  config.AddSublayer({2, "", {{}, {}}}, {AttentionSpec(), RatSpec()});
  config.AddSublayer({3, "", {}});
  EXPECT_THAT(LayerNames(config),
              ElementsAre("attention, then feed_forward", "rat, then feed_forward",
                          "attention + rat", "feed_forward"));
}

TEST(Describe, EveryGoldenModelCanBeServed) {
  for (const std::string& name : kGoldenCases) {
    const std::string dir = "tests/golden/" + name;
    const ModelReport report = DescribeModel(dir, {});
    EXPECT_THAT(report.refused, IsEmpty()) << name;
    const auto model = LoadCpuModel(dir, {});
    ASSERT_TRUE(model.ok()) << model.status();
    const StateLayout& layout = (*model)->state_layout();
    EXPECT_EQ(report.fixed_bytes, layout.slot_bytes + layout.tail_bytes) << name;
    EXPECT_EQ(report.longest_bytes, layout.SequenceBytes((*model)->config().max_context)) << name;
    size_t mixers = 0;
    for (const MixerReport& mixer : report.mixers) mixers += mixer.count;
    EXPECT_EQ(mixers, (*model)->config().mixers.size()) << name;
    EXPECT_EQ(report.layers.size(), (*model)->config().num_layers()) << name;
    EXPECT_GT(report.parameters, report.embedding_parameters) << name;
    EXPECT_THAT(ReportText(report), HasSubstr("It can be served.")) << name;
  }
}

TEST(Describe, CountsParametersAndBytes) {
  const Json report = Described("models/demo");
  EXPECT_EQ(report["served"], true);
  int64_t bytes = 0;
  for (const auto& [type, of_type] : report["weight_bytes_by_type"].items()) {
    bytes += of_type.get<int64_t>();
  }
  EXPECT_EQ(report["weight_bytes"], bytes);
  EXPECT_NEAR(report["parameters"].get<double>(), 15.26e6, 5e3);  // As its README says.
  EXPECT_EQ(report["weight_bytes_by_type"].size(), 1u);
  EXPECT_EQ(report["weight_bytes_by_type"]["BF16"], 2 * report["parameters"].get<int64_t>());
  EXPECT_EQ(report["embedding_parameters"],
            report["vocab_size"].get<int64_t>() * report["hidden_size"].get<int64_t>());
  EXPECT_EQ(report["tokenizer"]["kind"], "SentencePiece");
  EXPECT_EQ(report["tokenizer"]["has_chat_template"], false);
}

// A reader that stopped early would leave fields unread, and they would seem unknown.
TEST(Describe, NamesEveryFieldThatIsRefusedAndNoOther) {
  for (const std::string& name : kGoldenCases) {
    std::ifstream file("tests/golden/" + name + "/config.json");
    Json config = Json::parse(file);
    config["add_cross_attention"] = true;
    config["mistyped"] = 1;
    config["quantization_config"] = {{"bits", 4}};
    const TempDir dir;
    dir.Write("config.json", config.dump());
    std::vector<std::string> problems;
    const auto loaded = LoadModelConfig(dir.path(), &problems);
    EXPECT_FALSE(loaded.ok());
    EXPECT_THAT(problems,
                UnorderedElementsAre(HasSubstr("config.json: add_cross_attention: is true; only"),
                                     HasSubstr("config.json: mistyped: is unknown here"),
                                     HasSubstr("config.json: quantization_config: is unknown")))
        << name;
    EXPECT_EQ(problems[0], loaded.status().message());
  }
}

TEST(Describe, ListsAllReasons) {
  ModelFiles files("llama");
  files.tensors.erase(files.tensors.begin() + 1);
  const std::string missing = ModelFiles("llama").tensors[1].name;
  TensorToWrite& wrong = files.tensors[4];
  ASSERT_FALSE(wrong.shape.empty());
  wrong.shape.insert(wrong.shape.begin(), 1);
  TensorToWrite more = files.tensors[2];
  more.name = "nobody.weight";
  const std::string wrong_name = wrong.name;
  files.tensors.push_back(more);
  const TempDir dir;
  dir.Write("config.json", files.config);
  ASSERT_TRUE(WriteSafetensors(dir.File("model.safetensors"), files.tensors).ok());
  dir.Write("tokenizer.json", R"({"model": {"type": "WordPiece"}, "decoder": {"type": "ByteLevel"},
                                  "pre_tokenizer": {"type": "ByteLevel"}})");
  const ModelReport report = DescribeModel(dir.path(), {});
  EXPECT_THAT(
      report.refused,
      UnorderedElementsAre(HasSubstr(missing), AllOf(HasSubstr(wrong_name), HasSubstr("[1, ")),
                           HasSubstr("nobody.weight"), HasSubstr("model.type: is")));
  EXPECT_THAT(ReportText(report), HasSubstr("It is refused:\n  - "));
  EXPECT_EQ(Described(dir.path())["refused"].size(), 4u);
}

TEST(Describe, AFolderOfAnotherFamily) {
  const TempDir dir;
  dir.Write("config.json", R"({"model_type": "bert"})");
  const ModelReport report = DescribeModel(dir.path(), {});
  ASSERT_EQ(report.refused.size(), 2u);  // And there are no weights.
  EXPECT_THAT(report.refused[0], HasSubstr("model_type: is \"bert\"; must be rat, "));
  EXPECT_FALSE(report.config.has_value());
  EXPECT_THAT(DescribeModel("/no/such/folder", {}).refused,
              ElementsAre("/no/such/folder: no such folder"));
  EXPECT_THAT(DescribeModel(dir.File("config.json"), {}).refused,
              ElementsAre(HasSubstr("config.json: not a folder; a model is one")));
}

// docs/models.md has a row for each family.
TEST(Describe, EveryFamilyIsInTheDocs) {
  std::ifstream file("docs/models.md");
  const std::string page{std::istreambuf_iterator<char>(file), {}};
  ASSERT_FALSE(page.empty());
  for (const std::string& family : FamilyNames()) {
    EXPECT_THAT(page, HasSubstr("\n| `" + family + "` |"));
  }
}

}  // namespace
}  // namespace packrat
