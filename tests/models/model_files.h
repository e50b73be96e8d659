// A golden model of which a test changes the tensors or the config before loading it.
#ifndef PACKRAT_TESTS_MODELS_MODEL_FILES_H_
#define PACKRAT_TESTS_MODELS_MODEL_FILES_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "kernels/dtype.h"
#include "models/files/checkpoint.h"
#include "tests/models/test_files.h"

namespace packrat {

class ModelFiles {
 public:
  explicit ModelFiles(const std::string& name) {
    const std::string golden = "tests/golden/" + name;
    std::ifstream file(golden + "/config.json");
    config.assign(std::istreambuf_iterator<char>(file), {});
    auto checkpoint = Checkpoint::Open(golden);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    for (const auto& [tensor, view] : (*checkpoint)->tensors()) {
      auto& values = values_[tensor];
      values.resize(view.bytes);
      EXPECT_TRUE((*checkpoint)->Read(view, 0, view.bytes, values.data()).ok());
      tensors.push_back({tensor, view.type, view.shape, values.data()});
    }
    std::sort(tensors.begin(), tensors.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
  }

  TensorToWrite& Tensor(const std::string& name) {
    const auto found = std::find_if(tensors.begin(), tensors.end(),
                                    [&](const auto& tensor) { return tensor.name == name; });
    EXPECT_NE(found, tensors.end()) << name;
    return *found;
  }
  // The stored bytes of a golden's tensor, to be changed: float32.
  std::vector<uint8_t>& Bytes(const std::string& name) { return values_.at(name); }

  // Stores bfloat16 tensors as float32, which holds them exactly.
  void Widen() {
    for (TensorToWrite& tensor : tensors) {
      if (tensor.type != TensorType::kBF16) continue;
      std::vector<uint8_t>& bytes = values_.at(tensor.name);
      std::vector<uint8_t> wide(2 * bytes.size());
      for (size_t i = 0; i < bytes.size() / 2; ++i) {
        const float value = LoadAsFloat(bytes.data(), i, DType::kBF16);
        std::memcpy(&wide[i * sizeof value], &value, sizeof value);
      }
      bytes = std::move(wide);
      tensor.type = TensorType::kF32;
      tensor.data = bytes.data();
    }
  }

  // Stores float32 tensors as bfloat16, to nearest even.
  void Narrow() {
    for (TensorToWrite& tensor : tensors) {
      if (tensor.type != TensorType::kF32) continue;
      std::vector<uint8_t>& bytes = values_.at(tensor.name);
      for (size_t i = 0; i < bytes.size() / 4; ++i) {
        uint32_t bits;
        std::memcpy(&bits, &bytes[i * 4], 4);
        const auto half = static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
        std::memcpy(&bytes[i * 2], &half, 2);
      }
      bytes.resize(bytes.size() / 2);
      tensor.type = TensorType::kBF16;
      tensor.data = bytes.data();
    }
  }

  void ReplaceInConfig(const std::string& from, const std::string& to) {
    const size_t at = config.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    config.replace(at, from.size(), to);
  }

  // Writes the folder.
  void Write() {
    dir_.Write("config.json", config);
    const absl::Status written = WriteSafetensors(File(), tensors);
    EXPECT_TRUE(written.ok()) << written;
  }
  std::string File() const { return dir_.File("model.safetensors"); }
  const TempDir& dir() const { return dir_; }

  std::string config;
  std::vector<TensorToWrite> tensors;

 private:
  std::map<std::string, std::vector<uint8_t>> values_;
  TempDir dir_;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_MODELS_MODEL_FILES_H_
