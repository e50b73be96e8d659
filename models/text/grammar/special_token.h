// A special token in a grammar, whose texts are bytes: some that no text has.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_SPECIAL_TOKEN_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_SPECIAL_TOKEN_H_

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"

namespace packrat {

// In no text of UTF-8.
inline constexpr char kSpecialTokenMark[] = "\xff";

// None is the beginning of another.
inline std::string SpecialTokenBytes(int32_t id) {
  return absl::StrCat(kSpecialTokenMark, id, kSpecialTokenMark);
}

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_SPECIAL_TOKEN_H_
