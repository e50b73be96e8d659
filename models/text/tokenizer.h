// Turns text into token ids and back, as DIR/tokenizer.json says (byte pairs, see bpe.h) or
// DIR/tokenizer.model (with the SentencePiece library).
#ifndef PACKRAT_MODELS_TEXT_TOKENIZER_H_
#define PACKRAT_MODELS_TEXT_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/text/chat_template.h"
#include "models/text/marked_text.h"
#include "models/text/tokenizer_vocabulary.h"

namespace packrat {

class Tokenizer {
 public:
  // Reads tokenizer.json, as transformers' fast tokenizers do, or tokenizer.model if there is no
  // tokenizer.json or one of SentencePiece's own kind ("Unigram"), which the library itself reads
  // best. NOT_FOUND if DIR has neither; such a model can be served with token ids only.
  // INVALID_ARGUMENT names file and field if the file is damaged, needs something that is not
  // supported, or has more pieces than `vocab_size`; the other file is not read in its place, since
  // it need not mean the same.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& dir, int vocab_size);

  struct EncodeOptions {
    bool add_bos = false;         // Prepend the BOS id, unless parse_special found it already.
    bool parse_special = false;   // Control tokens written in the text (e.g. "</s>") become their
                                  // ids; otherwise they stay plain text.
    bool continues_text = false;  // The text goes on from another one, so that no space is put
                                  // before it.
  };
  // Thread-safe. INVALID_ARGUMENT where `text` is not valid UTF-8 or longer than 2^30 bytes.
  // SentencePiece writes a space as U+2581, and so reads U+2581 as a space.
  absl::StatusOr<std::vector<int32_t>> Encode(const std::string& text,
                                              const EncodeOptions& options) const;

  // The ids of a prompt that a chat template wrote: special tokens are those of the template, and
  // no BOS is added. Thread-safe, with the errors above.
  absl::StatusOr<std::vector<int32_t>> Encode(const MarkedText& prompt) const;

  // The model's, or why there is none: NOT_FOUND, or INVALID_ARGUMENT if it cannot be read.
  const absl::StatusOr<ChatTemplate>& chat_template() const { return chat_template_; }

  // The text of `ids`: all that a TextDecoder with the same arguments returns. It is always valid
  // UTF-8. Byte pieces that do not make a character become U+FFFD, one for each maximal invalid
  // sequence, as Unicode recommends. Ids must be in [0, vocab_size).
  std::string Decode(const std::vector<int32_t>& ids, bool skip_special,
                     bool continues_text = false) const;

  std::string kind() const { return vocabulary_->kind(); }  // For people.
  int vocab_size() const { return vocab_size_; }
  int num_pieces() const;            // With added tokens. Ids from here to vocab_size are padding:
                                     // never sampled.
  bool default_add_bos() const;      // From tokenizer_config.json. If that says nothing: whether
                                     // tokenizer.model has a BOS piece, or tokenizer.json puts one
                                     // before a text.
  int bos_id() const;                // -1 where there is none.
  int eos_id() const;                // -1 where there is none.
  bool IsSpecial(int32_t id) const;  // Control piece, special added token, or padding.
  // The raw bytes of one token alone, which need not be valid UTF-8: for lists of
  // log-probabilities. A special piece gives its name, padding gives nothing.
  std::string PieceText(int32_t id) const;

 private:
  friend class TextDecoder;
  Tokenizer() = default;

  std::unique_ptr<TokenizerVocabulary> vocabulary_;
  int vocab_size_ = 0;
  bool default_add_bos_ = false;
  absl::StatusOr<ChatTemplate> chat_template_;
};

// Turns ids into text one by one. Push() returns the text that is certain so far, never half a
// UTF-8 character. What Push() and Finish() return adds up to Tokenizer::Decode() of all ids. The
// decoder holds at most three bytes, however long the text is. The tokenizer must outlive it.
class TextDecoder {
 public:
  // `skip_special`: special ids give nothing, otherwise the name of their piece. Padding ids never
  // give anything. `continues_text`: the ids continue a prompt, so the leading space of the first
  // piece is kept. Otherwise it is dropped, since encoding added it.
  TextDecoder(const Tokenizer* tokenizer, bool skip_special, bool continues_text);
  // Call it before the first Push(). If `prompt` ends in the middle of a character, the whole
  // character is returned once its other bytes come.
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
