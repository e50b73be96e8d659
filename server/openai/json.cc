#include "server/openai/json.h"

#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/check.h"
#include "models/files/json.h"
#include "models/text/utf8.h"

namespace packrat::openai {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr char kParamPayload[] = "packrat/openai-param";

// False if `value` is no whole number from `low` to `high`. 2.0 is one.
bool ToInteger(const OrderedJson& value, double low, double high, int64_t* out) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    if (static_cast<double>(number) > high) return false;
    *out = static_cast<int64_t>(number);
    return true;
  }
  if (value.is_number_integer()) {
    *out = value.get<int64_t>();
    return static_cast<double>(*out) >= low;
  }
  if (!value.is_number()) return false;
  const auto number = value.get<double>();
  // Beyond 2^53 a double no longer says which integer was meant.
  if (number != std::floor(number) || std::abs(number) > 9007199254740992.0) return false;
  if (!(number >= low && number <= high)) return false;
  *out = static_cast<int64_t>(number);
  return true;
}

absl::Status SetMessage(absl::string_view field, const OrderedJson& value, Message* message);

// Sets or, in a list, adds.
absl::Status SetOne(absl::string_view name, const OrderedJson& value, const FieldDescriptor& field,
                    Message* message) {
  const Reflection& set = *message->GetReflection();
  const bool add = field.is_repeated();
  int64_t integer = 0;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_FLOAT: {
      constexpr double kMost = std::numeric_limits<float>::max();
      if (!value.is_number() || std::abs(value.get<double>()) > kMost) {
        return MustBe(name, value, "a number that a float can hold");
      }
      PACKRAT_CHECK(!add) << field.full_name();
      set.SetFloat(message, &field, static_cast<float>(value.get<double>()));
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_INT32: {
      using Limits = std::numeric_limits<int32_t>;
      if (!ToInteger(value, Limits::min(), Limits::max(), &integer)) {
        return MustBe(name, value, "an integer of 32 bits");
      }
      const auto number = static_cast<int32_t>(integer);
      add ? set.AddInt32(message, &field, number) : set.SetInt32(message, &field, number);
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_UINT64:
      if (!ToInteger(value, -0x1p63, 0x1p64, &integer)) {
        return MustBe(name, value, "an integer of 64 bits");
      }
      PACKRAT_CHECK(!add) << field.full_name();
      set.SetUInt64(message, &field, static_cast<uint64_t>(integer));
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_BOOL:
      if (!value.is_boolean()) return MustBe(name, value, "true or false");
      PACKRAT_CHECK(!add) << field.full_name();
      set.SetBool(message, &field, value.get<bool>());
      return absl::OkStatus();
    case FieldDescriptor::CPPTYPE_STRING: {
      if (!value.is_string()) return MustBe(name, value, "a string");
      auto text = value.get<std::string>();
      add ? set.AddString(message, &field, std::move(text))
          : set.SetString(message, &field, std::move(text));
      return absl::OkStatus();
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      PACKRAT_CHECK(!add) << field.full_name();
      return SetMessage(name, value, set.MutableMessage(message, &field));
    default:
      break;
  }
  PACKRAT_CHECK(false) << "no JSON for " << field.full_name();
  return absl::OkStatus();
}

absl::Status SetField(absl::string_view name, const OrderedJson& value,
                      const FieldDescriptor& field, Message* message) {
  if (!field.is_repeated()) return SetOne(name, value, field, message);
  if (!value.is_array()) return MustBe(name, value, "a list");
  for (size_t i = 0; i < value.size(); ++i) {
    // The name of one among millions is made only where it is needed.
    if (SetOne(name, value[i], field, message).ok()) continue;
    return SetOne(absl::StrCat(name, "[", i, "]"), value[i], field, message);
  }
  return absl::OkStatus();
}

absl::Status SetMessage(absl::string_view name, const OrderedJson& value, Message* message) {
  if (!value.is_object()) return MustBe(name, value, "an object");
  for (const auto& [key, member] : value.items()) {
    if (member.is_null()) continue;
    const std::string member_name = absl::StrCat(name, ".", ShownName(key));
    const FieldDescriptor* field = message->GetDescriptor()->FindFieldByName(key);
    if (field == nullptr) return Refuse(member_name, "is not known here");
    const absl::Status status = SetField(member_name, member, *field, message);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status WithParam(absl::Status status, absl::string_view field) {
  status.SetPayload(kParamPayload, absl::Cord(field));
  return status;
}

absl::Status Refuse(absl::string_view field, absl::string_view why) {
  return WithParam(absl::InvalidArgumentError(absl::StrCat(field, " ", why)), field);
}

std::optional<std::string> ParamOf(const absl::Status& status) {
  const auto param = status.GetPayload(kParamPayload);
  if (!param.has_value()) return std::nullopt;
  return std::string(*param);
}

absl::Status ScanBody(absl::string_view text, StrictJsonSax* sax) {
  const absl::Status no_nul = CheckNoNul(text.data(), text.size(), "the body");
  if (!no_nul.ok() || Json::sax_parse(text.begin(), text.end(), sax)) return no_nul;
  if (sax->field().empty()) {
    return absl::InvalidArgumentError(absl::StrCat("the body: ", sax->error()));
  }
  const std::string field = ShownName(sax->field());
  return WithParam(absl::InvalidArgumentError(absl::StrCat(field, ": ", sax->error())), field);
}

absl::StatusOr<OrderedJson> ParseBody(absl::string_view text) {
  OrderedJsonBuilder builder(kMaxRequestJsonDepth);
  const absl::Status status = ScanBody(text, &builder);
  if (!status.ok()) return status;
  if (!builder.value().is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the body is ", Shown(builder.value()), "; must be an object"));
  }
  return std::move(builder.value());
}

std::string ShownName(absl::string_view name) {
  const std::string quoted = Quoted(std::string(name));
  const bool plain = quoted.size() == name.size() + 2;
  return plain ? std::string(name) : quoted;
}

const OrderedJson* Find(const OrderedJson& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

absl::Status OnlyMembers(absl::string_view field, const OrderedJson& object,
                         std::initializer_list<const char*> names) {
  for (const auto& [key, value] : object.items()) {
    if (value.is_null()) continue;
    const auto known = std::find_if(names.begin(), names.end(),
                                    [&key = key](const char* name) { return key == name; });
    if (known == names.end()) {
      return Refuse(absl::StrCat(field, field.empty() ? "" : ".", ShownName(key)),
                    "is not known here");
    }
  }
  return absl::OkStatus();
}

absl::Status MustBe(absl::string_view field, const OrderedJson& value, absl::string_view what) {
  return Refuse(field, absl::StrCat("is ", Shown(value), "; must be ", what));
}

absl::StatusOr<std::string> ReadString(absl::string_view field, const OrderedJson& value) {
  if (!value.is_string()) return MustBe(field, value, "a string");
  return value.get<std::string>();
}

absl::StatusOr<bool> ReadBool(absl::string_view field, const OrderedJson& value) {
  if (!value.is_boolean()) return MustBe(field, value, "true or false");
  return value.get<bool>();
}

absl::StatusOr<int> ReadInt(absl::string_view field, const OrderedJson& value) {
  using Limits = std::numeric_limits<int32_t>;
  int64_t integer = 0;
  if (!ToInteger(value, Limits::min(), Limits::max(), &integer)) {
    return MustBe(field, value, "an integer of 32 bits");
  }
  return static_cast<int>(integer);
}

absl::Status SetPath(absl::string_view field, const OrderedJson& value, absl::string_view path,
                     Message* message) {
  const std::vector<std::string> names = absl::StrSplit(path, '.');
  for (size_t i = 0; i < names.size(); ++i) {
    const FieldDescriptor* at = message->GetDescriptor()->FindFieldByName(names[i]);
    PACKRAT_CHECK(at != nullptr) << path;
    if (i + 1 == names.size()) return SetField(field, value, *at, message);
    message = message->GetReflection()->MutableMessage(message, at);
  }
  return absl::OkStatus();
}

std::string Dump(const OrderedJson& value) {
  return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

std::string JsonText(const std::string& text) {
  const auto plain = [](char c) {
    return static_cast<unsigned char>(c) >= 0x20 && c != '"' && c != '\\';
  };
  // Few texts of tokens have more than a line break that is not plain.
  if (FirstInvalidUtf8(text) != text.size()) return Dump(text);
  std::string quoted;
  quoted.reserve(text.size() + 4);
  quoted += '"';
  for (const char c : text) {
    if (plain(c)) {
      quoted += c;
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else {
      return Dump(text);
    }
  }
  quoted += '"';
  return quoted;
}

}  // namespace packrat::openai
