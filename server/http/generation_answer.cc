#include "server/http/generation_answer.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <type_traits>
#include <utility>

#include "runtime/mutex.h"
#include "server/generation/generation.h"
#include "server/http/call_headers.h"

namespace packrat {
namespace {

// Requests to the engine that a call makes. Of several the numbers were checked when they were
// read.
struct CountRequests {
  int operator()(const v1::GenerateRequest& request) const {
    return request.has_num_choices() ? request.num_choices() : 1;
  }
  int operator()(const v1::ScoreRequest& request) const {
    return std::max(1, request.candidates_size());
  }
};

// Holds itself until each of its calls is done. The calls' operations come from any thread, and no
// lock is held while a call or the reply is told something.
//
// One operation of the reply is under way at a time. What the calls say meanwhile is gathered, of
// each at most one message, since a call goes on when its message is out. A stream begins when the
// engine has the requests of all calls: until then the client can be told with the status that one
// of them was refused.
class GenerationAnswer final : public std::enable_shared_from_this<GenerationAnswer> {
 public:
  GenerationAnswer(CallEnvironment* environment, GenerationAsk ask,
                   std::shared_ptr<HttpReply> reply)
      : environment_(environment), ask_(std::move(ask)), reply_(std::move(reply)) {}

  void Start(CallInfo info) {
    self_ = shared_from_this();
    const std::shared_ptr<GenerationAnswer> alive = self_;
    info.whole = !ask_.stream;
    if (ask_.calls.size() > 1) {
      for (const auto& call : ask_.calls) info.together += std::visit(CountRequests(), call);
    }
    for (size_t i = 0; i < ask_.calls.size(); ++i) {
      parts_.push_back(std::make_unique<Part>(this, i));
      Part* const part = parts_.back().get();
      part->call = std::visit(
          [&](const auto& request) {
            if constexpr (std::is_same_v<std::decay_t<decltype(request)>, v1::GenerateRequest>) {
              return Generation::Generate(environment_, &request, info, part);
            } else {
              return Generation::Score(environment_, &request, info, part);
            }
          },
          ask_.calls[i]);
      // All of a request have one id, and are let in with the first.
      info.request_id = part->call->labels().request_id;
      info.together = 0;
      info.follows = true;
    }
    labels_ = parts_.front()->call->labels();
    {
      MutexLock lock(&mutex_);
      writer_ = ask_.make_writer(labels_.request_id);
      running_ = untaken_ = parts_.size();
      open_ = 1;
    }
    for (const auto& part : parts_) {
      {
        MutexLock lock(&mutex_);
        if (!failure_.ok()) break;
        ++open_;
      }
      part->call->Start();
    }
    reply_->OnGone([weak = weak_from_this()] {
      if (const auto answer = weak.lock()) answer->Cancel();
    });
    Close();
  }

 private:
  // A call's other side.
  class Part final : public Caller {
   public:
    Part(GenerationAnswer* answer, size_t index) : answer_(answer), index_(index) {}

    void Taken() override { answer_->Taken(); }
    void SendHeaders() override { answer_->Say(index_, nullptr); }
    void Write(const v1::GenerateResponse& message) override { answer_->Say(index_, &message); }
    void WriteAndFinish(const v1::GenerateResponse& message) override {
      answer_->End(index_, &message, absl::OkStatus());
    }
    void Finish(const absl::Status& status) override { answer_->End(index_, nullptr, status); }
    // The call's lock is held, so it hears of this by another way.
    void Abort() override { answer_->reply_->Cut(); }

    std::shared_ptr<Generation> call;

   private:
    GenerationAnswer* const answer_;
    const size_t index_;
  };

  // A call that waits until what it said is out: to go on, or as its end.
  struct Rider {
    size_t part;
    bool last;
  };

  void Taken() {
    const std::shared_ptr<GenerationAnswer> alive = self_;
    {
      MutexLock lock(&mutex_);
      if (--untaken_ > 0) return;
    }
    Go();
  }

  void Say(size_t part, const v1::GenerateResponse* message) {
    const std::shared_ptr<GenerationAnswer> alive = self_;
    bool now = false;  // Nothing of it has to go out first.
    bool ok = true;
    {
      MutexLock lock(&mutex_);
      if (ended_) {
        now = true;
        ok = false;
      } else {
        Append(part, message);
        now = !ask_.stream || (begun_ && outgoing_.empty());
        if (!now) riders_.push_back({part, false});
      }
    }
    if (now) return WriteDone(part, ok);
    Go();
  }

