#include "models/text/byte_level_bpe.h"

#include <algorithm>

#include "absl/strings/string_view.h"

namespace packrat {
namespace {

unsigned char First(const std::string& text, size_t at) {
  return static_cast<unsigned char>(text[at]);
}

// By character, from U+0000 to U+0143: its byte, or -1. Printable bytes stand for themselves, the
// 68 others, in their order, for U+0100 and up.
std::array<int, 0x144> BytesOfCharacters() {
  std::array<int, 0x144> bytes;
  bytes.fill(-1);
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    bytes[printable ? byte : next++] = byte;
  }
  return bytes;
}

}  // namespace

bool BytesOfEntry(const std::string& entry, std::string* bytes) {
  static const std::array<int, 0x144> bytes_of = BytesOfCharacters();
  bytes->clear();
  for (size_t at = 0; at < entry.size();) {
    size_t character = First(entry, at++);
    if (character >= 0x80) {
      if (character < 0xc0 || character >= 0xe0 || at == entry.size()) return false;
      character = (character & 0x1f) << 6 | (First(entry, at++) & 0x3f);
    }
    if (character >= bytes_of.size() || bytes_of[character] < 0) return false;
    bytes->push_back(static_cast<char>(bytes_of[character]));
  }
  return true;
}

void AddedTokens::Add(const std::string& text, int32_t id) {
  ids_.emplace(text, id);
  std::vector<size_t>& sizes = sizes_[First(text, 0)];
  const auto at = std::lower_bound(sizes.begin(), sizes.end(), text.size(), std::greater<>());
  if (at == sizes.end() || *at != text.size()) sizes.insert(at, text.size());
}

void AddedTokens::Find(const std::string& text, size_t begin, size_t end,
                       const std::function<void(size_t, size_t, int32_t)>& found) const {
  if (ids_.empty()) return;
  while (begin < end) {
    size_t step = 1;
    for (size_t size : sizes_[First(text, begin)]) {
      if (size > end - begin) continue;
      const auto token = ids_.find(absl::string_view(text.data() + begin, size));
      if (token == ids_.end()) continue;
      found(begin, size, token->second);
      step = size;
      break;
    }
    begin += step;
  }
}

// The tokens of a word as a list, and the pairs that could be merged as a heap, so that a word of n
// bytes takes n log n steps.
struct ByteLevelBpe::Merger {
  struct Token {
    int32_t id, previous, next;  // Neighbours as indices, -1 at the ends.
    bool merged_away;
  };
  struct Candidate {
    int32_t rank, at, id;  // The pair at `at` and after it, which makes `id`.
    bool operator<(const Candidate& other) const {  // The best is the largest.
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  std::vector<Token> tokens;
  std::vector<Candidate> heap;
};

absl::Status ByteLevelBpe::Encode(const std::string& text, bool parse_special,
                                  std::vector<int32_t>* ids) const {
  Merger merger;
  absl::Status status;
  const auto plain = [&](size_t begin, size_t end) {
    if (status.ok() && begin < end) {
      status = EncodePlain(0, text.data() + begin, end - begin, &merger, ids);
    }
  };
  // A special token that is not asked for stays text, together with what stands around it.
  const auto cut = [&](size_t kind, size_t begin, size_t end, const auto& gap) {
    added_[kind].Find(text, begin, end, [&](size_t at, size_t size, int32_t id) {
      if (IsSpecial(id) && !parse_special) return;
      gap(begin, at);
      ids->push_back(id);
      begin = at + size;
    });
    gap(begin, end);
  };
  cut(0, 0, text.size(), [&](size_t begin, size_t end) { cut(1, begin, end, plain); });
  return status;
}

absl::Status ByteLevelBpe::EncodePlain(size_t step, const char* text, size_t size, Merger* merger,
                                       std::vector<int32_t>* ids) const {
  if (step == steps_.size()) {
    EncodeWord(text, size, merger, ids);
    return absl::OkStatus();
  }
  std::string spaced;
  if (steps_[step].prefix_space && text[0] != ' ') {
    spaced = ' ' + std::string(text, size);
    text = spaced.data();
    ++size;
  }
  if (steps_[step].splitter == nullptr) return EncodePlain(step + 1, text, size, merger, ids);
  return steps_[step].splitter->Split(text, size, [&](size_t begin, size_t end) {
    return EncodePlain(step + 1, text + begin, end - begin, merger, ids);
  });
}

void ByteLevelBpe::EncodeWord(const char* word, size_t size, Merger* merger,
                              std::vector<int32_t>* ids) const {
  if (!words_.empty()) {
    const auto whole = words_.find(absl::string_view(word, size));
    if (whole != words_.end()) {
      ids->push_back(whole->second);
      return;
    }
  }
  std::vector<Merger::Token>& tokens = merger->tokens;
  std::vector<Merger::Candidate>& heap = merger->heap;
  tokens.clear();
  heap.clear();
  const auto count = static_cast<int32_t>(size);
  for (int32_t i = 0; i < count; ++i) {
    const int32_t next = i + 1 < count ? i + 1 : -1;
    tokens.push_back({byte_ids_[static_cast<unsigned char>(word[i])], i - 1, next, false});
  }
  const auto merge_at = [&](int32_t at) {
    const int32_t next = at < 0 ? -1 : tokens[at].next;
    return next < 0 ? merges_.end() : merges_.find(Pair(tokens[at].id, tokens[next].id));
  };
  const auto consider = [&](int32_t at) {
    const auto merge = merge_at(at);
    if (merge == merges_.end()) return;
    heap.push_back({merge->second.rank, at, merge->second.id});
    std::push_heap(heap.begin(), heap.end());
  };
  for (int32_t i = 0; i < count; ++i) consider(i);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Merger::Candidate best = heap.back();
    heap.pop_back();
    Merger::Token& left = tokens[best.at];
    if (left.merged_away) continue;
    // A neighbour may have changed since.
    const auto merge = merge_at(best.at);
    if (merge == merges_.end() || merge->second.id != best.id) continue;
    Merger::Token& right = tokens[left.next];
    right.merged_away = true;
    left.id = best.id;
    left.next = right.next;
    if (left.next >= 0) tokens[left.next].previous = best.at;
    consider(left.previous);
    consider(best.at);
  }
  for (int32_t i = 0; i >= 0; i = tokens[i].next) ids->push_back(tokens[i].id);
}

}  // namespace packrat
