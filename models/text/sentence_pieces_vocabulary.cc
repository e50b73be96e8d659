#include "models/text/sentence_pieces_vocabulary.h"

#include <algorithm>
#include <cstdlib>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace packrat {
namespace {

constexpr char kSpace[] = "\xe2\x96\x81";  // U+2581, how SentencePiece writes a space.
constexpr size_t kSpaceBytes = 3;

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

}  // namespace

absl::StatusOr<std::unique_ptr<TokenizerVocabulary>> SentencePiecesVocabulary::Load(
    const std::string& serialized, const std::string& path) {
  std::unique_ptr<SentencePiecesVocabulary> made(new SentencePiecesVocabulary);
  if (!made->pieces_.Load(serialized) || made->size() < 1) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a SentencePiece model"));
  }
  // The library does not tell whether the model puts a space before a text, but shows it.
  std::vector<int32_t> probe;
  made->adds_space_ = made->pieces_.Encode("a", &probe) && !probe.empty() &&
                      StartsWith(made->pieces_.Piece(probe[0]), 0, kSpace);

  for (int id = 0; id < made->size(); ++id) {
    const std::string& name = made->pieces_.Piece(id);
    if (made->pieces_.IsControl(id) && !name.empty()) made->control_.emplace_back(name, id);
  }
  std::stable_sort(made->control_.begin(), made->control_.end(),
                   [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); });
  return made;
}

absl::Status SentencePiecesVocabulary::EncodePlain(const std::string& text,
                                                   std::vector<int32_t>* ids) const {
  if (text.empty()) return absl::OkStatus();
  if (!pieces_.Encode(text, ids))
    return absl::InternalError("SentencePiece cannot encode the text");
  return absl::OkStatus();
}

absl::Status SentencePiecesVocabulary::Encode(const std::string& text, bool parse_special,
                                              std::vector<int32_t>* ids) const {
  size_t plain = 0;  // Where the plain text begins that is not encoded yet.
  for (size_t at = 0; parse_special && at < text.size();) {
    const auto control = std::find_if(
        control_.begin(), control_.end(),
        [&](const auto& name_and_id) { return StartsWith(text, at, name_and_id.first); });
    if (control == control_.end()) {
      ++at;
      continue;
    }
    const absl::Status status = EncodePlain(text.substr(plain, at - plain), ids);
    if (!status.ok()) return status;
    ids->push_back(control->second);
    at += control->first.size();
    plain = at;
  }
  return EncodePlain(text.substr(plain), ids);
}

bool SentencePiecesVocabulary::IsSpecial(int32_t id) const {
  return pieces_.IsControl(id) || pieces_.IsUnknown(id);
}

std::string SentencePiecesVocabulary::Text(int32_t id) const {
  const std::string& piece = pieces_.Piece(id);
  if (IsSpecial(id)) return piece;
  if (!pieces_.IsByte(id)) return WithSpaces(piece);
  // "<0x41>"; the library has checked that all such pieces look like this.
  return std::string(1, static_cast<char>(std::strtol(piece.c_str() + 1, nullptr, 16)));
}

}  // namespace packrat
