#include "models/text/tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "models/files/file.h"
#include "models/files/json.h"
#include "models/text/bpe.h"
#include "models/text/sentence_pieces_vocabulary.h"
#include "models/text/tokenizer_config.h"
#include "models/text/utf8.h"

namespace packrat {
namespace {

constexpr size_t kMaxModelBytes = 64 << 20;
constexpr size_t kMaxTextBytes = size_t{1} << 30;
constexpr char kReplacement[] = "\xef\xbf\xbd";  // U+FFFD

// The vocabulary's file, and what else says which tokens it has.
struct VocabularyFiles {
  std::string model;           // tokenizer.model; empty if the other one counts.
  Json json;                   // tokenizer.json; null if there is none.
  bool is_json = false;        // Which of the two has the vocabulary.
  bool has_other_one = false;  // tokenizer.model, where it is not read.
};

// SentencePiece's own kind of model, which bpe.h does not read.
bool IsUnigram(const Json& json) {
  const Json model = json.is_object() ? json.value("model", Json()) : Json();
  return model.is_object() && model.value("type", Json()) == "Unigram";
}

absl::Status Hinted(const absl::Status& refused, const VocabularyFiles& files) {
  if (!files.has_other_one) return refused;
  return absl::Status(refused.code(), absl::StrCat(refused.message(),
                                                   " (tokenizer.model is beside it, and would be "
                                                   "read if this file were not there)"));
}

absl::StatusOr<VocabularyFiles> ReadVocabularyFiles(const std::string& dir) {
  VocabularyFiles files;
  const std::string path = dir + "/tokenizer.json";
  absl::StatusOr<std::string> model = ReadSmallFile(dir + "/tokenizer.model", kMaxModelBytes);
  const absl::StatusOr<std::string> text = ReadSmallFile(path, kMaxModelBytes);
  const bool has_model = !absl::IsNotFound(model.status());
  files.is_json = !absl::IsNotFound(text.status());
  if (!has_model && !files.is_json) {
    return absl::NotFoundError(absl::StrCat(dir, ": neither tokenizer.model nor tokenizer.json"));
  }
  files.has_other_one = has_model && files.is_json;
  if (files.is_json) {
    absl::StatusOr<Json> json =
        text.ok() ? ParseJson(text->data(), text->size(), path) : text.status();
    if (!json.ok()) return Hinted(json.status(), files);
    files.json = *std::move(json);
    if (!has_model || !IsUnigram(files.json)) return files;
    files.is_json = files.has_other_one = false;
  }
  if (!model.ok()) return model.status();
  files.model = *std::move(model);
  return files;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& dir, int vocab_size) {
  const absl::StatusOr<VocabularyFiles> files = ReadVocabularyFiles(dir);
  if (!files.ok()) return files.status();
  const absl::StatusOr<TokenizerConfig> config =
      LoadTokenizerConfig(dir, files->is_json ? Json() : files->json);
  if (!config.ok()) return config.status();
  auto vocabulary = files->is_json
                        ? Bpe::Load(files->json, dir + "/tokenizer.json", *config, vocab_size)
                        : SentencePiecesVocabulary::Load(files->model, dir + "/tokenizer.model",
                                                         *config, vocab_size);
  if (!vocabulary.ok()) return Hinted(vocabulary.status(), *files);

  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer);
  tokenizer->vocabulary_ = *std::move(vocabulary);
  tokenizer->vocab_size_ = vocab_size;
  tokenizer->default_add_bos_ =
      tokenizer->bos_id() >= 0 && config->add_bos.value_or(tokenizer->vocabulary_->adds_bos());
  tokenizer->chat_template_ = ChatTemplate::Load(dir, *config);
  return tokenizer;
}

namespace {

absl::Status CheckText(const std::string& text) {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError("text: more than 2^30 bytes");
  }
  const size_t valid = FirstInvalidUtf8(text);
  if (valid != text.size()) {
    return absl::InvalidArgumentError(absl::StrCat("text: not valid UTF-8 at byte ", valid));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(const MarkedText& prompt) const {
  absl::Status status = CheckText(prompt.text());
  if (!status.ok()) return status;
  std::vector<int32_t> ids;
  status =
      vocabulary_->Encode(prompt.text(), TextPlace::kBegin, SpecialPlaces(&prompt.marks()), &ids);
  if (!status.ok()) return status;
  return ids;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(const std::string& text,
                                                       const EncodeOptions& options) const {
  absl::Status status = CheckText(text);
  if (!status.ok()) return status;
  if (options.add_bos && bos_id() < 0) {
    return absl::InvalidArgumentError("add_bos: this tokenizer has no BOS piece");
  }
  std::vector<int32_t> ids;
  const TextPlace place = options.continues_text ? TextPlace::kContinuation : TextPlace::kBegin;
  const SpecialPlaces special =
      options.parse_special ? SpecialPlaces::Everywhere() : SpecialPlaces::Nowhere();
  status = vocabulary_->Encode(text, place, special, &ids);
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

int Tokenizer::num_pieces() const { return vocabulary_->size(); }
bool Tokenizer::default_add_bos() const { return default_add_bos_; }
int Tokenizer::bos_id() const { return vocabulary_->bos_id(); }
int Tokenizer::eos_id() const { return vocabulary_->eos_id(); }

bool Tokenizer::IsSpecial(int32_t id) const {
  PACKRAT_CHECK(id >= 0 && id < vocab_size_) << "token id " << id;
  return id >= num_pieces() || vocabulary_->IsSpecial(id);
}

std::string Tokenizer::PieceText(int32_t id) const {
  PACKRAT_CHECK(id >= 0 && id < vocab_size_) << "token id " << id;
  return id < num_pieces() ? vocabulary_->Text(id) : "";
}

TextDecoder::TextDecoder(const Tokenizer* tokenizer, bool skip_special, bool continues_text)
    : tokenizer_(tokenizer),
      skip_special_(skip_special),
      at_start_(tokenizer->vocabulary_->adds_space() && !continues_text) {}

void TextDecoder::Continue(const std::vector<int32_t>& prompt) {
  // The beginning of a character has three bytes at most.
  std::string bytes;
  for (size_t i = prompt.size(); i > 0 && bytes.size() < 3; --i) {
    const int32_t id = prompt[i - 1];
    if (tokenizer_->IsSpecial(id)) break;
    bytes.insert(0, tokenizer_->PieceText(id));
  }
  for (size_t size = std::min<size_t>(3, bytes.size()); size > 0; --size) {
    const std::string end = bytes.substr(bytes.size() - size);
    if (Utf8Length(end.data(), size) != 0) continue;
    pending_ = end;
    break;
  }
}

std::string TextDecoder::Push(int32_t id) {
  const bool special = tokenizer_->IsSpecial(id);
  if (special && skip_special_) return "";
  std::string bytes = tokenizer_->PieceText(id);
  if (at_start_ && !special) {
    if (tokenizer_->vocabulary_->MayBeginWithAddedSpace(id) && bytes[0] == ' ') bytes.erase(0, 1);
    at_start_ = false;
  }
  // Padding has no text.
  if (special && !bytes.empty() && tokenizer_->vocabulary_->adds_space_once()) at_start_ = false;
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
