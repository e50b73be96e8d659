#include "tests/server/wire_contract.h"

#include <google/protobuf/descriptor.h>

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::EnumDescriptor;
using google::protobuf::FieldDescriptor;

std::string TypeOf(const FieldDescriptor& field) {
  if (field.message_type() != nullptr) return field.message_type()->full_name();
  if (field.enum_type() != nullptr) return field.enum_type()->full_name();
  return field.type_name();
}

// A repeated number is packed or not: the bytes differ, though readers take both.
std::string LabelOf(const FieldDescriptor& field) {
  if (field.is_repeated()) return field.is_packed() ? "repeated packed" : "repeated";
  if (field.real_containing_oneof() != nullptr) {
    return absl::StrCat("oneof ", field.real_containing_oneof()->name());
  }
  return field.has_presence() ? "optional" : "plain";
}

void AddMessage(const Descriptor& message, std::vector<std::string>* lines) {
  lines->push_back(absl::StrCat("message ", message.full_name()));
  for (int i = 0; i < message.field_count(); ++i) {
    const FieldDescriptor& field = *message.field(i);
    lines->push_back(absl::StrCat("field ", field.full_name(), " = ", field.number(), " ",
                                  LabelOf(field), " ", TypeOf(field)));
  }
  for (int i = 0; i < message.nested_type_count(); ++i) {
    AddMessage(*message.nested_type(i), lines);
  }
}

}  // namespace

std::vector<std::string> WireLines(const google::protobuf::FileDescriptor& file) {
  std::vector<std::string> lines;
  for (int i = 0; i < file.service_count(); ++i) {
    for (int j = 0; j < file.service(i)->method_count(); ++j) {
      const auto& method = *file.service(i)->method(j);
      lines.push_back(absl::StrCat(
          "method ", method.full_name(), method.client_streaming() ? " stream " : " ",
          method.input_type()->full_name(), " ->", method.server_streaming() ? " stream " : " ",
          method.output_type()->full_name()));
    }
  }
  for (int i = 0; i < file.message_type_count(); ++i) AddMessage(*file.message_type(i), &lines);
  for (int i = 0; i < file.enum_type_count(); ++i) {
    const EnumDescriptor& type = *file.enum_type(i);
    for (int j = 0; j < type.value_count(); ++j) {
      lines.push_back(absl::StrCat("value ", type.full_name(), ".", type.value(j)->name(), " = ",
                                   type.value(j)->number()));
    }
  }
  std::sort(lines.begin(), lines.end());
  return lines;
}

ContractChange CompareContracts(const std::vector<std::string>& baseline,
                                const std::vector<std::string>& current) {
  ContractChange change;
  std::set_difference(baseline.begin(), baseline.end(), current.begin(), current.end(),
                      std::back_inserter(change.gone));
  std::set_difference(current.begin(), current.end(), baseline.begin(), baseline.end(),
                      std::back_inserter(change.added));
  return change;
}

}  // namespace packrat
