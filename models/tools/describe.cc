#include "models/tools/describe.h"

#include <algorithm>
#include <filesystem>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/cpu_model.h"
#include "models/model_folder.h"
#include "models/state_layout.h"
#include "models/text/tokenizer.h"
#include "models/text/tokenizer_config.h"
#include "models/tokenizer_fit.h"

namespace packrat {
namespace {

void AddPages(const PageClass& pages, int64_t page_bytes, int max_context, int64_t* windows,
              double* per_token) {
  if (pages.kind == PageClass::Kind::kWindow) {
    *windows += page_bytes * pages.PagesFor(max_context);
  } else {
    *per_token += static_cast<double>(page_bytes) / pages.tokens_per_page;
  }
}

void AddState(const StateTypes& types, ModelReport* report) {
  const ModelConfig& config = *report->config;
  const StateLayout layout(config, types);
  report->fixed_bytes = static_cast<int64_t>(layout.slot_bytes + layout.tail_bytes);
  report->longest_bytes = static_cast<int64_t>(layout.SequenceBytes(config.max_context));
  for (const PageClass& pages : layout.page_classes) {
    AddPages(pages, static_cast<int64_t>(pages.page_bytes), config.max_context,
             &report->window_bytes, &report->token_bytes);
  }
  report->layers = LayerNames(config);
  for (const MixerSpec& mixer : config.mixers) {
    const std::string type = InfoOf(mixer).type;
    auto found = std::find_if(report->mixers.begin(), report->mixers.end(),
                              [&](const MixerReport& known) { return known.type == type; });
    if (found == report->mixers.end()) {
      report->mixers.push_back({type});
      found = report->mixers.end() - 1;
    }
    const MixerState state = StateOf(mixer, types);
    ++found->count;
    found->fixed_bytes += static_cast<int64_t>(state.slot_bytes + state.tail_bytes);
    if (state.page_bytes == 0) continue;
    AddPages(state.page_class, static_cast<int64_t>(state.page_bytes), config.max_context,
             &found->window_bytes, &found->token_bytes);
  }
}

void AddWeights(const Checkpoint& checkpoint, ModelReport* report) {
  const TensorNames& names = report->config->names;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    if (tensor.type == TensorType::kI32) continue;
    const bool copy = report->config->tie_embeddings && name == names.head;
    if (!copy) report->parameters += tensor.NumElements();
    if (name == names.embedding) report->embedding_parameters = tensor.NumElements();
    report->weight_bytes[TensorTypeName(tensor.type)] += static_cast<int64_t>(tensor.bytes);
  }
  report->active_parameters = report->parameters;
  for (const Sublayer& sublayer : report->config->sublayers) {
    for (const ExpertsSpec& experts : sublayer.experts) {
      report->active_parameters -= (experts.num_experts - experts.num_chosen) *
                                   experts.ExpertParameters(report->config->hidden_size);
    }
  }
}

// `vocab_size` is a guess where there is no config.
void AddTokenizer(const std::string& dir, int vocab_size, ModelReport* report) {
  const auto tokenizer = Tokenizer::Load(dir, vocab_size);
  if (absl::IsNotFound(tokenizer.status())) return;  // It is served with token ids alone.
  if (!tokenizer.ok()) {
    report->refused.emplace_back(tokenizer.status().message());
    return;
  }
  TokenizerReport& to = report->tokenizer.emplace();
  to.kind = (*tokenizer)->kind();
  to.pieces = (*tokenizer)->num_pieces();
  const absl::Status& chat = (*tokenizer)->chat_template().status();
  to.chat_template = chat.ok() ? "yes" : std::string(chat.message());
  // It was read before.
  if (auto config = LoadTokenizerConfig(dir); config.ok()) to.token_names = config->token_names;
  if (!report->config.has_value()) return;
  const auto warnings = CompareTokenizer(**tokenizer, *report->config);
  if (!warnings.ok()) {
    report->refused.push_back(absl::StrCat(dir, ": ", warnings.status().message()));
    return;
  }
  report->warnings.insert(report->warnings.end(), warnings->begin(), warnings->end());
}

}  // namespace

std::vector<std::string> LayerNames(const ModelConfig& config) {
  constexpr char kFeedForward[] = "feed_forward";
  std::vector<std::vector<std::string>> parts(config.num_layers());
  auto mixer = config.mixers.begin();
  for (const Sublayer& sublayer : config.sublayers) {
    std::vector<std::string> types;
    for (size_t i = 0; i < sublayer.mixers.size(); ++i) types.push_back(InfoOf(*mixer++).type);
    if (!sublayer.experts.empty()) types.emplace_back("experts");
    if (sublayer.mixers.empty() && !sublayer.experts_alone) types.emplace_back(kFeedForward);
    parts[sublayer.layer].push_back(absl::StrJoin(types, " + "));
  }
  const bool all_end_alike = std::all_of(parts.begin(), parts.end(), [&](const auto& layer) {
    return layer.size() > 1 && layer.back() == kFeedForward;
  });
  std::vector<std::string> names;
  for (std::vector<std::string>& layer : parts) {
    if (all_end_alike) layer.pop_back();
    names.push_back(absl::StrJoin(layer, ", then "));
  }
  return names;
}

ModelReport DescribeModel(const std::string& dir, const ModelOptions& options) {
  ModelReport report;
  report.dir = dir;
  absl::StatusOr<ModelConfig> config = LoadModelConfig(dir, &report.refused);
  if (!std::filesystem::is_directory(dir)) return report;
  if (config.ok()) {
    report.warnings = config->warnings;
    report.config = *std::move(config);
  }
  // Without a config nobody knows which tensors there should be, but whether the file is whole.
  const auto checkpoint =
      report.config.has_value() ? OpenCheckpoint(dir, *report.config) : Checkpoint::Open(dir);
  if (!checkpoint.ok()) {
    report.refused.emplace_back(checkpoint.status().message());
  } else if (report.config.has_value()) {
    AddWeights(**checkpoint, &report);
  }
  if (report.config.has_value()) {
    const auto memory = checkpoint.ok() ? MeasureModel(dir, options, &report.refused)
                                        : absl::StatusOr<ModelMemory>(checkpoint.status());
    AddState(memory.ok() ? memory->state_types : StateTypes(), &report);
  }
  constexpr int kAnyVocab = 1 << 22;
  AddTokenizer(dir, report.config.has_value() ? report.config->vocab_size : kAnyVocab, &report);
  return report;
}

}  // namespace packrat
