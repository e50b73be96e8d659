// What tells two models apart: every bit of every tensor that is taken, its name, type and shape.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "models/bytes_hash.h"
#include "models/files/checkpoint.h"
#include "models/weights.h"
#include "tests/models/test_files.h"

namespace packrat {
namespace {

TEST(HashBytes, EveryByteCountsAndSoDoesTheLength) {
  for (size_t size = 0; size <= 100; ++size) {
    std::string data(size, 'x');
    std::set<uint64_t> hashes = {HashBytes(1, data.data(), size), HashBytes(2, data.data(), size)};
    for (char& byte : data) {
      byte ^= 1;
      hashes.insert(HashBytes(1, data.data(), size));
      byte ^= 1;
    }
    EXPECT_EQ(hashes.size(), size + 2) << size;
  }
  std::set<uint64_t> lengths;
  const std::string zeros(100, '\0');
  for (size_t size = 0; size <= 100; ++size) lengths.insert(HashBytes(0, zeros.data(), size));
  EXPECT_EQ(lengths.size(), 101u);
}

TEST(HashBytes, IsTheSameHoweverTheBytesAreCut) {
  std::string data(200, ' ');
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * i + 7);
  for (size_t size : {0, 1, 31, 32, 33, 95, 200}) {
    const uint64_t whole = HashBytes(5, data.data(), size);
    for (size_t piece = 1; piece <= size + 1; ++piece) {
      BytesHash hash(5);
      for (size_t at = 0; at < size; at += piece) {
        hash.Add(data.data() + at, std::min(piece, size - at));
      }
      EXPECT_EQ(hash.Value(), whole) << size << " bytes by " << piece;
    }
  }
}

// A file with the tensors "one" and "two", equal in shape.
class Fingerprint : public testing::Test {
 protected:
  std::vector<float> one_ = {1, 2, 3, 4, 5, 6}, two_ = {7, 8, 9, 10, 11, 12};
  std::vector<int64_t> shape_ = {2, 3};
  TensorType type_ = TensorType::kF32;

  // After taking both, as a matrix and as floats.
  uint64_t Hash(const std::string& matrix = "one", const std::string& floats = "two") {
    const TempDir dir;
    EXPECT_TRUE(
        WriteSafetensors(dir.File("model.safetensors"),
                         {{"one", type_, shape_, one_.data()}, {"two", type_, shape_, two_.data()}})
            .ok());
    auto checkpoint = Checkpoint::Open(dir.path());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    WeightLoader loader(checkpoint->get());
    const int out = static_cast<int>(shape_[0]), in = static_cast<int>(shape_[1]);
    loader.Rows(matrix, {out, in}, 0, out, [](const WeightLoader::Piece&) {});
    loader.Floats(floats, shape_);
    EXPECT_TRUE(loader.status().ok()) << loader.status();
    return loader.hash();
  }
};

TEST_F(Fingerprint, IsTheSameForTheSameModel) { EXPECT_EQ(Hash(), Hash()); }

TEST_F(Fingerprint, ChangesWithEveryElement) {
  std::set<uint64_t> hashes = {Hash()};
  for (std::vector<float>* tensor : {&one_, &two_}) {
    for (float& element : *tensor) {
      element += 0.5f;
      hashes.insert(Hash());
      element -= 0.5f;
    }
  }
  EXPECT_EQ(hashes.size(), 13u);
}

TEST_F(Fingerprint, ChangesWithNamesTypesAndShapes) {
  std::set<uint64_t> hashes = {Hash()};
  std::swap(one_, two_);
  hashes.insert(Hash());
  // The bits come in the order of before, under the names of the other.
  hashes.insert(Hash("two", "one"));
  std::swap(one_, two_);
  shape_ = {3, 2};
  hashes.insert(Hash());
  shape_ = {2, 3};
  type_ = TensorType::kBF16;
  const uint64_t bf16 = Hash();
  hashes.insert(bf16);
  type_ = TensorType::kF16;
  hashes.insert(Hash());
  EXPECT_EQ(hashes.size(), 6u);
}

}  // namespace
}  // namespace packrat
