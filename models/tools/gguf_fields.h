// Reads the metadata of a GGUF file, where the first complaint stands for all.
#ifndef PACKRAT_MODELS_TOOLS_GGUF_FIELDS_H_
#define PACKRAT_MODELS_TOOLS_GGUF_FIELDS_H_

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "models/files/gguf.h"

namespace packrat {

// A value of another kind than it is read as is a complaint (a float read as a count would be 0).
// Keys that begin with a dot follow the architecture's name.
class GgufFields {
 public:
  // Both outlive this.
  GgufFields(const GgufHeader& header, const std::string& file);

  const std::string& architecture() const { return architecture_; }
  const GgufHeader& header() const { return header_; }

  // Null where the file has none, and after a complaint about it.
  const GgufValue* Find(const std::string& key, GgufValue::Kind kind);
  // As stated; `missing` where it is not.
  int64_t Integer(const std::string& key, int64_t missing);
  double Number(const std::string& key, double missing);
  bool Bool(const std::string& key, bool missing);
  std::string Text(const std::string& key, const std::string& missing);
  // 1 to 2^31 - 1, so that a product of two does not overflow; 1 after a complaint.
  int64_t Count(const std::string& key);
  // One value for all `count` layers, or a list of as many; empty after a complaint.
  std::vector<int64_t> Each(const std::string& key, int64_t count);

  // Complains of a key of the architecture that nothing asked for. `ignored`: what changes nothing;
  // one that ends in a dot stands for all that begin so.
  void RefuseOthers(const std::vector<std::string>& ignored);

  // "FILE: KEY WHY".
  void Fail(const std::string& key, const std::string& why);
  // INVALID_ARGUMENT: the first complaint.
  const absl::Status& status() const { return status_; }

 private:
  std::string Whole(const std::string& key) const;

  const GgufHeader& header_;
  const std::string& file_;
  std::string architecture_;
  std::set<std::string> asked_;
  absl::Status status_;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TOOLS_GGUF_FIELDS_H_
