// Many idle sessions: their last states in a little memory and the rest on the disk, and how long
// the first token of one's next turn takes, drawn at random. Beside it the same turn with the state
// in the pool, and with the text computed anew; and while other requests generate.
//
// With --load one session is computed and the others get its state as their own, each with another
// text, as if they had been loaded: what is kept, found and brought back is as large and as many as
// if all had been computed, which takes hours for long texts.
//
// Makes the sessions first, which takes minutes, then waits for --wait_for, so that only what is
// measured needs a machine at rest. Before cold turns the files are thrown out of the system's
// cache.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/check.h"
#include "models/cpu_model.h"
#include "runtime/engine.h"
#include "runtime/engine_thread.h"
#include "runtime/outbox.h"
#include "runtime/steady_clock.h"
#include "tests/bench/report.h"
#include "tests/runtime/state_pieces.h"

ABSL_FLAG(std::string, model, "models/demo", "Folder of the model.");
ABSL_FLAG(std::string, dir, "/var/tmp/packrat-idle", "Folder for the states; emptied at the end.");
ABSL_FLAG(int, sessions, 10000, "Idle sessions.");
ABSL_FLAG(int, text_tokens, 100, "Of each, and 4 that it generates.");
ABSL_FLAG(bool, load, false, "Compute one session, and load the others.");
ABSL_FLAG(int, turn_tokens, 16, "Of a turn.");
ABSL_FLAG(int, turns, 300, "Turns of each measurement.");
ABSL_FLAG(int, streams, 8, "Requests that generate meanwhile, in the last measurement.");
ABSL_FLAG(int64_t, state_bytes, int64_t{96} << 20, "Of the pool.");
ABSL_FLAG(int64_t, host_memory, int64_t{384} << 20, "For states beside it.");
ABSL_FLAG(std::string, wait_for, "", "File whose appearance starts the measurements.");

