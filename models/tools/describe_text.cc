// What DescribeModel() found, as text.
#include <algorithm>
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "models/tools/describe.h"
#include "nlohmann/json.hpp"

namespace packrat {
namespace {

using OrderedJson = nlohmann::ordered_json;

// "1.24 billion", "350.3 million", "76,128".
std::string Counted(int64_t n) {
  const auto number = static_cast<double>(n);
  if (n >= 1'000'000'000) return absl::StrFormat("%.2f billion", number / 1e9);
  if (n >= 1'000'000) return absl::StrFormat("%.1f million", number / 1e6);
  return absl::StrCat(n);
}

std::string Bytes(double bytes) {
  if (bytes >= 1 << 30) return absl::StrFormat("%.2f GiB", bytes / (1 << 30));
  if (bytes >= 1 << 20) return absl::StrFormat("%.2f MiB", bytes / (1 << 20));
  if (bytes >= 1 << 10) return absl::StrFormat("%.1f KiB", bytes / (1 << 10));
  return absl::StrFormat("%.0f bytes", bytes);
}

int64_t WeightBytes(const ModelReport& report) {
  int64_t bytes = 0;
  for (const auto& [type, of_type] : report.weight_bytes) bytes += of_type;
  return bytes;
}

std::string StateWords(double fixed, double windows, double token) {
  std::vector<std::string> words;
  if (fixed > 0) words.push_back(Bytes(fixed) + " fixed");
  if (windows > 0) words.push_back("windows up to " + Bytes(windows));
  if (token > 0) words.push_back(Bytes(token) + " a token");
  return words.empty() ? "none" : absl::StrJoin(words, ", ");
}

}  // namespace

std::string LayerPattern(const std::vector<std::string>& layers) {
  const size_t n = layers.size();
  size_t period = 1;
  const auto repeats = [&] {
    if (n % period != 0) return false;
    for (size_t i = period; i < n; ++i) {
      if (layers[i] != layers[i - period]) return false;
    }
    return true;
  };
  while (period < n && !repeats()) ++period;
  std::vector<std::string> runs;
  for (size_t begin = 0; begin < std::min(period, n);) {
    size_t end = begin;
    while (end < period && layers[end] == layers[begin]) ++end;
    const size_t count = period == 1 ? n : end - begin;
    // "2 (mamba2 + attention)"
    const std::string& layer = layers[begin];
    const std::string name =
        layer.find(' ') == std::string::npos ? layer : absl::StrCat("(", layer, ")");
    runs.push_back(count == 1 ? name : absl::StrCat(count, " ", name));
    begin = end;
  }
  const std::string once = absl::StrJoin(runs, ", ");
  return period == 1 || period == n ? once : absl::StrCat(once, "; ", n / period, " times");
}

std::string ReportText(const ModelReport& report) {
  std::string text = absl::StrCat(report.dir, "\n");
  const auto line = [&text](const std::string& name, const std::string& what) {
    absl::StrAppendFormat(&text, "  %-15s %s\n", name, what);
  };
  if (report.config.has_value()) {
    const ModelConfig& config = *report.config;
    line("family", config.family);
    line("layers", absl::StrCat(report.layers.size(), ": ", LayerPattern(report.layers)));
    line("sizes", absl::StrCat("vocabulary ", config.vocab_size, ", width ", config.hidden_size));
    if (report.parameters > 0) {
      line("parameters",
           absl::StrCat(Counted(report.parameters),
                        report.active_parameters < report.parameters
                            ? absl::StrCat(", ", Counted(report.active_parameters), " active")
                            : "",
                        ", ", Counted(report.embedding_parameters), " in the embedding",
                        config.tie_embeddings ? ", which is the output matrix too" : ""));
    }
    std::vector<std::string> types;
    for (const auto& [type, bytes] : report.weight_bytes) {
      types.push_back(absl::StrCat(type, " ", Bytes(static_cast<double>(bytes))));
    }
    if (!types.empty()) line("weights", absl::StrJoin(types, ", "));
    for (const MixerReport& mixer : report.mixers) {
      line("state",
           absl::StrCat(mixer.count, " ", mixer.type, ": ",
                        StateWords(static_cast<double>(mixer.fixed_bytes),
                                   static_cast<double>(mixer.window_bytes), mixer.token_bytes)));
    }
    line("a sequence",
         absl::StrCat(StateWords(static_cast<double>(report.fixed_bytes),
                                 static_cast<double>(report.window_bytes), report.token_bytes),
                      "; ", Bytes(static_cast<double>(report.longest_bytes)), " at the longest"));
    line("longest text", absl::StrCat(config.max_context, " tokens"));
  }
  if (report.tokenizer.has_value()) {
    const TokenizerReport& tokenizer = *report.tokenizer;
    line("tokenizer", absl::StrCat(tokenizer.kind, ", ", tokenizer.pieces, " tokens"));
    line("chat template", tokenizer.chat_template);
    std::vector<std::string> names;
    for (const auto& [name, token] : tokenizer.token_names) {
      names.push_back(absl::StrCat(name, " ", token));
    }
    if (!names.empty()) line("special tokens", absl::StrJoin(names, ", "));
  } else {
    line("tokenizer", "none that can be used: token ids only");
  }
  for (const std::string& warning : report.warnings) line("note", warning);
  if (report.refused.empty()) return text + "It can be served.\n";
  absl::StrAppend(&text, "It is refused:\n");
  for (const std::string& reason : report.refused) absl::StrAppend(&text, "  - ", reason, "\n");
  return text;
}

std::string ReportJson(const ModelReport& report) {
  OrderedJson json = {{"model", report.dir}, {"served", report.refused.empty()}};
  json["refused"] = report.refused;
  json["notes"] = report.warnings;
  if (report.config.has_value()) {
    const ModelConfig& config = *report.config;
    json["family"] = config.family;
    json["layers"] = report.layers;
    json["vocab_size"] = config.vocab_size;
    json["hidden_size"] = config.hidden_size;
    json["max_context"] = config.max_context;
    json["tied"] = config.tie_embeddings;
    json["parameters"] = report.parameters;
    json["active_parameters"] = report.active_parameters;
    json["embedding_parameters"] = report.embedding_parameters;
    json["weight_bytes"] = WeightBytes(report);
    json["weight_bytes_by_type"] = report.weight_bytes;
    auto& state = json["state"] = OrderedJson::object();
    state["fixed_bytes"] = report.fixed_bytes;
    state["window_bytes"] = report.window_bytes;
    state["bytes_per_token"] = report.token_bytes;
    state["bytes_at_max_context"] = report.longest_bytes;
    state["kinds"] = OrderedJson::array();
    for (const MixerReport& mixer : report.mixers) {
      state["kinds"].push_back({{"type", mixer.type},
                                {"count", mixer.count},
                                {"fixed_bytes", mixer.fixed_bytes},
                                {"window_bytes", mixer.window_bytes},
                                {"bytes_per_token", mixer.token_bytes}});
    }
  }
  json["tokenizer"] = nullptr;
  if (report.tokenizer.has_value()) {
    const TokenizerReport& tokenizer = *report.tokenizer;
    OrderedJson names = OrderedJson::object();
    for (const auto& [name, token] : tokenizer.token_names) names[name] = token;
    json["tokenizer"] = {{"kind", tokenizer.kind},
                         {"pieces", tokenizer.pieces},
                         {"has_chat_template", tokenizer.chat_template == "yes"},
                         {"chat_template", tokenizer.chat_template},
                         {"special_tokens", names}};
  }
  return json.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

}  // namespace packrat
