// tokenizer.model: a SentencePiece vocabulary.
#ifndef PACKRAT_MODELS_TEXT_SENTENCE_PIECES_VOCABULARY_H_
#define PACKRAT_MODELS_TEXT_SENTENCE_PIECES_VOCABULARY_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "models/text/added_tokens.h"
#include "models/text/sentence_pieces.h"
#include "models/text/tokenizer_config.h"
#include "models/text/tokenizer_vocabulary.h"

namespace packrat {

class SentencePiecesVocabulary : public TokenizerVocabulary {
 public:
  // `serialized`: the file's bytes. An error, whose message begins with `path`, if they are not a
  // model or an id is not below `vocab_size`. Added tokens have ids after the pieces, or name one
  // of them.
  static absl::StatusOr<std::unique_ptr<TokenizerVocabulary>> Load(const std::string& serialized,
                                                                   const std::string& path,
                                                                   const TokenizerConfig& config,
                                                                   int vocab_size);

  absl::Status Encode(const std::string& text, TextPlace place, const SpecialPlaces& special,
                      std::vector<int32_t>* ids) const override;
  std::string kind() const override { return "SentencePiece"; }
  int size() const override { return pieces_.size() + static_cast<int>(added_.size()); }
  int bos_id() const override { return bos_id_; }
  int eos_id() const override { return eos_id_; }
  bool adds_bos() const override { return bos_id_ >= 0; }
  bool IsSpecial(int32_t id) const override;
  // The unknown piece gives what SentencePiece writes for it: U+2047 between spaces, unless the
  // model says otherwise.
  std::string Text(int32_t id) const override;
  bool adds_space() const override { return adds_space_; }
  bool adds_space_once() const override { return !legacy_; }
  // A byte piece <0x20> is a space of the text itself, not one that encoding added.
  bool MayBeginWithAddedSpace(int32_t id) const override;

 private:
  SentencePiecesVocabulary() = default;
  absl::Status ReadTokens(const TokenizerConfig& config, int vocab_size);
  // Appends the ids of text without special tokens.
  absl::Status EncodePlain(const std::string& text, TextPlace place,
                           std::vector<int32_t>* ids) const;
  int IdOf(const std::string& name) const;  // Of a control piece or added token; -1: none.

  SentencePieces pieces_;
  // The same without a space before the text; null where pieces_ puts none there.
  std::unique_ptr<SentencePieces> unspaced_;
  bool adds_space_ = false, legacy_ = true;
  int bos_id_ = -1, eos_id_ = -1;
  std::vector<AddedToken>
      added_;                 // By id, starting at pieces_.size(). No content: the id is unused.
  AddedTokens added_tokens_;  // And control pieces: what a text is cut at.
  // Pieces that the library finds in a text, and of which tokenizer_config.json says that they are
  // special, as Gemma's <start_of_turn>.
  absl::flat_hash_set<int32_t> special_pieces_;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_SENTENCE_PIECES_VOCABULARY_H_
