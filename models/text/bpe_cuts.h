// Reads the parts of a tokenizer.json that say how a text is normalized and cut into words.
#ifndef PACKRAT_MODELS_TEXT_BPE_CUTS_H_
#define PACKRAT_MODELS_TEXT_BPE_CUTS_H_

#include <string>

#include "models/text/bpe.h"
#include "models/text/tokenizer_json.h"

namespace packrat {

class BpeCuts : private TokenizerJsonReader {
 public:
  explicit BpeCuts(Bpe* out) : out_(out) {}

  // Reads the file's `normalizer` and `pre_tokenizer`, and whether words are made of bytes.
  absl::Status Read(const Json& json);

 private:
  void ReadNormalizer(const Json& json, const std::string& where);
  void ReadPreTokenizer(const Json& json, const std::string& where);
  void ReadByteLevel(const Json& json, const std::string& where);
  void ReadSplit(const Json& json, const std::string& where);
  void ReadMetaspace(const Json& json, const std::string& where);
  TextSplitter::Behavior ReadBehavior(JsonFields* fields, const std::string& by_default);
  void AddStep(Bpe::Step step, const std::string& where);
  // A step that cuts by a pattern.
  void AddPattern(const std::string& pattern, TextSplitter::Behavior behavior, bool invert,
                  const std::string& where);

  Bpe* const out_;
  bool byte_level_ = false;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_BPE_CUTS_H_
