// What a safetensors file is refused for: the file as a whole, then its header.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>

#include "models/files/checkpoint.h"
#include "tests/models/test_files.h"

namespace packrat {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

std::string Message(const absl::Status& status) {
  EXPECT_FALSE(status.ok());
  return std::string(status.message());
}

std::string RefusalOfFile(const std::string& bytes) {
  const TempDir dir;
  const std::string path = dir.Write("a.safetensors", bytes);
  const absl::Status status = Checkpoint::OpenFile(path).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(Message(status), StartsWith(path + ": "));
  return Message(status);
}

TEST(HostileFile, TooShortForALength) {
  EXPECT_THAT(RefusalOfFile(""), HasSubstr("has 0 bytes, too short"));
  EXPECT_THAT(RefusalOfFile("1234567"), HasSubstr("has 7 bytes, too short"));
  EXPECT_THAT(RefusalOfFile(std::string(8, '\0')), HasSubstr("header: not valid JSON"));
}

TEST(HostileFile, HeaderLongerThanTheFile) {
  std::string bytes = SafetensorsBytes("{}", 0);
  bytes[0] = 3;
  EXPECT_THAT(RefusalOfFile(bytes), HasSubstr("header of 3 bytes, the limit is 2 (truncated"));
  bytes[0] = 0;
  bytes[7] = 0x10;  // 2^60
  EXPECT_THAT(RefusalOfFile(bytes), HasSubstr("header of 1152921504606846976 bytes"));
  bytes.replace(0, 8, std::string(8, '\xff'));
  EXPECT_THAT(RefusalOfFile(bytes), HasSubstr("header of 18446744073709551615 bytes"));
  EXPECT_THAT(RefusalOfFile("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
              HasSubstr("a pointer of Git LFS"));
}

TEST(HostileFile, HeaderLongerThanAnyHonestOne) {
  const TempDir dir;
  std::string bytes = SafetensorsBytes("{}", 0);
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(uint64_t{100'000'001} >> (8 * i));
  const std::string path = dir.Write("a.safetensors", bytes);
  std::filesystem::resize_file(path, 200'000'000);  // Sparse: takes no room.
  EXPECT_THAT(Message(Checkpoint::OpenFile(path).status()),
              HasSubstr("header of 100000001 bytes, the limit is 100000000"));
}

TEST(HostileFile, EveryTruncationOfAGoodFile) {
  const std::string whole = SafetensorsBytes(
      R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F16","shape":[2],"data_offsets":[4,8]}})",
      8);
  const TempDir dir;
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string path = dir.Write("a.safetensors", whole.substr(0, size));
    ASSERT_THAT(Message(Checkpoint::OpenFile(path).status()), StartsWith(path + ": ")) << size;
  }
  EXPECT_TRUE(Checkpoint::OpenFile(dir.Write("a.safetensors", whole)).ok());
  EXPECT_THAT(RefusalOfFile(whole + "!"), HasSubstr("1 bytes after the last tensor"));
}

TEST(HostileFile, NoRegularFile) {
  const TempDir dir;
  EXPECT_EQ(Checkpoint::OpenFile(dir.File("none")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Message(Checkpoint::OpenFile(dir.path()).status()),
              HasSubstr(dir.path() + ": not a regular file"));
  ASSERT_EQ(mkfifo(dir.File("fifo").c_str(), 0600), 0);
  EXPECT_THAT(Message(Checkpoint::OpenFile(dir.File("fifo")).status()),
              HasSubstr("not a regular file"));
}

struct BadHeader {
  const char* name;
  std::string header;
  size_t data_bytes;
  const char* message;
};

class HostileHeader : public testing::TestWithParam<BadHeader> {};

TEST_P(HostileHeader, IsRefusedWithTensorAndReason) {
  const BadHeader& bad = GetParam();
  EXPECT_THAT(RefusalOfFile(SafetensorsBytes(bad.header, bad.data_bytes)), HasSubstr(bad.message));
}

#define A "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"

INSTANTIATE_TEST_SUITE_P(
    Json, HostileHeader,
    testing::Values(
        BadHeader{"NotJson", "x", 0, "header: not valid JSON at byte 1"},
        BadHeader{"List", "[]", 0, "header: an array where an object belongs"},
        BadHeader{"Number", "12", 0, "header: a number where an object belongs"},
        BadHeader{"Nul", std::string("{" A "}\0x", sizeof("{" A "}\0x") - 1), 8,
                  "a NUL at byte 55"},
        BadHeader{"OtherTypeTooSmall",
                  "{\"a\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
                  "takes 16 bytes"},
        BadHeader{"Trailing", "{" A "}{}", 8, "header: not valid JSON"},
        BadHeader{"Unclosed", "{" A, 8, "header: not valid JSON"},
        BadHeader{"InvalidUtf8", "{\"\xff\":1}", 0, "header: not valid JSON"},
        BadHeader{"DuplicateName", "{" A "," A "}", 8, "tensor \"a\": duplicate key \"a\""},
        BadHeader{
            "DuplicateField",
            "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4,
            "tensor \"a\": dtype: duplicate key \"dtype\""},
        BadHeader{"DuplicateMetadata", "{\"__metadata__\":{\"x\":\"1\",\"x\":\"2\"}}", 0,
                  "__metadata__: duplicate key \"x\""},
        BadHeader{"MetadataNumber", "{\"__metadata__\":{\"x\":1}}", 0,
                  "__metadata__: a number where a string belongs"},
        BadHeader{"MetadataNested", "{\"__metadata__\":{\"x\":{}}}", 0,
                  "__metadata__: an object where a string belongs"},
        BadHeader{"EntryNull", "{\"a\":null}", 0, "tensor \"a\": null where an object belongs"},
        BadHeader{"EntryNumber", "{" A ",\"b\":7}", 8,
                  "tensor \"b\": a number where an object belongs"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Fields, HostileHeader,
    testing::Values(
        BadHeader{"NoDtype", "{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
                  "tensor \"a\": dtype \"\" is not one of F32, BF16, F16, I32"},
        BadHeader{"Dtype", "{\"a\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[0,8]}}", 8,
                  "tensor \"a\": dtype \"F64\" is not one of F32, BF16, F16, I32"},
        BadHeader{"DtypeNumber", "{\"a\":{\"dtype\":32}}", 4,
                  "tensor \"a\": dtype: a number where a string belongs"},
        BadHeader{"NoShape", "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4,
                  "tensor \"a\": no shape"},
        BadHeader{"NoOffsets", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4,
                  "tensor \"a\": data_offsets has 0 numbers"},
        BadHeader{"ThreeOffsets",
                  "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,4]}}", 4,
                  "tensor \"a\": data_offsets has 3 numbers"},
        BadHeader{"UnknownField", "{\"a\":{\"stride\":[1]}}", 0,
                  "tensor \"a\": unknown field \"stride\""},
        BadHeader{"NegativeShape",
                  "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4,
                  "tensor \"a\": shape: the negative number -1 where a non-negative integer"},
        BadHeader{"FractionalShape",
                  "{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4,
                  "tensor \"a\": shape: the number 1.0 where a non-negative integer"},
        BadHeader{"NegativeOffset",
                  "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4,
                  "tensor \"a\": data_offsets: the negative number -4"},
        BadHeader{"NestedShape", "{\"a\":{\"dtype\":\"F32\",\"shape\":[[1]]}}", 4,
                  "tensor \"a\": shape: an array where a non-negative integer belongs"},
        BadHeader{"ShapeNoList", "{\"a\":{\"dtype\":\"F32\",\"shape\":1}}", 4,
                  "tensor \"a\": shape: a number where an array belongs"},
        BadHeader{"Rank", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1]}}", 4,
                  "tensor \"a\": shape: more than 8 numbers"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Sizes, HostileHeader,
    testing::Values(
        BadHeader{"TooSmall", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4,
                  "tensor \"a\": shape [2] of F32 takes 8 bytes, data_offsets say 4"},
        BadHeader{
            "Huge",
            "{\"a\":{\"dtype\":\"F32\",\"shape\":[1152921504606846976],\"data_offsets\":[0,4]}}", 4,
            "tensor \"a\": shape [1152921504606846976] of F32 takes 4611686018427387904"},
        BadHeader{"Overflow",
                  "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],"
                  "\"data_offsets\":[0,0]}}",
                  0, "tensor \"a\": shape [4294967296, 4294967296] is too large"},
        BadHeader{"OverflowHiddenByZero",
                  "{\"a\":{\"dtype\":\"F32\",\"shape\":[0,9223372036854775807],"
                  "\"data_offsets\":[0,0]}}",
                  0, "tensor \"a\": shape [0, 9223372036854775807] is too large"},
        BadHeader{"AboveInt64",
                  "{\"a\":{\"dtype\":\"F32\",\"shape\":[18446744073709551615],"
                  "\"data_offsets\":[0,0]}}",
                  0, "tensor \"a\": shape [18446744073709551615] is too large"},
        BadHeader{"AboveUint64",
                  "{\"a\":{\"dtype\":\"F32\",\"shape\":[18446744073709551616],"
                  "\"data_offsets\":[0,0]}}",
                  0, "tensor \"a\": shape: the number 18446744073709551616"},
        BadHeader{"OffsetBeyondTheFile",
                  "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7,
                  "tensor \"a\": data_offsets [0, 8] are outside the file's 7 bytes of data"},
        BadHeader{"OffsetsHuge",
                  "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],"
                  "\"data_offsets\":[18446744073709551612,18446744073709551615]}}",
                  4, "tensor \"a\": data_offsets [18446744073709551612, 18446744073709551615]"},
        BadHeader{"OffsetsReversed",
                  "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4,
                  "tensor \"a\": data_offsets [4, 0] are outside"},
        BadHeader{"Overlap",
                  "{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12,
                  "tensor \"b\": overlaps tensor \"a\""},
        BadHeader{"SameBytes",
                  "{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8,
                  "tensor \"b\": overlaps tensor \"a\""},
        BadHeader{"Gap", "{" A ",\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]}}",
                  16, "tensor \"b\": begins at byte 12, leaving a gap after byte 8"},
        BadHeader{"GapAtTheStart",
                  "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8,
                  "tensor \"a\": begins at byte 4, leaving a gap after byte 0"},
        BadHeader{"Surplus", "{" A "}", 11, "3 bytes after the last tensor belong to none"}),
    [](const auto& info) { return info.param.name; });

TEST(HostileFile, MessagesDoNotRepeatWhatItSays) {
  const std::string name(100'000, 'n');
  EXPECT_LT(
      RefusalOfFile(SafetensorsBytes("{\"" + name + "\":{\"dtype\":\"" + name + "\"}}", 0)).size(),
      600u);
  const std::string escaped = RefusalOfFile(SafetensorsBytes("{\"a\\n\\u001b[2J\":1}", 0));
  EXPECT_EQ(escaped.find('\x1b'), std::string::npos) << "control characters reach the terminal";
}

TEST(HostileFile, MoreTensorsThanAnyModel) {
  std::string header = "{";
  for (int i = 0; i <= 1 << 17; ++i) {
    header += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":{}";
  }
  EXPECT_THAT(RefusalOfFile(SafetensorsBytes(header + "}", 0)),
              HasSubstr("header: more than 131072 tensors"));
}

}  // namespace
}  // namespace packrat
