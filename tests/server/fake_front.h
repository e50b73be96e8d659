// Calls without a network: a replica of all that server/generation needs, and a front that is a
// test.
#ifndef PACKRAT_TESTS_SERVER_FAKE_FRONT_H_
#define PACKRAT_TESTS_SERVER_FAKE_FRONT_H_

#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "proto/packrat/v1/inference.pb.h"
#include "runtime/engine_thread.h"
#include "runtime/mutex.h"
#include "server/generation/call_environment.h"
#include "server/generation/caller.h"
#include "server/generation/generation.h"
#include "tests/runtime/fake_model.h"
#include "tests/server/gate.h"

namespace packrat {

class Replica {
 public:
  struct Options {
    ServerOptions server;
    FakeModel::Options model;
    std::string keys;                       // Lines of the file of keys; empty: there are none.
    bool serve = true;                      // False: the model is still being loaded.
    int max_queue = 16;                     // Of each pool.
    int64_t piece_bytes = kMostPieceBytes;  // Of states that are saved and loaded.
    Options();
  };
  explicit Replica(const Options& options = Options());
  ~Replica();

  CallEnvironment* environment() { return &environment_; }
  FakeModel& model() { return model_; }
  Engine& engine() { return *engine_; }
  Gate& gate() { return gate_; }
  // Lines of the log that say how a call ended.
  std::vector<std::string> access_lines() const;

 private:
  const Options options_;
  mutable Mutex mutex_;
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mutex_);
  Gate gate_;
  Logger log_;
  std::unique_ptr<ApiKeys> keys_;
  Metrics metrics_;
  Sessions sessions_;
  CallEnvironment environment_;
  FakeModel model_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<SessionTransfer> transfer_;
  ServedModel served_;
  StreamWriter writer_;
  WorkPool prompts_, texts_;
  std::unique_ptr<EngineThread> engine_thread_;
};

// Keeps the one thread of a replica's pool as long as it lives.
class Busy {
 public:
  explicit Busy(WorkPool* pool);
  ~Busy() { go_.set_value(); }

 private:
  std::promise<void> go_;
};

// One call and its client. Stops the test where the call breaks a promise of caller.h.
class FakeCaller final : public Caller {
 public:
  enum class Reads {
    kAtOnce,   // Each operation is over inside of itself, and so is the call.
    kWhenTold  // By Answer().
  };
  explicit FakeCaller(Reads reads = Reads::kAtOnce) : reads_(reads) {}

  // Generate, or Score.
  void Start(Replica* replica, const v1::GenerateRequest& request, const CallInfo& info = {});
  void Start(Replica* replica, const v1::ScoreRequest& request);
  const CallLabels& labels() const { return call_->labels(); }

  // The operation that is under way is over.
  void Answer(bool ok = true);
  // Answers all operations before this one, and returns when it is under way; false after half a
  // minute without an operation.
  bool AnswerUntil(const std::string& operation);
  // The client goes. At most once.
  void Leave();
  // The client does not want the rest, and still reads.
  void Cancel() { call_->Cancelled(); }

  // True as soon as this operation is under way; false after half a minute.
  bool WaitFor(const std::string& operation);
  bool WaitForEnd();

  // "SendHeaders", "Write", ...: all that there were.
  std::vector<std::string> operations() const;
  int aborts() const;
  absl::Status status() const;  // Of Finish(); OK after WriteAndFinish().
  // Of the messages that were answered, by their choice.
  std::vector<int32_t> ids(int choice = 0) const;
  v1::Finished finished(int choice = 0) const;
  std::vector<v1::GenerateResponse> messages() const;

 private:
  void SendHeaders() override { Operation("SendHeaders", nullptr); }
  void Write(const v1::GenerateResponse& message) override { Operation("Write", &message); }
  void WriteAndFinish(const v1::GenerateResponse& message) override {
    Operation("WriteAndFinish", &message);
  }
  void Finish(const absl::Status& status) override;
  void Abort() override;
  void Operation(const std::string& name, const v1::GenerateResponse* message);

  const Reads reads_;
  v1::GenerateRequest generate_;
  v1::ScoreRequest score_;
  std::shared_ptr<Generation> call_;
  mutable Mutex mutex_;
  std::string under_way_ ABSL_GUARDED_BY(mutex_);  // Empty: none.
  const v1::GenerateResponse* message_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::vector<std::string> operations_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::GenerateResponse> messages_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  int aborts_ ABSL_GUARDED_BY(mutex_) = 0;
  bool gone_ ABSL_GUARDED_BY(mutex_) = false;
  bool last_ ABSL_GUARDED_BY(mutex_) = false;   // The last operation has come.
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;  // Done() has returned.
};

}  // namespace packrat

#endif  // PACKRAT_TESTS_SERVER_FAKE_FRONT_H_
