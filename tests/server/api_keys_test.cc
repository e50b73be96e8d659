#include "server/api_keys.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/retry_after.h"

namespace packrat {
namespace {

const absl::Time kNow = absl::FromUnixSeconds(1000);

TEST(ApiKeyLine, IsWhatSha256SumSays) {
  // printf abc | sha256sum
  EXPECT_EQ(ApiKeyLine("me", "abc"),
            "me sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(MakeApiKey, IsLongAndNeverTheSame) {
  const std::string key = MakeApiKey();
  EXPECT_EQ(key.size(), 3u + 43u);
  EXPECT_NE(key, MakeApiKey());
  EXPECT_TRUE(absl::StartsWith(key, "pk-"));
}

TEST(ParseApiKeys, ReadsNamesHashesAndLimits) {
  const auto entries =
      ParseApiKeys(absl::StrCat("# who may call\n\n", ApiKeyLine("team-a", "one"),
                                " streams=3 tokens_per_minute=6000\tqueue_share=0.25 "
                                "session_share=0.75 weight=2.5 priority=-5..10\r\n  ",
                                ApiKeyLine("team.b_2", "two"), "  \n"));
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 2u);
  const TenantLimits& a = (*entries)[0].limits;
  EXPECT_EQ((*entries)[0].name, "team-a");
  EXPECT_EQ((*entries)[0].hash, HashApiKey("one"));
  EXPECT_EQ(a.streams, 3);
  EXPECT_EQ(a.tokens_per_minute, 6000);
  EXPECT_EQ(a.queue_share, 0.25);
  EXPECT_EQ(a.session_share, 0.75);
  EXPECT_EQ(a.weight, 2.5);
  EXPECT_EQ(a.min_priority, -5);
  EXPECT_EQ(a.max_priority, 10);
  EXPECT_EQ((*entries)[1].name, "team.b_2");
  EXPECT_EQ((*entries)[1].hash, HashApiKey("two"));
  EXPECT_TRUE((*entries)[1].limits == TenantLimits());
}

TEST(ParseApiKeys, NamesTheLineAndWhatIsWrong) {
  const std::string good = ApiKeyLine("me", "one");
  const struct {
    std::string text;
    const char* says;
  } cases[] = {
      {"", "it has no keys"},
      {"# nothing\n", "it has no keys"},
      {"me", "line 1: the second word must be sha256: and 64"},
      {"\nme sha256:abc", "line 2: the second word"},
      {"me " + std::string(64, 'a'), "the second word"},
      {"me sha256:" + std::string(64, 'g'), "the second word"},
      {"a/b sha256:" + std::string(64, 'a'), "the name is \"a/b\""},
      {std::string(65, 'x') + " sha256:" + std::string(64, 'a'), "1 to 64 letters"},
      {good + " streams=0", "streams is \"0\"; range [1, 1000000]"},
      {good + " streams=", "streams is \"\""},
      {good + " tokens_per_minute=-1", "tokens_per_minute is \"-1\""},
      {good + " queue_share=1.5", "queue_share is \"1.5\"; range (0, 1]"},
      {good + " session_share=0", "session_share is \"0\"; range (0, 1]"},
      {good + " queue_share=nan", "queue_share is \"nan\""},
      {good + " weight=0", "weight is \"0\"; range [0.01, 100]"},
      {good + " weight=nan", "weight is \"nan\""},
      {good + " priority=5", "priority is \"5\"; LOW..HIGH"},
      {good + " priority=5..4", "priority is"},
      {good + " priority=-101..4", "priority is"},
      {good + " stream=5", "limit is \"stream=5\"; one of streams="},
      {good + "\n" + ApiKeyLine("me", "two") + " streams=4", "line 2: me has other limits"},
  };
  for (const auto& c : cases) {
    const auto entries = ParseApiKeys(c.text);
    ASSERT_TRUE(absl::IsInvalidArgument(entries.status())) << c.text;
    EXPECT_TRUE(absl::StrContains(entries.status().message(), c.says)) << entries.status();
  }
}

class ApiKeysTest : public ::testing::Test {
 protected:
  void Write(const std::string& text) {
    // Another file each time, as a person's editor and a mounted secret make it.
    const std::string next = path_ + ".next";
    std::ofstream(next) << text;
    ASSERT_EQ(std::rename(next.c_str(), path_.c_str()), 0);
  }
  std::string NameOf(const std::string& authorization) {
    const auto tenant = keys_->Authenticate(authorization);
    if (tenant.ok()) return (*tenant)->name();
    EXPECT_TRUE(absl::IsUnauthenticated(tenant.status())) << tenant.status();
    return std::string(tenant.status().message());
  }
  void Load() {
    auto keys = ApiKeys::Load(path_);
    ASSERT_TRUE(keys.ok()) << keys.status();
    keys_ = *std::move(keys);
  }

