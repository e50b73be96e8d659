// The wire contract only grows. proto/packrat/v1/baseline.txt is what has been promised.
#include "tests/server/wire_contract.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/packrat/v1/inference.pb.h"

namespace packrat {
namespace {

using google::protobuf::DescriptorProto;
using google::protobuf::FieldDescriptorProto;
using google::protobuf::FileDescriptorProto;

const google::protobuf::FileDescriptor& Current() {
  return *v1::GenerateRequest::descriptor()->file();
}

std::vector<std::string> Baseline() {
  std::ifstream file(absl::StrCat(std::getenv("TEST_SRCDIR"), "/", std::getenv("TEST_WORKSPACE"),
                                  "/proto/packrat/v1/baseline.txt"));
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line[0] != '#') lines.push_back(line);
  }
  std::sort(lines.begin(), lines.end());
  return lines;
}

TEST(WireContract, NothingPromisedIsGone) {
  const ContractChange change = CompareContracts(Baseline(), WireLines(Current()));
  EXPECT_TRUE(change.gone.empty())
      << "Removed, renumbered or retyped; clients in use would break:\n"
      << absl::StrJoin(change.gone, "\n");
  EXPECT_TRUE(change.added.empty()) << "New; add these lines to proto/packrat/v1/baseline.txt:\n"
                                    << absl::StrJoin(change.added, "\n");
}

// The contract after a change to the file's description.
ContractChange After(const std::function<void(FileDescriptorProto*)>& change) {
  FileDescriptorProto file;
  Current().CopyTo(&file);
  change(&file);
  google::protobuf::DescriptorPool pool;
  const google::protobuf::FileDescriptor* changed = pool.BuildFile(file);
  EXPECT_NE(changed, nullptr);
  return CompareContracts(Baseline(), WireLines(*changed));
}

FieldDescriptorProto* Field(FileDescriptorProto* file, const std::string& message,
                            const std::string& name) {
  for (DescriptorProto& m : *file->mutable_message_type()) {
    if (m.name() != message) continue;
    for (FieldDescriptorProto& f : *m.mutable_field()) {
      if (f.name() == name) return &f;
    }
  }
  ADD_FAILURE() << "no " << message << "." << name;
  return nullptr;
}

const char kMaxTokens[] = "field packrat.v1.StopParams.max_tokens = 4 optional int32";

TEST(WireContract, SeesARemovedField) {
  const ContractChange change = After([](FileDescriptorProto* file) {
    for (DescriptorProto& m : *file->mutable_message_type()) {
      if (m.name() != "StopParams") continue;
      for (int i = 0; i < m.field_size(); ++i) {
        if (m.field(i).name() != "max_tokens") continue;
        // The oneof that proto3 makes for `optional` goes with it.
        const int oneof = m.field(i).oneof_index();
        m.mutable_field()->DeleteSubrange(i, 1);
        m.mutable_oneof_decl()->DeleteSubrange(oneof, 1);
        for (FieldDescriptorProto& f : *m.mutable_field()) {
          if (f.has_oneof_index() && f.oneof_index() > oneof) {
            f.set_oneof_index(f.oneof_index() - 1);
          }
        }
        return;
      }
    }
  });
  EXPECT_EQ(change.gone, std::vector<std::string>{kMaxTokens});
}

TEST(WireContract, SeesARenumberedField) {
  const ContractChange change = After(
      [](FileDescriptorProto* file) { Field(file, "StopParams", "max_tokens")->set_number(44); });
  EXPECT_EQ(change.gone, std::vector<std::string>{kMaxTokens});
}

TEST(WireContract, SeesARetypedField) {
  const ContractChange change = After([](FileDescriptorProto* file) {
    Field(file, "StopParams", "max_tokens")->set_type(FieldDescriptorProto::TYPE_SINT32);
  });
  EXPECT_EQ(change.gone, std::vector<std::string>{kMaxTokens});
}

TEST(WireContract, SeesAFieldThatBecomesRepeated) {
  const ContractChange change = After([](FileDescriptorProto* file) {
    Field(file, "TokenizeRequest", "text")->set_label(FieldDescriptorProto::LABEL_REPEATED);
  });
  EXPECT_EQ(change.gone,
            std::vector<std::string>{"field packrat.v1.TokenizeRequest.text = 1 plain string"});
}

TEST(WireContract, SeesARenumberedEnumValueAndAMethodThatStreamsNoMore) {
  const ContractChange change = After([](FileDescriptorProto* file) {
    file->mutable_enum_type(0)->mutable_value(2)->set_number(22);
    file->mutable_service(0)->mutable_method(0)->set_server_streaming(false);
  });
  EXPECT_EQ(change.gone,
            (std::vector<std::string>{
                "method packrat.v1.Inference.Generate packrat.v1.GenerateRequest -> stream "
                "packrat.v1.GenerateResponse",
                "value packrat.v1.FinishReason.FINISH_REASON_EOS = 2"}));
}

}  // namespace
}  // namespace packrat
