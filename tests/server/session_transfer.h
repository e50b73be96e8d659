// What tests of sessions as bytes share.
#ifndef PACKRAT_TESTS_SERVER_SESSION_TRANSFER_H_
#define PACKRAT_TESTS_SERVER_SESSION_TRANSFER_H_

#include <cstddef>
#include <memory>
#include <string>

#include "tests/server/sessions.h"

namespace packrat {

class SessionTransferTest : public SessionsFixture {
 protected:
  // A second server beside the first.
  void StartOther() {
    other_server_ = std::make_unique<TestServer>(options_);
    Connection::Options to;
    to.address = other_server_->address();
    other_ = std::make_unique<SessionClient>(to);
  }
  absl::Status Refusal(const std::string& bytes, size_t piece = 65536) {
    v1::LoadSessionResponse response;
    return client_->Load(bytes, &response, piece);
  }
  int NumSessions() { return static_cast<int>(server_->Metric("packrat_sessions{")); }
  // Bytes of a session of 60 tokens.
  std::string Saved() {
    const std::string session = client_->Create();
    Say(session, Tokens(40, 5), 20);
    return client_->Save(session).bytes;
  }

  std::unique_ptr<TestServer> other_server_;
  std::unique_ptr<SessionClient> other_;
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_SERVER_SESSION_TRANSFER_H_
