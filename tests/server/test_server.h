// A server on free ports with a fake model, in the process of the test; and the other end of its
// sockets. Where the environment says PACKRAT_FRONT=http, gRPC's clients reach it over HTTP: see
// http_bridge.h, and both_fronts_test() for the suites that run so.
#ifndef PACKRAT_TESTS_SERVER_TEST_SERVER_H_
#define PACKRAT_TESTS_SERVER_TEST_SERVER_H_

#include <memory>
#include <string>
#include <vector>

#include "models/text/tokenizer.h"
#include "runtime/mutex.h"
#include "server/log.h"
#include "server/server.h"
#include "tests/runtime/fake_model.h"
#include "tests/server/gate.h"
#include "tests/server/http_bridge.h"

namespace packrat {

class TestServer {
 public:
  struct Options {
    FakeModel::Options model;
    ServerOptions server;
    bool tokenizer = false;  // The vocabulary of tests/data: 32000 pieces.
    bool serve = true;       // False: stays in the state of loading until Serve().
    Options();
  };
  explicit TestServer(const Options& options = Options());
  ~TestServer();

  void Serve();
  std::string address() const;
  Server& server() { return *server_; }
  FakeModel& model() { return model_; }
  Gate& gate() { return gate_; }
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }

  // The answer to GET, headers included. `headers`: further ones to send, each with its line break.
  std::string Get(const std::string& path, const std::string& headers = "") const;
  // The value of the line of /metrics that begins with `name`; -1 where there is none.
  double Metric(const std::string& name) const;
  // All bytes of state in use, of all kinds.
  double StateBytesUsed() const;

  std::vector<std::string> log_lines() const;
  // Access lines that contain `text`.
  int AccessLines(const std::string& text) const;

 private:
  mutable Mutex mutex_;
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mutex_);
  Logger log_;
  Gate gate_;
  FakeModel model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<HttpBridge> bridge_;  // Null: none is needed.
  std::unique_ptr<Server> server_;
};

// Where Bazel put a file of the tests' data.
std::string DataPath(const std::string& path);

}  // namespace packrat

#endif  // PACKRAT_TESTS_SERVER_TEST_SERVER_H_