namespace packrat {
namespace {

using Text = std::vector<int32_t>;

int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t size = 0, resident = 0;
  statm >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

double Percentile(const std::vector<double>& sorted, double share) {
  return sorted[std::min(sorted.size() - 1, static_cast<size_t>(share * sorted.size()))];
}

// Writes the files out, so that the system can forget their bytes, and has it forget them.
void ForgetFiles(const std::string& folder) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const int fd = open(entry.path().c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    fdatasync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
  }
}

class Bench {
 public:
  explicit Bench(LanguageModel* model) : vocab_(model->config().vocab_size) {
    EngineOptions options;
    options.max_running = 16;
    // A session, and turns that begin with turns.
    options.max_context = std::max(512, absl::GetFlag(FLAGS_text_tokens) + 256);
    options.state_bytes = absl::GetFlag(FLAGS_state_bytes);
    options.state_host_memory = absl::GetFlag(FLAGS_host_memory);
    options.state_dir = absl::GetFlag(FLAGS_dir);
    options.state_disk = int64_t{64} << 30;
    auto engine = Engine::Create(model, nullptr, options);
    PACKRAT_CHECK(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
    thread_ = std::make_unique<EngineThread>(engine_.get());
  }
  ~Bench() { thread_->Stop(); }

  void MakeSessions() {
    const int count = absl::GetFlag(FLAGS_sessions);
    const absl::Time start = SteadyNow();
    while (static_cast<int>(texts_.size()) < count) {
      // Not faster than the disk takes them.
      while (Tiers().memory.bytes > Tiers().memory.limit * 3 / 4) {
        absl::SleepFor(absl::Milliseconds(1));
      }
      if (absl::GetFlag(FLAGS_load) && !texts_.empty()) {
        LoadSession();
        continue;
      }
      std::vector<Call> calls(
          std::min<size_t>(absl::GetFlag(FLAGS_load) ? 1 : 16, count - texts_.size()));
      for (Call& call : calls) {
        Submit(RandomText(absl::GetFlag(FLAGS_text_tokens)), kGenerated, /*importance=*/1, &call);
      }
      for (Call& call : calls) {
        Wait(&call);
        call.text.insert(call.text.end(), call.tokens.begin(), call.tokens.end());
        texts_.push_back(std::move(call.text));
      }
    }
    absl::SleepFor(absl::Seconds(1));
    ForgetFiles(absl::GetFlag(FLAGS_dir));
    const StateTiers::Stats stats = Tiers();
    PACKRAT_CHECK(stats.dropped + stats.write_failures == 0);
    const std::string seconds = absl::StrCat(absl::ToInt64Seconds(SteadyNow() - start), " s");
    Row(absl::StrCat(count, " sessions of ", texts_[0].size(), " tokens, states in memory"),
        static_cast<double>(stats.memory.states), "", 0, "made in " + seconds);
    Row("states on the disk", static_cast<double>(stats.disk.states), "", 0,
        absl::StrCat(stats.disk.bytes >> 20, " MiB"));
    Row("the process holds", static_cast<double>(ResidentBytes() >> 20), "MiB");
  }

  // A text of its own, and the state of the first.
  void LoadSession() {
    if (loaded_.position == 0) {
      std::promise<absl::StatusOr<SavedState>> saved;
      SaveWhole(engine_.get(), {}, texts_[0],
                [&](absl::StatusOr<SavedState> state) { saved.set_value(std::move(state)); });
      loaded_ = *saved.get_future().get();
      PACKRAT_CHECK(loaded_.position == static_cast<int>(texts_[0].size()) - 1);
    }
    loaded_.tokens = RandomText(static_cast<int>(texts_[0].size()));
    std::promise<absl::Status> done;
    LoadWhole(engine_.get(), {}, loaded_,
              [&](absl::Status status) { done.set_value(std::move(status)); });
    const absl::Status status = done.get_future().get();
    PACKRAT_CHECK(status.ok()) << status;
    texts_.push_back(loaded_.tokens);
  }

  enum class Where { kDisk, kSystemCache, kPool, kNowhere };

  // First tokens of turns of sessions drawn at random.
  void Measure(const std::string& what, Where where, int streams = 0) {
    std::vector<double> times;
    std::vector<Call> others(streams);
    for (Call& call : others) Submit(RandomText(8), 500, /*importance=*/-1, &call);
    const int64_t read_before = Tiers().read_from_disk;
    if (where == Where::kDisk) ForgetFiles(absl::GetFlag(FLAGS_dir));
    for (int i = 0; i < absl::GetFlag(FLAGS_turns); ++i) {
      for (Call& call : others) {
        if (!call.Poll()) continue;
        call = Call();
        Submit(RandomText(8), 500, -1, &call);
      }
      Text text = texts_[random_() % texts_.size()];
      if (where == Where::kPool) text = TurnOf(text, 0).text;  // A moment ago.
      const Call call = TurnOf(text, where == Where::kNowhere ? -1 : 0);
      const Usage& usage = call.finish->usage;
      const bool hit = usage.cached_tokens == static_cast<int>(text.size()) - 1;
      PACKRAT_CHECK(hit == (where != Where::kNowhere)) << usage.cached_tokens << " " << i;
      times.push_back(1e3 * absl::ToDoubleSeconds(usage.time_to_first_token));
    }
    std::sort(times.begin(), times.end());
    const std::string note =
        absl::StrCat(Tiers().read_from_disk - read_before, " of ", times.size(), " read from disk");
    Row(what + ", p50", Percentile(times, 0.5), "ms", 0, note);
    Row(what + ", p99", Percentile(times, 0.99), "ms");
    Row(what + ", longest", times.back(), "ms");
    for (Call& call : others) engine_->Cancel(call.id);
    for (Call& call : others) {
      while (!call.Poll()) absl::SleepFor(absl::Microseconds(50));
    }
  }

 private:
  static constexpr int kGenerated = 4;

  struct Call {
    uint64_t id = 0;
    Text text, tokens;
    std::shared_ptr<Outbox> outbox = std::make_shared<Outbox>(nullptr);
    std::optional<Finish> finish;
    bool Poll() {
      Outbox::Update update;
      if (outbox->Take(&update)) {
        tokens.insert(tokens.end(), update.tokens.begin(), update.tokens.end());
        if (update.finish.has_value()) finish = update.finish;
      }
      return finish.has_value();
    }
  };

  StateTiers::Stats Tiers() const { return engine_->stats().tiers; }
  Text RandomText(int tokens) {
    Text text(tokens);
    for (int32_t& token : text) token = 3 + static_cast<int32_t>(random_() % (vocab_ - 3));
    return text;
  }
  // Importance below 0: without the cache.
  void Submit(Text text, int max_tokens, int importance, Call* call) {
    Request request;
    request.id = call->id = next_id_++;
    request.prompt = call->text = std::move(text);
    request.sampling.temperature = 0;
    request.stop.max_tokens = max_tokens;
    request.stop.ignore_eos = true;
    request.cache.use = importance >= 0;
    request.cache.importance = importance;
    request.outbox = call->outbox;
    const absl::Status status = engine_->Submit(std::move(request), SteadyNow());
    PACKRAT_CHECK(status.ok()) << status;
  }
  void Wait(Call* call) {
    while (!call->Poll()) absl::SleepFor(absl::Microseconds(50));
    PACKRAT_CHECK(call->finish->status.ok()) << call->finish->status;
  }
  Call TurnOf(Text text, int importance) {
    const Text more = RandomText(absl::GetFlag(FLAGS_turn_tokens));
    text.insert(text.end(), more.begin(), more.end());
    Call call;
    Submit(std::move(text), 1, importance, &call);
    Wait(&call);
    call.text.insert(call.text.end(), call.tokens.begin(), call.tokens.end());
    return call;
  }

  const int vocab_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<EngineThread> thread_;
  std::vector<Text> texts_;
  SavedState loaded_;
  std::mt19937_64 random_{1};
  uint64_t next_id_ = 1;
};

absl::Status Run() {
  ModelOptions options;
  options.max_logit_rows = 16;
  auto model = LoadCpuModel(absl::GetFlag(FLAGS_model), options);
  if (!model.ok()) return model.status();
  Bench bench(model->get());
  bench.MakeSessions();
  const std::string wait_for = absl::GetFlag(FLAGS_wait_for);
  while (!wait_for.empty() && !std::filesystem::exists(wait_for)) absl::SleepFor(absl::Seconds(1));
  const std::string turn =
      absl::StrCat("first token of a turn of ", absl::GetFlag(FLAGS_turn_tokens));
  bench.Measure(turn + ", its state on the disk", Bench::Where::kDisk);
  bench.Measure(turn + ", likewise, in the system's cache perhaps", Bench::Where::kSystemCache);
  bench.Measure(turn + ", its state in the pool", Bench::Where::kPool);
  bench.Measure(turn + ", computed anew", Bench::Where::kNowhere);
  const int streams = absl::GetFlag(FLAGS_streams);
  bench.Measure(absl::StrCat(turn, ", its state on the disk, while ", streams, " others generate"),
                Bench::Where::kDisk, streams);
  return absl::OkStatus();
}

}  // namespace
}  // namespace packrat

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("first tokens of sessions that were idle");
  absl::ParseCommandLine(argc, argv);
  const absl::Status status = packrat::Run();
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
