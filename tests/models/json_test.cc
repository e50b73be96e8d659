#include "models/files/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "models/files/file.h"
#include "models/files/json_fields.h"
#include "models/files/ordered_json.h"
#include "tests/models/test_files.h"

namespace packrat {
namespace {

using testing::HasSubstr;

absl::StatusOr<Json> Parse(const std::string& text) {
  return ParseJson(text.data(), text.size(), "file");
}

std::string Refusal(const std::string& text) { return std::string(Parse(text).status().message()); }

TEST(Json, FieldsThatNobodyReadsMayHoldAnyNumber) {
  const auto json = Parse(R"({"limit": [0.0, Infinity], "low": -Infinity,"none":NaN,
                              "huge": 1e999, "less": -1E+400, "tiny": 1e-999, "size": 16})");
  ASSERT_TRUE(json.ok()) << json.status();
  JsonFields fields(*json, "");
  EXPECT_EQ(fields.Int("size", 1, 100), 16);
  EXPECT_EQ(fields.Number("tiny", -1, 1, 5), 0);
  EXPECT_TRUE(fields.status().ok());
  for (const char* name : {"low", "none", "huge", "less"}) {
    JsonFields one(*json, "");
    EXPECT_EQ(one.Number(name, -1e300, 1e300, 5), 5);
    EXPECT_THAT(std::string(one.status().message()), HasSubstr(std::string(name) + ": is \""));
    JsonFields integer(*json, "");
    integer.Int(name, 0, 100);
    EXPECT_FALSE(integer.status().ok());
  }
}

TEST(Json, SuchWordsInStringsAreText) {
  const auto json = Parse(R"({"Infinity": "a \" NaN, Infinity \\", "NaN": "1e999"})");
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ((*json)["Infinity"], "a \" NaN, Infinity \\");
  EXPECT_EQ((*json)["NaN"], "1e999");
}

TEST(Json, OtherWordsStayMistakes) {
  for (const char* text :
       {"{\"a\": Inf}", "{\"a\": +Infinity}", "{\"a\": nan}", "{\"a\": NaNs}", "{\"a\": 1e999x}",
        "{\"a\": --Infinity}", "{Infinity: 1}", "[NaN", "{\"a\": \"NaN}", "{\"a\": 01e999}"}) {
    EXPECT_FALSE(Parse(text).ok()) << text;
  }
}

TEST(Json, MistakesKeepTheirPlace) {
  EXPECT_THAT(Refusal(R"({"a": 111, "b": 222, "c": x})"), HasSubstr("at byte 27"));
  EXPECT_THAT(Refusal(R"({"a": NaN, "b": NaN, "c": x})"), HasSubstr("at byte 27"));
}

// To the library a NUL is the end of the text.
TEST(Json, NothingMayFollow) {
  const std::string good = R"({"a": 1})";
  EXPECT_TRUE(Parse(good + " \n").ok());
  EXPECT_THAT(Refusal(good + std::string(3, '\0')),
              HasSubstr("file: not valid JSON: a NUL at byte 9"));
  EXPECT_THAT(Refusal(good + std::string("\0garbage", 8)), HasSubstr("a NUL at byte 9"));
  EXPECT_THAT(Refusal(std::string(4, '\0')), HasSubstr("a NUL at byte 1"));
  EXPECT_THAT(Refusal(good + "x"), HasSubstr("not valid JSON"));
}

TEST(OrderedJson, KeysStayInTheirOrder) {
  const auto json = ParseOrderedJson(R"({"b": [1, {"z": null, "a": -2}], "a": "x"})", "it");
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(json->dump(), R"({"b":[1,{"z":null,"a":-2}],"a":"x"})");
}

// The library's own reader would take hours.
TEST(OrderedJson, AMillionKeysTakeNoTime) {
  std::string text = "{\"k\": 1";
  for (int i = 0; i < 1000000; ++i) text += ",\"" + std::to_string(i) + "\":1";
  const auto json = ParseOrderedJson(text + "}", "it");
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(json->size(), 1000001u);
}

TEST(OrderedJson, IsAsStrictAsTheOther) {
  const auto refusal = [](const std::string& text) {
    return std::string(ParseOrderedJson(text, "it", 3).status().message());
  };
  EXPECT_EQ(refusal("[[[]]]"), "");
  EXPECT_EQ(refusal("[[[[]]]]"), "it: nested more than 3 levels deep");
  EXPECT_EQ(refusal(R"({"a": 1, "a": 2})"), "it: duplicate key \"a\"");
  EXPECT_EQ(refusal("[1e999]"), "it: number out of range: \"1e999\"");
  EXPECT_THAT(refusal("[NaN]"), HasSubstr("it: not valid JSON at byte 2"));
  EXPECT_THAT(refusal(std::string("1\0", 2)), HasSubstr("it: not valid JSON: a NUL at byte 2"));
}

TEST(ReadSmallFile, TellsAbsentFromLinksToNowhere) {
  const TempDir dir;
  EXPECT_EQ(ReadSmallFile(dir.File("none"), 10).status().code(), absl::StatusCode::kNotFound);
  std::filesystem::create_symlink(dir.File("none"), dir.File("link"));
  const absl::Status status = ReadSmallFile(dir.File("link"), 10).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()), dir.File("link") + ": a link to nowhere");
  dir.Write("none", "text");
  EXPECT_EQ(*ReadSmallFile(dir.File("link"), 10), "text");
}

}  // namespace
}  // namespace packrat