  void End(size_t part, const v1::GenerateResponse* message, const absl::Status& status) {
    const std::shared_ptr<GenerationAnswer> alive = self_;
    std::optional<bool> gone;  // Set: the call is done at once.
    bool fails = false;
    {
      MutexLock lock(&mutex_);
      --running_;
      if (ended_) {
        gone = true;
      } else {
        if (message != nullptr) Append(part, message);
        fails = !status.ok() && failure_.ok();
        if (fails) failure_ = ask_.name(status, part);
        // A whole answer waits for the other calls; this one has nothing to wait for.
        if (!ask_.stream && failure_.ok() && running_ > 0) {
          gone = false;
        } else {
          riders_.push_back({part, true});
        }
      }
    }
    if (gone.has_value()) Done(part, *gone);
    if (fails) Cancel();
    Go();
  }

  void Append(size_t part, const v1::GenerateResponse* message)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!std::exchange(opened_, true)) outgoing_ += writer_->Begin();
    if (message != nullptr) outgoing_ += writer_->Add(part, *message);
  }

  // Sends what there is to send.
  void Go() {
    std::optional<HttpAnswer> whole;
    std::string text;
    bool begins = false;
    bool ends = false;
    {
      MutexLock lock(&mutex_);
      if (busy_ || ended_) return;
      ends = running_ == 0 || !failure_.ok();
      const bool silent = !ask_.stream || untaken_ > 0 || !opened_ || (begun_ && outgoing_.empty());
      if (!ends && silent) return;
      if (!begun_ && (!ask_.stream || !failure_.ok())) {
        whole = failure_.ok() ? HttpAnswer{200, ask_.content_type, writer_->Finish(), {}}
                              : ask_.refuse(failure_);
      } else {
        if (ends) outgoing_ += failure_.ok() ? writer_->Finish() : writer_->Fail(failure_);
        text = std::exchange(outgoing_, "");
        begins = !std::exchange(begun_, true);
      }
      ended_ = ends;
      busy_ = true;
      flying_ = std::exchange(riders_, {});
    }
    const auto done = [self = shared_from_this()](bool ok) { self->OnSent(ok); };
    if (whole.has_value()) {
      AddLabels(labels_, &*whole);
      return reply_->Send(*std::move(whole), done);
    }
    if (begins) {
      HttpAnswer head = {200, ask_.content_type, "", {{"Cache-Control", "no-cache"}}};
      AddLabels(labels_, &head);
      reply_->Begin(std::move(head));
    }
    if (ends) return reply_->End(std::move(text), done);
    reply_->Write(std::move(text), done);
  }

  void OnSent(bool ok) {
    std::vector<Rider> riders;
    {
      MutexLock lock(&mutex_);
      busy_ = false;
      riders = std::exchange(flying_, {});
    }
    for (const Rider& rider : riders) {
      rider.last ? Done(rider.part, !ok) : WriteDone(rider.part, ok);
    }
    Go();
  }

  // Held while it is told something: what it does then may be the last of all this.
  void WriteDone(size_t part, bool ok) {
    const std::shared_ptr<Generation> call = parts_[part]->call;
    call->WriteDone(ok);
  }

  void Done(size_t part, bool gone) {
    const std::shared_ptr<Generation> call = parts_[part]->call;
    call->Done(gone);
    Close();
  }

  void Close() {
    std::shared_ptr<GenerationAnswer> over;  // Without the lock: it may be the last.
    MutexLock lock(&mutex_);
    if (--open_ == 0) over = std::move(self_);
  }

  void Cancel() {
    for (const auto& part : parts_) part->call->Cancelled();
  }

  CallEnvironment* const environment_;
  const GenerationAsk ask_;
  const std::shared_ptr<HttpReply> reply_;
  CallLabels labels_;
  std::vector<std::unique_ptr<Part>> parts_;
  std::shared_ptr<GenerationAnswer> self_;

  Mutex mutex_;
  std::unique_ptr<openai::AnswerWriter> writer_ ABSL_GUARDED_BY(mutex_);
  size_t running_ ABSL_GUARDED_BY(mutex_) = 0;  // Calls that have not said their last.
  size_t untaken_ ABSL_GUARDED_BY(mutex_) = 0;  // Calls whose requests the engine does not have.
  size_t open_ ABSL_GUARDED_BY(mutex_) = 0;     // Calls begun and not done, and Start() itself.
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::string outgoing_ ABSL_GUARDED_BY(mutex_);       // Of a stream.
  std::vector<Rider> riders_ ABSL_GUARDED_BY(mutex_);  // That wait for outgoing_...
  std::vector<Rider> flying_ ABSL_GUARDED_BY(mutex_);  // ...and for what is being sent.
  bool opened_ ABSL_GUARDED_BY(mutex_) = false;        // The writer's Begin().
  bool begun_ ABSL_GUARDED_BY(mutex_) = false;         // The reply's.
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;          // The reply is sending.
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;         // The answer's last part has been given.
};

}  // namespace

void AnswerGenerations(CallEnvironment* environment, GenerationAsk ask, const CallInfo& info,
                       std::shared_ptr<HttpReply> reply) {
  std::make_shared<GenerationAnswer>(environment, std::move(ask), std::move(reply))->Start(info);
}

}  // namespace packrat
