// Safetensors that are read, and written.
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

TEST(Checkpoint, TensorsAreMadeInTheirTurn) {
  const TempDir dir;
  std::string turns;
  const auto make = [&turns](char name, const absl::Status& status) {
    return [&turns, name, status](std::vector<uint8_t>* data) {
      EXPECT_TRUE(data->empty());
      turns += name;
      data->assign(4, static_cast<uint8_t>(name));
      return status;
    };
  };
  const int32_t x = 7;
  const auto tensors = [&](const absl::Status& last) {
    return std::vector<TensorToWrite>{
        {"a", TensorType::kI32, {1}, nullptr, make('a', absl::OkStatus())},
        {"x", TensorType::kI32, {1}, &x},
        {"b", TensorType::kI32, {1}, nullptr, make('b', last)}};
  };
  const std::string path = dir.File("a.safetensors");
  EXPECT_EQ(WriteSafetensors(path, tensors(absl::DataLossError("no b"))).message(), "no b");
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
  ASSERT_TRUE(WriteSafetensors(path, tensors(absl::OkStatus())).ok());
  EXPECT_EQ(turns, "abab");
  const auto checkpoint = Checkpoint::OpenFile(path);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const std::pair<const char*, int32_t> expected[] = {
      {"a", 0x61616161}, {"x", 7}, {"b", 0x62626262}};
  for (const auto& [name, value] : expected) {
    int32_t read = 0;
    ASSERT_TRUE((*checkpoint)->Read(*(*checkpoint)->Find(name), 0, 4, &read).ok());
    EXPECT_EQ(read, value) << name;
  }
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

}  // namespace
}  // namespace packrat
