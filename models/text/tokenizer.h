// Text to token ids and back: DIR/tokenizer.model by the SentencePiece library, or
// DIR/tokenizer.json, byte pairs over bytes or characters (see bpe.h).
#ifndef PACKRAT_MODELS_TEXT_TOKENIZER_H_
#define PACKRAT_MODELS_TEXT_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/text/tokenizer_vocabulary.h"

namespace packrat {

class Tokenizer {
 public:
  // Reads tokenizer.model, and tokenizer.json only where there is none. NOT_FOUND if DIR has
  // neither (such a folder serves token ids only); INVALID_ARGUMENT, with the file and the field,
  // if it is damaged, asks for what is not supported, or has more pieces than `vocab_size`.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& dir, int vocab_size);

  struct EncodeOptions {
    bool add_bos = false;        // Prepend the BOS id, unless parse_special found it there already.
    bool parse_special = false;  // Control tokens written in the text (e.g. "</s>") become their
                                 // ids; otherwise they stay plain text.
    bool continues_text = false;  // The text goes on from another one, so that no space is put
                                  // before it.
  };
  // Thread-safe. INVALID_ARGUMENT where `text` is not valid UTF-8 or longer than 2^30 bytes.
  // SentencePiece reads U+2581, by which it writes a space, as one.
  absl::StatusOr<std::vector<int32_t>> Encode(const std::string& text,
                                              const EncodeOptions& options) const;

  // The whole text of `ids`: a TextDecoder's output with the same arguments, concatenated. Always
  // valid UTF-8; byte pieces that do not make a character become U+FFFD (one per maximal invalid
  // sequence, as in Unicode's recommendation). Ids must be in [0, vocab_size).
  std::string Decode(const std::vector<int32_t>& ids, bool skip_special,
                     bool continues_text = false) const;

  int vocab_size() const { return vocab_size_; }
  int num_pieces() const;            // With added tokens. Ids from here to vocab_size are padding:
                                     // never sampled.
  bool default_add_bos() const;      // From tokenizer_config.json. If that says nothing: whether
                                     // tokenizer.model has a BOS piece, or tokenizer.json puts one
                                     // before a text.
  int bos_id() const;                // -1 where there is none.
  int eos_id() const;                // -1 where there is none.
  bool IsSpecial(int32_t id) const;  // Control piece, special added token, or padding.
  // For log-probabilities: the raw bytes of one token alone, which need not be valid UTF-8. For a
  // special piece its name, for padding nothing.
  std::string PieceText(int32_t id) const;

 private:
  friend class TextDecoder;
  Tokenizer() = default;

  std::unique_ptr<TokenizerVocabulary> vocabulary_;
  int vocab_size_ = 0;
  bool default_add_bos_ = false;
};

// Turns ids into text as they come. Push() returns the text that is certain now, never half a UTF-8
// character. Everything that Push() and Finish() return is together exactly Tokenizer::Decode() of
// all ids. It holds at most three bytes, whatever the length of the text. The tokenizer must
// outlive it.
class TextDecoder {
 public:
  // `skip_special`: special ids give nothing; otherwise their piece's name.
  // Padding ids give nothing either way.
  // `continues_text`: the ids continue a prompt, so that the first piece's leading space is kept
  // (otherwise the space that encoding put before a text is dropped again).
  TextDecoder(const Tokenizer* tokenizer, bool skip_special, bool continues_text);
  // To be called before the first Push(). If `prompt` ends in the middle of a character, the bytes
  // that complete it give the whole character, which then belongs to the text that follows.
  void Continue(const std::vector<int32_t>& prompt);
  std::string Push(int32_t id);
  std::string Finish();  // Afterwards the decoder is like a new one for a text that continues.

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  bool at_start_;
  std::string pending_;  // Bytes of an unfinished character.
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_TOKENIZER_H_
