#include "models/text/grammar/character_set.h"

#include <algorithm>

namespace packrat {
namespace {

constexpr CharacterRange kSurrogates = {0xd800, 0xdfff};

}  // namespace

bool operator==(const CharacterRange& a, const CharacterRange& b) {
  return a.first == b.first && a.last == b.last;
}

CharacterSet MakeCharacterSet(std::vector<CharacterRange> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const CharacterRange& a, const CharacterRange& b) { return a.first < b.first; });
  CharacterSet merged;
  for (const CharacterRange& range : ranges) {
    if (range.first > range.last) continue;
    if (!merged.empty() && range.first <= merged.back().last + 1) {
      merged.back().last = std::max(merged.back().last, range.last);
    } else {
      merged.push_back(range);
    }
  }
  return Intersection(merged, AllCharacters());
}

CharacterSet AllCharacters() {
  return {{0, kSurrogates.first - 1}, {kSurrogates.last + 1, kLastCharacter}};
}

CharacterSet Complement(const CharacterSet& set) {
  CharacterSet rest;
  uint32_t next = 0;
  for (const CharacterRange& range : set) {
    if (range.first > next) rest.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kLastCharacter) rest.push_back({next, kLastCharacter});
  return Intersection(rest, AllCharacters());
}

CharacterSet Intersection(const CharacterSet& a, const CharacterSet& b) {
  CharacterSet common;
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    const uint32_t first = std::max(a[i].first, b[j].first);
    const uint32_t last = std::min(a[i].last, b[j].last);
    if (first <= last) common.push_back({first, last});
    if (a[i].last < b[j].last) {
      ++i;
    } else {
      ++j;
    }
  }
  return common;
}

bool Contains(const CharacterSet& set, uint32_t character) {
  return std::any_of(set.begin(), set.end(), [character](const CharacterRange& range) {
    return range.first <= character && character <= range.last;
  });
}

void AppendUtf8(uint32_t character, std::string* out) {
  const auto byte = [out](uint32_t value) { out->push_back(static_cast<char>(value)); };
  if (character < 0x80) {
    byte(character);
    return;
  }
  const int following = character < 0x800 ? 1 : character < 0x10000 ? 2 : 3;
  constexpr uint32_t kLeads[] = {0, 0xc0, 0xe0, 0xf0};
  byte(kLeads[following] | character >> (6 * following));
  for (int i = following - 1; i >= 0; --i) byte(0x80 | (character >> (6 * i) & 0x3f));
}

void AppendUtf8(CharacterRange range, std::vector<ByteRanges>* out) {
  // Of one length.
  for (const uint32_t last : {0x7fu, 0x7ffu, 0xffffu}) {
    if (range.first <= last && last < range.last) {
      AppendUtf8(CharacterRange{range.first, last}, out);
      AppendUtf8(CharacterRange{last + 1, range.last}, out);
      return;
    }
  }
  // Where two leading parts differ, what follows them must be all that can follow.
  for (const int bits : {6, 12, 18}) {
    const uint32_t mask = (1u << bits) - 1;
    if (range.last < 0x80 || range.first >> bits == range.last >> bits) continue;
    uint32_t split = 0;
    if ((range.first & mask) != 0) {
      split = range.first | mask;
    } else if ((range.last & mask) != mask) {
      split = (range.last & ~mask) - 1;
    } else {
      continue;
    }
    AppendUtf8(CharacterRange{range.first, split}, out);
    AppendUtf8(CharacterRange{split + 1, range.last}, out);
    return;
  }
  std::string first, last;
  AppendUtf8(range.first, &first);
  AppendUtf8(range.last, &last);
  ByteRanges bytes;
  for (size_t i = 0; i < first.size(); ++i) {
    bytes.push_back({static_cast<uint8_t>(first[i]), static_cast<uint8_t>(last[i])});
  }
  out->push_back(bytes);
}

}  // namespace packrat
