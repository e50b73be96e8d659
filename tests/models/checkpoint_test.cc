#include "models/files/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/models/test_files.h"

namespace packrat {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

std::string Message(const absl::Status& status) {
  EXPECT_FALSE(status.ok());
  return std::string(status.message());
}

// --- What must be read. ---

TEST(Checkpoint, ReadsAGoldenFile) {
  const auto checkpoint = Checkpoint::OpenFile("tests/golden/rat/expected.safetensors");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto ids = (*checkpoint)->Find("input_ids");
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(ids->type, TensorType::kI32);
  ASSERT_EQ(ids->shape.size(), 2u);
  EXPECT_EQ(static_cast<int64_t>(ids->bytes), ids->NumElements() * 4);
  std::vector<int32_t> values(ids->NumElements());
  ASSERT_TRUE((*checkpoint)->Read(*ids, 0, ids->bytes, values.data()).ok());
  for (int32_t id : values) ASSERT_TRUE(id >= 0 && id < 257) << id;
  const auto logits = (*checkpoint)->Find("logits");
  ASSERT_TRUE(logits.ok());
  EXPECT_THAT(logits->shape, ElementsAre(ids->shape[0], ids->shape[1], 257));
}

TEST(Checkpoint, OpensAFolderWithOneFile) {
  const auto checkpoint = Checkpoint::Open("tests/golden/packrat");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto weight = (*checkpoint)->Find("model.embeddings.weight");
  ASSERT_TRUE(weight.ok());
  EXPECT_EQ(weight->file, "tests/golden/packrat/model.safetensors");
  EXPECT_THAT(weight->shape, ElementsAre(257, 64));
  EXPECT_EQ(Message((*checkpoint)->Find("lm_head.weight").status()),
            "tests/golden/packrat/model.safetensors: tensor \"lm_head.weight\": missing");
}

TEST(Checkpoint, WritesWhatItReads) {
  const TempDir dir;
  const std::vector<float> f = {1.5f, -0.0f, INFINITY, 4, 5, 6};
  const std::vector<uint16_t> h = {0x3f80, 0x1234, 0xffff};
  const std::vector<int32_t> i = {-1, 1 << 30};
  const std::string path = dir.File("out.safetensors");
  ASSERT_TRUE(
      WriteSafetensors(path, {{"f \"quoted\" \n \xc3\xa9", TensorType::kF32, {2, 3}, f.data()},
                              {"b", TensorType::kBF16, {3}, h.data()},
                              {"h", TensorType::kF16, {1, 3, 1}, h.data()},
                              {"i", TensorType::kI32, {2}, i.data()},
                              {"scalar", TensorType::kF32, {}, f.data()},
                              {"empty", TensorType::kF32, {0, 7}, nullptr}})
          .ok());
  const auto checkpoint = Checkpoint::OpenFile(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->tensors().size(), 6u);
  const auto same = [&](const std::string& name, TensorType type, const std::vector<int64_t>& shape,
                        const void* data, size_t bytes) {
    const auto view = (*checkpoint)->Find(name);
    ASSERT_TRUE(view.ok()) << view.status();
    EXPECT_EQ(view->type, type);
    EXPECT_EQ(view->shape, shape);
    ASSERT_EQ(view->bytes, bytes);
    std::vector<uint8_t> read(bytes);
    ASSERT_TRUE((*checkpoint)->Read(*view, 0, bytes, read.data()).ok());
    EXPECT_TRUE(bytes == 0 || std::memcmp(read.data(), data, bytes) == 0) << name;
  };
  same("f \"quoted\" \n \xc3\xa9", TensorType::kF32, {2, 3}, f.data(), 24);
  same("b", TensorType::kBF16, {3}, h.data(), 6);
  same("h", TensorType::kF16, {1, 3, 1}, h.data(), 6);
  same("i", TensorType::kI32, {2}, i.data(), 8);
  same("scalar", TensorType::kF32, {}, f.data(), 4);
  same("empty", TensorType::kF32, {0, 7}, nullptr, 0);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST(Checkpoint, WritingSaysWhy) {
  const TempDir dir;
  const float x = 1;
  const TensorToWrite tensor = {"x", TensorType::kF32, {1}, &x};
  EXPECT_THAT(Message(WriteSafetensors(dir.File("no/such/folder"), {tensor})),
              AllOf(HasSubstr("no/such/folder"), HasSubstr("No such file")));
  EXPECT_THAT(Message(WriteSafetensors(dir.File("x"), {tensor, tensor})), HasSubstr("given twice"));
  EXPECT_FALSE(std::filesystem::exists(dir.File("x")));
}

TEST(Checkpoint, WritingKeepsLinksAndWhatIsNoFile) {
  const TempDir dir;
  const float x = 1;
  const TensorToWrite tensor = {"x", TensorType::kF32, {1}, &x};
  const std::string target = dir.File("target"), link = dir.File("link"), pipe = dir.File("pipe");
  ASSERT_TRUE(WriteSafetensors(target, {}).ok());
  std::filesystem::create_symlink("target", link);
  EXPECT_TRUE(WriteSafetensors(link, {tensor}).ok());
  EXPECT_TRUE(std::filesystem::is_symlink(link));
  // Nor is the file under its first name written through a link.
  const std::string precious = dir.File("precious");
  std::ofstream(precious) << "keep";
  std::filesystem::create_symlink("precious", dir.File("new.partial"));
  EXPECT_TRUE(WriteSafetensors(dir.File("new"), {tensor}).ok());
  EXPECT_EQ(std::filesystem::file_size(precious), 4u);
  EXPECT_FALSE(std::filesystem::exists(dir.File("new.partial")));
  EXPECT_TRUE(std::filesystem::is_regular_file(dir.File("new")));
  EXPECT_EQ((*Checkpoint::OpenFile(target))->tensors().size(), 1u);
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THAT(Message(WriteSafetensors(pipe, {tensor})), HasSubstr("pipe: cannot write"));
  EXPECT_TRUE(std::filesystem::is_fifo(pipe));
}

TEST(Checkpoint, ReadsPartsOfATensor) {
  const TempDir dir;
  const std::vector<int32_t> values = {3, 1, 4, 1, 5};
  const std::string path = dir.File("a.safetensors");
  ASSERT_TRUE(WriteSafetensors(path, {{"before", TensorType::kI32, {2}, values.data()},
                                      {"a", TensorType::kI32, {5}, values.data()}})
                  .ok());
  const auto checkpoint = Checkpoint::OpenFile(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  std::vector<int32_t> read(2);
  ASSERT_TRUE((*checkpoint)->Read(*(*checkpoint)->Find("a"), 8, 8, read.data()).ok());
  EXPECT_THAT(read, ElementsAre(4, 1));
}

// Whoever cuts a file that is being read gets a message, not a dead process.
TEST(Checkpoint, AFileThatIsCutAfterItWasOpened) {
  const TempDir dir;
  const std::vector<float> values(100'000, 1.0f);
  const std::string path = dir.File("a.safetensors");
  ASSERT_TRUE(WriteSafetensors(path, {{"a", TensorType::kF32, {100'000}, values.data()}}).ok());
  const auto checkpoint = Checkpoint::OpenFile(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const TensorView view = *(*checkpoint)->Find("a");
  std::filesystem::resize_file(path, 4096);
  std::vector<float> read(values.size());
  const absl::Status status = (*checkpoint)->Read(view, 0, view.bytes, read.data());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(status), AllOf(StartsWith(path), HasSubstr("ends at byte 4096")));
}

TEST(Checkpoint, MetadataMayHoldStrings) {
  const TempDir dir;
  const std::string path =
      dir.Write("a.safetensors", SafetensorsBytes(R"({"__metadata__": {"format": "pt", "x": ""},
                           "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}   )",
                                                  4));
  const auto checkpoint = Checkpoint::OpenFile(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->tensors().size(), 1u);
}

TEST(Checkpoint, AFileMayHoldNothing) {
  const TempDir dir;
  const auto checkpoint =
      Checkpoint::OpenFile(dir.Write("a.safetensors", SafetensorsBytes("{}", 0)));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_THAT((*checkpoint)->tensors(), IsEmpty());
}

TEST(Checkpoint, TensorsThatNoModelNeedsAreNotAmongItsTensors) {
  const TempDir dir;
  const auto checkpoint = Checkpoint::OpenFile(dir.Write("a.safetensors", SafetensorsBytes(R"({
      "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
      "mask": {"dtype": "BOOL", "shape": [3], "data_offsets": [4, 7]},
      "steps": {"dtype": "I64", "shape": [], "data_offsets": [7, 15]},
      "layer.rotary_emb.inv_freq": {"dtype": "F32", "shape": [1], "data_offsets": [15, 19]}})",
                                                                                           19)));
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ((*checkpoint)->tensors().size(), 1u);
  EXPECT_TRUE((*checkpoint)->Has("mask"));
  EXPECT_FALSE((*checkpoint)->Has("masks"));
  // Whoever does need it is told why it cannot be had.
  EXPECT_EQ(Message((*checkpoint)->Find("steps").status()),
            dir.File("a.safetensors") +
                ": tensor \"steps\" has dtype I64; a weight must be F32, BF16 or F16");
}

// --- What must be refused: the file as a whole. ---

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

// --- What must be refused: the header. ---

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
