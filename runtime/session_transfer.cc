#include "runtime/session_transfer.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace packrat {

absl::StatusOr<PackedSession> SessionTransfer::Pack(
    const SessionOwner& owner, absl::string_view handle, const std::optional<StateSpace>& space,
    absl::Time now, const std::function<bool()>& gone, bool with_turn) {
  SavedState state;
  StateSpace from;
  auto info = with_turn ? sessions_->GetWithTurn(owner, handle, now, &state.tokens)
                        : sessions_->Get(owner, handle, now, &state.tokens);
  if (!info.ok()) return info.status();
  PackedSession packed;
  if (space.has_value()) {
    from = *space;
    from.origin = info->origin;
    from.dials = info->dials;
    packed.state = StateReader::Open(link_, from, state.tokens, gone);
  }
  state.position = packed.state.position();
  // With a state the session goes on from that; else as it would have.
  state.solver = state.position > 0 ? from.solver : info->solver;
  state.dials = info->dials;
  state.turns = info->turns;
  state.ttl = info->ttl;
  state.origin = info->origin;
  packed.info = *std::move(info);
  packed.header = EncodeHeader(state, packed.state.seal(), model_);
  return packed;
}

SessionContent SessionTransfer::ContentOf(const SavedState& state) {
  return {state.tokens, state.turns, state.ttl, state.origin, state.dials, state.solver};
}

absl::StatusOr<SessionTransfer::Loaded> SessionTransfer::Load(const SessionOwner& owner,
                                                              SessionInput* input, std::string salt,
                                                              std::optional<absl::Duration> ttl,
                                                              uint64_t origin, absl::Time now) {
  const absl::Status whole = input->End();
  if (!whole.ok()) return whole;
  const SavedState& state = input->state();
  SessionContent content = ContentOf(state);
  if (ttl.has_value()) {
    const absl::Status valid = sessions_->CheckTtl(*ttl);
    if (!valid.ok()) return valid;
    content.ttl = *ttl;
  }
  const bool has_state = state.position > 0 && state.dropped.empty();
  content.origin = has_state ? origin : 0;
  auto info = sessions_->Restore(owner, std::move(content), now);
  if (!info.ok()) return info.status();
  Loaded loaded;
  loaded.info = *std::move(info);
  loaded.solver = state.solver;
  loaded.state_dropped = state.dropped;
  const absl::Status kept =
      input->Keep({owner.tenant, std::move(salt), {}, {}, loaded.info.origin}, loaded.info.end);
  if (!has_state) return loaded;
  if (kept.ok()) {
    loaded.state_tokens = state.position;
  } else {
    loaded.state_dropped = std::string(kept.message());
  }
  return loaded;
}

SessionInput::SessionInput(SessionTransfer* transfer) : transfer_(transfer) {}

absl::Status SessionInput::Take(absl::string_view bytes) {
  bytes_.reserve(std::max(bytes_.size() + bytes.size(), wanted() - held() + bytes_.size()));
  bytes_.append(bytes.data(), bytes.size());
  const StateOwner& model = transfer_->model_;
  if (!has_text()) {
    const auto size = SizeOfSavedState(bytes_, model);
    if (!size.ok()) return size.status();
    size_ = *size;
    if (!size_.exact) return absl::OkStatus();
    auto header = DecodeHeader(bytes_, model);
    if (!header.ok()) return header.status();
    header_ = *std::move(header);
    bytes_ = bytes_.substr(header_->end);
    const SavedState& state = header_->state;
    if (state.position > 0 && state.dropped.empty()) {
      writer_ = std::make_unique<StateWriter>(transfer_->link_, state.position, state.dials.last);
    }
  }
  if (parts_bytes_ + bytes_.size() > header_->parts.bytes) {
    return absl::DataLossError(
        absl::StrCat("the saved state is damaged: it has more than ", size_.bytes, " bytes"));
  }
  return absl::OkStatus();
}

bool SessionInput::full() const {
  return has_text() && static_cast<int64_t>(bytes_.size()) >= transfer_->link_.piece_bytes;
}

bool SessionInput::state_is_lost() const {
  if (!has_text() || header_->parts.bytes == 0) return false;
  return writer_ == nullptr || writer_->failed();
}

size_t SessionInput::wanted() const {
  if (!has_text()) return std::max(size_.bytes, bytes_.size());
  const uint64_t piece = transfer_->link_.piece_bytes;
  const uint64_t parts = header_->parts.bytes - parts_bytes_;
  return std::max(held(), header_->end + static_cast<size_t>(std::min(parts, piece)));
}

void SessionInput::Place() {
  hash_.Add(bytes_.data(), bytes_.size());
  parts_bytes_ += bytes_.size();
  std::string bytes = std::exchange(bytes_, std::string());
  if (writer_ == nullptr) return;
  const auto most = static_cast<size_t>(transfer_->link_.piece_bytes);
  // Where there is no place for it, the status stays in the writer.
  if (bytes.size() <= most) return writer_->Write(std::move(bytes)).IgnoreError();
  for (size_t at = 0; at < bytes.size() && !writer_->failed(); at += most) {
    writer_->Write(bytes.substr(at, most)).IgnoreError();
  }
}

absl::Status SessionInput::End() {
  if (!has_text()) {
    // In the words for what is cut.
    return DecodeHeader(bytes_, transfer_->model_).status();
  }
  const uint64_t bytes = parts_bytes_ + bytes_.size();
  BytesHash hash = hash_;
  hash.Add(bytes_.data(), bytes_.size());
  const absl::Status whole = CheckParts(header_->parts, bytes, hash);
  if (!whole.ok()) return whole;
  if (!bytes_.empty()) Place();
  return absl::OkStatus();
}

absl::Status SessionInput::Keep(StateSpace space, SeenTextEnd end) {
  const SavedState& state = header_->state;
  if (!state.dropped.empty()) ++transfer_->states_dropped_;
  if (writer_ == nullptr) return absl::OkStatus();
  space.solver = state.solver;  // With which it came to be.
  space.dials = state.dials;
  return writer_->Keep(std::move(space), state.tokens, std::move(end));
}

}  // namespace packrat
