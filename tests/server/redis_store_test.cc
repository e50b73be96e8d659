// The session store on a real redis-server: up, down, frozen, full, with a password; and on what is
// no Redis at all.
#include "server/store/redis_store.h"

#include <arpa/inet.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runtime/steady_clock.h"
#include "tests/runtime/session_store_contract.h"
#include "tests/server/redis_process.h"

namespace packrat {
namespace {

using testing::HasSubstr;

// Sends what a store has no name for. The number that it is answered; 0: something else.
int64_t TellRedis(const RedisAddress& address, const RedisConnection::Command& command) {
  const absl::Time deadline = SteadyNow() + absl::Seconds(60);
  auto connection = RedisConnection::Open(address, deadline);
  EXPECT_TRUE(connection.ok()) << connection.status();
  const auto replies = (*connection)->Call({command}, deadline);
  EXPECT_TRUE(replies.ok()) << replies.status();
  return replies.ok() ? replies->at(0)->integer : 0;
}

// A socket at a port of this machine that was free.
int BoundSocket(int* port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
  EXPECT_EQ(getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size), 0);
  *port = ntohs(address.sin_port);
  return fd;
}

int FreePort() {
  int port;
  close(BoundSocket(&port));
  return port;
}

class RedisStoreTest : public testing::Test {
 protected:
  RedisStoreTest() {
    options_.address.path = redis_.Path();
    options_.retry_after = absl::ZeroDuration();
  }
  absl::Status Put(RedisStore* store, int64_t version) {
    return PutAll(store, key_, version, {"bytes"});
  }
  void ExpectUnavailable(RedisStore* store) {
    EXPECT_TRUE(absl::IsUnavailable(Put(store, 100)));
    EXPECT_TRUE(absl::IsUnavailable(GetAll(store, key_).status()));
    EXPECT_TRUE(absl::IsUnavailable(store->Version(key_).status()));
    EXPECT_TRUE(absl::IsUnavailable(store->Delete(key_, absl::Hours(1))));
  }
  int64_t Tell(const RedisConnection::Command& command) {
    return TellRedis(options_.address, command);
  }
  int64_t Keys() { return Tell({"DBSIZE"}); }

