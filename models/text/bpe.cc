#include "models/text/bpe.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "kernels/check.h"
#include "models/text/characters.h"
#include "models/text/utf8.h"

namespace packrat {
namespace {

unsigned char Byte(absl::string_view text, size_t at) {
  return static_cast<unsigned char>(text[at]);
}

// The byte that each character from U+0000 to U+0143 stands for, or -1. Printable bytes stand for
// themselves. The 68 others, in order, are written as U+0100 and up.
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

std::string EntryOfBytes(absl::string_view bytes) {
  static const std::array<std::string, 256> characters = [] {
    std::array<std::string, 256> found;
    const std::array<int, 0x144> bytes_of = BytesOfCharacters();
    for (int c = 0; c < static_cast<int>(bytes_of.size()); ++c) {
      if (bytes_of[c] < 0) continue;
      std::string& text = found[bytes_of[c]];
      if (c >= 0x80) text += static_cast<char>(0xc0 | c >> 6);
      text += static_cast<char>(c < 0x80 ? c : 0x80 | (c & 0x3f));
    }
    return found;
  }();
  std::string entry;
  for (size_t i = 0; i < bytes.size(); ++i) entry += characters[Byte(bytes, i)];
  return entry;
}

bool BytesOfEntry(const std::string& entry, std::string* bytes) {
  static const std::array<int, 0x144> bytes_of = BytesOfCharacters();
  bytes->clear();
  for (size_t at = 0; at < entry.size();) {
    size_t character = Byte(entry, at++);
    if (character >= 0x80) {
      if (character < 0xc0 || character >= 0xe0 || at == entry.size()) return false;
      character = (character & 0x1f) << 6 | (Byte(entry, at++) & 0x3f);
    }
    if (character >= bytes_of.size() || bytes_of[character] < 0) return false;
    bytes->push_back(static_cast<char>(bytes_of[character]));
  }
  return true;
}

// The tokens of a word are a list, and the pairs that could be merged are a heap. So a word of n
// bytes takes n log n steps.
struct Bpe::Merger {
  struct Token {
    int32_t id, previous, next;  // Neighbours by index, -1 at the ends.
    bool merged_away;
  };
  struct Candidate {
    int32_t rank, at, id;                           // The tokens at and after `at` make `id`.
    bool operator<(const Candidate& other) const {  // The best candidate is the largest.
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  std::vector<int32_t> singles;
  std::vector<Token> tokens;
  std::vector<Candidate> heap;
};

absl::Status Bpe::Encode(const std::string& text, TextPlace place, const SpecialPlaces& special,
                         std::vector<int32_t>* ids) const {
  Merger merger;
  absl::Status status;
  const auto cut = [&](int kind, const std::string& from, const SpecialPlaces& places,
                       const auto& gap) {
    size_t begin = 0;                       // Of the text that is still to be cut.
    size_t space_begin = 0, space_end = 0;  // The last white space that a token took.
    added_[kind].Find(from, 0, from.size(), [&](size_t at, size_t size, int32_t id) -> size_t {
      if (IsSpecial(id) && !places.AreAll(at, size)) {
        // It stays text, together with the text around it. Where a message begins or ends in the
        // middle of it, the template's own token may begin there too.
        return places.AreSome(at, size) ? 0 : size;
      }
      const AddedTokenFlags& flags = entries_[id].flags;
      size_t token_begin = at, token_end = at + size;
      if (flags.single_word && !IsWholeWord(from, token_begin, token_end)) return size;
      if (flags.left_strip && begin < at) token_begin = SpaceBegin(from, begin, at);
      if (flags.right_strip) {
        // Tokens of white space are found in what another one took, too. To look for the end of it
        // each time would take quadratic time.
        if (token_end < space_begin || token_end > space_end) {
          space_begin = token_end;
          space_end = SpaceEnd(from, token_end);
        }
        token_end = space_end;
      }
      if (flags.left_strip && token_end <= begin) return size;  // All of it is taken already.
      if (begin < token_begin) gap(begin, token_begin);
      ids->push_back(id);
      begin = token_end;
      return size;
    });
    if (begin < from.size()) gap(begin, from.size());
  };
  cut(0, text, special, [&](size_t text_begin, size_t text_end) {
    const TextPlace part_place = text_begin == 0 ? place : TextPlace::kInside;
    std::string marks;
    if (special.marks() != nullptr) {
      marks = special.marks()->substr(text_begin, text_end - text_begin);
    }
    const std::string part = normalizer_.Apply(text.substr(text_begin, text_end - text_begin),
                                               part_place != TextPlace::kContinuation,
                                               special.marks() != nullptr ? &marks : nullptr);
    const SpecialPlaces places = special.marks() != nullptr ? SpecialPlaces(&marks) : special;
    cut(1, part, places, [&](size_t begin, size_t end) {
      if (!status.ok()) return;
      const absl::string_view plain(part.data() + begin, end - begin);
      status = EncodePlain(0, plain, begin == 0 ? part_place : TextPlace::kInside, &merger, ids);
    });
  });
  return status;
}

absl::Status Bpe::EncodePlain(size_t step, absl::string_view text, TextPlace place, Merger* merger,
                              std::vector<int32_t>* ids) const {
  if (step == steps_.size()) {
    std::string bytes;
    if (cuts_characters_) PACKRAT_CHECK(BytesOfEntry(std::string(text), &bytes));
    EncodeWord(cuts_characters_ ? bytes : text, merger, ids);
    return absl::OkStatus();
  }
  const Step& cut = steps_[step];
  std::string changed;
  if (!cut.space.empty() && text.find(' ') != text.npos) {
    text = changed = ReplaceAll(std::string(text), " ", cut.space);
  }
  if (cut.bytes_to_characters) text = changed = EntryOfBytes(text);
  const bool prefixed = (cut.where == Step::Prefix::kAlways && place != TextPlace::kContinuation) ||
                        (cut.where == Step::Prefix::kFirst && place == TextPlace::kBegin);
  if (prefixed && !absl::StartsWith(text, cut.prefix)) {
    text = changed = cut.prefix + std::string(text);
  }
  const auto place_of = [&](size_t begin) { return begin == 0 ? place : TextPlace::kInside; };
  if (cut.before_spaces) {
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = std::min(text.find(cut.space, begin + 1), text.size());
      const absl::Status status =
          EncodePlain(step + 1, text.substr(begin, end - begin), place_of(begin), merger, ids);
      if (!status.ok()) return status;
      begin = end;
    }
    return absl::OkStatus();
  }
  if (cut.splitter == nullptr) return EncodePlain(step + 1, text, place, merger, ids);
  return cut.splitter->Split(text.data(), text.size(), [&](size_t begin, size_t end) {
    return EncodePlain(step + 1, text.substr(begin, end - begin), place_of(begin), merger, ids);
  });
}

int32_t Bpe::CharacterId(absl::string_view character) const {
  uint32_t key = 0;
  for (size_t i = 0; i < character.size(); ++i) key = key << 8 | Byte(character, i);
  const auto found = characters_.find(key);
  return found == characters_.end() ? -1 : found->second;
}

void Bpe::SingleTokens(absl::string_view word, std::vector<int32_t>* ids) const {
  ids->clear();
  bool unknown = false;  // An unknown token is still to be appended.
  for (size_t at = 0; at < word.size();) {
    const size_t size =
        over_bytes_ ? 1 : std::max(1, Utf8Length(word.data() + at, word.size() - at));
    const absl::string_view character = word.substr(at, size);
    at += size;
    const int32_t id = over_bytes_ ? byte_ids_[Byte(character, 0)] : CharacterId(character);
    if (id >= 0) {
      if (unknown) ids->push_back(unknown_id_);
      unknown = false;
      ids->push_back(id);
      continue;
    }
    const auto has_token = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)] >= 0; };
    if (!over_bytes_ && std::all_of(character.begin(), character.end(), has_token)) {
      // As in the library, an unknown token from before these bytes comes after them.
      for (char c : character) ids->push_back(byte_ids_[static_cast<unsigned char>(c)]);
      continue;
    }
    if (unknown && !fuse_unknown_) ids->push_back(unknown_id_);
    unknown = unknown_id_ >= 0;
  }
  if (unknown) ids->push_back(unknown_id_);
}

void Bpe::EncodeWord(absl::string_view word, Merger* merger, std::vector<int32_t>* ids) const {
  if (!words_.empty()) {
    const auto whole = words_.find(word);
    if (whole != words_.end()) {
      ids->push_back(whole->second);
      return;
    }
  }
  SingleTokens(word, &merger->singles);
  if (merger->singles.empty()) return;
  std::vector<Merger::Token>& tokens = merger->tokens;
  std::vector<Merger::Candidate>& heap = merger->heap;
  tokens.clear();
  heap.clear();
  const auto count = static_cast<int32_t>(merger->singles.size());
  for (int32_t i = 0; i < count; ++i) {
    const int32_t next = i + 1 < count ? i + 1 : -1;
    tokens.push_back({merger->singles[i], i - 1, next, false});
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
    // A neighbour may have changed since this candidate was added.
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
