// tokenizer.json: byte pairs over bytes, as GPT-2 and Llama 3 style models use them. The ids of a
// text are those of the `tokenizers` library that writes such files.
//
// A text is cut three times: at its added tokens ("<|endoftext|>"), then into words by the file's
// patterns, and a word into tokens by merging neighbours, the best pair first, from single bytes
// on. What a file asks for beyond that (normalization, other models) is refused when it is loaded.
#ifndef PACKRAT_MODELS_TEXT_BYTE_LEVEL_BPE_H_
#define PACKRAT_MODELS_TEXT_BYTE_LEVEL_BPE_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/text/text_splitter.h"
#include "models/text/tokenizer_vocabulary.h"

namespace packrat {

// Tokens that are found in a text before it is cut into words: at each place the longest.
class AddedTokens {
 public:
  void Add(const std::string& text, int32_t id);
  // Calls `found` with the beginning, size and id of every one in text[begin, end), in order.
  void Find(const std::string& text, size_t begin, size_t end,
            const std::function<void(size_t, size_t, int32_t)>& found) const;

 private:
  absl::flat_hash_map<std::string, int32_t> ids_;
  std::array<std::vector<size_t>, 256> sizes_;  // By first byte: those that occur, longest first.
};

// The bytes of a vocabulary's entry, which is written with a printable character for each byte
// (U+0120 for a space); false where it is not.
bool BytesOfEntry(const std::string& entry, std::string* bytes);

class ByteLevelBpe : public TokenizerVocabulary {
 public:
  // `json`: the file's bytes; `path` begins every message. INVALID_ARGUMENT names the field, also
  // where an id is not below `vocab_size`.
  static absl::StatusOr<std::unique_ptr<TokenizerVocabulary>> Load(const std::string& json,
                                                                   const std::string& path,
                                                                   const TokenizerConfig& config,
                                                                   int vocab_size);

  absl::Status Encode(const std::string& text, bool parse_special,
                      std::vector<int32_t>* ids) const override;
  int size() const override { return static_cast<int>(entries_.size()); }
  int bos_id() const override { return bos_id_; }
  int eos_id() const override { return eos_id_; }
  bool adds_bos() const override { return adds_bos_; }
  bool IsSpecial(int32_t id) const override { return entries_[id].special; }
  std::string Text(int32_t id) const override { return entries_[id].bytes; }
  // `add_prefix_space` puts a space only where there is none, so that decoding cannot know; as in
  // the library, it stays.
  bool adds_space() const override { return false; }
  bool MayBeginWithAddedSpace(int32_t) const override { return false; }

 private:
  friend class ByteLevelBpeFile;
  struct Entry {
    std::string bytes;
    bool special = true;  // So is an id that the file gives to nothing.
  };
  struct Merge {
    int32_t rank = 0, id = 0;
  };
  // One cut of the text between added tokens.
  struct Step {
    bool prefix_space = false;               // First puts a space before a piece that has none.
    std::unique_ptr<TextSplitter> splitter;  // May be null.
  };
  struct Merger;  // Memory of merging, reused for all words of a text.
  static uint64_t Pair(int32_t left, int32_t right) {
    return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  }

  absl::Status EncodePlain(size_t step, const char* text, size_t size, Merger* merger,
                           std::vector<int32_t>* ids) const;
  void EncodeWord(const char* word, size_t size, Merger* merger, std::vector<int32_t>* ids) const;

  std::vector<Entry> entries_;  // By id.
  std::array<int32_t, 256> byte_ids_;
  absl::flat_hash_map<uint64_t, Merge> merges_;      // By Pair().
  absl::flat_hash_map<std::string, int32_t> words_;  // By bytes; empty without `ignore_merges`.
  AddedTokens added_[2];                             // The second kind in the gaps of the first.
  std::vector<Step> steps_;
  int bos_id_ = -1, eos_id_ = -1;
  bool adds_bos_ = false;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_BYTE_LEVEL_BPE_H_