  const StoreKey key_{"tenant", "handle"};
  RedisProcess redis_;
  RedisStoreOptions options_;
};

TEST_F(RedisStoreTest, KeepsSessions) {
  RedisStore store(options_);
  CheckStoreKeepsSessions(&store);
}

TEST_F(RedisStoreTest, TakesAllOrNothing) {
  options_.piece_bytes = 5000;
  RedisStore store(options_);
  CheckStoreTakesAllOrNothing(&store);
  EXPECT_EQ(Keys(), 1);
}

TEST_F(RedisStoreTest, KeepsBranchesApart) {
  RedisStore store(options_);
  CheckStoreKeepsBranchesApart(&store);
  EXPECT_EQ(Keys(), 1);
}

TEST_F(RedisStoreTest, RemembersWhatWasDeleted) {
  options_.piece_bytes = 5000;
  RedisStore store(options_);
  CheckStoreRemembersWhatWasDeleted(&store);
  EXPECT_EQ(Keys(), 2);
  EXPECT_GT(Tell({"PTTL", "packrat:tenant:gone"}), 3000000);
  EXPECT_EQ(Tell({"HLEN", "packrat:tenant:gone"}), 1);
}

// As versions before this one wrote them.
TEST_F(RedisStoreTest, AnEntryOfOneFieldIsRead) {
  RedisStore store(options_);
  Tell({"HSET", "packrat:tenant:handle", "v", "3", "b", "bytes"});
  EXPECT_EQ(GetAll(&store, key_)->bytes, "bytes");
  EXPECT_EQ(*store.Version(key_), (SessionVersion{3, 0}));
  EXPECT_TRUE(absl::IsAborted(Put(&store, 3)));
  EXPECT_EQ(PutAll(&store, key_, 4, {"a", "b"}), absl::OkStatus());
  EXPECT_EQ(GetAll(&store, key_)->bytes, "ab");
  EXPECT_EQ(Keys(), 1);
}

// Changed between two of its pieces, or without one of them.
TEST_F(RedisStoreTest, PiecesOfTwoEntriesAreNotOne) {
  options_.piece_bytes = 1;
  RedisStore store(options_);
  ASSERT_EQ(PutAll(&store, key_, 1, {"a", "b", "c"}), absl::OkStatus());
  const absl::Status status = store
                                  .Get(key_,
                                       [&](absl::string_view) -> absl::StatusOr<bool> {
                                         return PutAll(&store, key_, 2, {"x", "y", "z"}).ok();
                                       })
                                  .status();
  EXPECT_TRUE(absl::IsAborted(status)) << status;
  EXPECT_EQ(GetAll(&store, key_)->bytes, "xyz");
  Tell({"HDEL", "packrat:tenant:handle", "b1"});
  EXPECT_TRUE(absl::IsDataLoss(GetAll(&store, key_).status()));
}

// Who wants the text alone gets no more; what is long comes in many fields.
TEST_F(RedisStoreTest, APieceBeginsAField) {
  RedisStore store(options_);
  const std::string state(3 << 19, 'x');
  ASSERT_EQ(PutAll(&store, key_, 1, {"text", state}), absl::OkStatus());
  EXPECT_EQ(Tell({"HLEN", "packrat:tenant:handle"}), 2 + 1 + 3);
  std::string first;
  const auto take = [&](absl::string_view piece) {
    first = std::string(piece);
    return false;
  };
  EXPECT_TRUE(store.Get(key_, take).ok());
  EXPECT_EQ(first, "text");
  EXPECT_EQ(GetAll(&store, key_)->bytes, "text" + state);
}

// A process that is killed leaves nothing for long.
TEST_F(RedisStoreTest, WhatIsOnItsWayVanishesByItself) {
  options_.piece_bytes = 1;
  RedisStore store(options_);
  int64_t left = 0;  // Milliseconds.
  const auto next = [&, pieces = 3]() mutable -> absl::StatusOr<std::string> {
    if (--pieces > 0) return std::string("x");
    EXPECT_EQ(Keys(), 1);
    left = Tell({"EVAL", "return redis.call('PTTL', redis.call('KEYS', '*')[1])", "0"});
    return std::string();
  };
  EXPECT_EQ(store.Put(key_, At(1), next, absl::Hours(1)), absl::OkStatus());
  EXPECT_GT(left, 0);
  EXPECT_LE(left, 60000);
  EXPECT_GT(Tell({"PTTL", "packrat:tenant:handle"}), 3000000);
}

// As Redis does where its memory is full, or where nothing came for too long.
TEST_F(RedisStoreTest, WhatIsDroppedOnItsWayDoesNotArriveInPart) {
  options_.piece_bytes = 1;
  RedisStore store(options_);
  ASSERT_EQ(Put(&store, 1), absl::OkStatus());
  for (const int dropped_before : {2, 3}) {
    const auto next = [&, pieces = 0]() mutable -> absl::StatusOr<std::string> {
      if (pieces == dropped_before) {
        Tell({"EVAL", "return redis.call('DEL', redis.call('KEYS', '*#*')[1])", "0"});
      }
      return pieces++ < 3 ? std::string("x") : std::string();
    };
    const absl::Status status = store.Put(key_, At(2), next, absl::Hours(1));
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_EQ(GetAll(&store, key_)->bytes, "bytes");
    EXPECT_EQ(Keys(), 1);
  }
}

// What goes wrong in a transaction alone shows in its reply.
TEST_F(RedisStoreTest, AnErrorInATransactionIsOne) {
  const absl::Time deadline = SteadyNow() + absl::Seconds(60);
  auto connection = RedisConnection::Open(options_.address, deadline);
  ASSERT_TRUE(connection.ok()) << connection.status();
  const auto replies =
      (*connection)->Call({{"MULTI"}, {"RENAME", "none", "other"}, {"EXEC"}}, deadline);
  EXPECT_TRUE(absl::IsInternal(replies.status())) << replies.status();
}

TEST_F(RedisStoreTest, KeepsTenantsApart) {
  RedisStore store(options_);
  CheckStoreKeepsTenantsApart(&store);
}

TEST_F(RedisStoreTest, TheNewestVersionWins) {
  options_.timeout = absl::Seconds(60);
  RedisStore first(options_), second(options_);
  CheckNewestVersionWins({&first, &first, &first, &first, &second, &second, &second, &second});
}

TEST_F(RedisStoreTest, KeepsLargeSessions) {
  RedisStore store(options_);
  const std::string bytes(40 << 20, 'x');
  ASSERT_EQ(PutAll(&store, key_, 1, {bytes, "end"}), absl::OkStatus());
  EXPECT_EQ(GetAll(&store, key_)->bytes, bytes + "end");
}

TEST_F(RedisStoreTest, WhatHasExpiredIsGone) {
  RedisStore store(options_);
  EXPECT_EQ(PutAll(&store, key_, 5, {"short"}, absl::Milliseconds(1)), absl::OkStatus());
  while (!absl::IsNotFound(GetAll(&store, key_).status())) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_TRUE(absl::IsNotFound(store.Version(key_).status()));
  EXPECT_EQ(Put(&store, 1), absl::OkStatus());
  EXPECT_EQ(GetAll(&store, key_)->bytes, "bytes");
}

TEST_F(RedisStoreTest, DownItIsUnavailableAndUpAgainItGoesOn) {
  RedisStore store(options_);
  EXPECT_EQ(Put(&store, 1), absl::OkStatus());
  redis_.Kill();
  ExpectUnavailable(&store);
  redis_.Start();
  EXPECT_EQ(Put(&store, 2), absl::OkStatus());
  // Every connection that it keeps is broken; nobody notices.
  redis_.Kill();
  redis_.Start();
  EXPECT_TRUE(absl::IsNotFound(GetAll(&store, key_).status()));
  EXPECT_EQ(Put(&store, 3), absl::OkStatus());
}

TEST_F(RedisStoreTest, FrozenItIsUnavailableAndAwakeItGoesOn) {
  options_.timeout = absl::Milliseconds(100);
  RedisStore store(options_);
  const std::string large(20 << 20, 'x');  // More than the system takes on the way.
  EXPECT_EQ(Put(&store, 1), absl::OkStatus());
  redis_.Signal(SIGSTOP);
  ExpectUnavailable(&store);
  EXPECT_TRUE(absl::IsUnavailable(PutAll(&store, key_, 7, {large})));
  redis_.Signal(SIGCONT);
  absl::StatusOr<StoredSession> session;
  do {  // It may be busy with what it missed.
    session = GetAll(&store, key_);
  } while (absl::IsUnavailable(session.status()));
  // The Delete() that nobody waited for may have been done.
  EXPECT_TRUE(session.ok() || absl::IsNotFound(session.status())) << session.status();
}

TEST_F(RedisStoreTest, ForAMomentAfterAFailureNobodyTries) {
  options_.retry_after = absl::Hours(1);
  RedisStore store(options_);
  redis_.Kill();
  EXPECT_TRUE(absl::IsUnavailable(Put(&store, 1)));
  redis_.Start();
  const absl::Status status = Put(&store, 1);
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("a moment ago"));
}

