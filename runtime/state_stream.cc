#include "runtime/state_stream.h"

#include <algorithm>
#include <future>
#include <memory>
#include <utility>

namespace packrat {
namespace {

// What `ask` is answered, which it calls with a callback.
template <class Answer, class Ask>
Answer Wait(const StateLink& link, Ask ask) {
  auto done = std::make_shared<std::promise<Answer>>();
  std::future<Answer> answer = done->get_future();
  ask([done](Answer told) { done->set_value(std::move(told)); });
  if (answer.wait_for(link.timeout) == std::future_status::ready) return answer.get();
  return absl::UnavailableError("the engine is busy: no step of it came to the state in time");
}

}  // namespace

StateReader StateReader::Open(const StateLink& link, StateSpace space, std::vector<int32_t> text,
                              const std::function<bool()>& gone) {
  StateReader reader;
  reader.link_ = link;
  reader.space_ = std::move(space);
  reader.text_ = std::make_shared<const std::vector<int32_t>>(std::move(text));
  BytesHash hash;
  for (;;) {
    if (gone != nullptr && gone()) return StateReader();
    absl::StatusOr<StatePiece> piece = reader.Read();
    if (!piece.ok()) return StateReader();
    if (piece->bytes.empty()) break;
    reader.from_ = piece->from;
    hash.Add(piece->bytes.data(), piece->bytes.size());
    reader.at_ += static_cast<int64_t>(piece->bytes.size());
    if (static_cast<int64_t>(piece->bytes.size()) < link.piece_bytes) {
      if (reader.at_ == static_cast<int64_t>(piece->bytes.size())) {
        reader.first_ = std::move(piece->bytes);
      }
      break;
    }
  }
  reader.seal_ = {static_cast<uint64_t>(reader.at_), hash.Value()};
  reader.at_ = 0;
  return reader;
}

absl::StatusOr<StatePiece> StateReader::Read() {
  return Wait<absl::StatusOr<StatePiece>>(link_, [&](auto done) {
    link_.engine->ReadState(space_, text_, from_, at_, link_.piece_bytes, std::move(done));
  });
}

absl::StatusOr<std::string> StateReader::Next() {
  if (at_ == static_cast<int64_t>(seal_.bytes)) return std::string();
  std::string bytes = std::exchange(first_, std::string());
  if (bytes.empty()) {
    absl::StatusOr<StatePiece> piece = Read();
    if (!piece.ok()) return piece.status();
    bytes = std::move(piece->bytes);
  }
  at_ += static_cast<int64_t>(bytes.size());
  return bytes;
}

StateWriter::StateWriter(const StateLink& link, int32_t position, int32_t dial)
    : link_(link), number_(Engine::NewStateNumber()), position_(position), dial_(dial) {}

StateWriter::~StateWriter() {
  if (at_ > 0 && !kept_) link_.engine->DropState(number_);
}

absl::Status StateWriter::Write(std::string bytes) {
  if (!status_.ok() || bytes.empty()) return status_;
  const int64_t at = at_;
  at_ += static_cast<int64_t>(bytes.size());
  status_ = Wait<absl::Status>(link_, [&](auto done) {
    link_.engine->WriteState(number_, position_, dial_, at, std::move(bytes), std::move(done));
  });
  return status_;
}

absl::Status StateWriter::Keep(StateSpace space, std::vector<int32_t> text, SeenTextEnd end) {
  if (!status_.ok()) return status_;
  auto shared = std::make_shared<const std::vector<int32_t>>(std::move(text));
  status_ = Wait<absl::Status>(link_, [&](auto done) {
    link_.engine->KeepState(number_, std::move(space), std::move(shared), std::move(done),
                            std::move(end));
  });
  kept_ = status_.ok();
  return status_;
}

}  // namespace packrat
