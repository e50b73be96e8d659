// A writer of GGUF files, by their specification, for tests.
#ifndef PACKRAT_TESTS_MODELS_GGUF_WRITER_H_
#define PACKRAT_TESTS_MODELS_GGUF_WRITER_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "models/files/gguf.h"

namespace packrat {

class GgufWriter {
 public:
  void Text(const std::string& key, const std::string& value) {
    Begin(key, 8);
    Put(&values_, value);
  }
  void Integer(const std::string& key, uint32_t value) {
    Begin(key, 4);
    Put(&values_, value);
  }
  void Number(const std::string& key, float value) {
    Begin(key, 6);
    Put(&values_, value);
  }
  void Texts(const std::string& key, const std::vector<std::string>& texts) {
    Begin(key, 9);
    Put(&values_, uint32_t{8});
    Put(&values_, uint64_t{texts.size()});
    for (const std::string& text : texts) Put(&values_, text);
  }
  void Integers(const std::string& key, const std::vector<int32_t>& integers) {
    Begin(key, 9);
    Put(&values_, uint32_t{5});
    Put(&values_, uint64_t{integers.size()});
    for (const int32_t integer : integers) Put(&values_, integer);
  }
  // A value of any type, or an array of `count` of them, as the file has it.
  void Raw(const std::string& key, uint32_t type, const std::string& bytes) {
    Begin(key, type);
    values_ += bytes;
  }
  void RawArray(const std::string& key, uint32_t type, uint64_t count, const std::string& bytes) {
    Begin(key, 9);
    Put(&values_, type);
    Put(&values_, count);
    values_ += bytes;
  }
  // `shape`: row-major.
  void Tensor(const std::string& name, GgufType type, std::vector<int64_t> shape,
              const std::string& bytes) {
    ++num_tensors_;
    Put(&tensors_, name);
    Put(&tensors_, static_cast<uint32_t>(shape.size()));
    for (size_t i = shape.size(); i > 0; --i) Put(&tensors_, shape[i - 1]);
    Put(&tensors_, static_cast<uint32_t>(type));
    Put(&tensors_, uint64_t{data_.size()});
    data_ += bytes;
    data_.resize((data_.size() + 31) / 32 * 32);
  }
  std::string File() const {
    std::string file = "GGUF";
    Put(&file, uint32_t{3});
    Put(&file, num_tensors_);
    Put(&file, num_values_);
    file += values_ + tensors_;
    file.resize((file.size() + 31) / 32 * 32);
    return file + data_;
  }

 private:
  template <class T>
  static void Put(std::string* to, T value) {
    to->append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  static void Put(std::string* to, const std::string& text) {
    Put(to, uint64_t{text.size()});
    *to += text;
  }
  void Begin(const std::string& key, uint32_t type) {
    ++num_values_;
    Put(&values_, key);
    Put(&values_, type);
  }

  std::string values_, tensors_, data_;
  uint64_t num_values_ = 0, num_tensors_ = 0;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_MODELS_GGUF_WRITER_H_
