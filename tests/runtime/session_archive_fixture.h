// What tests of an archive share: replicas on one store, and turns as a server makes them.
#ifndef PACKRAT_TESTS_RUNTIME_SESSION_ARCHIVE_FIXTURE_H_
#define PACKRAT_TESTS_RUNTIME_SESSION_ARCHIVE_FIXTURE_H_

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "runtime/directory_store.h"
#include "runtime/engine_thread.h"
#include "runtime/session_archive.h"
#include "runtime/steady_clock.h"
#include "tests/runtime/consumer.h"
#include "tests/runtime/fake_model.h"

namespace packrat {

// What a process has; the store's folder outlives it.
struct ArchiveReplica {
  ArchiveReplica(const std::string& folder, uint64_t seed, const std::string& numerics_id)
      : random(seed), sessions({8, 100000, absl::Hours(1)}, [this] { return random(); }) {
    EngineOptions engine_options;
    engine_options.max_running = 4;
    engine_options.max_batch_tokens = 32;
    engine_options.poison_freed_state = true;
    engine = *Engine::Create(&model, nullptr, engine_options);
    thread = std::make_unique<EngineThread>(engine.get());
    DirectoryStoreOptions store_options;
    store_options.folder = folder;
    store_options.now = [now = absl::Now()] { return now; };
    store = *DirectoryStore::Open(store_options);
    StateOwner owner = OwnerOf(model);
    if (!numerics_id.empty()) owner.numerics_id = numerics_id;
    // Small pieces, so that there are many.
    transfer = std::make_unique<SessionTransfer>(&sessions, engine.get(), owner, 5000);
    archive = std::make_unique<SessionArchive>(&sessions, transfer.get(), store.get());
  }

  std::mt19937_64 random;
  FakeModel model;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<EngineThread> thread;
  Sessions sessions;
  std::unique_ptr<DirectoryStore> store;
  std::unique_ptr<SessionTransfer> transfer;
  std::unique_ptr<SessionArchive> archive;
};

class SessionArchiveTest : public testing::Test {
 protected:
  using Text = std::vector<int32_t>;
  SessionArchiveTest() {
    std::string name = testing::TempDir() + "/archiveXXXXXX";
    folder_ = mkdtemp(name.data());
  }
  ~SessionArchiveTest() override { std::filesystem::remove_all(folder_); }
  std::unique_ptr<ArchiveReplica> Start(const std::string& numerics_id = "") {
    return std::make_unique<ArchiveReplica>(folder_ + "/store", ++seed_, numerics_id);
  }

  // A turn of what a server would do. Its tokens, and how many of its prompt were not computed.
  struct Turn {
    absl::Status status;
    Text tokens;
    int cached = 0;
  };
  Turn Say(ArchiveReplica* replica, const std::string& handle, const Text& prompt,
           bool put = true) {
    Turn said;
    said.status = replica->archive->Fetch(owner_, handle, space_, now_);
    if (!said.status.ok()) return said;
    auto turn = replica->sessions.Begin(owner_, handle, now_);
    said.status = turn.status();
    if (!turn.ok()) return said;
    Text text = turn->text();
    text.insert(text.end(), prompt.begin(), prompt.end());
    EXPECT_EQ(turn->Promise(prompt, 5), absl::OkStatus());
    Consumer consumer;
    Request request = consumer.Make(++last_id_, text, 5);
    request.tenant = space_.tenant;
    EXPECT_EQ(replica->engine->Submit(std::move(request), SteadyNow()), absl::OkStatus());
    while (!consumer.finish.has_value()) consumer.Poll();
    turn->Append(consumer.tokens);
    turn->Keep(now_);
    { const Sessions::Turn over = *std::move(turn); }
    said.tokens = consumer.tokens;
    said.cached = consumer.finish->usage.cached_tokens;
    EXPECT_EQ(said.tokens, replica->model.GreedyAfter(text, 5));
    if (put) said.status = replica->archive->Put(owner_, handle, space_, now_);
    return said;
  }
  // A text that begins like this one and goes bad: all states of its way are dropped.
  void EndBadly(ArchiveReplica* replica, Text text) {
    text.push_back(FakeModel::kNotFiniteToken);
    Consumer consumer;
    Request request = consumer.Make(++last_id_, std::move(text), 5);
    request.tenant = space_.tenant;
    EXPECT_EQ(replica->engine->Submit(std::move(request), SteadyNow()), absl::OkStatus());
    while (!consumer.finish.has_value()) consumer.Poll();
  }
  std::string BytesOf(ArchiveReplica* replica, const std::string& handle) {
    auto packed = replica->transfer->Pack(owner_, handle, space_, now_);
    EXPECT_TRUE(packed.ok()) << packed.status();
    std::string bytes = packed->header;
    for (;;) {
      const auto piece = packed->state.Next();
      EXPECT_TRUE(piece.ok()) << piece.status();
      if (!piece.ok() || piece->empty()) return bytes;
      bytes += *piece;
    }
  }
  absl::StatusOr<SessionTransfer::Loaded> Load(ArchiveReplica* replica, const std::string& bytes,
                                               uint64_t origin) {
    SessionInput input(replica->transfer.get());
    for (size_t at = 0; at < bytes.size(); at += 700) {
      const absl::Status taken = input.Take(bytes.substr(at, 700));
      if (!taken.ok()) return taken;
      if (input.full()) input.Place();
    }
    return replica->transfer->Load(owner_, &input, "", {}, origin, now_);
  }
  Text TextAt(ArchiveReplica* replica, const std::string& handle) {
    Text text;
    EXPECT_TRUE(replica->sessions.Get(owner_, handle, now_, &text).ok());
    return text;
  }

  std::string folder_;
  const SessionOwner owner_{"tenant"};
  const StateSpace space_{"tenant", "", {}};
  absl::Time now_ = SteadyNow();
  uint64_t seed_ = 0, last_id_ = 0;
  std::mt19937_64 random_{3};
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_RUNTIME_SESSION_ARCHIVE_FIXTURE_H_
