#include "models/tools/perplexity.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "models/cpu_model.h"
#include "models/files/file.h"
#include "models/files/json.h"
#include "models/owned_state.h"
#include "models/text/tokenizer.h"
#include "models/text/utf8.h"

namespace packrat {
namespace {

constexpr char kEnd[] = "<|endoftext|>";
constexpr size_t kMaxFileBytes = size_t{1} << 30;
constexpr int kDefaultLength = 4095;
constexpr int64_t kShortCharacters = 4000;

// Bytes of the white space that text begins with, or ends with; 0 where there is none. What
// Python's str.strip() takes away.
size_t SpaceAt(absl::string_view text, bool at_end) {
  static const auto* const spaces = new std::vector<std::string>{" ",
                                                                 "\t",
                                                                 "\n",
                                                                 "\v",
                                                                 "\f",
                                                                 "\r",
                                                                 "\x1c",
                                                                 "\x1d",
                                                                 "\x1e",
                                                                 "\x1f",
                                                                 "\xc2\x85",
                                                                 "\xc2\xa0",
                                                                 "\xe1\x9a\x80",
                                                                 "\xe2\x80\x80",
                                                                 "\xe2\x80\x81",
                                                                 "\xe2\x80\x82",
                                                                 "\xe2\x80\x83",
                                                                 "\xe2\x80\x84",
                                                                 "\xe2\x80\x85",
                                                                 "\xe2\x80\x86",
                                                                 "\xe2\x80\x87",
                                                                 "\xe2\x80\x88",
                                                                 "\xe2\x80\x89",
                                                                 "\xe2\x80\x8a",
                                                                 "\xe2\x80\xa8",
                                                                 "\xe2\x80\xa9",
                                                                 "\xe2\x80\xaf",
                                                                 "\xe2\x81\x9f",
                                                                 "\xe3\x80\x80"};
  for (const std::string& space : *spaces) {
    if (text.size() < space.size()) continue;
    const size_t from = at_end ? text.size() - space.size() : 0;
    if (text.substr(from, space.size()) == space) return space.size();
  }
  return 0;
}

absl::string_view Strip(absl::string_view line) {
  while (const size_t bytes = SpaceAt(line, false)) line.remove_prefix(bytes);
  while (const size_t bytes = SpaceAt(line, true)) line.remove_suffix(bytes);
  return line;
}

// Scores texts, one after the other, with the state of one sequence.
class Scorer {
 public:
  // `bos`: -1 for none. `state`: of one sequence, as long as what is scored at a time.
  Scorer(LanguageModel* model, const PerplexityOptions& options, int bos, OwnedState* state)
      : model_(model), options_(options), bos_(bos), state_(state) {}

  // How many of the first ids are not scored.
  int unscored() const { return bos_ < 0 ? 1 : 0; }

  // Adds the nats of ids[unscored(), count), each given BOS and those before it.
  absl::Status Score(const int32_t* ids, int count, double* nats) {
    inputs_.clear();
    if (bos_ >= 0) inputs_.push_back(bos_);
    inputs_.insert(inputs_.end(), ids, ids + count - 1);
    ids += unscored();
    count -= unscored();
    if (count == 0) return absl::OkStatus();
    const int vocab = model_->config().vocab_size;
    for (TextFeed feed(model_, state_, options_, inputs_.data(), count); !feed.done();) {
      const int first = feed.first(), n = feed.size();
      const absl::StatusOr<float*> logits = feed.Next();
      if (!logits.ok()) return logits.status();
      for (int t = 0; t < n; ++t) {
        *nats += Nats(*logits + static_cast<size_t>(t) * vocab, vocab, ids[first + t]);
      }
    }
    return absl::OkStatus();
  }

 private:
  static double Nats(const float* logits, int vocab, int32_t id) {
    const double most = *std::max_element(logits, logits + vocab);
    double sum = 0;
    for (int i = 0; i < vocab; ++i) sum += std::exp(logits[i] - most);
    return std::log(sum) + most - logits[id];
  }

  LanguageModel* const model_;
  const PerplexityOptions& options_;
  const int32_t bos_;
  OwnedState* const state_;
  std::vector<int32_t> inputs_;
};

int64_t Characters(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
}

absl::StatusOr<std::vector<std::string>> ReadDocuments(const std::string& path) {
  const auto text = ReadSmallFile(path, kMaxFileBytes);
  if (!text.ok()) return absl::InvalidArgumentError(text.status().message());
  if (const size_t valid = FirstInvalidUtf8(*text); valid != text->size()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not valid UTF-8 at byte ", valid));
  }
  auto documents = DocumentsOf(*text);
  if (documents.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": has no text"));
  return documents;
}

}  // namespace

