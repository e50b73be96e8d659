#include "server/byte_size.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace packrat {

bool AbslParseFlag(absl::string_view text, ByteSize* size, std::string* error) {
  const absl::string_view all = text;
  int shift = 0;
  for (const char* unit : {"Ki", "Mi", "Gi", "Ti"}) {
    shift += 10;
    if (absl::ConsumeSuffix(&text, absl::StrCat(unit, "B")) || absl::ConsumeSuffix(&text, unit)) {
      if (absl::SimpleAtoi(text, &size->bytes) &&
          !__builtin_mul_overflow(size->bytes, int64_t{1} << shift, &size->bytes)) {
        return true;
      }
      shift = 0;
      break;
    }
  }
  if (shift == 40 && absl::SimpleAtoi(text, &size->bytes)) return true;
  *error =
      absl::StrCat("\"", all, "\" is not a number of bytes; e.g. 536870912, 512MiB, 2GiB or 2Gi");
  return false;
}

std::string AbslUnparseFlag(ByteSize size) { return absl::StrCat(size.bytes); }

bool AbslParseFlag(absl::string_view text, AutoByteSize* size, std::string* error) {
  *size = AutoByteSize();
  if (text == "auto") return true;
  ByteSize given;
  if (!AbslParseFlag(text, &given, error)) return false;
  size->bytes = given.bytes;
  if (given.bytes >= 0) return true;
  *error = absl::StrCat("\"", text, "\" is below 0");
  return false;
}

std::string AbslUnparseFlag(AutoByteSize size) {
  return size.bytes < 0 ? "auto" : absl::StrCat(size.bytes);
}

bool AbslParseFlag(absl::string_view text, AutoCount* value, std::string* error) {
  *value = AutoCount();
  if (text == "auto") return true;
  if (absl::SimpleAtoi(text, &value->count) && value->count >= 0) return true;
  *error = absl::StrCat("\"", text, "\" is neither auto nor a whole number from 0 on");
  return false;
}

std::string AbslUnparseFlag(AutoCount value) {
  return value.count < 0 ? "auto" : absl::StrCat(value.count);
}

}  // namespace packrat
