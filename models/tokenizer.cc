#include "models/tokenizer.h"

#include <algorithm>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "models/json.h"
#include "models/json_fields.h"
#include "models/utf8.h"

namespace packrat {
namespace {

constexpr size_t kMaxModelBytes = 64 << 20;
constexpr size_t kMaxConfigBytes = 16 << 20;
constexpr char kSpace[] = "\xe2\x96\x81";  // U+2581, how SentencePiece writes a space.
constexpr size_t kSpaceBytes = 3;
constexpr char kReplacement[] = "\xef\xbf\xbd";  // U+FFFD

bool StartsWith(const std::string& text, size_t at, const std::string& what) {
  return text.compare(at, what.size(), what) == 0;
}

std::string WithSpaces(const std::string& piece) {
  std::string text;
  for (size_t at = 0; at < piece.size();) {
    if (StartsWith(piece, at, kSpace)) {
      text += ' ';
      at += kSpaceBytes;
    } else {
      text += piece[at++];
    }
  }
  return text;
}

// `add_bos_token` of DIR/tokenizer_config.json; `fallback` where the file says nothing.
absl::StatusOr<bool> AddBosToken(const std::string& dir, bool fallback) {
  const std::string path = dir + "/tokenizer_config.json";
  absl::StatusOr<std::string> text = ReadSmallFile(path, kMaxConfigBytes);
  if (absl::IsNotFound(text.status())) return fallback;
  if (!text.ok()) return text.status();
  absl::StatusOr<Json> json = ParseJson(text->data(), text->size(), path);
  if (!json.ok()) return json.status();
  JsonFields fields(*json, "");
  const bool add_bos = fields.Bool("add_bos_token", fallback);
  if (fields.status().ok()) return add_bos;
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", fields.status().message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& dir, int vocab_size) {
  const std::string path = dir + "/tokenizer.model";
  absl::StatusOr<std::string> model = ReadSmallFile(path, kMaxModelBytes);
  if (!model.ok()) return model.status();
  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer);
  if (!tokenizer->pieces_.Load(*model)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a SentencePiece model"));
  }
  const int pieces = tokenizer->num_pieces();
  if (pieces < 1 || pieces > vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": has ", pieces, " pieces; the model's vocab_size is ", vocab_size));
  }
  tokenizer->vocab_size_ = vocab_size;

  // The library does not tell whether the model puts a space before a text, but shows it.
  std::vector<int32_t> probe;
  tokenizer->adds_prefix_space_ = tokenizer->pieces_.Encode("a", &probe) && !probe.empty() &&
                                  StartsWith(tokenizer->pieces_.Piece(probe[0]), 0, kSpace);

  for (int id = 0; id < pieces; ++id) {
    const std::string& name = tokenizer->pieces_.Piece(id);
    if (tokenizer->pieces_.IsControl(id) && !name.empty()) {
      tokenizer->control_.emplace_back(name, id);
    }
  }
  std::stable_sort(tokenizer->control_.begin(), tokenizer->control_.end(),
                   [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); });

  absl::StatusOr<bool> add_bos = AddBosToken(dir, /*fallback=*/true);
  if (!add_bos.ok()) return add_bos.status();
  tokenizer->default_add_bos_ = *add_bos && tokenizer->bos_id() >= 0;
  return tokenizer;
}

absl::Status Tokenizer::EncodePlain(const std::string& text, std::vector<int32_t>* ids) const {
  if (text.empty()) return absl::OkStatus();
  if (!pieces_.Encode(text, ids))
    return absl::InternalError("SentencePiece cannot encode the text");
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(const std::string& text,
                                                       const EncodeOptions& options) const {
  const size_t valid = FirstInvalidUtf8(text);
  if (valid != text.size()) {
    return absl::InvalidArgumentError(absl::StrCat("text: not valid UTF-8 at byte ", valid));
  }
  if (options.add_bos && bos_id() < 0) {
    return absl::InvalidArgumentError("add_bos: this tokenizer has no BOS piece");
  }
  std::vector<int32_t> ids;
  size_t plain = 0;  // Where the plain text begins that is not encoded yet.
  for (size_t at = 0; options.parse_special && at < text.size();) {
    const auto control = std::find_if(
        control_.begin(), control_.end(),
        [&](const auto& name_and_id) { return StartsWith(text, at, name_and_id.first); });
    if (control == control_.end()) {
      ++at;
      continue;
    }
    const absl::Status status = EncodePlain(text.substr(plain, at - plain), &ids);
    if (!status.ok()) return status;
    ids.push_back(control->second);
    at += control->first.size();
    plain = at;
  }
  const absl::Status status = EncodePlain(text.substr(plain), &ids);
  if (!status.ok()) return status;
  const bool has_bos = options.parse_special && !ids.empty() && ids[0] == bos_id();
  if (options.add_bos && !has_bos) ids.insert(ids.begin(), bos_id());
  return ids;
}

std::string Tokenizer::Decode(const std::vector<int32_t>& ids, bool skip_special,
                              bool continues_text) const {
  TextDecoder decoder(this, skip_special, continues_text);
  std::string text;
  for (int32_t id : ids) text += decoder.Push(id);
  return text + decoder.Finish();
}

int Tokenizer::num_pieces() const { return pieces_.size(); }
bool Tokenizer::default_add_bos() const { return default_add_bos_; }
int Tokenizer::bos_id() const { return pieces_.bos_id(); }
int Tokenizer::eos_id() const { return pieces_.eos_id(); }

bool Tokenizer::IsSpecial(int32_t id) const {
  PACKRAT_CHECK(id >= 0 && id < vocab_size_) << "token id " << id;
  return id >= num_pieces() || pieces_.IsControl(id) || pieces_.IsUnknown(id);
}

std::string Tokenizer::PieceText(int32_t id) const {
  PACKRAT_CHECK(id >= 0 && id < vocab_size_) << "token id " << id;
  if (id >= num_pieces()) return "";
  const std::string& piece = pieces_.Piece(id);
  if (IsSpecial(id)) return piece;
  if (!pieces_.IsByte(id)) return WithSpaces(piece);
  // "<0x41>"; the library has checked that all such pieces look like this.
  return std::string(1, static_cast<char>(std::strtol(piece.c_str() + 1, nullptr, 16)));
}

TextDecoder::TextDecoder(const Tokenizer* tokenizer, bool skip_special, bool continues_text)
    : tokenizer_(tokenizer),
      skip_special_(skip_special),
      at_start_(tokenizer->adds_prefix_space_ && !continues_text) {}

std::string TextDecoder::Push(int32_t id) {
  const bool special = tokenizer_->IsSpecial(id);
  if (special && skip_special_) return "";
  std::string bytes = tokenizer_->PieceText(id);
  if (at_start_ && !special) {
    // A byte piece <0x20> is a space of the text itself, not the one that encoding added.
    if (!tokenizer_->pieces_.IsByte(id) && StartsWith(bytes, 0, " ")) bytes.erase(0, 1);
    at_start_ = false;
  }
  pending_ += bytes;

  std::string text;
  size_t at = 0;
  while (const int length = Utf8Length(pending_.data() + at, pending_.size() - at)) {
    if (length > 0) {
      text.append(pending_, at, length);
      at += length;
    } else {
      text += kReplacement;
      at += -length;
    }
  }
  pending_.erase(0, at);
  return text;
}

std::string TextDecoder::Finish() {
  at_start_ = false;
  const std::string text = pending_.empty() ? "" : kReplacement;
  pending_.clear();
  return text;
}

}  // namespace packrat