TEST_F(RedisStoreTest, FullItHasNoRoom) {
  RedisStore store(options_);
  Tell({"CONFIG", "SET", "maxmemory", "1"});
  const absl::Status status = Put(&store, 1);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_TRUE(absl::IsNotFound(GetAll(&store, key_).status()));  // Reading goes on.
  Tell({"CONFIG", "SET", "maxmemory", "0"});
  EXPECT_EQ(Put(&store, 1), absl::OkStatus());
  // Deleting too, though nothing remembers it.
  Tell({"CONFIG", "SET", "maxmemory", "1"});
  EXPECT_EQ(store.Delete(key_, absl::Hours(1)), absl::OkStatus());
  EXPECT_TRUE(absl::IsNotFound(store.Version(key_).status()));
}

TEST_F(RedisStoreTest, WhatOthersPutThereIsDamage) {
  RedisStore store(options_);
  for (const char* version : {"x", "", "1.", ".1", "1.x", "1.-1", "1.2.3"}) {
    Tell({"HSET", "packrat:tenant:handle", "v", version});
    EXPECT_TRUE(absl::IsDataLoss(GetAll(&store, key_).status())) << version;
    EXPECT_TRUE(absl::IsDataLoss(Put(&store, 1))) << version;
  }
  Tell({"HSET", "packrat:tenant:handle", "v", "1"});
  EXPECT_TRUE(absl::IsDataLoss(GetAll(&store, key_).status()));
  EXPECT_EQ(Put(&store, 2), absl::OkStatus());
}

