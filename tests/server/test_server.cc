#include "tests/server/test_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "kernels/check.h"
#include "runtime/steady_clock.h"

namespace packrat {

std::string DataPath(const std::string& path) {
  const char* source = std::getenv("TEST_SRCDIR");
  const char* workspace = std::getenv("TEST_WORKSPACE");
  if (source == nullptr || workspace == nullptr) return path;
  return absl::StrCat(source, "/", workspace, "/", path);
}

namespace {

// The tokenizer's file under the name that a model's folder gives it.
std::unique_ptr<Tokenizer> LoadTestTokenizer() {
  const char* base = std::getenv("TEST_TMPDIR");
  std::string dir = absl::StrCat(base != nullptr ? base : "/tmp", "/packrat-XXXXXX");
  PACKRAT_CHECK(mkdtemp(dir.data()) != nullptr);
  std::filesystem::copy_file(DataPath("tests/data/mistral-7b-v0.1.model"),
                             dir + "/tokenizer.model");
  auto tokenizer = Tokenizer::Load(dir, 32000);
  std::filesystem::remove_all(dir);
  PACKRAT_CHECK(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

}  // namespace

TestServer::Options::Options() {
  server.model_dir = "fake";
  server.listen = "127.0.0.1:0";
  server.http_listen = "127.0.0.1:0";
  server.engine.max_running = 16;
  server.engine.max_batch_tokens = 64;
}

TestServer::TestServer(const Options& options)
    : log_(Logger::Format::kText,
           [this](const std::string& line) {
             MutexLock lock(&mutex_);
             lines_.push_back(line);
           }),
      model_([&] {
        FakeModel::Options model = options.model;
        if (options.tokenizer) model.vocab = 32000;
        model.max_batch_tokens = options.server.engine.max_batch_tokens;
        model.max_logit_rows = options.server.engine.max_running;
        return model;
      }()) {
  if (options.tokenizer) tokenizer_ = LoadTestTokenizer();
  model_.on_forward = [this](const Batch&) { gate_.Pass(); };
  auto server = Server::Start(options.server, &log_);
  PACKRAT_CHECK(server.ok()) << server.status();
  server_ = *std::move(server);
  const char* front = std::getenv("PACKRAT_FRONT");
  if (front != nullptr && front == absl::string_view("http")) {
    bridge_ = std::make_unique<HttpBridge>(server_->http_port());
  }
  if (options.serve) Serve();
}

TestServer::~TestServer() {
  gate_.Open();
  server_.reset();
}

void TestServer::Serve() {
  const absl::Status status = server_->Serve(&model_, tokenizer_.get());
  PACKRAT_CHECK(status.ok()) << status;
}

std::string TestServer::address() const {
  if (bridge_ != nullptr) return bridge_->address();
  return absl::StrCat("127.0.0.1:", server_->grpc_port());
}

std::string TestServer::Get(const std::string& path, const std::string& headers) const {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to = {};
  to.sin_family = AF_INET;
  to.sin_port = htons(server_->http_port());
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::string answer;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0) {
    const std::string request = absl::StrCat(
        "GET ", path, " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n", headers, "\r\n");
    if (send(fd, request.data(), request.size(), MSG_NOSIGNAL) > 0) {
      char buffer[4096];
      for (ssize_t n; (n = recv(fd, buffer, sizeof(buffer), 0)) > 0;) answer.append(buffer, n);
    }
  }
  close(fd);
  return answer;
}

double TestServer::Metric(const std::string& name) const {
  const std::string all = Get("/metrics");
  for (absl::string_view line : absl::StrSplit(all, '\n')) {
    if (!absl::StartsWith(line, name)) continue;
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    double value;
    if (absl::SimpleAtod(words.back(), &value)) return value;
  }
  return -1;
}

double TestServer::StateBytesUsed() const {
  double sum = 0;
  const std::string all = Get("/metrics");
  for (absl::string_view line : absl::StrSplit(all, '\n')) {
    if (!absl::StartsWith(line, "packrat_state_used_bytes{")) continue;
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    double value = 0;
    PACKRAT_CHECK(absl::SimpleAtod(words.back(), &value));
    sum += value;
  }
  return sum;
}

std::vector<std::string> TestServer::log_lines() const {
  MutexLock lock(&mutex_);
  return lines_;
}

int TestServer::AccessLines(const std::string& text) const {
  int count = 0;
  for (const std::string& line : log_lines()) {
    count += absl::StrContains(line, " access ") && absl::StrContains(line, text);
  }
  return count;
}

}  // namespace packrat
