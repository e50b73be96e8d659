// Many streams at once, read as cheaply as can be, so that a server's part shows: server-sent
// events over sockets, or gRPC over a channel or several. tests/bench/streams.py runs it.
//
//   stream_client FLAGS                  runs --streams at once to their end; prints JSON
//   stream_client --hold FLAGS           prints "open" when all have been asked for, or, with
//                                        --hold=tokens, have had their first token; then goes on
//                                        reading until its input ends
//   stream_client --first=N FLAGS        N calls of one token, one after the other; prints JSON
//   stream_client --make_model=DIR       writes a model that costs nearly nothing
#include <arpa/inet.h>
#include <grpcpp/grpcpp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fcntl.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/check.h"
#include "proto/packrat/v1/inference.grpc.pb.h"
#include "runtime/steady_clock.h"
#include "tests/bench/random_model.h"

ABSL_FLAG(std::string, front, "sse", "sse or grpc.");
ABSL_FLAG(int, port, 8080, "Of the server, on 127.0.0.1.");
ABSL_FLAG(bool, tls, false, "TLS, of server-sent events alone; no certificate is checked.");
ABSL_FLAG(std::string, path, "/v1/completions", "Of server-sent events.");
ABSL_FLAG(int, streams, 256, "At once.");
ABSL_FLAG(int, channels, 1, "Of gRPC, each with a connection of its own.");
ABSL_FLAG(int, prompt_tokens, 16, "Of each, drawn at random.");
ABSL_FLAG(int, max_tokens, 64, "Of each.");
ABSL_FLAG(int, vocab_size, 4096, "Of the model.");
ABSL_FLAG(uint64_t, seed, 1, "Of the prompts.");
ABSL_FLAG(std::string, hold, "", "asked or tokens; see above.");
ABSL_FLAG(int, first, 0, "See above.");
ABSL_FLAG(std::string, make_model, "", "See above.");

namespace packrat {
namespace {

std::vector<int32_t> RandomPrompt() {
  static auto* const random = new std::mt19937_64(absl::GetFlag(FLAGS_seed));
  std::vector<int32_t> prompt(absl::GetFlag(FLAGS_prompt_tokens));
  for (int32_t& id : prompt) {
    id = 3 + static_cast<int32_t>((*random)() % (absl::GetFlag(FLAGS_vocab_size) - 3));
  }
  return prompt;
}

double Milliseconds(absl::Duration time) { return absl::ToDoubleMilliseconds(time); }

double CpuSeconds() {
  rusage used = {};
  getrusage(RUSAGE_SELF, &used);
  const auto seconds = [](const timeval& t) { return t.tv_sec + 1e-6 * t.tv_usec; };
  return seconds(used.ru_utime) + seconds(used.ru_stime);
}

std::string Percentiles(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    return values[std::min(values.size() - 1, static_cast<size_t>(share * values.size()))];
  };
  return absl::StrCat("{\"p50\":", at(0.5), ",\"p99\":", at(0.99), ",\"max\":", values.back(), "}");
}

// --- Server-sent events. ---

std::string HttpRequest(int max_tokens) {
  const std::string path = absl::GetFlag(FLAGS_path);
  const std::string ids = absl::StrJoin(RandomPrompt(), ",");
  const std::string body =
      absl::StartsWith(path, "/packrat/")
          ? absl::StrCat(R"({"tokens":{"ids":[)", ids, R"(]},"stop":{"max_tokens":)", max_tokens,
                         R"(,"ignore_eos":true},"sampling":{"temperature":0}})")
          : absl::StrCat(R"({"prompt":[)", ids, R"(],"max_tokens":)", max_tokens,
                         R"(,"ignore_eos":true,"temperature":0,"stream":true})");
  return absl::StrCat("POST ", path,
                      " HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n"
                      "Accept: text/event-stream\r\nContent-Length: ",
                      body.size(), "\r\n\r\n", body);
}

class Connection {
 public:
  Connection() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(absl::GetFlag(FLAGS_port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    PACKRAT_CHECK(connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof(to)) == 0) << errno;
    const int on = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (!absl::GetFlag(FLAGS_tls)) return;
    static SSL_CTX* const context = SSL_CTX_new(TLS_client_method());
    tls_ = SSL_new(context);
    SSL_set_fd(tls_, fd_);
    PACKRAT_CHECK(SSL_connect(tls_) == 1);
  }
  ~Connection() {
    SSL_free(tls_);
    close(fd_);
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  int fd() const { return fd_; }
  void DoNotBlock() { fcntl(fd_, F_SETFL, O_NONBLOCK); }
  void Send(const std::string& text) {
    const auto size = static_cast<int>(text.size());
    const auto sent = tls_ != nullptr ? SSL_write(tls_, text.data(), size)
                                      : send(fd_, text.data(), size, MSG_NOSIGNAL);
    PACKRAT_CHECK(sent == size) << sent;
  }
  // Bytes; 0: none now. Ends the process if the server has closed.
  size_t Read(char* to, int size) {
    const auto n = tls_ != nullptr ? SSL_read(tls_, to, size) : recv(fd_, to, size, 0);
    if (n > 0) return n;
    const bool waits = tls_ != nullptr
                           ? SSL_get_error(tls_, static_cast<int>(n)) == SSL_ERROR_WANT_READ
                           : n < 0 && errno == EAGAIN;
    PACKRAT_CHECK(waits) << "the server has closed a stream: " << n << " " << errno;
    return 0;
  }

 private:
  const int fd_;
  SSL* tls_ = nullptr;
};

constexpr char kLastChunk[] = "\n\n\r\n0\r\n\r\n";

struct Stream {
  Connection connection;
  std::string tail;  // The last bytes that came.
  int64_t events = 0;
  bool done = false;

