// Checkpoints in shards, and the index that names them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "models/files/checkpoint.h"
#include "tests/models/test_files.h"

namespace packrat {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::StartsWith;

std::string Message(const absl::Status& status) {
  EXPECT_FALSE(status.ok());
  return std::string(status.message());
}

class Shards : public testing::Test {
 protected:
  void SetUp() override {
    dir_.Write("one.safetensors", SafetensorsBytes(
                                      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
                       "b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                                      8));
    dir_.Write("two.safetensors",
               SafetensorsBytes(R"({"c":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4));
  }
  void WriteIndex(const std::string& text) { dir_.Write("model.safetensors.index.json", text); }
  std::string Refusal(const std::string& index) {
    WriteIndex(index);
    return Message(Checkpoint::Open(dir_.path()).status());
  }
  std::string IndexPath() const { return dir_.File("model.safetensors.index.json"); }

  TempDir dir_;
};

constexpr char kGoodIndex[] = R"({"metadata": {"total_size": 12}, "weight_map":
    {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}})";

TEST_F(Shards, AreReadTogether) {
  WriteIndex(kGoodIndex);
  const auto checkpoint = Checkpoint::Open(dir_.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->tensors().size(), 3u);
  EXPECT_EQ((*checkpoint)->Find("c")->file, dir_.File("two.safetensors"));
  EXPECT_EQ(Message((*checkpoint)->Find("d").status()), IndexPath() + ": tensor \"d\": missing");
}

TEST_F(Shards, MayBeSymbolicLinks) {
  const TempDir elsewhere;
  std::filesystem::rename(dir_.File("two.safetensors"), elsewhere.File("blob"));
  std::filesystem::create_symlink(elsewhere.File("blob"), dir_.File("two.safetensors"));
  WriteIndex(kGoodIndex);
  EXPECT_TRUE(Checkpoint::Open(dir_.path()).ok());
}

TEST_F(Shards, NoIndexAndNoFile) {
  EXPECT_EQ(Checkpoint::Open(dir_.path()).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(Checkpoint::Open(dir_.path()).status()),
              AllOf(StartsWith(dir_.path()), HasSubstr("has neither model.safetensors nor")));
}

TEST_F(Shards, ALinkToNowhereIsNotAbsent) {
  for (const char* name : {"model.safetensors.index.json", "model.safetensors"}) {
    std::filesystem::create_symlink(dir_.File("nowhere"), dir_.File(name));
    EXPECT_EQ(Message(Checkpoint::Open(dir_.path()).status()),
              dir_.File(name) + ": a link to nowhere");
  }
}

TEST_F(Shards, MayListTensorsThatNobodyNeeds) {
  dir_.Write("three.safetensors",
             SafetensorsBytes(R"({"n":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})", 8));
  const std::string index = R"({"weight_map": {"a": "one.safetensors", "b": "one.safetensors",
      "c": "two.safetensors", "n": "three.safetensors"}})";
  WriteIndex(index);
  const auto checkpoint = Checkpoint::Open(dir_.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->tensors().size(), 3u);
  EXPECT_THAT(Refusal(R"({"weight_map": {"a": "one.safetensors", "b": "one.safetensors",
                          "c": "two.safetensors", "n": "two.safetensors"}})"),
              HasSubstr("tensor \"n\": not in this file"));
}

TEST_F(Shards, IndexThatPointsOutsideItsFolder) {
  for (const char* file :
       {"../two.safetensors", "/etc/passwd", "sub/two.safetensors", "..", ".", "", "a\\u0000b"}) {
    const std::string message = Refusal(std::string(R"({"weight_map": {"a": ")") + file + "\"}}");
    EXPECT_THAT(message, StartsWith(IndexPath() + ": weight_map: tensor \"a\": file \""));
    EXPECT_THAT(message, HasSubstr("is not a plain file name"));
  }
}

TEST_F(Shards, IndexOfTheWrongForm) {
  EXPECT_THAT(Refusal("[]"), StartsWith(IndexPath() + ": weight_map must be an object"));
  EXPECT_THAT(Refusal("{}"), StartsWith(IndexPath() + ": weight_map must be an object"));
  EXPECT_THAT(Refusal(R"({"weight_map": []})"), HasSubstr("weight_map must be an object"));
  EXPECT_THAT(Refusal(R"({"weight_map": {}})"), HasSubstr("weight_map is empty"));
  EXPECT_THAT(Refusal(R"({"weight_map": {"a": 1}})"),
              HasSubstr("tensor \"a\": its file name must"));
  EXPECT_THAT(Refusal(R"({"weight_map": {"a": "one.safetensors", "a": "two.safetensors"}})"),
              StartsWith(IndexPath() + ": duplicate key \"a\""));
  EXPECT_THAT(Refusal(""), StartsWith(IndexPath() + ": not valid JSON"));
}

TEST_F(Shards, MissingShard) {
  EXPECT_THAT(Refusal(R"({"weight_map": {"a": "three.safetensors"}})"),
              AllOf(StartsWith(dir_.File("three.safetensors")), HasSubstr("No such file")));
}

TEST_F(Shards, TensorThatIsNotWhereTheIndexSays) {
  EXPECT_THAT(Refusal(R"({"weight_map": {"a": "one.safetensors", "b": "one.safetensors",
                                         "c": "two.safetensors", "d": "two.safetensors"}})"),
              StartsWith(dir_.File("two.safetensors") + ": tensor \"d\": not in this file"));
  EXPECT_THAT(Refusal(R"({"weight_map": {"a": "one.safetensors", "b": "two.safetensors",
                                         "c": "two.safetensors"}})"),
              StartsWith(dir_.File("two.safetensors") + ": tensor \"b\": not in this file"));
}

TEST_F(Shards, TensorThatTheIndexDoesNotName) {
  EXPECT_THAT(Refusal(R"({"weight_map": {"a": "one.safetensors", "c": "two.safetensors"}})"),
              StartsWith(dir_.File("one.safetensors") + ": tensor \"b\": not in the weight_map"));
}

TEST_F(Shards, SameTensorTwice) {
  dir_.Write("two.safetensors",
             SafetensorsBytes(R"({"c":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
                                  "a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                              8));
  EXPECT_THAT(Refusal(kGoodIndex),
              AllOf(StartsWith(dir_.File("two.safetensors")), HasSubstr("tensor \"a\": also in"),
                    HasSubstr(dir_.File("one.safetensors"))));
}

TEST_F(Shards, DamagedShard) {
  dir_.Write("two.safetensors", "");
  EXPECT_THAT(Refusal(kGoodIndex), StartsWith(dir_.File("two.safetensors") + ": has 0 bytes"));
}

}  // namespace
}  // namespace packrat
