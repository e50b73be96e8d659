#include "models/text/grammar/schema_parts.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "models/text/grammar/grammar_rules.h"
#include "models/text/grammar/json_merge.h"

namespace packrat {
namespace {

// In units of JsonWeight(): some sixty times the largest text of a grammar.
constexpr size_t kMaxWork = 1 << 19;

// Of the fragment of a URI. A % that begins no byte stays.
std::string PercentDecoded(absl::string_view text) {
  const auto is_hex = [&](size_t at) { return at < text.size() && absl::ascii_isxdigit(text[at]); };
  const auto digit = [&](size_t at) {
    const char c = absl::ascii_tolower(text[at]);
    return c <= '9' ? c - '0' : c - 'a' + 10;
  };
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && is_hex(i + 1) && is_hex(i + 2)) {
      decoded += static_cast<char>(digit(i + 1) * 16 + digit(i + 2));
      i += 2;
    } else {
      decoded += text[i];
    }
  }
  return decoded;
}

// The value at a JSON pointer behind "#"; null if there is none.
const OrderedJson* Find(const OrderedJson& document, absl::string_view fragment) {
  const OrderedJson* at = &document;
  const std::string pointer = PercentDecoded(fragment);
  if (pointer.empty()) return at;
  if (pointer[0] != '/') return nullptr;
  for (const absl::string_view part : absl::StrSplit(absl::string_view(pointer).substr(1), '/')) {
    const std::string name = absl::StrReplaceAll(part, {{"~1", "/"}, {"~0", "~"}});
    size_t index = 0;
    if (at->is_object() && at->contains(name)) {
      at = &at->find(name).value();
    } else if (at->is_array() && absl::SimpleAtoi(name, &index) && index < at->size()) {
      at = &(*at)[index];
    } else {
      return nullptr;
    }
  }
  return at;
}

}  // namespace

absl::Status SchemaParts::CheckWork() const {
  if (work_ <= kMaxWork) return absl::OkStatus();
  return absl::InvalidArgumentError("the schema is too large with what its $refs repeat");
}

absl::Status SchemaParts::Spend(const OrderedJson& value) {
  work_ += JsonWeight(value);
  return CheckWork();
}

absl::StatusOr<const OrderedJson*> SchemaParts::Target(const OrderedJson& ref) {
  const OrderedJson* found = nullptr;
  if (ref.is_string()) {
    const auto& text = ref.get_ref<const std::string&>();
    const auto [known, first] = targets_.try_emplace(text, nullptr);
    if (first && !text.empty() && text[0] == '#') known->second = Find(document_, text.substr(1));
    found = known->second;
  }
  if (found != nullptr) return found;
  return absl::InvalidArgumentError(
      absl::StrCat("$ref ", Shown(ref), " is not a place in this schema"));
}

absl::Status SchemaParts::Merge(const OrderedJson& part, bool branches, OrderedJson* base) {
  if (!part.is_object()) return absl::InvalidArgumentError("what is combined must be objects");
  if (open_.size() > kMaxGrammarNesting) {
    return absl::InvalidArgumentError(
        absl::StrCat("schemas nest deeper than ", kMaxGrammarNesting));
  }
  if (std::find(open_.begin(), open_.end(), &part) != open_.end()) {
    return absl::InvalidArgumentError("a $ref leads back to where it stands");
  }
  open_.push_back(&part);
  ++work_;
  absl::Status status = CheckWork();
  if (const auto ref = part.find("$ref"); ref != part.end() && status.ok()) {
    status = Spend(*ref);
    const absl::StatusOr<const OrderedJson*> target = Target(*ref);
    if (status.ok()) status = target.status();
    if (status.ok()) status = Merge(**target, /*branches=*/true, base);
  }
  if (const auto all = part.find("allOf"); all != part.end() && status.ok()) {
    if (!all->is_array() || all->empty()) {
      status = absl::InvalidArgumentError("allOf is a list of schemas");
    }
    for (size_t i = 0; i < all->size() && status.ok(); ++i) {
      status = Merge((*all)[i], /*branches=*/true, base);
    }
  }
  // Behind what it is based on, so that its own properties come last.
  if (status.ok()) status = MergeSchema(part, branches, base, &work_);
  if (status.ok()) status = CheckWork();
  open_.pop_back();
  return status;
}

}  // namespace packrat
