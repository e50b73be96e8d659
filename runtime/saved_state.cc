#include "runtime/saved_state.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "kernels/check.h"
#include "models/bounds.h"
#include "models/config.h"
#include "models/weights.h"

namespace packrat {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers would have to be turned");

constexpr absl::string_view kMagic = "PACKRAT\x1a";
constexpr uint32_t kVersion = 2, kVersionWithDials = 3;
// A layout of the same model has other types, and blocks and chunks of other lengths.
constexpr uint64_t kMostTimesLarger = 16;
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
    if (c.num_layers == 0) continue;  // Another dial's.
    absl::StrAppend(&text, ", ", c.Name(), " ", c.page_bytes);
  }
  return text;
}

std::string Differs(absl::string_view what, absl::string_view saved, absl::string_view own) {
  if (saved == own) return "";
  // Not whatever somebody calls a model.
  return absl::StrCat("the saved state is of ", what, " '", absl::CHexEscape(saved.substr(0, 200)),
                      "'; this server has '", own, "'");
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
  // The text goes on with these.
  for (const absl::Status& status :
       {bounds::kCgTolerance.Check(bounds::kCgTolerance.field, state.solver.cg_tolerance),
        bounds::kCgMaxSteps.Check(bounds::kCgMaxSteps.field, state.solver.cg_max_steps)}) {
    if (!status.ok()) return Damaged(status.message());
  }
  int32_t end = kMinSnapshotTokens - 1;
  for (size_t i = 0; i < state.dials.finer.size(); ++i) {
    const TextDials::Part& part = state.dials.finer[i];
    if (part.end <= end || part.end > size) {
      return Damaged(absl::StrCat("a part with a dial of its own ends at token ", part.end,
                                  "; range [", end + 1, ", ", size, "]"));
    }
    end = part.end;
    const int32_t next = state.dials.Of(static_cast<int>(i) + 1);
    if (owner.coarser.count({part.dial, next}) == 0) {
      return Damaged(absl::StrCat("from token ", end,
                                  " on it has a dial with which no text of the "
                                  "dial before it goes on"));
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
  // What lies before the last part is no state of its dial.
  const int32_t least = std::max(kMinSnapshotTokens, end);
  if (state.position != 0 && (state.position < least || state.position > size)) {
    return Damaged(absl::StrCat("its position is ", state.position, "; range [", least, ", ", size,
                                "], or 0"));
  }
  return absl::OkStatus();
}

// The dial that is the model's of this fingerprint.
absl::StatusOr<int32_t> DialOf(absl::string_view fingerprint, const StateOwner& owner) {
  const std::vector<std::string>& own = owner.fingerprints;
  const auto dial = std::find(own.begin(), own.end(), fingerprint);
  if (dial != own.end()) return static_cast<int32_t>(dial - own.begin());
  return absl::FailedPreconditionError(
      Differs("model", fingerprint, absl::StrJoin(own, "' and '")));
}

absl::Status NoSavedState() {
  return absl::DataLossError("these bytes are not a saved state, or their beginning is damaged");
}

// What stands before the header, after the magic; all 0 where it is not there.
struct Prefix {
  explicit Prefix(absl::string_view bytes) {
    Fields fields(bytes.substr(std::min(bytes.size(), kMagic.size())));
    version = fields.Number<uint32_t>();
    header_bytes = fields.Number<uint32_t>();
    hash = fields.Number<uint64_t>();
  }
  uint32_t version, header_bytes;
  uint64_t hash;
};

}  // namespace

absl::StatusOr<SavedHeader> DecodeHeader(absl::string_view bytes, const StateOwner& owner) {
  if (bytes.substr(0, kMagic.size()) != kMagic) return NoSavedState();
  const Prefix prefix(bytes);
  if (bytes.size() < kPrefixBytes || bytes.size() - kPrefixBytes < prefix.header_bytes) {
    return Damaged(absl::StrCat("it is cut after ", bytes.size(), " bytes"));
  }
  const absl::string_view text = bytes.substr(kPrefixBytes, prefix.header_bytes);
  if (HeaderHash(prefix.version, text) != prefix.hash) {
    return Damaged("the hash of its header differs");
  }
  const bool with_dials = prefix.version == kVersionWithDials;
  if (prefix.version != kVersion && !with_dials) {
    return absl::FailedPreconditionError(absl::StrCat("the saved state has format ", prefix.version,
                                                      "; this server reads ", kVersion, " and ",
                                                      kVersionWithDials));
  }

  SavedHeader header;
  header.end = kPrefixBytes + prefix.header_bytes;
  SavedState& state = header.state;
  Fields fields(text);
  const absl::string_view fingerprint = fields.String();
  const absl::string_view numerics_id = fields.String();
  const absl::string_view layout = fields.String();
  state.tokens = fields.Ints();
  state.turns = fields.Ints();
  state.ttl = absl::Nanoseconds(fields.Number<int64_t>());
  state.origin = fields.Number<uint64_t>();
  state.solver.cg_tolerance = fields.Number<float>();
  state.solver.cg_max_steps = fields.Number<int32_t>();
  state.position = fields.Number<int32_t>();
  header.parts.bytes = fields.Number<uint64_t>();
  header.parts.hash = fields.Number<uint64_t>();
  std::vector<std::pair<absl::string_view, int32_t>> finer;  // Fingerprints and ends.
  for (uint32_t parts = with_dials ? fields.Number<uint32_t>() : 0; parts > 0; --parts) {
    const absl::string_view name = fields.String();
    finer.emplace_back(name, fields.Number<int32_t>());
    if (fields.failed()) break;
  }
  if (!fields.complete()) return Damaged("its header has the wrong length");
  if (with_dials && finer.empty()) return Damaged("it has no dials before its last one");
  const auto last = DialOf(fingerprint, owner);
  if (!last.ok()) return last.status();
  state.dials.last = *last;
  for (const auto& [name, end] : finer) {
    const auto dial = DialOf(name, owner);
    if (!dial.ok()) return dial.status();
    state.dials.finer.push_back({end, *dial});
  }
  const StateLayout& own_layout = owner.layout.ForDial(state.dials.last);
  const absl::Status status = CheckText(state, owner);
  if (!status.ok()) return status;

  const std::string other_layout = Differs("state layout", layout, LayoutText(own_layout));
  if (state.position > 0) state.dropped = Differs("numerics", numerics_id, owner.numerics_id);
  if (state.position > 0 && state.dropped.empty()) state.dropped = other_layout;
  // Of another layout they have other lengths, but not any: nobody reads for ever.
  const uint64_t wanted = SavedPartBytes(own_layout, state.position);
  const uint64_t most = other_layout.empty() ? wanted : kMostTimesLarger * wanted;
  if (header.parts.bytes > most || (other_layout.empty() && header.parts.bytes != wanted)) {
    return Damaged(absl::StrCat("its parts have ", header.parts.bytes, " bytes, not ", wanted));
  }
  return header;
}

absl::Status CheckParts(const PartsSeal& header, uint64_t bytes, const BytesHash& hash) {
  if (bytes != header.bytes) {
    return Damaged(absl::StrCat("its parts have ", bytes, " bytes, not ", header.bytes));
  }
  return hash.Value() == header.hash ? absl::OkStatus() : Damaged("the hash of its parts differs");
}

StateOwner OwnerOf(const LanguageModel& model) {
  const ModelConfig& config = model.config();
  const int most = model.options().max_context;
  StateOwner owner = {model.fingerprints(), model.numerics_id(), model.state_layout(),
                      config.vocab_size, most > 0 ? most : config.max_context};
  for (int from = 0; from < config.num_dials(); ++from) {
    for (int to = 0; to < config.num_dials(); ++to) {
      if (to != from && CheckCoarser(config, from, to).ok()) owner.coarser.insert({from, to});
    }
  }
  return owner;
}

size_t SavedPartBytes(const StateLayout& layout, int32_t position) {
  return position == 0 ? 0 : Snapshot::Bytes(layout, position, /*before=*/0);
}

size_t MostHeaderBytes(int32_t tokens) {
  constexpr size_t kNames = 4096;
  return kNames + 2 * sizeof(int32_t) * static_cast<size_t>(tokens);  // Each may be a turn.
}

std::string EncodeHeader(const SavedState& state, const StateOwner& owner) {
  return EncodeHeader(state, {state.parts.size(), HashOf(state.parts)}, owner);
}

std::string EncodeHeader(const SavedState& state, const PartsSeal& parts, const StateOwner& owner) {
  const StateLayout& layout = owner.layout.ForDial(state.dials.last);
  PACKRAT_CHECK(parts.bytes == SavedPartBytes(layout, state.position))
      << parts.bytes << " bytes at position " << state.position;
  std::string header;
  header.reserve(256 + (state.tokens.size() + state.turns.size()) * sizeof(int32_t));
  AppendString(&header, owner.fingerprints[state.dials.last]);
  AppendString(&header, owner.numerics_id);
  AppendString(&header, LayoutText(layout));
  AppendInts(&header, state.tokens);
  AppendInts(&header, state.turns);
  Append(&header, absl::ToInt64Nanoseconds(state.ttl));
  Append(&header, state.origin);
  Append(&header, state.solver.cg_tolerance);
  Append(&header, state.solver.cg_max_steps);
  Append(&header, state.position);
  Append(&header, parts.bytes);
  Append(&header, parts.hash);
  const uint32_t version = state.dials.finer.empty() ? kVersion : kVersionWithDials;
  if (version == kVersionWithDials) {
    Append(&header, static_cast<uint32_t>(state.dials.finer.size()));
    for (const TextDials::Part& part : state.dials.finer) {
      AppendString(&header, owner.fingerprints[part.dial]);
      Append(&header, part.end);
    }
  }

  std::string bytes(kMagic);
  bytes.reserve(kPrefixBytes + header.size());
  Append(&bytes, version);
  Append(&bytes, static_cast<uint32_t>(header.size()));
  Append(&bytes, HeaderHash(version, header));
  return bytes + header;
}

absl::StatusOr<SavedSize> SizeOfSavedState(absl::string_view beginning, const StateOwner& owner) {
  const size_t known = std::min(beginning.size(), kMagic.size());
  if (beginning.substr(0, known) != kMagic.substr(0, known)) return NoSavedState();
  if (beginning.size() < kPrefixBytes) return SavedSize{kPrefixBytes};
  const size_t header_bytes = Prefix(beginning).header_bytes;
  const size_t most = MostHeaderBytes(owner.max_context);
  if (header_bytes > most) {
    return Damaged(absl::StrCat("its header has ", header_bytes,
                                " bytes; that of the longest text here has ", most));
  }
  if (beginning.size() < kPrefixBytes + header_bytes) {
    return SavedSize{kPrefixBytes + header_bytes};
  }
  const absl::StatusOr<SavedHeader> header = DecodeHeader(beginning, owner);
  if (!header.ok()) return header.status();
  return SavedSize{header->end + header->parts.bytes, /*exact=*/true};
}

absl::StatusOr<SavedState> DecodeSavedState(std::string bytes, const StateOwner& owner) {
  absl::StatusOr<SavedHeader> header = DecodeHeader(bytes, owner);
  if (!header.ok()) return header.status();
  SavedState state = std::move(header->state);
  BytesHash hash;
  hash.Add(bytes.data() + header->end, bytes.size() - header->end);
  const absl::Status whole = CheckParts(header->parts, bytes.size() - header->end, hash);
  if (!whole.ok()) return whole;
  if (!state.dropped.empty()) {
    state.position = 0;
    return state;
  }
  bytes.erase(0, header->end);
  state.parts = std::move(bytes);
  return state;
}

}  // namespace packrat
