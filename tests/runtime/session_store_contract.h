// What every session store does, whatever it keeps sessions in.
#ifndef PACKRAT_TESTS_RUNTIME_SESSION_STORE_CONTRACT_H_
#define PACKRAT_TESTS_RUNTIME_SESSION_STORE_CONTRACT_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/session_store.h"

namespace packrat {

// Bytes of some pieces, none of them empty.
inline SessionStore::Source From(std::vector<std::string> pieces) {
  return [pieces = std::move(pieces), next = size_t{0}]() mutable -> absl::StatusOr<std::string> {
    return next < pieces.size() ? pieces[next++] : std::string();
  };
}
inline absl::Status PutAll(SessionStore* store, const StoreKey& key, int64_t version,
                           std::vector<std::string> pieces, absl::Duration ttl = absl::Hours(1)) {
  return store->Put(key, version, From(std::move(pieces)), ttl);
}

struct StoredSession {
  int64_t version = 0;
  std::string bytes;
};
inline absl::StatusOr<StoredSession> GetAll(SessionStore* store, const StoreKey& key) {
  StoredSession session;
  const auto version = store->Get(key, [&](absl::string_view piece) {
    session.bytes.append(piece.data(), piece.size());
    return true;
  });
  if (!version.ok()) return version.status();
  session.version = *version;
  return session;
}

inline void CheckStoreKeepsSessions(SessionStore* store) {
  const StoreKey key{"tenant", "Handle-_09"};
  const auto missing = [&](const StoreKey& k) {
    return absl::IsNotFound(GetAll(store, k).status()) &&
           absl::IsNotFound(store->Version(k).status());
  };
  EXPECT_TRUE(missing(key));
  // Any bytes, in any pieces.
  const std::string zeros(70000, '\0');
  ASSERT_EQ(PutAll(store, key, 3, {"a\n", zeros, "\xff"}), absl::OkStatus());
  auto session = GetAll(store, key);
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_EQ(session->version, 3);
  EXPECT_EQ(session->bytes, "a\n" + zeros + "\xff");
  EXPECT_EQ(*store->Version(key), 3);

  // A newer one takes its place, an older one or the same does not.
  EXPECT_EQ(PutAll(store, key, 4, {"new"}), absl::OkStatus());
  for (int64_t version : {3, 4}) {
    const absl::Status status = PutAll(store, key, version, {"old"});
    EXPECT_TRUE(absl::IsAborted(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                testing::HasSubstr(absl::StrCat("version 4 of the session; this is ", version)));
  }
  EXPECT_EQ(GetAll(store, key)->bytes, "new");
  EXPECT_EQ(GetAll(store, key)->version, 4);

  EXPECT_EQ(store->Delete(key), absl::OkStatus());
  EXPECT_TRUE(missing(key));
  EXPECT_EQ(store->Delete(key), absl::OkStatus());
  EXPECT_EQ(PutAll(store, key, 1, {}), absl::OkStatus());
  EXPECT_EQ(GetAll(store, key)->bytes, "");
  EXPECT_EQ(store->Delete(key), absl::OkStatus());
}

// What does not come to its end leaves nothing, and what was there stays; who has read enough of it
// is asked no more.
inline void CheckStoreTakesAllOrNothing(SessionStore* store) {
  const StoreKey key{"tenant", "half"};
  const auto broken = [&](int64_t version) {
    auto next = [pieces = 3]() mutable -> absl::StatusOr<std::string> {
      if (--pieces > 0) return std::string(5000, 'x');
      return absl::CancelledError("no more comes");
    };
    const absl::Status status = store->Put(key, version, next, absl::Hours(1));
    EXPECT_TRUE(absl::IsCancelled(status)) << status;
  };
  broken(1);
  EXPECT_TRUE(absl::IsNotFound(GetAll(store, key).status()));
  EXPECT_TRUE(absl::IsNotFound(store->Version(key).status()));
  const std::string piece(6000, 'y');
  EXPECT_EQ(PutAll(store, key, 2, {piece, "z", piece}), absl::OkStatus());
  broken(3);
  EXPECT_EQ(GetAll(store, key)->version, 2);
  EXPECT_EQ(GetAll(store, key)->bytes, piece + "z" + piece);
  // A shorter one leaves nothing of it.
  EXPECT_EQ(PutAll(store, key, 4, {"short"}), absl::OkStatus());
  EXPECT_EQ(GetAll(store, key)->bytes, "short");
  EXPECT_EQ(PutAll(store, key, 5, {piece, piece, piece}), absl::OkStatus());
  int calls = 0;
  EXPECT_EQ(*store->Get(key, [&](absl::string_view) { return ++calls > 5; }), 5);
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(absl::IsCancelled(
      store->Get(key, [](absl::string_view) { return absl::CancelledError(""); }).status()));
  EXPECT_EQ(store->Delete(key), absl::OkStatus());
}

// A tenant may have any name, and has its own sessions.
inline void CheckStoreKeepsTenantsApart(SessionStore* store) {
  const std::vector<std::string> tenants = {"",  "a",   "a:b",   "a/b", "..",
                                            "A", "%61", "a b\n", "\xff"};
  for (const std::string& tenant : tenants) {
    EXPECT_EQ(PutAll(store, {tenant, "h"}, 1, {"of " + tenant}), absl::OkStatus());
  }
  for (const std::string& tenant : tenants) {
    auto session = GetAll(store, {tenant, "h"});
    ASSERT_TRUE(session.ok()) << tenant << ": " << session.status();
    EXPECT_EQ(session->bytes, "of " + tenant);
    EXPECT_EQ(store->Delete({tenant, "h"}), absl::OkStatus());
  }
}

// Whoever wins, the newest version does, and its bytes are its own. That others come between is no
// failure of the store.
inline void CheckNewestVersionWins(const std::vector<SessionStore*>& stores) {
  constexpr int kVersions = 40;
  const StoreKey key{"tenant", "contended"};
  std::vector<std::thread> threads;
  for (size_t i = 0; i < stores.size(); ++i) {
    threads.emplace_back([&, i] {
      for (int version = 1 + static_cast<int>(i); version <= kVersions;
           version += static_cast<int>(stores.size())) {
        // More than one piece, so that a mixture would show.
        const std::string bytes = absl::StrCat(std::string(3000, 'x'), "bytes of ", version);
        const absl::Status status =
            PutAll(stores[i], key, version, {bytes.substr(0, 2000), bytes.substr(2000)});
        EXPECT_TRUE(status.ok() || absl::IsAborted(status)) << status;
        auto seen = GetAll(stores[i], key);
        while (absl::IsAborted(seen.status())) seen = GetAll(stores[i], key);
        ASSERT_TRUE(seen.ok()) << seen.status();
        EXPECT_GE(seen->version, version);
        EXPECT_EQ(seen->bytes, absl::StrCat(std::string(3000, 'x'), "bytes of ", seen->version));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(GetAll(stores[0], key)->version, kVersions);
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_RUNTIME_SESSION_STORE_CONTRACT_H_