double TextScore::bits_per_byte() const { return nats / std::log(2.0) / bytes; }
double TextScore::perplexity() const { return std::exp(nats_per_token()); }

TextScore PerplexityScores::all() const {
  return {short_ones.documents + long_ones.documents, short_ones.bytes + long_ones.bytes,
          short_ones.tokens + long_ones.tokens, short_ones.nats + long_ones.nats};
}

absl::Status CheckOptions(const PerplexityOptions& options) {
  if (options.length < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("length must be in [0, the model's context], got ", options.length));
  }
  if (!options.bos.empty() && options.bos != "true" && options.bos != "false") {
    return absl::InvalidArgumentError(
        absl::StrCat("bos must be true or false, got ", Quoted(options.bos)));
  }
  return CheckFeedOptions(options);
}

std::vector<std::string> DocumentsOf(const std::string& text) {
  // A line ends with \n, \r\n or \r.
  std::string unified;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n') continue;
    unified += text[i] == '\r' ? '\n' : text[i];
  }
  std::vector<std::string> documents;
  std::string document;
  bool first = true;  // Of the document's lines.
  const auto finish = [&] {
    if (!document.empty()) documents.push_back(document);
    document.clear();
    first = true;
  };
  if (!unified.empty() && unified.back() == '\n') unified.pop_back();  // It ends the last line.
  for (absl::string_view line : absl::StrSplit(unified, '\n')) {
    line = Strip(line);
    if (line == kEnd) {
      finish();
      continue;
    }
    absl::StrAppend(&document, first ? "" : "\n", line);
    first = false;
  }
  finish();
  return documents;
}

absl::StatusOr<PerplexityScores> MeasurePerplexity(const PerplexityOptions& options) {
  if (absl::Status status = CheckOptions(options); !status.ok()) return status;
  const auto documents = ReadDocuments(options.file);
  if (!documents.ok()) return documents.status();
  const auto model = LoadCpuModel(options.model, ModelOptionsOf(options));
  if (!model.ok()) return model.status();
  const ModelConfig& config = (*model)->config();
  const auto tokenizer = Tokenizer::Load(options.model, config.vocab_size);
  if (!tokenizer.ok()) return absl::InvalidArgumentError(tokenizer.status().message());
  int bos = (*tokenizer)->bos_id() >= 0 ? (*tokenizer)->bos_id() : config.bos_id;
  if (options.bos == "true" && bos < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        options.model, ": neither the tokenizer nor config.json (bos_token_id) has a BOS token"));
  }
  if (options.bos == "false" || (options.bos.empty() && !(*tokenizer)->default_add_bos())) bos = -1;
  if (options.length > config.max_context) {
    return absl::InvalidArgumentError(absl::StrCat("length must be in [0, ", config.max_context,
                                                   "], the model's context, got ", options.length));
  }
  const int length =
      options.length > 0 ? options.length : std::min(kDefaultLength, config.max_context);

  const auto state = OwnedState::Create(model->get(), 1, length);
  if (!state.ok()) return state.status();
  Scorer scorer(model->get(), options, bos, state->get());
  // Encoding may put a space before a text.
  const size_t added_space =
      (*tokenizer)->Decode(*(*tokenizer)->Encode("a", {}), false, /*continues_text=*/true).size() -
      1;
  PerplexityScores scores;
  for (const std::string& text : *documents) {
    const auto ids = (*tokenizer)->Encode(text, {});
    if (!ids.ok()) return ids.status();
    TextScore* score = Characters(text) < kShortCharacters ? &scores.short_ones : &scores.long_ones;
    const auto count = static_cast<int>(ids->size());
    for (int begin = 0; begin < count; begin += length) {
      absl::Status status =
          scorer.Score(ids->data() + begin, std::min(length, count - begin), &score->nats);
      if (!status.ok()) return status;
      if (scorer.unscored() == 0) continue;
      score->tokens -= 1;
      score->bytes -= static_cast<int64_t>((*tokenizer)->PieceText((*ids)[begin]).size() -
                                           (begin == 0 ? added_space : 0));
    }
    score->documents += 1;
    score->bytes += static_cast<int64_t>(text.size());
    score->tokens += count;
  }
  return scores;
}

}  // namespace packrat
