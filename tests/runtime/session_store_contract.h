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
inline absl::Status PutAll(SessionStore* store, const StoreKey& key, const SessionPast& past,
                           std::vector<std::string> pieces, absl::Duration ttl = absl::Hours(1)) {
  return store->Put(key, past, From(std::move(pieces)), ttl);
}
// Of a text that came from all with a lower revision.
inline SessionPast At(int64_t revision) { return SessionPast({revision, 7}); }
inline absl::Status PutAll(SessionStore* store, const StoreKey& key, int64_t revision,
                           std::vector<std::string> pieces, absl::Duration ttl = absl::Hours(1)) {
  return PutAll(store, key, At(revision), std::move(pieces), ttl);
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
  session.version = version->revision;
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
  EXPECT_EQ(*store->Version(key), At(3).now());

  // A newer one takes its place, an older one does not, and the same is there.
  EXPECT_EQ(PutAll(store, key, 4, {"new"}), absl::OkStatus());
  const absl::Status status = PutAll(store, key, 3, {"old"});
  EXPECT_TRUE(absl::IsAborted(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              testing::HasSubstr("version 4 of the session; this is 3"));
  EXPECT_EQ(PutAll(store, key, 4, {"the same"}), absl::OkStatus());
  EXPECT_EQ(GetAll(store, key)->bytes, "new");
  EXPECT_EQ(GetAll(store, key)->version, 4);
  const StoreKey empty{"tenant", "empty"};
  EXPECT_EQ(PutAll(store, empty, 1, {}), absl::OkStatus());
  EXPECT_EQ(GetAll(store, empty)->bytes, "");
}

// Two texts that came from one are not each other's past, however often they were changed.
inline void CheckStoreKeepsBranchesApart(SessionStore* store) {
  const StoreKey key{"tenant", "branches"};
  SessionPast one({5, 1}), other({5, 1});
  ASSERT_EQ(PutAll(store, key, one, {"both"}), absl::OkStatus());
  one.Change(2);
  other.Change(3);
  ASSERT_EQ(PutAll(store, key, other, {"other"}), absl::OkStatus());
  for (int i = 0; i < 3; ++i) {
    const absl::Status status = PutAll(store, key, one, {"one"});
    EXPECT_TRUE(absl::IsAborted(status)) << status;
    EXPECT_EQ(GetAll(store, key)->bytes, "other");
    EXPECT_EQ(*store->Version(key), other.now());
    one.Change(4 + i);
  }
  other.Change(9);
  EXPECT_EQ(PutAll(store, key, other, {"goes on"}), absl::OkStatus());
  EXPECT_EQ(GetAll(store, key)->bytes, "goes on");
}

// Whoever still has it cannot put it there again.
inline void CheckStoreRemembersWhatWasDeleted(SessionStore* store) {
  for (const bool was_there : {true, false}) {
    const StoreKey key{"tenant", was_there ? "gone" : "never"};
    if (was_there) {
      ASSERT_EQ(PutAll(store, key, 4, {std::string(9000, 'x'), "y"}), absl::OkStatus());
    }
    for (int i = 0; i < 2; ++i) {
      EXPECT_EQ(store->Delete(key, absl::Hours(1)), absl::OkStatus());
      EXPECT_EQ(*store->Version(key), kDeletedSession);
      EXPECT_TRUE(absl::IsNotFound(GetAll(store, key).status()));
      const absl::Status status = PutAll(store, key, 5, {"again"});
      EXPECT_TRUE(absl::IsAborted(status)) << status;
      EXPECT_EQ(*store->Version(key), kDeletedSession);
    }
  }
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
    const absl::Status status = store->Put(key, At(version), next, absl::Hours(1));
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
  EXPECT_EQ(store->Get(key, [&](absl::string_view) { return ++calls > 5; })->revision, 5);
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(absl::IsCancelled(
      store->Get(key, [](absl::string_view) { return absl::CancelledError(""); }).status()));
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
    EXPECT_EQ(store->Delete({tenant, "h"}, absl::Hours(1)), absl::OkStatus());
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
