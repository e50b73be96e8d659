// Any bytes as the JSON of a message of packrat.v1, which the first byte picks: refused with a
// message of bounded length, or what is written of it reads as the same.
#include <google/protobuf/message.h>
#include <google/protobuf/util/field_comparator.h>
#include <google/protobuf/util/message_differencer.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "kernels/check.h"
#include "proto/packrat/v1/inference.pb.h"
#include "server/http/proto_json.h"

namespace packrat {
namespace {

std::unique_ptr<google::protobuf::Message> Pick(uint8_t byte) {
  const auto* file = v1::GenerateRequest::descriptor()->file();
  const auto* type = file->message_type(byte % file->message_type_count());
  return std::unique_ptr<google::protobuf::Message>(
      google::protobuf::MessageFactory::generated_factory()->GetPrototype(type)->New());
}

bool Equal(const google::protobuf::Message& a, const google::protobuf::Message& b) {
  google::protobuf::util::DefaultFieldComparator values;
  values.set_treat_nan_as_equal(true);
  google::protobuf::util::MessageDifferencer differencer;
  differencer.set_field_comparator(&values);
  return differencer.Compare(a, b);
}

}  // namespace
}  // namespace packrat

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const absl::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto message = packrat::Pick(data[0]);
  const absl::Status status = packrat::FromJson(text, message.get());
  if (!status.ok()) {
    PACKRAT_CHECK(status.message().size() < 1024) << status.message().size();
    return 0;
  }
  const auto again = packrat::Pick(data[0]);
  const std::string json = packrat::ToJson(*message);
  PACKRAT_CHECK(packrat::FromJson(json, again.get()).ok()) << json;
  // Protobuf reads -0 as 0, which most fields are without.
  if (absl::StrContains(json, ":-0,") || absl::StrContains(json, ":-0}")) return 0;
  PACKRAT_CHECK(packrat::Equal(*message, *again)) << json;
  return 0;
}
