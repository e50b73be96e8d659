// Files for tests: a folder that vanishes with its owner, and safetensors made by hand, right or
// wrong.
#ifndef PACKRAT_TESTS_MODELS_TEST_FILES_H_
#define PACKRAT_TESTS_MODELS_TEST_FILES_H_

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace packrat {

class TempDir {
 public:
  TempDir() {
    std::string name = testing::TempDir() + "packrat_XXXXXX";
    path_ = mkdtemp(name.data());
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() { std::filesystem::remove_all(path_); }

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }
  // Writes a file of the folder; returns its path.
  std::string Write(const std::string& name, const std::string& bytes) const {
    std::ofstream(File(name), std::ios::binary) << bytes;
    return File(name);
  }

 private:
  std::string path_;
};

// Bytes of a safetensors file whose length field says what it should.
inline std::string SafetensorsBytes(const std::string& header, size_t data_bytes) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(uint64_t{header.size()} >> (8 * i));
  return bytes + header + std::string(data_bytes, '\x3f');
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_MODELS_TEST_FILES_H_
