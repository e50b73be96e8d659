#include "server/grpc/goaway.h"

#include <grpc/byte_buffer.h>
#include <grpc/slice.h>
#include <grpcpp/server.h>

// gRPC 1.51 has this function but makes it public only as part of shutting down the whole server,
// which answers calls that were on their way with CANCELLED. With a version that lacks it, linking
// fails.
namespace grpc_core {
class Server {
 public:
  void SendGoaways();
};
}  // namespace grpc_core

namespace packrat {

// The function needs the library's execution context. The library has one while it destroys a
// buffer.
void SendGoaways(grpc::Server* server) {
  static char byte;
  grpc_slice slice = grpc_slice_new_with_user_data(
      &byte, sizeof(byte), [](void* core) { static_cast<grpc_core::Server*>(core)->SendGoaways(); },
      server->c_server());
  grpc_byte_buffer* const buffer = grpc_raw_byte_buffer_create(&slice, 1);
  grpc_slice_unref(slice);
  grpc_byte_buffer_destroy(buffer);
}

}  // namespace packrat