  const std::string path_ = testing::TempDir() + "/keys";
  std::unique_ptr<ApiKeys> keys_;
};

TEST_F(ApiKeysTest, KnowWhoseKeyItIs) {
  Write(absl::StrCat(ApiKeyLine("a", "one"), "\n", ApiKeyLine("b", "two"), "\n",
                     ApiKeyLine("a", "three")));
  Load();
  EXPECT_EQ(NameOf("Bearer one"), "a");
  EXPECT_EQ(NameOf("bearer  two "), "b");
  EXPECT_EQ(NameOf("BEARER three"), "a");
  EXPECT_EQ(*keys_->Authenticate("Bearer one"), *keys_->Authenticate("Bearer three"));
}

TEST_F(ApiKeysTest, SayWhatIsWrongAndNotTheKey) {
  Write(ApiKeyLine("a", "one"));
  Load();
  EXPECT_TRUE(absl::StrContains(NameOf(""), "wants an API key"));
  for (const char* form : {"Bearer", "Bearer ", "one", "Basic one", "Bearerone"}) {
    EXPECT_EQ(NameOf(form), "authorization must be \"Bearer KEY\"") << form;
  }
  EXPECT_EQ(NameOf("Bearer " + std::string(2000, 'x')), "authorization must be \"Bearer KEY\"");
  const std::string hash = ApiKeyLine("a", "one").substr(9);  // What the file has is no key.
  for (const std::string& key :
       {std::string("On"), std::string("One"), std::string("one1"), hash}) {
    EXPECT_EQ(NameOf("Bearer " + key), "this server does not know the API key");
  }
}

TEST_F(ApiKeysTest, AreReadAgainWhenTheFileChanges) {
  Write(ApiKeyLine("a", "one"));
  Load();
  const auto tenant = *keys_->Authenticate("Bearer one");
  EXPECT_EQ(*keys_->ReloadIfChanged(), false);
  Write(absl::StrCat(ApiKeyLine("a", "two"), " streams=7\n"));
  EXPECT_EQ(NameOf("Bearer one"), "a");  // Not before it is asked for.
  EXPECT_EQ(*keys_->ReloadIfChanged(), true);
  EXPECT_EQ(NameOf("Bearer one"), "this server does not know the API key");
  EXPECT_EQ(*keys_->Authenticate("Bearer two"), tenant);  // With all that it uses.
  EXPECT_EQ(tenant->limits().streams, 7);

  // A broken file changes nothing, and is told of once.
  Write("nonsense");
  EXPECT_TRUE(absl::StrContains(keys_->ReloadIfChanged().status().message(), "line 1: "));
  EXPECT_EQ(*keys_->ReloadIfChanged(), false);
  EXPECT_EQ(NameOf("Bearer two"), "a");
  std::remove(path_.c_str());
  EXPECT_TRUE(absl::StrContains(keys_->ReloadIfChanged().status().message(), path_));
  EXPECT_EQ(*keys_->ReloadIfChanged(), false);
  EXPECT_EQ(NameOf("Bearer two"), "a");
  Write(ApiKeyLine("c", "three"));
  EXPECT_EQ(*keys_->ReloadIfChanged(), true);
  EXPECT_EQ(NameOf("Bearer three"), "c");
}

TEST_F(ApiKeysTest, ThatCannotBeReadAreRefused) {
  std::remove(path_.c_str());
  const absl::Status status = ApiKeys::Load(path_).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_TRUE(absl::StrContains(status.message(), "--api_keys: " + path_)) << status;
  EXPECT_TRUE(
      absl::StrContains(ApiKeys::Load(testing::TempDir()).status().message(), "not a file"));
}

TEST(ApiTenant, StreamsAreCountedAndComeBack) {
  TenantLimits limits;
  limits.streams = 2;
  auto tenant = std::make_shared<ApiTenant>("me", limits);
  auto one = std::make_unique<TenantUse>(tenant), two = std::make_unique<TenantUse>(tenant);
  EXPECT_TRUE(one->EnterStream(100).ok());
  EXPECT_TRUE(two->EnterStream(100).ok());
  {
    TenantUse three(tenant);
    const absl::Status status = three.EnterStream(100);
    EXPECT_TRUE(absl::IsResourceExhausted(status));
    EXPECT_EQ(status.message(), "all 2 streams of me are in use");
  }
  one.reset();
  EXPECT_TRUE(TenantUse(tenant).EnterStream(100).ok());
  EXPECT_TRUE(TenantUse(tenant).EnterStream(100).ok());
}

TEST(ApiTenant, HalfOfTheStreamsByDefault) {
  auto tenant = std::make_shared<ApiTenant>("me", TenantLimits());
  std::vector<std::unique_ptr<TenantUse>> uses;
  for (int i = 0; i < 11; ++i) {
    uses.push_back(std::make_unique<TenantUse>(tenant));
    EXPECT_EQ(uses.back()->EnterStream(20).ok(), i < 10);
  }
}

TEST(ApiTenant, TheShareOfTheQueue) {
  TenantLimits limits;
  limits.queue_share = 0.25;
  auto tenant = std::make_shared<ApiTenant>("me", limits);
  std::vector<std::unique_ptr<TenantUse>> uses;
  const auto enter = [&] {
    uses.push_back(std::make_unique<TenantUse>(tenant));
    return uses.back()->EnterQueue(1, 10, /*max_queue=*/8, kNow);
  };
  EXPECT_TRUE(enter().ok());
  EXPECT_TRUE(enter().ok());
  const absl::Status status = enter();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_TRUE(absl::StrContains(status.message(), "2 requests of me wait")) << status;
  uses[0]->LeaveQueue();
  uses[0]->LeaveQueue();  // Once is enough.
  EXPECT_TRUE(enter().ok());
  EXPECT_FALSE(enter().ok());
  uses.clear();
  EXPECT_TRUE(enter().ok());
}

// They are let in as one, and then each takes what it takes.
TEST(ApiTenant, CallsThatComeTogether) {
  TenantLimits limits;
  limits.queue_share = 0.5;  // Of 8.
  limits.streams = 1;
  limits.tokens_per_minute = 600;
  auto tenant = std::make_shared<ApiTenant>("me", limits);
  std::vector<std::unique_ptr<TenantUse>> uses;
  const auto ask = [&](int places) { return TenantUse(tenant).MayEnterQueue(places, 8, kNow); };
  EXPECT_TRUE(ask(100).ok());  // Nothing of it waits.
  for (int i = 0; i < 3; ++i) {
    uses.push_back(std::make_unique<TenantUse>(tenant));
    uses.back()->FollowStream();
    uses.back()->FollowInQueue(/*places=*/1, /*tokens=*/200, kNow);
    EXPECT_EQ(ask(1).ok(), i < 2) << i;  // All 600 tokens are taken then.
    EXPECT_FALSE(TenantUse(tenant).EnterStream(8).ok()) << i;
  }
  EXPECT_TRUE(absl::StrContains(ask(1).message(), "600 tokens a minute and has 0 left"));
  EXPECT_TRUE(absl::StrContains(ask(2).message(), "3 requests of me wait"));
  uses.clear();  // None of the tokens was used.
  EXPECT_TRUE(ask(100).ok());
  EXPECT_TRUE(TenantUse(tenant).EnterStream(8).ok());
}

TEST(ApiTenant, TokensOfAMinuteComeBackEvenly) {
  TenantLimits limits;
  limits.tokens_per_minute = 600;
  auto tenant = std::make_shared<ApiTenant>("me", limits);
  const auto take = [&](int64_t tokens, int64_t used, absl::Time now) {
    TenantUse use(tenant);
    const absl::Status status = use.EnterQueue(1, tokens, 100, now);
    use.UsedTokens(used);
    return status;
  };
  EXPECT_TRUE(take(400, 400, kNow).ok());
  const absl::Status status = take(300, 300, kNow);
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_TRUE(absl::StrContains(status.message(), "600 tokens a minute and has 200 left"))
      << status;
  EXPECT_EQ(RetryAfter(status), absl::Seconds(10));  // For the 100 that lack.
  EXPECT_FALSE(take(300, 300, kNow + absl::Milliseconds(9990)).ok());
  EXPECT_TRUE(take(300, 0, kNow + absl::Seconds(10)).ok());  // All of it goes back.
  EXPECT_TRUE(take(300, 300, kNow + absl::Seconds(10)).ok());
  // Never more than a minute's, and whoever has that may ask for more and owe it.
  EXPECT_TRUE(take(1800, 1800, kNow + absl::Hours(5)).ok());
  const absl::Status owes = take(1, 1, kNow + absl::Hours(5));
  EXPECT_EQ(RetryAfter(owes), absl::Minutes(1));  // The longest that is told.
  EXPECT_FALSE(take(1, 1, kNow + absl::Hours(5) + absl::Minutes(2)).ok());
  EXPECT_TRUE(take(1, 1, kNow + absl::Hours(5) + absl::Minutes(2) + absl::Seconds(1)).ok());
  // A clock that goes back gives nothing and takes nothing.
  EXPECT_FALSE(take(600, 600, kNow).ok());
}

TEST(ApiTenant, NewLimitsCountAtOnceAndForgetNothing) {
  TenantLimits limits;
  limits.tokens_per_minute = 600;
  auto tenant = std::make_shared<ApiTenant>("me", limits);
  TenantUse use(tenant);
  ASSERT_TRUE(use.EnterQueue(1, 500, 100, kNow).ok());
  use.UsedTokens(500);
  limits.tokens_per_minute = 1000;
  tenant->SetLimits(limits);
  EXPECT_FALSE(TenantUse(tenant).EnterQueue(1, 501, 100, kNow).ok());
  EXPECT_TRUE(TenantUse(tenant).EnterQueue(1, 500, 100, kNow).ok());
}

TEST(ApiKeys, AKeyInThePlaceOfItsLineIsNotShown) {
  const absl::Status status = ParseApiKeys("me pk-secret").status();
  EXPECT_FALSE(status.ok());
  EXPECT_FALSE(absl::StrContains(status.message(), "pk-secret")) << status;
}

TEST(ApiTenant, WhatWasNotTakenDoesNotComeBack) {
  TenantLimits limits;
  auto tenant = std::make_shared<ApiTenant>("me", limits);
  {
    TenantUse before(tenant);
    ASSERT_TRUE(before.EnterQueue(1, 1000, 100, kNow).ok());
    limits.tokens_per_minute = 600;
    tenant->SetLimits(limits);
    TenantUse use(tenant);
    ASSERT_TRUE(use.EnterQueue(1, 600, 100, kNow).ok());
    use.UsedTokens(600);
  }
  EXPECT_FALSE(TenantUse(tenant).EnterQueue(1, 1, 100, kNow).ok());
}

TEST(TenantUse, WithoutATenantNothingIsLimited) {
  for (int i = 0; i < 3; ++i) {
    TenantUse use;
    EXPECT_TRUE(use.EnterStream(1).ok());
    EXPECT_TRUE(use.EnterQueue(1, 1 << 30, 1, kNow).ok());
    use.LeaveQueue();
    use.UsedTokens(5);
    EXPECT_EQ(use.tenant(), nullptr);
  }
}

}  // namespace
}  // namespace packrat
