#include "runtime/saved_state.h"

#include <cstring>
#include <type_traits>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/check.h"
#include "models/weights.h"

namespace packrat {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers would have to be turned");

constexpr absl::string_view kMagic = "PACKRAT\x1a";
constexpr uint32_t kVersion = 1;
constexpr size_t kPrefixBytes = kMagic.size() + 4 + 4 + 8;

uint64_t HashOf(absl::string_view bytes) { return HashBytes(0, bytes.data(), bytes.size()); }

// The length, and so a cut, counts in the hash; so does the version, of which a later reader must
// be sure before it believes it.
uint64_t HeaderHash(uint32_t version, absl::string_view header) {
  return HashBytes(version, header.data(), header.size());
}

template <class T>
void Append(std::string* out, T value) {
  static_assert(std::is_arithmetic_v<T>);
  out->append(reinterpret_cast<const char*>(&value), sizeof value);
}
void AppendString(std::string* out, absl::string_view text) {
  Append(out, static_cast<uint32_t>(text.size()));
  out->append(text.data(), text.size());
}
void AppendInts(std::string* out, const std::vector<int32_t>& values) {
  Append(out, static_cast<uint32_t>(values.size()));
  out->append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(int32_t));
}

// Takes fields from the front of what is left; after a field that is not there, every other is 0 or
// empty, and failed().
class Fields {
 public:
  explicit Fields(absl::string_view bytes) : left_(bytes) {}
  bool failed() const { return failed_; }
  bool complete() const { return !failed_ && left_.empty(); }

  template <class T>
  T Number() {
    T value{};
    const absl::string_view bytes = Bytes(sizeof value);
    if (!failed_) std::memcpy(&value, bytes.data(), sizeof value);
    return value;
  }
  absl::string_view String() { return Bytes(Number<uint32_t>()); }
  std::vector<int32_t> Ints() {
    const size_t count = Number<uint32_t>();
    // Not more memory than there are bytes.
    const absl::string_view bytes = Bytes(count * sizeof(int32_t));
    std::vector<int32_t> values(bytes.size() / sizeof(int32_t));
    if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }

 private:
  absl::string_view Bytes(size_t count) {
    if (failed_ || count > left_.size()) {
      failed_ = true;
      return {};
    }
    const absl::string_view bytes = left_.substr(0, count);
    left_.remove_prefix(count);
    return bytes;
  }

  absl::string_view left_;
  bool failed_ = false;
};

absl::Status Damaged(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("the saved state is damaged: ", what));
}

// How a sequence's state is laid out, for people as well.
std::string LayoutText(const StateLayout& layout) {
  std::string text = absl::StrCat("slot ", layout.slot_bytes, ", tail ", layout.tail_bytes);
  for (const PageClass& c : layout.page_classes) {
    absl::StrAppend(&text, ", ", c.Name(), " ", c.page_bytes);
  }
  return text;
}

absl::Status Expect(absl::string_view what, absl::string_view saved, absl::string_view own) {
  if (saved == own) return absl::OkStatus();
  // Not whatever somebody calls a model.
  return absl::FailedPreconditionError(absl::StrCat("the saved state is of ", what, " '",
                                                    absl::CHexEscape(saved.substr(0, 200)),
                                                    "'; this server has '", own, "'"));
}

absl::Status CheckText(const SavedState& state, const StateOwner& owner) {
  const auto size = static_cast<int64_t>(state.tokens.size());
  if (size > owner.max_context) {
    return absl::FailedPreconditionError(absl::StrCat("the saved text has ", size,
                                                      " tokens; this server takes texts of up to ",
                                                      owner.max_context));
  }
  for (int64_t i = 0; i < size; ++i) {
    if (state.tokens[i] < 0 || state.tokens[i] >= owner.vocab_size) {
      return Damaged(absl::StrCat("token ", i, " is ", state.tokens[i], "; range [0, ",
                                  owner.vocab_size - 1, "]"));
    }
  }
  int32_t last = 0;
  for (int32_t turn : state.turns) {
    if (turn <= last || turn > size) {
      return Damaged(
          absl::StrCat("a turn ends at token ", turn, "; range [", last + 1, ", ", size, "]"));
    }
    last = turn;
  }
  if (state.position != 0 && (state.position < kMinSnapshotTokens || state.position > size)) {
    return Damaged(absl::StrCat("its position is ", state.position, "; range [", kMinSnapshotTokens,
                                ", ", size, "], or 0"));
  }
  return absl::OkStatus();
}

}  // namespace

