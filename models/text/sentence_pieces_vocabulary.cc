#include "models/text/sentence_pieces_vocabulary.h"

#include <algorithm>
#include <cstdlib>
#include <tuple>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "models/files/json.h"
#include "models/text/utf8.h"

namespace packrat {
namespace {

constexpr char kSpace[] = "\xe2\x96\x81";  // U+2581, how SentencePiece writes a space.
constexpr size_t kSpaceBytes = 3;
// Appended to a serialized model, in which later fields win: normalizer_spec (3) { add_dummy_prefix
// (3): false }.
const std::string kNoDummyPrefix("\x1a\x02\x18\x00", 4);

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
    const std::string& serialized, const std::string& path, const TokenizerConfig& config,
    int vocab_size) {
  std::unique_ptr<SentencePiecesVocabulary> made(new SentencePiecesVocabulary);
  if (!made->pieces_.Load(serialized) || made->pieces_.size() < 1) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a SentencePiece model"));
  }
  const absl::Status status = made->ReadTokens(config, vocab_size);
  if (!status.ok()) return absl::InvalidArgumentError(absl::StrCat(path, ": ", status.message()));

  // The library does not say whether the model adds a space before a text, but encoding shows it.
  std::vector<int32_t> probe;
  const bool spaced = made->pieces_.Encode("a", &probe) && !probe.empty() &&
                      StartsWith(made->pieces_.Piece(probe[0]), 0, kSpace);
  made->adds_space_ = spaced && config.add_prefix_space;
  made->legacy_ = config.legacy;
  if (!spaced) return made;
  made->unspaced_ = std::make_unique<SentencePieces>();
  if (!made->unspaced_->Load(serialized + kNoDummyPrefix)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be read without a prefix"));
  }
  return made;
}

absl::Status SentencePiecesVocabulary::ReadTokens(const TokenizerConfig& config, int vocab_size) {
  const int pieces = pieces_.size();
  if (pieces > vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("has ", pieces, " pieces; the model's vocab_size is ", vocab_size));
  }
  bool few = true;  // Lengths of tokens that begin alike.
  for (int id = 0; id < pieces; ++id) {
    const std::string& name = pieces_.Piece(id);
    if (pieces_.IsControl(id) && !name.empty()) few &= added_tokens_.Add(name, id);
  }
  for (const AddedToken& token : config.added_tokens) {
    if (token.id >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat("the added token ", Quoted(token.content),
                                                     " has the id ", token.id,
                                                     "; the model's vocab_size is ", vocab_size));
    }
    for (const auto& [on, name] : {std::pair(token.flags.left_strip, "lstrip"),
                                   {token.flags.right_strip, "rstrip"},
                                   {token.flags.single_word, "single_word"}}) {
      if (!on) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "the added token ", Quoted(token.content), " of tokenizer_config.json has ", name,
          ", which is supported only where a tokenizer.json has the vocabulary"));
    }
    if (token.id < pieces) {  // The library knows it.
      if (pieces_.Piece(token.id) == token.content) {
        if (token.special && !pieces_.IsControl(token.id) && !pieces_.IsUnknown(token.id) &&
            !pieces_.IsByte(token.id)) {
          special_pieces_.insert(token.id);
          few &= added_tokens_.Add(token.content, token.id);
        }
        continue;
      }
      return absl::InvalidArgumentError(
          absl::StrCat("the added token ", Quoted(token.content), " has the id ", token.id,
                       ", which is the piece ", Quoted(pieces_.Piece(token.id))));
    }
    added_.resize(token.id - pieces + 1);
    added_.back() = token;
    few &= added_tokens_.Add(token.content, token.id);
  }
  if (!few) {
    return absl::InvalidArgumentError("too many lengths of added tokens that begin alike");
  }
  bos_id_ = config.bos_token.empty() ? pieces_.bos_id() : IdOf(config.bos_token);
  eos_id_ = config.eos_token.empty() ? pieces_.eos_id() : IdOf(config.eos_token);
  for (const auto& [id, field, name] : {std::make_tuple(bos_id_, "bos_token", config.bos_token),
                                        std::make_tuple(eos_id_, "eos_token", config.eos_token)}) {
    if (id >= 0 || name.empty()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(field, ": ", Quoted(name), " of tokenizer_config.json is not a token"));
  }
  return absl::OkStatus();
}

int SentencePiecesVocabulary::IdOf(const std::string& name) const {
  const int id = pieces_.IdOf(name);
  if (id >= 0) return id;
  for (const AddedToken& token : added_) {
    if (token.content == name) return token.id;
  }
  return -1;
}

absl::Status SentencePiecesVocabulary::EncodePlain(const std::string& text, TextPlace place,
                                                   std::vector<int32_t>* ids) const {
  if (text.empty()) return absl::OkStatus();
  const bool spaced =
      adds_space_ && (place == TextPlace::kBegin || (place == TextPlace::kInside && legacy_));
  const SentencePieces& pieces = spaced || unspaced_ == nullptr ? pieces_ : *unspaced_;
  if (!pieces.Encode(text, ids)) {
    return absl::InternalError("SentencePiece cannot encode the text");
  }
  return absl::OkStatus();
}

absl::Status SentencePiecesVocabulary::Encode(const std::string& text, TextPlace place,
                                              const SpecialPlaces& special,
                                              std::vector<int32_t>* ids) const {
  size_t plain =
      0;  // Where the plain text that is not encoded yet begins, and how it stands there.
  TextPlace plain_place = place;
  absl::Status status;
  const auto encode_to = [&](size_t end, TextPlace next_place) {
    if (status.ok()) status = EncodePlain(text.substr(plain, end - plain), plain_place, ids);
    plain = end;
    plain_place = next_place;
  };
  added_tokens_.Find(text, 0, text.size(), [&](size_t at, size_t size, int32_t id) -> size_t {
    if (IsSpecial(id) && !special.AreAll(at, size)) {
      // The library would find such a piece, so that it gets its text in two parts.
      const size_t cut = at + std::max(1, Utf8Length(text.data() + at, text.size() - at));
      if (special_pieces_.contains(id) && plain < cut) encode_to(cut, TextPlace::kContinuation);
      return 0;
    }
    encode_to(at, TextPlace::kInside);
    ids->push_back(id);
    plain = at + size;
    return size;
  });
  encode_to(text.size(), TextPlace::kInside);
  return status;
}

bool SentencePiecesVocabulary::IsSpecial(int32_t id) const {
  if (id < pieces_.size()) return pieces_.IsControl(id) || special_pieces_.contains(id);
  const AddedToken& token = added_[id - pieces_.size()];
  return token.special || token.content.empty();
}

bool SentencePiecesVocabulary::MayBeginWithAddedSpace(int32_t id) const {
  return id < pieces_.size() && !pieces_.IsByte(id) && !pieces_.IsUnknown(id);
}

std::string SentencePiecesVocabulary::Text(int32_t id) const {
  if (id >= pieces_.size()) return added_[id - pieces_.size()].content;
  const std::string& piece = pieces_.Piece(id);
  if (pieces_.IsControl(id)) return piece;
  if (pieces_.IsUnknown(id)) return pieces_.Decode(id);
  if (!pieces_.IsByte(id)) return WithSpaces(piece);
  // "<0x41>"; the library has checked that all such pieces look like this.
  return std::string(1, static_cast<char>(std::strtol(piece.c_str() + 1, nullptr, 16)));
}

}  // namespace packrat
