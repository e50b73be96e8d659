#include "models/tools/gguf_fields.h"

#include <algorithm>
#include <charconv>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace packrat {
namespace {

using Kind = GgufValue::Kind;

const char* NameOf(Kind kind) {
  switch (kind) {
    case Kind::kInteger:
      return "an integer";
    case Kind::kFloat:
      return "a float";
    case Kind::kBool:
      return "a boolean";
    case Kind::kString:
      return "a string";
    case Kind::kNumbers:
      return "a list of numbers";
    case Kind::kStrings:
      return "a list of strings";
  }
  return "";
}

// Files have float32 of what a config.json says in decimals: the shortest that gives the same
// float32, so that 1e11 is not read as 99999997952.
double Decimal(double value) {
  const auto stored = static_cast<float>(value);
  if (static_cast<double>(stored) != value) return value;
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), stored).ptr;
  double decimal = 0;
  const bool read =
      absl::SimpleAtod(absl::string_view(text, static_cast<size_t>(end - text)), &decimal);
  return read ? decimal : value;
}

}  // namespace

GgufFields::GgufFields(const GgufHeader& header, const std::string& file)
    : header_(header), file_(file) {
  architecture_ = Text("general.architecture", "");
}

std::string GgufFields::Whole(const std::string& key) const {
  return key[0] == '.' ? architecture_ + key : key;
}

void GgufFields::Fail(const std::string& key, const std::string& why) {
  status_.Update(absl::InvalidArgumentError(absl::StrCat(file_, ": ", Whole(key), " ", why)));
}

const GgufValue* GgufFields::Find(const std::string& key, Kind kind) {
  asked_.insert(Whole(key));
  const auto found = header_.metadata.find(Whole(key));
  if (found == header_.metadata.end()) return nullptr;
  const GgufValue& value = found->second;
  // A whole number is a number too.
  if (value.kind == kind || (kind == Kind::kFloat && value.kind == Kind::kInteger)) return &value;
  Fail(key, absl::StrCat("is ", NameOf(value.kind), "; must be ",
                         kind == Kind::kFloat ? "a number" : NameOf(kind)));
  return nullptr;
}

int64_t GgufFields::Integer(const std::string& key, int64_t missing) {
  const GgufValue* value = Find(key, Kind::kInteger);
  return value == nullptr ? missing : value->integer;
}

double GgufFields::Number(const std::string& key, double missing) {
  const GgufValue* value = Find(key, Kind::kFloat);
  if (value == nullptr) return missing;
  return value->kind == Kind::kFloat ? Decimal(value->number) : value->number;
}

bool GgufFields::Bool(const std::string& key, bool missing) {
  const GgufValue* value = Find(key, Kind::kBool);
  return value == nullptr ? missing : value->integer != 0;
}

std::string GgufFields::Text(const std::string& key, const std::string& missing) {
  const GgufValue* value = Find(key, Kind::kString);
  return value == nullptr ? missing : value->text;
}

int64_t GgufFields::Count(const std::string& key) {
  const GgufValue* value = Find(key, Kind::kInteger);
  if (value != nullptr && value->integer >= 1 && value->integer <= INT32_MAX) return value->integer;
  Fail(key, absl::StrCat("is ", value == nullptr ? "missing" : absl::StrCat(value->integer),
                         "; must be 1 to ", INT32_MAX));
  return 1;
}

std::vector<int64_t> GgufFields::Each(const std::string& key, int64_t count) {
  asked_.insert(Whole(key));
  const auto found = header_.metadata.find(Whole(key));
  if (found == header_.metadata.end() || found->second.kind != Kind::kNumbers) {
    return std::vector<int64_t>(static_cast<size_t>(count), Count(key));
  }
  const std::vector<double>& list = found->second.numbers;
  if (static_cast<int64_t>(list.size()) != count) {
    Fail(key, absl::StrCat("has ", list.size(), " entries for ", count, " layers"));
    return {};
  }
  std::vector<int64_t> each;
  for (const double value : list) {
    if (!(value >= 0 && value <= INT32_MAX) || value != static_cast<double>(int64_t(value))) {
      Fail(key, absl::StrCat("holds ", value, ", which is no count"));
      return {};
    }
    each.push_back(static_cast<int64_t>(value));
  }
  return each;
}

void GgufFields::RefuseOthers(const std::vector<std::string>& ignored) {
  const std::string begin = architecture_ + ".";
  for (const auto& [key, value] : header_.metadata) {
    if (!absl::StartsWith(key, begin) || asked_.count(key) > 0) continue;
    const std::string rest = key.substr(architecture_.size());
    const bool known = std::any_of(ignored.begin(), ignored.end(), [&](const std::string& one) {
      return absl::EndsWith(one, ".") ? absl::StartsWith(rest, one) : rest == one;
    });
    if (!known) Fail(rest, "is not supported");
  }
}

}  // namespace packrat
