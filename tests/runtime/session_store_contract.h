// What every session store does, whatever it keeps sessions in.
#ifndef PACKRAT_TESTS_RUNTIME_SESSION_STORE_CONTRACT_H_
#define PACKRAT_TESTS_RUNTIME_SESSION_STORE_CONTRACT_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/session_store.h"

namespace packrat {

inline void CheckStoreKeepsSessions(SessionStore* store) {
  const StoreKey key{"tenant", "Handle-_09"};
  const auto missing = [&](const StoreKey& k) {
    return absl::IsNotFound(store->Get(k).status()) && absl::IsNotFound(store->Version(k).status());
  };
  EXPECT_TRUE(missing(key));
  // Any bytes, in any pieces.
  const std::string zeros(70000, '\0');
  ASSERT_EQ(store->Put(key, 3, {"a\n\0\r", zeros, "\xff"}, absl::Hours(1)), absl::OkStatus());
  auto session = store->Get(key);
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_EQ(session->version, 3);
  EXPECT_EQ(session->bytes, "a\n" + zeros + "\xff");
  EXPECT_EQ(*store->Version(key), 3);

  // A newer one takes its place, an older one or the same does not.
  EXPECT_EQ(store->Put(key, 4, {"new"}, absl::Hours(1)), absl::OkStatus());
  for (int64_t version : {3, 4}) {
    const absl::Status status = store->Put(key, version, {"old"}, absl::Hours(1));
    EXPECT_TRUE(absl::IsAborted(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                testing::HasSubstr(absl::StrCat("version 4 of the session; this is ", version)));
  }
  EXPECT_EQ(store->Get(key)->bytes, "new");
  EXPECT_EQ(store->Get(key)->version, 4);

  EXPECT_EQ(store->Delete(key), absl::OkStatus());
  EXPECT_TRUE(missing(key));
  EXPECT_EQ(store->Delete(key), absl::OkStatus());
  EXPECT_EQ(store->Put(key, 1, {}, absl::Hours(1)), absl::OkStatus());
  EXPECT_EQ(store->Get(key)->bytes, "");
  EXPECT_EQ(store->Delete(key), absl::OkStatus());
}

// A tenant may have any name, and has its own sessions.
inline void CheckStoreKeepsTenantsApart(SessionStore* store) {
  const std::vector<std::string> tenants = {"",  "a",   "a:b",   "a/b", "..",
                                            "A", "%61", "a b\n", "\xff"};
  for (const std::string& tenant : tenants) {
    EXPECT_EQ(store->Put({tenant, "h"}, 1, {"of " + tenant}, absl::Hours(1)), absl::OkStatus());
  }
  for (const std::string& tenant : tenants) {
    auto session = store->Get({tenant, "h"});
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
        const std::string bytes = absl::StrCat("bytes of ", version);
        const absl::Status status = stores[i]->Put(key, version, {bytes}, absl::Hours(1));
        EXPECT_TRUE(status.ok() || absl::IsAborted(status)) << status;
        const auto seen = stores[i]->Get(key);
        ASSERT_TRUE(seen.ok()) << seen.status();
        EXPECT_GE(seen->version, version);
        EXPECT_EQ(seen->bytes, absl::StrCat("bytes of ", seen->version));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(stores[0]->Get(key)->version, kVersions);
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_RUNTIME_SESSION_STORE_CONTRACT_H_
