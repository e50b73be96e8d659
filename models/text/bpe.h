// Reads tokenizer.json files with byte pair encoding. GPT-2, Llama 3 and Qwen merge bytes. Llama 2
// and Mistral, whose files were made from SentencePiece models, merge characters and fall back to
// bytes. A text gets the same ids as from the `tokenizers` library, which writes such files.
//
// A text is cut in three steps: at added tokens ("<|endoftext|>"), then into words by the file's
// pre-tokenizer, then into tokens. A word starts as single bytes or characters, and neighbours are
// merged, the best pair first. The text between added tokens is normalized. A file that asks for
// anything else is refused when it is loaded.
#ifndef PACKRAT_MODELS_TEXT_BPE_H_
#define PACKRAT_MODELS_TEXT_BPE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "models/files/json.h"
#include "models/text/added_tokens.h"
#include "models/text/text_normalizer.h"
#include "models/text/text_splitter.h"
#include "models/text/tokenizer_config.h"
#include "models/text/tokenizer_vocabulary.h"

namespace packrat {

// Decodes an entry of a vocabulary, which writes each byte as one printable character (U+0120 for a
// space). False if the entry has any other character.
bool BytesOfEntry(const std::string& entry, std::string* bytes);
// The other way round.
std::string EntryOfBytes(absl::string_view bytes);

class Bpe : public TokenizerVocabulary {
 public:
  // `json`: the file. Messages begin with `path`. INVALID_ARGUMENT names the field; ids must be
  // below `vocab_size`.
  static absl::StatusOr<std::unique_ptr<TokenizerVocabulary>> Load(const Json& json,
                                                                   const std::string& path,
                                                                   const TokenizerConfig& config,
                                                                   int vocab_size);

  // A byte or character without a token becomes the unknown token, or nothing if there is none.
  absl::Status Encode(const std::string& text, TextPlace place, const SpecialPlaces& special,
                      std::vector<int32_t>* ids) const override;
  std::string kind() const override {
    return over_bytes_ ? "byte pairs over bytes" : "byte pairs over characters";
  }
  int size() const override { return static_cast<int>(entries_.size()); }
  int bos_id() const override { return bos_id_; }
  int eos_id() const override { return eos_id_; }
  bool adds_bos() const override { return adds_bos_; }
  bool IsSpecial(int32_t id) const override { return entries_[id].special; }
  std::string Text(int32_t id) const override { return entries_[id].bytes; }
  // ByteLevel's `add_prefix_space` adds a space only if the text does not begin with one. Decoding
  // cannot know which was the case, so it keeps the space, as the library does.
  bool adds_space() const override { return strips_space_; }
  bool adds_space_once() const override { return true; }
  bool MayBeginWithAddedSpace(int32_t) const override { return true; }

 private:
  friend class BpeFile;
  friend class BpeCuts;
  struct Entry {
    std::string bytes;
    bool special = true;  // Also true for ids that the file does not use.
    AddedTokenFlags flags;
  };
  struct Merge {
    int32_t rank = 0, id = 0;
  };
  // One cut of the text between added tokens.
  struct Step {
    enum class Prefix { kNever, kFirst, kAlways };
    // Added before a piece that does not begin with it. kFirst: only at the beginning of the text.
    std::string prefix;
    Prefix where = Prefix::kNever;
    std::string space;                       // What every space becomes; empty: it stays.
    bool before_spaces = false;              // Cuts before every `space`.
    bool bytes_to_characters = false;        // Bytes become what entries write them as.
    std::unique_ptr<TextSplitter> splitter;  // Cuts by a pattern; may be null.
  };
  struct Merger;  // Memory for merging, reused for all words of a text.
  static uint64_t Pair(int32_t left, int32_t right) {
    return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  }

  absl::Status EncodePlain(size_t step, absl::string_view text, TextPlace place, Merger* merger,
                           std::vector<int32_t>* ids) const;
  void EncodeWord(absl::string_view word, Merger* merger, std::vector<int32_t>* ids) const;
  // The tokens that merging starts from.
  void SingleTokens(absl::string_view word, std::vector<int32_t>* ids) const;
  int32_t CharacterId(absl::string_view character) const;  // -1: there is none.

  std::vector<Entry> entries_;  // By id.
  // The token of each byte; where characters are merged, the one to fall back to. -1: none.
  std::array<int32_t, 256> byte_ids_;
  bool over_bytes_ = false;
  absl::flat_hash_map<uint32_t, int32_t> characters_;  // By their UTF-8, as a number.
  int32_t unknown_id_ = -1;
  bool fuse_unknown_ = false;                        // Unknown neighbours become one token.
  absl::flat_hash_map<uint64_t, Merge> merges_;      // By Pair().
  absl::flat_hash_map<std::string, int32_t> words_;  // Empty without `ignore_merges`.
  // Tokens of the second kind are looked for between those of the first, in normalized text.
  AddedTokens added_[2];
  TextNormalizer normalizer_;
  std::vector<Step> steps_;
  bool cuts_characters_ = false;  // A step has `bytes_to_characters`.
  bool strips_space_ = false;
  int bos_id_ = -1, eos_id_ = -1;
  bool adds_bos_ = false;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_BPE_H_
