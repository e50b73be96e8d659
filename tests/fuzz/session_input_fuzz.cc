// Any bytes as what a client brings of a session, cut anywhere: refused, and then by
// DecodeSavedState() as well, or a session with the text that they have; whatever its state is, an
// engine that runs takes it.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <string>

#include "kernels/check.h"
#include "runtime/engine_thread.h"
#include "runtime/session_transfer.h"
#include "tests/fuzz/saved_state_bytes.h"
#include "tests/runtime/fake_model.h"

namespace packrat {
namespace {

class Replica {
 public:
  Replica()
      : model_(SmallModel()),
        engine_(*Engine::Create(&model_, nullptr, SmallEngine())),
        thread_(engine_.get()),
        sessions_({8, 1000, absl::Hours(1)}, [this] { return random_(); }),
        transfer_(&sessions_, engine_.get(), Owner(model_), kPieceBytes) {}

  void Take(const std::string& bytes) {
    const StateOwner& owner = transfer_.model();
    const absl::StatusOr<SavedState> whole = DecodeSavedState(bytes, owner);
    SessionInput input(&transfer_);
    absl::Status status;
    for (size_t at = 0, size; at < bytes.size() && status.ok(); at += size) {
      size = std::min<size_t>(1 + random_() % 900, bytes.size() - at);
      status = input.Take({&bytes[at], size});
      if (!status.ok()) break;
      PACKRAT_CHECK(input.held() <= input.wanted()) << input.held();
      if (input.full()) input.Place();
    }
    if (status.ok()) status = input.End();
    if (!status.ok()) {
      PACKRAT_CHECK(absl::IsDataLoss(status) || absl::IsFailedPrecondition(status)) << status;
      PACKRAT_CHECK(!whole.ok() || !SizeOfSavedState(bytes, owner).ok()) << status;
      return;
    }
    PACKRAT_CHECK(whole.ok()) << whole.status();
    PACKRAT_CHECK(input.state().tokens == whole->tokens);
    const auto loaded =
        transfer_.Load({}, &input, /*salt=*/"", std::nullopt, ++last_origin_, absl::UnixEpoch());
    // Of a time to live that no session may have, say.
    if (!loaded.ok()) return;
    PACKRAT_CHECK(loaded->state_tokens == 0 || loaded->state_tokens == whole->position);
    PACKRAT_CHECK(sessions_.Delete({}, loaded->info.handle, absl::UnixEpoch()).ok());
  }

 private:
  static constexpr int64_t kPieceBytes = 700;  // So that there are many.
  static FakeModel::Options SmallModel() {
    FakeModel::Options options;
    options.max_context = 128;
    return options;
  }
  // The corpus is of any machine.
  static StateOwner Owner(const LanguageModel& model) {
    StateOwner owner = OwnerOf(model);
    owner.numerics_id = "numerics";
    return owner;
  }
  static EngineOptions SmallEngine() {
    EngineOptions options;
    options.max_running = 2;
    options.max_batch_tokens = 32;
    return options;
  }

  std::minstd_rand random_;
  FakeModel model_;
  const std::unique_ptr<Engine> engine_;
  EngineThread thread_;
  Sessions sessions_;
  SessionTransfer transfer_;
  uint64_t last_origin_ = 0;
};

}  // namespace
}  // namespace packrat

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* input, size_t size) {
  static packrat::Replica replica;
  const std::string bytes(reinterpret_cast<const char*>(input), size);
  replica.Take(bytes);
  if (size >= 4) replica.Take(packrat::WithHashes(bytes));
  return 0;
}
