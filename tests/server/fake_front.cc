#include "tests/server/fake_front.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <utility>

#include "absl/strings/match.h"
#include "kernels/check.h"

namespace packrat {
namespace {

std::unique_ptr<ApiKeys> MakeKeys(const std::string& lines) {
  if (lines.empty()) return nullptr;
  const std::string path = testing::TempDir() + "/keys-of-a-replica";
  std::ofstream(path) << lines;
  auto keys = ApiKeys::Load(path);
  PACKRAT_CHECK(keys.ok()) << keys.status();
  return *std::move(keys);
}

WorkPool::Options OneThread(int max_queue) {
  WorkPool::Options pool;
  pool.threads = 1;
  pool.max_queue = max_queue;
  return pool;
}

FakeModel::Options Fitting(FakeModel::Options model, const ServerOptions& server) {
  model.max_batch_tokens = server.engine.max_batch_tokens;
  model.max_logit_rows = server.engine.max_running;
  return model;
}

}  // namespace

Replica::Options::Options() {
  server.model_name = "fake";
  server.engine.max_running = 16;
  server.engine.max_batch_tokens = 64;
  // Long texts that are cheap to compute.
  model.max_context = 20000;
  model.full = false;
  model.rat = false;
}

Replica::Replica(const Options& options)
    : options_(options),
      log_(Logger::Format::kText,
           [this](const std::string& line) {
             MutexLock lock(&mutex_);
             lines_.push_back(line);
           }),
      keys_(MakeKeys(options.keys)),
      metrics_(options_.server),
      sessions_(options_.server.sessions, &RandomNumber),
      model_(Fitting(options.model, options.server)),
      writer_(std::min(options_.server.stream_idle_timeout / 4, absl::Seconds(1)),
              [](absl::Time) {}),
      prompts_(OneThread(options.max_queue)),
      texts_(OneThread(options.max_queue)) {
  environment_.options = &options_.server;
  environment_.log = &log_;
  environment_.metrics = &metrics_;
  environment_.writer = &writer_;
  environment_.sessions = &sessions_;
  environment_.keys = keys_.get();
  environment_.prompts = &prompts_;
  environment_.texts = &texts_;
  if (!options.serve) return;
  model_.on_forward = [this](const Batch&) { gate_.Pass(); };
  auto engine = Engine::Create(&model_, nullptr, options_.server.engine);
  PACKRAT_CHECK(engine.ok()) << engine.status();
  engine_ = *std::move(engine);
  transfer_ = std::make_unique<SessionTransfer>(&sessions_, engine_.get(), OwnerOf(model_),
                                                options.piece_bytes);
  served_.model = &model_;
  served_.engine = engine_.get();
  served_.transfer = transfer_.get();
  served_.rules = MakeRequestRules(engine_->limits(), nullptr);
  engine_thread_ = std::make_unique<EngineThread>(engine_.get());
  environment_.served.store(&served_);
}

Replica::~Replica() { gate_.Open(); }

std::vector<std::string> Replica::access_lines() const {
  MutexLock lock(&mutex_);
  std::vector<std::string> found;
  for (const std::string& line : lines_) {
    if (absl::StrContains(line, " access ")) found.push_back(line);
  }
  return found;
}

Busy::Busy(WorkPool* pool) {
  const absl::Status status = pool->Submit(0, [until = go_.get_future().share()] { until.wait(); });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_TRUE(Eventually([&] { return pool->waiting() == 0; }));
}

void FakeCaller::Start(Replica* replica, const v1::GenerateRequest& request, const CallInfo& info) {
  generate_ = request;
  call_ = Generation::Generate(replica->environment(), &generate_, info, this);
  call_->Start();
}

void FakeCaller::Start(Replica* replica, const v1::ScoreRequest& request) {
  score_ = request;
  call_ = Generation::Score(replica->environment(), &score_, {}, this);
  call_->Start();
}

void FakeCaller::Operation(const std::string& name, const v1::GenerateResponse* message) {
  bool ok;
  {
    MutexLock lock(&mutex_);
    PACKRAT_CHECK(under_way_.empty()) << name << " during " << under_way_;
    PACKRAT_CHECK(!last_) << name << " after the last";
    PACKRAT_CHECK(name != "SendHeaders" || operations_.empty()) << "after other operations";
    under_way_ = name;
    message_ = message;
    operations_.push_back(name);
    last_ = name == "Finish" || name == "WriteAndFinish";
    // Who has gone is not asked again.
    if (reads_ == Reads::kWhenTold && !gone_) return;
    ok = !gone_;
  }
  Answer(ok);
}

void FakeCaller::Finish(const absl::Status& status) {
  {
    MutexLock lock(&mutex_);
    status_ = status;
  }
  Operation("Finish", nullptr);
}

void FakeCaller::Abort() {
  // The call's lock is held. The test reacts on a stack of its own.
  MutexLock lock(&mutex_);
  PACKRAT_CHECK(!ended_);
  ++aborts_;
}

void FakeCaller::Answer(bool ok) {
  bool last;
  {
    MutexLock lock(&mutex_);
    PACKRAT_CHECK(!under_way_.empty());
    // Only now: it has to be what it was.
    if (message_ != nullptr && ok) messages_.push_back(*message_);
    under_way_.clear();
    last = last_;
  }
  if (!last) {
    call_->WriteDone(ok);
    return;
  }
  call_->Done(/*gone=*/!ok);
  MutexLock lock(&mutex_);
  ended_ = true;
}

void FakeCaller::Leave() {
  bool waits;
  {
    MutexLock lock(&mutex_);
    PACKRAT_CHECK(!gone_);
    gone_ = true;
    // With kAtOnce, whoever began it is about to answer.
    waits = reads_ == Reads::kWhenTold && !under_way_.empty();
  }
  call_->Cancelled();
  if (waits) Answer(false);
}

bool FakeCaller::WaitFor(const std::string& operation) {
  return Eventually([&] {
    MutexLock lock(&mutex_);
    return under_way_ == operation;
  });
}

bool FakeCaller::AnswerUntil(const std::string& operation) {
  std::string under_way;
  const auto begun = [&] {
    MutexLock lock(&mutex_);
    under_way = under_way_;
    return !under_way.empty();
  };
  while (Eventually(begun)) {
    if (under_way == operation) return true;
    PACKRAT_CHECK(under_way != "Finish" && under_way != "WriteAndFinish") << under_way;
    Answer();
  }
  return false;
}

bool FakeCaller::WaitForEnd() {
  return Eventually([&] {
    MutexLock lock(&mutex_);
    return ended_;
  });
}

std::vector<std::string> FakeCaller::operations() const {
  MutexLock lock(&mutex_);
  return operations_;
}

int FakeCaller::aborts() const {
  MutexLock lock(&mutex_);
  return aborts_;
}

absl::Status FakeCaller::status() const {
  MutexLock lock(&mutex_);
  return status_;
}

std::vector<v1::GenerateResponse> FakeCaller::messages() const {
  MutexLock lock(&mutex_);
  return messages_;
}

std::vector<int32_t> FakeCaller::ids(int choice) const {
  std::vector<int32_t> ids;
  for (const v1::GenerateResponse& message : messages()) {
    if (message.choice() != choice) continue;
    ids.insert(ids.end(), message.token_ids().begin(), message.token_ids().end());
  }
  return ids;
}

v1::Finished FakeCaller::finished(int choice) const {
  for (const v1::GenerateResponse& message : messages()) {
    if (message.choice() == choice && message.has_finished()) return message.finished();
  }
  return {};
}

}  // namespace packrat
