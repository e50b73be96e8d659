// tokenizer.model: a SentencePiece vocabulary.
#ifndef PACKRAT_MODELS_TEXT_SENTENCE_PIECES_VOCABULARY_H_
#define PACKRAT_MODELS_TEXT_SENTENCE_PIECES_VOCABULARY_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "models/text/sentence_pieces.h"
#include "models/text/tokenizer_vocabulary.h"

namespace packrat {

class SentencePiecesVocabulary : public TokenizerVocabulary {
 public:
  // `serialized`: the file's bytes; `path` begins the message where they are no model.
  static absl::StatusOr<std::unique_ptr<TokenizerVocabulary>> Load(const std::string& serialized,
                                                                   const std::string& path);

  absl::Status Encode(const std::string& text, bool parse_special,
                      std::vector<int32_t>* ids) const override;
  int size() const override { return pieces_.size(); }
  int bos_id() const override { return pieces_.bos_id(); }
  int eos_id() const override { return pieces_.eos_id(); }
  bool adds_bos() const override { return bos_id() >= 0; }
  bool IsSpecial(int32_t id) const override;
  std::string Text(int32_t id) const override;
  bool adds_space() const override { return adds_space_; }
  // A byte piece <0x20> is a space of the text itself, not the one that encoding added.
  bool MayBeginWithAddedSpace(int32_t id) const override { return !pieces_.IsByte(id); }

 private:
  SentencePiecesVocabulary() = default;
  // Appends the ids of plain text, in which nothing is special.
  absl::Status EncodePlain(const std::string& text, std::vector<int32_t>* ids) const;

  SentencePieces pieces_;
  bool adds_space_ = false;
  std::vector<std::pair<std::string, int32_t>> control_;  // Names of control pieces, longest first.
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_SENTENCE_PIECES_VOCABULARY_H_
