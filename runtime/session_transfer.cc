#include "runtime/session_transfer.h"

#include <future>
#include <memory>

namespace packrat {

absl::StatusOr<PackedSession> SessionTransfer::Pack(const SessionOwner& owner,
                                                    absl::string_view handle,
                                                    const std::optional<StateSpace>& space,
                                                    int64_t max_state_bytes, absl::Time now) {
  SavedState state;
  auto info = sessions_->Get(owner, handle, now, &state.tokens);
  if (!info.ok()) return info.status();
  if (space.has_value()) {
    StateSpace from = *space;
    from.origin = info->origin;
    from.dials = info->dials;
    auto done = std::make_shared<std::promise<absl::StatusOr<SavedState>>>();
    auto saved = done->get_future();
    engine_->SaveState(
        std::move(from), state.tokens, max_state_bytes,
        [done](absl::StatusOr<SavedState> with) { done->set_value(std::move(with)); });
    if (saved.wait_for(engine_timeout_) == std::future_status::ready) {
      absl::StatusOr<SavedState> with = saved.get();
      if (with.ok()) state = *std::move(with);
    }
    state.solver = space->solver;
  }
  state.dials = info->dials;
  state.turns = info->turns;
  state.ttl = info->ttl;
  state.origin = info->origin;
  PackedSession packed;
  packed.info = *std::move(info);
  packed.header = EncodeHeader(state, model_);
  packed.parts = std::move(state.parts);
  packed.state_tokens = state.position;
  return packed;
}

absl::StatusOr<SavedState> SessionTransfer::Unpack(std::string bytes) {
  absl::StatusOr<SavedState> state = DecodeSavedState(std::move(bytes), model_);
  if (state.ok() && !state->dropped.empty()) ++states_dropped_;
  return state;
}

absl::Status SessionTransfer::Place(StateSpace space, SavedState state) {
  if (state.position == 0) return absl::OkStatus();
  space.solver = state.solver;  // With which it came to be.
  space.dials = state.dials;
  auto done = std::make_shared<std::promise<absl::Status>>();
  std::future<absl::Status> placed = done->get_future();
  engine_->LoadState(std::move(space), std::move(state),
                     [done](absl::Status status) { done->set_value(std::move(status)); });
  if (placed.wait_for(engine_timeout_) == std::future_status::ready) return placed.get();
  return absl::DeadlineExceededError("the engine is busy");
}

SessionContent SessionTransfer::ContentOf(const SavedState& state) {
  return {state.tokens, state.turns, state.ttl, state.origin, state.dials};
}

absl::StatusOr<SessionTransfer::Loaded> SessionTransfer::Load(const SessionOwner& owner,
                                                              std::string bytes, std::string salt,
                                                              std::optional<absl::Duration> ttl,
                                                              uint64_t origin, absl::Time now) {
  absl::StatusOr<SavedState> state = Unpack(std::move(bytes));
  if (!state.ok()) return state.status();
  SessionContent content = ContentOf(*state);
  if (ttl.has_value()) {
    const absl::Status valid = sessions_->CheckTtl(*ttl);
    if (!valid.ok()) return valid;
    content.ttl = *ttl;
  }
  content.origin = state->position > 0 ? origin : 0;
  auto info = sessions_->Restore(owner, std::move(content), now);
  if (!info.ok()) return info.status();
  Loaded loaded;
  loaded.info = *std::move(info);
  loaded.solver = state->solver;
  loaded.state_dropped = std::move(state->dropped);
  const int32_t position = state->position;
  const absl::Status placed =
      Place({owner.tenant, std::move(salt), {}, {}, loaded.info.origin}, *std::move(state));
  if (placed.ok()) {
    loaded.state_tokens = position;
  } else {
    loaded.state_dropped = std::string(placed.message());
  }
  return loaded;
}

}  // namespace packrat
