// The answer of POST /v1/completions.
#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/check.h"
#include "server/openai/answer_parts.h"

namespace packrat::openai {
namespace {

// The old form of log-probabilities: four lists of one entry for each token.
class LogprobLists {
 public:
  LogprobLists(const TokenNames* names, int most) : names_(names), most_(most) {}

  // `top`: best first. The token itself is among the alternatives, wherever it stands.
  void Add(int32_t id, absl::string_view bytes, float logprob,
           const google::protobuf::RepeatedPtrField<v1::TopLogprob>& top) {
    OrderedJson shown = OrderedJson::object();
    const std::string own = names_->Shown(id, bytes);
    for (int i = 0; i < std::min(most_, top.size()); ++i) {
      // At the beginning of a prompt its text may be another one than its piece.
      const bool itself = top[i].token_id() == id;
      shown.emplace(itself ? own : names_->Shown(top[i].token_id(), top[i].piece()),
                    top[i].logprob());
    }
    // Also where another one looks the same.
    shown[own] = logprob;
    Push(id, bytes, logprob, std::move(shown));
  }
  // A prompt's first token, which nothing predicts.
  void AddFirst(int32_t id, absl::string_view bytes) { Push(id, bytes, nullptr, nullptr); }

  void Append(const LogprobLists& more) {
    if (more.lists_.is_null()) return;
    if (lists_.is_null()) lists_ = Empty();
    for (const auto& [name, list] : more.lists_.items()) {
      OrderedJson& mine = lists_[name];
      mine.insert(mine.end(), list.begin(), list.end());
    }
  }
  void Clear() { lists_ = nullptr; }
  OrderedJson Json() const { return lists_.is_null() ? Empty() : lists_; }
  void set_offset(size_t offset) { offset_ = offset; }

 private:
  static OrderedJson Empty() {
    return {{"tokens", OrderedJson::array()},
            {"token_logprobs", OrderedJson::array()},
            {"top_logprobs", OrderedJson::array()},
            {"text_offset", OrderedJson::array()}};
  }
  void Push(int32_t id, absl::string_view bytes, OrderedJson logprob, OrderedJson top) {
    if (lists_.is_null()) lists_ = Empty();
    lists_["tokens"].push_back(names_->Shown(id, bytes));
    lists_["token_logprobs"].push_back(std::move(logprob));
    lists_["top_logprobs"].push_back(std::move(top));
    lists_["text_offset"].push_back(offset_);
    offset_ += CountCharacters(bytes);
  }

  const TokenNames* names_;
  int most_;
  size_t offset_ = 0;  // Of the next token, in characters of the choice's text.
  OrderedJson lists_;  // Null: there are none yet.
};

struct Choice {
  explicit Choice(LogprobLists lists) : logprobs(std::move(lists)) {}

  bool begun = false;
  std::string text;       // What is not sent yet; without `stream` all of it.
  LogprobLists logprobs;  // Likewise.
  double sum = 0;         // Of the log-probabilities of all tokens.
  int tokens = 0;
  const char* finish = "null";  // Or "stop" or "length", as JSON.

  double Mean() const {
    return tokens > 0 ? sum / tokens : -std::numeric_limits<double>::infinity();
  }
};

class CompletionWriter : public AnswerWriter {
 public:
  CompletionWriter(AnswerForm form, const Context& context, absl::string_view id, int64_t now)
      : form_(std::move(form)),
        names_(context, form_.tokens_as_ids),
        head_(AnswerHead(context, absl::StrCat("cmpl-", id), "text_completion", now)) {
    const Choice choice(LogprobLists(&names_, form_.num_logprobs));
    choices_.resize(form_.calls, std::vector<Choice>(form_.made, choice));
    scores_.resize(form_.calls);
  }

  std::string Begin() override { return ""; }

  std::string Add(size_t call, const v1::GenerateResponse& message) override {
    PACKRAT_CHECK(call < choices_.size());
    PACKRAT_CHECK(message.choice() >= 0 && message.choice() < form_.made);
    Choice& choice = choices_[call][message.choice()];
    // Scores of the prompt come first, and are sent with what follows.
    for (const v1::TokenScore& score : message.scores()) scores_[call].push_back(score);
    if (message.text().empty() && message.token_ids_size() == 0 && !message.has_finished()) {
      return "";
    }
    if (!choice.begun) Start(call, &choice);
    choice.text += message.text();
    AddLogprobs(message, &choice);
    if (message.has_finished()) {
      usage_.Add(message);
      choice.finish = FinishJson(message.finished().reason());
    }
    const bool news = !choice.text.empty() || message.has_finished() ||
                      (form_.logprobs && message.token_ids_size() > 0);
    if (!form_.stream || !news) return "";
    std::string event = absl::StrCat(kEventStart, head_, "\"choices\":[",
                                     ChoiceJson(call * form_.shown + message.choice(), choice), "]",
                                     form_.include_usage ? ",\"usage\":null}" : "}", kEventEnd);
    choice.text.clear();
    if (form_.logprobs) choice.logprobs.Clear();
    return event;
  }

