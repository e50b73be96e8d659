#include "server/grpc/reflection_service.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include <chrono>
#include <set>

#include "server/grpc/message_first.h"

namespace packrat {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using grpc::reflection::v1::ServerReflectionRequest;
using grpc::reflection::v1::ServerReflectionResponse;

void AddWithImports(const FileDescriptor* file, std::set<const FileDescriptor*>* seen,
                    grpc::reflection::v1::FileDescriptorResponse* response) {
  if (!seen->insert(file).second) return;
  google::protobuf::FileDescriptorProto proto;
  file->CopyTo(&proto);
  proto.SerializeToString(response->add_file_descriptor_proto());
  for (int i = 0; i < file->dependency_count(); ++i) {
    AddWithImports(file->dependency(i), seen, response);
  }
}

void NotFound(const std::string& what, ServerReflectionResponse* response) {
  response->mutable_error_response()->set_error_code(grpc::StatusCode::NOT_FOUND);
  response->mutable_error_response()->set_error_message("there is no " + what);
}

void FillFile(const FileDescriptor* file, const std::string& what,
              ServerReflectionResponse* response) {
  if (file == nullptr) return NotFound(what, response);
  std::set<const FileDescriptor*> seen;
  AddWithImports(file, &seen, response->mutable_file_descriptor_response());
}

void FillExtensions(const std::string& type, ServerReflectionResponse* response) {
  const DescriptorPool* pool = DescriptorPool::generated_pool();
  const Descriptor* message = pool->FindMessageTypeByName(type);
  if (message == nullptr) return NotFound("message " + type, response);
  auto* numbers = response->mutable_all_extension_numbers_response();
  numbers->set_base_type_name(type);
  std::vector<const FieldDescriptor*> extensions;
  pool->FindAllExtensions(message, &extensions);
  for (const FieldDescriptor* extension : extensions) {
    numbers->add_extension_number(extension->number());
  }
}

void Answer(const std::vector<std::string>& services, const ServerReflectionRequest& request,
            ServerReflectionResponse* response) {
  const DescriptorPool* pool = DescriptorPool::generated_pool();
  response->Clear();
  response->set_valid_host(request.host());
  *response->mutable_original_request() = request;
  switch (request.message_request_case()) {
    case ServerReflectionRequest::kFileByFilename:
      return FillFile(pool->FindFileByName(request.file_by_filename()),
                      "file " + request.file_by_filename(), response);
    case ServerReflectionRequest::kFileContainingSymbol:
      return FillFile(pool->FindFileContainingSymbol(request.file_containing_symbol()),
                      "symbol " + request.file_containing_symbol(), response);
    case ServerReflectionRequest::kFileContainingExtension: {
      const auto& wanted = request.file_containing_extension();
      const Descriptor* message = pool->FindMessageTypeByName(wanted.containing_type());
      const FieldDescriptor* extension =
          message == nullptr ? nullptr
                             : pool->FindExtensionByNumber(message, wanted.extension_number());
      return FillFile(extension == nullptr ? nullptr : extension->file(), "such extension",
                      response);
    }
    case ServerReflectionRequest::kAllExtensionNumbersOfType:
      return FillExtensions(request.all_extension_numbers_of_type(), response);
    case ServerReflectionRequest::kListServices:
      for (const std::string& name : services) {
        response->mutable_list_services_response()->add_service()->set_name(name);
      }
      return;
    case ServerReflectionRequest::MESSAGE_REQUEST_NOT_SET:
      response->mutable_error_response()->set_error_code(grpc::StatusCode::INVALID_ARGUMENT);
      response->mutable_error_response()->set_error_message("message_request is not set");
      return;
  }
}

// One stream of requests and answers. While it waits for a request it counts as a call whose
// message has not arrived. Deletes itself.
class Stream final
    : public grpc::ServerBidiReactor<ServerReflectionRequest, ServerReflectionResponse> {
 public:
  Stream(const std::vector<std::string>& services, UnreadCalls* unread, grpc_call* call)
      : services_(services), unread_(unread), call_(call) {
    Read();
  }

  void OnReadDone(bool ok) override {
    unread_->Leave(id_);
    if (!ok) return Finish(grpc::Status::OK);  // The client has no more requests, or has gone.
    Answer(services_, request_, &response_);
    StartWrite(&response_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::OK);
    Read();
  }
  void OnDone() override { delete this; }

 private:
  void Read() {
    id_ = unread_->Enter(std::chrono::steady_clock::now(), EndOf(call_));
    StartRead(&request_);
  }

  const std::vector<std::string>& services_;
  UnreadCalls* const unread_;
  grpc_call* const call_;
  uint64_t id_ = 0;
  ServerReflectionRequest request_;
  ServerReflectionResponse response_;
};

}  // namespace

ReflectionService::Predecessor::Predecessor(ReflectionService* service) {
  AddMethod(new grpc::internal::RpcServiceMethod(
      "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
      grpc::internal::RpcMethod::BIDI_STREAMING, nullptr));
  MarkMethodCallback(
      0, new grpc::internal::CallbackBidiHandler<ServerReflectionRequest, ServerReflectionResponse>(
             [service](grpc::CallbackServerContext* context) {
               return service->ServerReflectionInfo(context);
             }));
}

grpc::ServerBidiReactor<ServerReflectionRequest, ServerReflectionResponse>*
ReflectionService::ServerReflectionInfo(grpc::CallbackServerContext* context) {
  return new Stream(services_, unread_, context->c_call());
}

}  // namespace packrat
