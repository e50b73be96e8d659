// Text to token ids and back, by the SentencePiece library (DIR/tokenizer.model).
#ifndef PACKRAT_MODELS_TOKENIZER_H_
#define PACKRAT_MODELS_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace packrat {

class Tokenizer {
 public:
  // NOT_FOUND if DIR has no tokenizer.model (such a folder serves token ids only);
  // INVALID_ARGUMENT if it is damaged or has more pieces than `vocab_size`.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& dir, int vocab_size);
  ~Tokenizer();

  struct EncodeOptions {
    bool add_bos = false;        // Prepend the BOS id.
    bool parse_special = false;  // Control tokens written in the text (e.g. "</s>") become their
                                 // ids; otherwise they stay plain text.
  };
  // Thread-safe. INVALID_ARGUMENT where `text` is not valid UTF-8.
  absl::StatusOr<std::vector<int32_t>> Encode(const std::string& text,
                                              const EncodeOptions& options) const;

  // The whole text of `ids`. Ids must be in [0, vocab_size). Ids of control tokens give nothing
  // when `skip_special`, else their piece's name. Equals the concatenation of a TextDecoder's
  // output. Invalid UTF-8 (byte pieces that do not make a character) becomes U+FFFD.
  std::string Decode(const std::vector<int32_t>& ids, bool skip_special) const;

  int num_pieces() const;                // Ids from here to vocab_size are padding: never sampled.
  bool default_add_bos() const;          // From tokenizer_config.json; true where it says nothing
                                         // and the model has a BOS piece.
  int bos_id() const;                    // -1 where there is none.
  int eos_id() const;                    // -1 where there is none.
  bool IsSpecial(int32_t id) const;      // Control or unknown piece, or padding.
  std::string PieceText(int32_t id) const;  // For log-probabilities: the raw bytes of one token.

 private:
  friend class TextDecoder;
  Tokenizer();
  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
  int vocab_size_ = 0;
  bool default_add_bos_ = false;
};

// Incremental detokenization: Push() returns the bytes that are certain now; never half a UTF-8
// character; the returned pieces and Finish() concatenate to exactly Tokenizer::Decode() of all
// ids. Holds a few bytes, whatever the length of the text.
class TextDecoder {
 public:
  // `continues_text`: the ids continue a prompt, so that the first piece's leading space is kept
  // (SentencePiece otherwise drops the space it put at the start of a text).
  TextDecoder(const Tokenizer* tokenizer, bool skip_special, bool continues_text);
  std::string Push(int32_t id);
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  bool at_start_;
  std::string pending_;  // Bytes of an unfinished character.
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TOKENIZER_H_