StateOwner OwnerOf(const LanguageModel& model) {
  const int most = model.options().max_context;
  return {model.fingerprint(), model.numerics_id(), model.state_layout(), model.config().vocab_size,
          most > 0 ? most : model.config().max_context};
}

size_t SavedPartBytes(const StateLayout& layout, int32_t position) {
  return position == 0 ? 0 : Snapshot::Bytes(layout, position, /*before=*/0);
}

std::string EncodeHeader(const SavedState& state, const StateOwner& owner) {
  PACKRAT_CHECK(state.parts.size() == SavedPartBytes(owner.layout, state.position))
      << state.parts.size() << " bytes at position " << state.position;
  std::string header;
  header.reserve(256 + (state.tokens.size() + state.turns.size()) * sizeof(int32_t));
  AppendString(&header, owner.fingerprint);
  AppendString(&header, owner.numerics_id);
  AppendString(&header, LayoutText(owner.layout));
  AppendInts(&header, state.tokens);
  AppendInts(&header, state.turns);
  Append(&header, state.solver.cg_tolerance);
  Append(&header, state.solver.cg_max_steps);
  Append(&header, state.position);
  Append(&header, HashOf(state.parts));

  std::string bytes(kMagic);
  bytes.reserve(kPrefixBytes + header.size());
  Append(&bytes, kVersion);
  Append(&bytes, static_cast<uint32_t>(header.size()));
  Append(&bytes, HeaderHash(kVersion, header));
  return bytes + header;
}

absl::StatusOr<SavedState> DecodeSavedState(std::string bytes, const StateOwner& owner) {
  const absl::string_view all = bytes;
  if (all.substr(0, kMagic.size()) != kMagic) {
    return absl::DataLossError("these bytes are not a saved state, or their beginning is damaged");
  }
  Fields prefix(all.substr(kMagic.size(), kPrefixBytes - kMagic.size()));
  const auto version = prefix.Number<uint32_t>();
  const size_t header_bytes = prefix.Number<uint32_t>();
  const auto hash = prefix.Number<uint64_t>();
  if (prefix.failed() || all.size() - kPrefixBytes < header_bytes) {
    return Damaged(absl::StrCat("it is cut after ", all.size(), " bytes"));
  }
  const absl::string_view header = all.substr(kPrefixBytes, header_bytes);
  if (HeaderHash(version, header) != hash) return Damaged("the hash of its header differs");
  if (version != kVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("the saved state has format ", version, "; this server reads ", kVersion));
  }

  Fields fields(header);
  const absl::string_view fingerprint = fields.String();
  const absl::string_view numerics_id = fields.String();
  const absl::string_view layout = fields.String();
  SavedState state;
  state.tokens = fields.Ints();
  state.turns = fields.Ints();
  state.solver.cg_tolerance = fields.Number<float>();
  state.solver.cg_max_steps = fields.Number<int32_t>();
  state.position = fields.Number<int32_t>();
  const auto parts_hash = fields.Number<uint64_t>();
  if (!fields.complete()) return Damaged("its header has the wrong length");
  absl::Status status = Expect("model", fingerprint, owner.fingerprint);
  if (status.ok()) status = Expect("numerics", numerics_id, owner.numerics_id);
  if (status.ok()) status = Expect("state layout", layout, LayoutText(owner.layout));
  if (status.ok()) status = CheckText(state, owner);
  if (!status.ok()) return status;

  const size_t parts_begin = kPrefixBytes + header_bytes;
  const size_t wanted = SavedPartBytes(owner.layout, state.position);
  if (all.size() - parts_begin != wanted) {
    return Damaged(absl::StrCat("it has ", all.size(), " bytes, not ", parts_begin + wanted));
  }
  if (HashOf(all.substr(parts_begin)) != parts_hash)
    return Damaged("the hash of its parts differs");
  bytes.erase(0, parts_begin);
  state.parts = std::move(bytes);
  return state;
}

}  // namespace packrat