  void Take(absl::string_view bytes) {
    // No text of an event has two line breaks side by side.
    absl::string_view rest = bytes;
    if (absl::EndsWith(tail, "\n") && absl::StartsWith(rest, "\n")) ++events;
    for (size_t at; (at = rest.find("\n\n")) != rest.npos; rest.remove_prefix(at + 2)) ++events;
    absl::StrAppend(&tail, bytes.substr(bytes.size() - std::min(bytes.size(), sizeof kLastChunk)));
    if (tail.size() > sizeof kLastChunk) tail.erase(0, tail.size() - sizeof kLastChunk);
    done = absl::EndsWith(tail, kLastChunk);
  }
};

void RunEvents() {
  const int count = absl::GetFlag(FLAGS_streams);
  const std::string hold = absl::GetFlag(FLAGS_hold);
  const int poll = epoll_create1(EPOLL_CLOEXEC);
  std::deque<Stream> streams(count);
  for (Stream& stream : streams) {
    epoll_event event = {EPOLLIN, {&stream}};
    PACKRAT_CHECK(epoll_ctl(poll, EPOLL_CTL_ADD, stream.connection.fd(), &event) == 0);
  }
  if (!hold.empty()) {
    epoll_event input = {EPOLLIN, {nullptr}};
    PACKRAT_CHECK(epoll_ctl(poll, EPOLL_CTL_ADD, STDIN_FILENO, &input) == 0);
  }
  const absl::Time start = SteadyNow();
  const double cpu = CpuSeconds();
  for (Stream& stream : streams) {
    stream.connection.Send(HttpRequest(absl::GetFlag(FLAGS_max_tokens)));
    stream.connection.DoNotBlock();
  }
  const auto say_open = [] {
    std::printf("open\n");
    std::fflush(stdout);
  };
  if (hold == "asked") say_open();
  int begun = 0, left = count;
  std::array<epoll_event, 256> ready;
  static std::array<char, 65536> buffer;
  while (left > 0) {
    const int n = epoll_wait(poll, ready.data(), ready.size(), -1);
    for (int i = 0; i < n; ++i) {
      auto* const stream = static_cast<Stream*>(ready[i].data.ptr);
      if (stream == nullptr) return;  // Whoever waits for us has enough.
      const int64_t before = stream->events;
      // What TLS has read and decrypted is not told by epoll.
      while (const size_t bytes = stream->connection.Read(buffer.data(), buffer.size())) {
        stream->Take({buffer.data(), bytes});
        if (!absl::GetFlag(FLAGS_tls)) break;
      }
      if (before == 0 && stream->events > 0 && ++begun == count && hold == "tokens") say_open();
      if (!stream->done) continue;
      --left;
      epoll_ctl(poll, EPOLL_CTL_DEL, stream->connection.fd(), nullptr);
    }
  }
  int64_t events = 0;
  for (const Stream& stream : streams) events += stream.events;
  std::printf("{\"messages\":%ld,\"seconds\":%.6f,\"cpu_seconds\":%.6f}\n",
              static_cast<long>(events), absl::ToDoubleSeconds(SteadyNow() - start),
              CpuSeconds() - cpu);
}

// From when a request leaves to the first byte of its token, less what the server says that passed
// between taking the request and having the token.
void FirstEvents(int calls) {
  Connection connection;
  std::vector<double> delays;
  std::array<char, 65536> buffer;
  for (int i = 0; i < calls; ++i) {
    const std::string request = HttpRequest(1);
    const absl::Time start = SteadyNow();
    absl::Time first = absl::InfiniteFuture();
    connection.Send(request);
    std::string answer;
    while (!absl::EndsWith(answer, kLastChunk)) {
      const size_t bytes = connection.Read(buffer.data(), buffer.size());
      const absl::Time now = SteadyNow();
      answer.append(buffer.data(), bytes);
      if (absl::StrContains(answer, "\r\ndata: ")) first = std::min(first, now);
    }
    static constexpr char kTime[] = "\"time_to_first_token_seconds\":";
    const size_t at = answer.find(kTime);
    PACKRAT_CHECK(at != answer.npos) << answer;
    const size_t begin = at + sizeof kTime - 1;
    double seconds = 0;
    PACKRAT_CHECK(absl::SimpleAtod(
        absl::string_view(answer).substr(begin, answer.find_first_of(",}", begin) - begin),
        &seconds));
    delays.push_back(Milliseconds(first - start - absl::Seconds(seconds)));
  }
  std::printf("%s\n", Percentiles(delays).c_str());
}

// --- gRPC. ---

v1::GenerateRequest GrpcRequest(int max_tokens) {
  v1::GenerateRequest request;
  for (const int32_t id : RandomPrompt()) request.mutable_tokens()->add_ids(id);
  request.mutable_stop()->set_max_tokens(max_tokens);
  request.mutable_stop()->set_ignore_eos(true);
  request.mutable_sampling()->set_temperature(0);
  return request;
}

std::unique_ptr<v1::Inference::Stub> Stub() {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return v1::Inference::NewStub(
      grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", absl::GetFlag(FLAGS_port)),
                                grpc::InsecureChannelCredentials(), arguments));
}

struct Call {
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientAsyncReader<v1::GenerateResponse>> reader;
  v1::GenerateResponse message;
  grpc::Status status;
  enum { kStarting, kReading, kEnding } state = kStarting;
};

void RunGrpc() {
  const int count = absl::GetFlag(FLAGS_streams);
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs(absl::GetFlag(FLAGS_channels));
  for (auto& stub : stubs) stub = Stub();
  grpc::CompletionQueue queue;
  std::deque<Call> calls(count);
  const absl::Time start = SteadyNow();
  const double cpu = CpuSeconds();
  for (int i = 0; i < count; ++i) {
    Call& call = calls[i];
    call.reader = stubs[i % stubs.size()]->AsyncGenerate(
        &call.context, GrpcRequest(absl::GetFlag(FLAGS_max_tokens)), &queue, &call);
  }
  int64_t messages = 0;
  void* tag = nullptr;
  bool ok = false;
  for (int left = count; left > 0;) {
    PACKRAT_CHECK(queue.Next(&tag, &ok));
    Call& call = *static_cast<Call*>(tag);
    if (call.state == Call::kEnding) {
      PACKRAT_CHECK(call.status.ok()) << call.status.error_message();
      --left;
      continue;
    }
    if (call.state == Call::kReading && ok) ++messages;
    call.state = ok ? Call::kReading : Call::kEnding;
    ok ? call.reader->Read(&call.message, &call) : call.reader->Finish(&call.status, &call);
  }
  std::printf("{\"messages\":%ld,\"seconds\":%.6f,\"cpu_seconds\":%.6f}\n",
              static_cast<long>(messages), absl::ToDoubleSeconds(SteadyNow() - start),
              CpuSeconds() - cpu);
}

void FirstMessages(int calls) {
  const auto stub = Stub();
  std::vector<double> delays;
  for (int i = 0; i < calls; ++i) {
    const v1::GenerateRequest request = GrpcRequest(1);
    grpc::ClientContext context;
    v1::GenerateResponse message;
    const absl::Time start = SteadyNow();
    const auto reader = stub->Generate(&context, request);
    PACKRAT_CHECK(reader->Read(&message));
    const absl::Time first = SteadyNow();
    // The end is with the token, or behind it if the token was taken that soon.
    while (!message.has_finished()) PACKRAT_CHECK(reader->Read(&message));
    PACKRAT_CHECK(reader->Finish().ok());
    const double seconds = message.finished().timings().time_to_first_token_seconds();
    delays.push_back(Milliseconds(first - start - absl::Seconds(seconds)));
  }
  std::printf("%s\n", Percentiles(delays).c_str());
}

void MakeModel(const std::string& folder) {
  RandomModelShape shape;
  shape.layer_types = {"local_attention"};
  shape.hidden_size = shape.intermediate_size = 64;
  shape.heads = 2;
  shape.kv_heads = 1;
  shape.window = 64;
  shape.vocab_size = absl::GetFlag(FLAGS_vocab_size);
  WriteRandomModel(folder, shape);
}

}  // namespace
}  // namespace packrat

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("many streams at once; see the head of the source");
  absl::ParseCommandLine(argc, argv);
  const int first = absl::GetFlag(FLAGS_first);
  const bool grpc = absl::GetFlag(FLAGS_front) == "grpc";
  if (!absl::GetFlag(FLAGS_make_model).empty()) {
    packrat::MakeModel(absl::GetFlag(FLAGS_make_model));
  } else if (first > 0) {
    grpc ? packrat::FirstMessages(first) : packrat::FirstEvents(first);
  } else {
    grpc ? packrat::RunGrpc() : packrat::RunEvents();
  }
  return 0;
}