  std::string Finish() override {
    if (form_.stream) {
      if (!form_.include_usage) return kDone;
      return absl::StrCat(
          Event(absl::StrCat(head_, "\"choices\":[],\"usage\":", Dump(usage_.Json()), "}")), kDone);
    }
    std::vector<std::string> shown;
    for (size_t call = 0; call < choices_.size(); ++call) {
      std::vector<Choice>& made = choices_[call];
      // Scores came with the first choice alone, and perhaps after the text of another.
      for (Choice& choice : made) PrependEcho(call, &choice);
      if (form_.made > form_.shown) {
        std::stable_sort(made.begin(), made.end(),
                         [](const Choice& a, const Choice& b) { return a.Mean() > b.Mean(); });
      }
      for (int i = 0; i < form_.shown; ++i) {
        shown.push_back(ChoiceJson(call * form_.shown + i, made[i]));
      }
    }
    return absl::StrCat(head_, "\"choices\":[", absl::StrJoin(shown, ","),
                        "],\"usage\":", Dump(usage_.Json()), "}");
  }

  std::string Fail(const absl::Status& status) override {
    return absl::StrCat(Event(MakeErrorAnswer(status).body), kDone);
  }

 private:
  void Start(size_t call, Choice* choice) {
    choice->begun = true;
    if (!form_.echo) return;
    choice->logprobs.set_offset(CountCharacters(EchoText(call)));
    if (form_.stream) PrependEcho(call, choice);
  }

  void AddLogprobs(const v1::GenerateResponse& message, Choice* choice) {
    for (int i = 0; i < message.logprobs_size(); ++i) {
      const v1::TokenLogprobs& logprobs = message.logprobs(i);
      choice->sum += logprobs.logprob();
      ++choice->tokens;
      if (!form_.logprobs) continue;
      const int32_t id = message.token_ids(i);
      choice->logprobs.Add(id, names_.Bytes(id), logprobs.logprob(), logprobs.top());
    }
  }

  void PrependEcho(size_t call, Choice* choice) {
    if (!form_.echo) return;
    choice->text.insert(0, EchoText(call));
    if (!form_.logprobs) return;
    LogprobLists lists = EchoLogprobs(call);
    lists.Append(choice->logprobs);
    if (form_.stream) lists.set_offset(CountCharacters(EchoText(call)));
    choice->logprobs = std::move(lists);
  }

  std::string EchoText(size_t call) const {
    const Prompt& prompt = form_.prompts[call];
    if (const auto* text = std::get_if<std::string>(&prompt)) return *text;
    std::string text;
    for (const int32_t id : std::get<std::vector<int32_t>>(prompt)) text += names_.Bytes(id);
    return text;
  }

  LogprobLists EchoLogprobs(size_t call) const {
    const std::vector<v1::TokenScore>& scores = scores_[call];
    LogprobLists lists(&names_, form_.num_logprobs);
    std::string rest;
    for (const v1::TokenScore& score : scores) rest += score.piece();
    const Prompt& prompt = form_.prompts[call];
    bool added_space = false;
    if (const auto* ids = std::get_if<std::vector<int32_t>>(&prompt)) {
      if (!ids->empty()) lists.AddFirst(ids->front(), names_.Bytes(ids->front()));
    } else {
      // Which token is the first is not told. Its text is what the others leave of the prompt: none
      // if it is a BOS, behind which tokenizers may add a space.
      const auto& text = std::get<std::string>(prompt);
      const bool ends = rest.size() <= text.size() &&
                        text.compare(text.size() - rest.size(), rest.size(), rest) == 0;
      lists.AddFirst(-1, ends ? text.substr(0, text.size() - rest.size()) : "");
      added_space = rest == " " + text;
    }
    for (const v1::TokenScore& score : scores) {
      absl::string_view bytes = score.piece();
      if (added_space) bytes.remove_prefix(1);
      added_space = false;
      lists.Add(score.token_id(), bytes, score.logprob(), score.top());
    }
    return lists;
  }

  std::string ChoiceJson(size_t index, const Choice& choice) const {
    return absl::StrCat("{\"index\":", index, ",\"text\":", JsonText(choice.text),
                        ",\"logprobs\":", form_.logprobs ? Dump(choice.logprobs.Json()) : "null",
                        ",\"finish_reason\":", choice.finish, "}");
  }

  const AnswerForm form_;
  const TokenNames names_;
  const std::string head_;
  std::vector<std::vector<Choice>> choices_;         // By call.
  std::vector<std::vector<v1::TokenScore>> scores_;  // Of the prompts, by call.
  UsageSum usage_;
};

}  // namespace

std::unique_ptr<AnswerWriter> MakeCompletionWriter(AnswerForm form, const Context& context,
                                                   absl::string_view id, int64_t now) {
  return std::make_unique<CompletionWriter>(std::move(form), context, id, now);
}

}  // namespace packrat::openai