TEST(RedisStore, APasswordLetsIn) {
  const RedisProcess redis("secret");
  RedisStoreOptions options;
  options.address.path = redis.Path();
  options.retry_after = absl::ZeroDuration();
  for (const char* password : {"", "wrong"}) {
    options.address.password = password;
    RedisStore store(options);
    const absl::Status status = GetAll(&store, {"t", "h"}).status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("the session store refuses"));
  }
  options.address.password = "secret";
  for (const char* user : {"", "default"}) {
    options.address.username = user;
    RedisStore store(options);
    EXPECT_TRUE(absl::IsNotFound(GetAll(&store, {"t", "h"}).status()));
  }
}

// A user that may do what docs/sessions.md says, and nothing else.
TEST_F(RedisStoreTest, FewCommandsAreEnough) {
  Tell({"ACL", "SETUSER", "packrat", "on", ">secret", "~packrat:*", "resetchannels", "-@all",
        "+select", "+watch", "+multi", "+exec", "+hget", "+hmget", "+hset", "+hlen", "+pexpire",
        "+rename", "+del"});
  options_.address.username = "packrat";
  options_.address.password = "secret";
  options_.piece_bytes = 5000;
  RedisStore store(options_);
  CheckStoreKeepsSessions(&store);
  CheckStoreTakesAllOrNothing(&store);
  CheckStoreRemembersWhatWasDeleted(&store);
}

// Where names of two slots in one transaction are refused.
TEST(RedisStore, ANodeOfAClusterTakesSessions) {
  // It listens for other nodes, by itself at a port that another test's may have.
  const int port = FreePort();
  const RedisProcess redis("", {"--cluster-enabled", "yes", "--cluster-port", absl::StrCat(port)});
  RedisStoreOptions options;
  options.address.path = redis.Path();
  options.piece_bytes = 5000;
  TellRedis(options.address, {"CLUSTER", "ADDSLOTSRANGE", "0", "16383"});
  RedisStore store(options);
  // It does not take part at once.
  while (absl::IsUnavailable(store.Version({"tenant", "handle"}).status())) {
    absl::SleepFor(absl::Milliseconds(50));
  }
  CheckStoreKeepsSessions(&store);
  CheckStoreTakesAllOrNothing(&store);
  CheckStoreRemembersWhatWasDeleted(&store);
}

// Bytes that never stop coming do not keep a call alive.
TEST(RedisStore, ADripIsUnavailable) {
  int port;
  const int listening = BoundSocket(&port);
  ASSERT_EQ(listen(listening, 1), 0);
  std::atomic<bool> stop{false};
  std::thread drip([&] {
    const int fd = accept(listening, nullptr, nullptr);
    if (fd < 0) return;
    EXPECT_GT(write(fd, "$100000\r\n", 9), 0);
    while (!stop && write(fd, "x", 1) == 1) absl::SleepFor(absl::Milliseconds(5));
    close(fd);
  });
  RedisStoreOptions options;
  options.address.port = port;
  options.timeout = absl::Milliseconds(200);
  RedisStore store(options);
  const absl::Status status = GetAll(&store, {"t", "h"}).status();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("takes too long"));
  stop = true;
  drip.join();
  close(listening);
}

TEST(RedisAddress, SaysHostPortUserAndDatabase) {
  const auto parse = [](const std::string& text) {
    const auto a = ParseRedisAddress(text);
    return a.ok() ? absl::StrCat(a->username, "@", a->host, ":", a->port, a->path, "/", a->database)
                  : std::string(a.status().message());
  };
  EXPECT_EQ(parse("redis://store"), "@store:6379/0");
  EXPECT_EQ(parse("redis://me@10.0.0.1:7000/3"), "me@10.0.0.1:7000/3");
  EXPECT_EQ(parse("redis://[::1]"), "@::1:6379/0");
  EXPECT_EQ(parse("redis://[::1]:1/2"), "@::1:1/2");
  EXPECT_EQ(parse("redis+unix:/run/redis.sock"), "@127.0.0.1:6379/run/redis.sock/0");
  for (const char* wrong :
       {"", "store", "http://store", "redis://", "redis://:6379", "redis://store:0",
        "redis://store:99999", "redis://store/x", "redis://store/-1", "redis://me:secret@store",
        "redis://@store", "redis+unix:relative", "redis://unix:/path"}) {
    EXPECT_THAT(parse(wrong), HasSubstr("not an address of Redis")) << wrong;
  }
}

}  // namespace
}  // namespace packrat
