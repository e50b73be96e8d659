#include "server/store/redis_connection.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/steady_clock.h"

namespace packrat {
namespace {

absl::Status Unavailable(absl::string_view why) {
  return absl::UnavailableError(absl::StrCat("the session store does not answer: ", why));
}

absl::Status ErrorOf(const redisReply& reply) {
  const absl::string_view text(reply.str, reply.len);
  const std::string message = absl::StrCat("the session store refuses: ", text);
  if (absl::StartsWith(text, "OOM")) return absl::ResourceExhaustedError(message);
  for (const char* passing :
       {"LOADING", "BUSY", "MASTERDOWN", "READONLY", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS",
        "MISCONF", "NOAUTH", "NOPERM", "WRONGPASS"}) {
    if (absl::StartsWith(text, passing)) return absl::UnavailableError(message);
  }
  return absl::InternalError(message);
}

// Of a reply, or of a command whose reply is a part of EXEC's.
absl::Status ErrorIn(const redisReply& reply) {
  if (reply.type == REDIS_REPLY_ERROR) return ErrorOf(reply);
  if (reply.type != REDIS_REPLY_ARRAY) return absl::OkStatus();
  for (size_t i = 0; i < reply.elements; ++i) {
    if (reply.element[i]->type == REDIS_REPLY_ERROR) return ErrorOf(*reply.element[i]);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<RedisConnection>> RedisConnection::Open(const RedisAddress& address,
                                                                       absl::Time deadline) {
  const absl::Duration left = std::max(deadline - SteadyNow(), absl::Milliseconds(1));
  const timeval timeout = absl::ToTimeval(left);
  redisContext* context = address.path.empty()
                              ? redisConnectWithTimeout(address.host.c_str(), address.port, timeout)
                              : redisConnectUnixWithTimeout(address.path.c_str(), timeout);
  if (context == nullptr) return Unavailable("there is no memory for a connection");
  std::unique_ptr<RedisConnection> connection(new RedisConnection(context));
  if (context->err != 0) return Unavailable(context->errstr);
  // From here on poll() waits until the deadline. hiredis' own timeouts would begin anew with every
  // byte.
  fcntl(context->fd, F_SETFL, fcntl(context->fd, F_GETFL) | O_NONBLOCK);
  fcntl(context->fd, F_SETFD, FD_CLOEXEC);
  context->flags &= ~REDIS_BLOCK;

  std::vector<Command> greeting;
  if (!address.password.empty()) {
    Command auth = {"AUTH"};
    if (!address.username.empty()) auth.push_back(address.username);
    auth.push_back(address.password);
    greeting.push_back(std::move(auth));
  }
  const std::string database = absl::StrCat(address.database);
  greeting.push_back({"SELECT", database});
  const absl::Status status = connection->Call(greeting, deadline).status();
  if (!status.ok()) return absl::UnavailableError(status.message());
  return connection;
}

absl::Status RedisConnection::Wait(short events, absl::Time deadline) {
  while (true) {
    const absl::Duration left = deadline - SteadyNow();
    if (left <= absl::ZeroDuration()) return Unavailable("it takes too long");
    pollfd fd = {context_->fd, events, 0};
    // One millisecond more, since the division rounds down.
    const int ready = poll(&fd, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return Unavailable(std::strerror(errno));
  }
}

absl::Status RedisConnection::Send(absl::string_view bytes, absl::Time deadline) {
  while (!bytes.empty()) {
    const ssize_t sent = send(context_->fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      bytes.remove_prefix(static_cast<size_t>(sent));
    } else if (errno == EAGAIN) {
      if (absl::Status status = Wait(POLLOUT, deadline); !status.ok()) return status;
    } else if (errno != EINTR) {
      return Unavailable(std::strerror(errno));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<RedisConnection::Reply> RedisConnection::Receive(absl::Time deadline) {
  while (true) {
    void* reply = nullptr;
    if (redisGetReplyFromReader(context_.get(), &reply) != REDIS_OK) {
      return Unavailable(context_->errstr);
    }
    if (reply != nullptr) return Reply(static_cast<redisReply*>(reply), freeReplyObject);
    if (absl::Status status = Wait(POLLIN, deadline); !status.ok()) return status;
    if (redisBufferRead(context_.get()) != REDIS_OK) return Unavailable(context_->errstr);
  }
}

absl::StatusOr<std::vector<RedisConnection::Reply>> RedisConnection::Call(
    const std::vector<Command>& commands, absl::Time deadline) {
  // We do not use hiredis' buffer, which moves the rest of its bytes after each piece. At 100 MB
  // this takes longer than everything else.
  std::string bytes;
  for (const Command& command : commands) {
    std::vector<const char*> data;
    std::vector<size_t> sizes;
    for (const absl::string_view part : command) {
      data.push_back(part.data() != nullptr ? part.data() : "");
      sizes.push_back(part.size());
    }
    char* text = nullptr;
    const int size =
        redisFormatCommandArgv(&text, static_cast<int>(data.size()), data.data(), sizes.data());
    if (size < 0) return Unavailable("there is no memory for a command");
    const absl::Cleanup free_text = [text] { redisFreeCommand(text); };
    bytes.append(text, static_cast<size_t>(size));
  }
  if (absl::Status status = Send(bytes, deadline); !status.ok()) return status;
  std::vector<Reply> replies;
  absl::Status error;
  for (size_t i = 0; i < commands.size(); ++i) {
    absl::StatusOr<Reply> reply = Receive(deadline);
    if (!reply.ok()) return reply.status();
    if (error.ok()) error = ErrorIn(**reply);
    replies.push_back(*std::move(reply));
  }
  if (!error.ok()) return error;
  return replies;
}

}  // namespace packrat
