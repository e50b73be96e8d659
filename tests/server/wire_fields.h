// The fields of a GenerateRequest by their paths, such as "sampling.top_k".
#ifndef PACKRAT_TESTS_SERVER_WIRE_FIELDS_H_
#define PACKRAT_TESTS_SERVER_WIRE_FIELDS_H_

#include <google/protobuf/text_format.h>
#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "proto/packrat/v1/inference.pb.h"

namespace packrat {

inline v1::GenerateRequest RequestFromText(const std::string& text) {
  v1::GenerateRequest request;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &request)) << text;
  return request;
}

// Those of `type` that hold values, those of messages in it included.
inline void AddFieldsOf(const google::protobuf::Descriptor& type, const std::string& prefix,
                        std::set<std::string>* paths) {
  for (int i = 0; i < type.field_count(); ++i) {
    const google::protobuf::FieldDescriptor& field = *type.field(i);
    const std::string path = prefix + field.name();
    if (field.message_type() == nullptr) {
      paths->insert(path);
    } else {
      AddFieldsOf(*field.message_type(), path + ".", paths);
    }
  }
}

inline std::set<std::string> FieldsOfARequest() {
  std::set<std::string> paths;
  AddFieldsOf(*v1::GenerateRequest::descriptor(), "", &paths);
  return paths;
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_SERVER_WIRE_FIELDS_H_
