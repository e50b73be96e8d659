// GGUF files: what their blocks mean, by the `gguf` package, and bad files.
#include "models/files/gguf.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/models/gguf_writer.h"
#include "tests/models/golden.h"
#include "tests/models/test_files.h"

namespace packrat {
namespace {

constexpr char kBlocks[] = "tests/data/gguf/blocks.gguf";

std::vector<float> Expected(const std::string& name) {
  auto file = *Checkpoint::OpenFile("tests/data/gguf/blocks.safetensors");
  const TensorView view = *file->Find(name);
  std::vector<float> values(view.NumElements());
  EXPECT_TRUE(file->Read(view, 0, view.bytes, values.data()).ok());
  return values;
}

TEST(GgufTest, MetadataAreRead) {
  const auto file = GgufFile::Open(kBlocks);
  ASSERT_TRUE(file.ok()) << file.status();
  const auto& metadata = (*file)->header().metadata;
  EXPECT_EQ(metadata.at("general.architecture").text, "none");
  EXPECT_EQ(metadata.at("a.text").text, "caf\xc3\xa9");
  EXPECT_EQ(metadata.at("a.list").texts, (std::vector<std::string>{"x", "", "yz"}));
  EXPECT_EQ(metadata.at("a.numbers").numbers, (std::vector<double>{1, -2, 3}));
  EXPECT_EQ(metadata.at("a.number").number, 0.375);
  EXPECT_EQ(metadata.at("a.flag").integer, 1);
}

TEST(GgufTest, BlocksMeanWhatTheirPackageSays) {
  const auto file = *GgufFile::Open(kBlocks);
  ASSERT_EQ(file->header().tensors.size(), 8u);
  for (const auto& [name, tensor] : file->header().tensors) {
    EXPECT_EQ(GgufTypeName(tensor.type), name);
    const std::vector<float> expected = Expected(name);
    ASSERT_EQ(tensor.shape, (std::vector<int64_t>{2, static_cast<int64_t>(expected.size()) / 2}));
    const auto data = *file->Read(tensor);
    const int block = GgufBlock(tensor.type);
    std::vector<float> values(expected.size());
    for (size_t i = 0; i < values.size() / block; ++i) {
      WidenGgufBlock(tensor.type, &data[i * GgufBlockBytes(tensor.type)], &values[i * block]);
    }
    EXPECT_TRUE(SameBits(values, expected)) << name;
  }
}

absl::Status Parse(const std::string& bytes, size_t given, uint64_t file_bytes) {
  return ParseGgufHeader(reinterpret_cast<const uint8_t*>(bytes.data()), given, file_bytes, "FILE")
      .status();
}

TEST(GgufTest, CutFilesAreRefused) {
  std::ifstream stream(kBlocks, std::ios::binary);
  const std::string good(std::istreambuf_iterator<char>(stream), {});
  ASSERT_TRUE(Parse(good, good.size(), good.size()).ok());
  size_t end = 0;  // Of the last tensor, behind which the file is padded.
  const auto file = *GgufFile::Open(kBlocks);
  for (const auto& [name, tensor] : file->header().tensors) {
    end = std::max<size_t>(end, tensor.offset + tensor.bytes);
  }
  for (size_t n = 0; n < end; ++n) {
    // The file ends there, or only what was read of it.
    EXPECT_EQ(Parse(good, n, n).code(), absl::StatusCode::kInvalidArgument) << n;
    const absl::Status more = Parse(good, n, good.size());
    EXPECT_TRUE(more.ok() || more.code() == absl::StatusCode::kOutOfRange) << n << more;
  }
}

TEST(GgufTest, BadHeadersAreRefused) {
  const auto refused = [](const std::string& bytes, const std::string& part) {
    const absl::Status status = Parse(bytes, bytes.size(), bytes.size());
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_NE(status.message().find("FILE: "), std::string::npos) << status;
    EXPECT_NE(status.message().find(part), std::string::npos) << status;
  };
  GgufWriter writer;
  writer.Text("k", "v");
  const std::string good = writer.File();
  std::string bad = good;
  bad[0] = 'g';
  refused(bad, "is no GGUF file");
  bad = good;
  bad[4] = 1;
  refused(bad, "is GGUF version 1; 2 and 3 are read");
  bad = good;
  bad[15] = 1;  // 2^56 tensors.
  refused(bad, "tensors");
  bad = good;
  bad[24 + 9] = 77;
  refused(bad, "metadata \"k\" has the unknown type 77");
  writer.Text("k", "w");
  refused(writer.File(), "metadata \"k\" occurs twice");
  const auto with_tensor = [](uint32_t type, std::vector<int64_t> shape, size_t bytes) {
    GgufWriter w;
    w.Tensor("t", static_cast<GgufType>(type), std::move(shape), std::string(bytes, '\0'));
    return w;
  };
  refused(with_tensor(9, {32}, 64).File(), "tensor \"t\" has type 9, which is not one of");
  refused(with_tensor(8, {2, 48}, 200).File(), "has rows of 48, no multiple of the 32 of Q8_0");
  refused(with_tensor(0, {0, 4}, 0).File(), "has a dimension of 0");
  refused(with_tensor(0, {int64_t{1} << 40, int64_t{1} << 40}, 0).File(), "has a dimension of");
  refused(with_tensor(0, {1, 1, 1, 1, 1}, 4).File(), "has 5 dimensions");
  refused(with_tensor(0, {64}, 32).File(), "ends beyond the file's");
  GgufWriter twice = with_tensor(0, {8}, 32);
  twice.Tensor("u", GgufType::kF32, {8}, std::string(32, '\0'));
  std::string overlap = twice.File();
  const size_t at = overlap.find(std::string("\x20\0\0\0\0\0\0\0", 8));  // The second's offset.
  ASSERT_NE(at, std::string::npos);
  overlap[at] = 4;
  refused(overlap, "tensor \"u\" overlaps tensor \"t\"");
  overlap[at] = 31;  // By one byte.
  refused(overlap, "tensor \"u\" overlaps tensor \"t\"");
  overlap.replace(at, 8, std::string("\xe0\xff\xff\xff\xff\xff\xff\xff"));  // 32 less than 2^64.
  refused(overlap, "tensor \"u\" ends beyond the file's");
  GgufWriter same = with_tensor(0, {8}, 32);
  same.Tensor("t", GgufType::kF32, {8}, std::string(32, '\0'));
  refused(same.File(), "tensor \"t\" occurs twice");
  for (const uint32_t alignment : {0u, 24u, 1u << 21}) {
    GgufWriter odd;
    odd.Integer("general.alignment", alignment);
    refused(odd.File(), "general.alignment is " + std::to_string(alignment));
  }
  bad = good;
  bad[23] = 1;  // 2^56 metadata.
  refused(bad, "has 72057594037927937 metadata");
}

// Numbers in a file must not make us allocate, nor ask for more of a file that has no more.
TEST(GgufTest, LengthsThatNoFileHasAreRefused) {
  const auto array = [](uint32_t type, uint64_t count) {
    GgufWriter writer;
    writer.RawArray("k", type, count, std::string(64, '\0'));
    const std::string bytes = writer.File();
    return Parse(bytes, bytes.size(), bytes.size());
  };
  for (const uint32_t type : {0u, 2u, 4u, 8u, 12u}) {
    const absl::Status status = array(type, uint64_t{1} << 61);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << type;
    EXPECT_NE(status.message().find("more than the file has room for"), std::string::npos);
  }
  EXPECT_NE(array(77, 1).message().find("is an array of the unknown type 77"), std::string::npos);
  GgufWriter text;
  text.Raw("k", 8, std::string("\1\0\0\4\0\0\0\0", 8));  // 64 MiB and a byte.
  const std::string bytes = text.File();
  const absl::Status status = Parse(bytes, bytes.size(), uint64_t{1} << 40);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_NE(status.message().find("has 67108865 bytes, the limit is 67108864"), std::string::npos);
}

TEST(GgufTest, NumbersOfEveryType) {
  const struct {
    uint32_t type;
    std::string first, second;
    double a, b;
  } kTypes[] = {
      {0, "\xfe", "\x02", 254, 2},
      {1, "\xfe", "\x02", -2, 2},
      {2, "\xfe\xff", {"\2\0", 2}, 65534, 2},
      {3, "\xfe\xff", {"\2\0", 2}, -2, 2},
      {4, "\xfe\xff\xff\xff", {"\2\0\0\0", 4}, 4294967294.0, 2},
      {5, "\xfe\xff\xff\xff", {"\2\0\0\0", 4}, -2, 2},
      {6, {"\0\0\xc0\x3f", 4}, {"\0\0\0\xc0", 4}, 1.5, -2},
      {7, {"\0", 1}, "\x02", 0, 1},
      {10, {"\0\0\0\0\1\0\0\0", 8}, {"\2\0\0\0\0\0\0\0", 8}, 4294967296.0, 2},
      {11, "\xfe\xff\xff\xff\xff\xff\xff\xff", {"\0\0\0\0\1\0\0\0", 8}, -2, 4294967296.0},
      {12, {"\0\0\0\0\0\0\xf8\x3f", 8}, {"\0\0\0\0\0\0\0\xc0", 8}, 1.5, -2},
  };
  GgufWriter writer;
  for (const auto& t : kTypes) {
    const std::string key = std::to_string(t.type);
    writer.Raw("a" + key, t.type, t.first);
    writer.Raw("b" + key, t.type, t.second);
    writer.RawArray("list" + key, t.type, 2, t.first + t.second);
  }
  const std::string bytes = writer.File();
  const auto header = ParseGgufHeader(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(),
                                      bytes.size(), "FILE");
  ASSERT_TRUE(header.ok()) << header.status();
  for (const auto& t : kTypes) {
    const std::string key = std::to_string(t.type);
    EXPECT_EQ(header->metadata.at("a" + key).number, t.a) << key;
    EXPECT_EQ(header->metadata.at("b" + key).number, t.b) << key;
    EXPECT_EQ(header->metadata.at("list" + key).numbers, (std::vector<double>{t.a, t.b})) << key;
    if (t.a != 1.5) {
      EXPECT_EQ(header->metadata.at("a" + key).integer, t.a) << key;
    }
  }
}

TEST(GgufTest, VersionAndAlignmentAreRead) {
  GgufWriter writer;
  writer.Integer("general.alignment", 64);
  writer.Tensor("t", GgufType::kF32, {8}, std::string(32, '\0'));
  std::string bytes = writer.File() + std::string(64, '\0');
  bytes[4] = 2;
  const auto header = ParseGgufHeader(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(),
                                      bytes.size(), "FILE");
  ASSERT_TRUE(header.ok()) << header.status();
  const size_t end = 24 + 8 + 17 + 4 + 4 + 8 + 1 + 4 + 8 + 4 + 8;  // Of the header.
  EXPECT_EQ(header->tensors.at("t").offset, (end + 63) / 64 * 64);
}

TEST(GgufTest, FilesAreReadToTheirEnd) {
  TempDir temp;
  EXPECT_NE(GgufFile::Open(temp.path()).status().message().find("not a regular file"),
            std::string::npos);
  // The header goes on beyond what is read of it at first.
  GgufWriter writer;
  writer.Text("long", std::string(5 << 20, 'x'));
  writer.Tensor("t", GgufType::kF32, {8}, std::string(32, '\1'));
  const std::string path = temp.Write("model.gguf", writer.File());
  const auto file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  const GgufTensor& tensor = (*file)->header().tensors.at("t");
  EXPECT_EQ(*(*file)->Read(tensor), std::vector<uint8_t>(32, 1));
  std::filesystem::resize_file(path, tensor.offset + 16);
  EXPECT_NE((*file)->Read(tensor).status().message().find("it has been cut"), std::string::npos);
}

}  // namespace
}  // namespace packrat
