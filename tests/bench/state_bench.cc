// What the prefix cache saves and what it costs, on the bare engine: the first token of a turn that
// follows a long text, with and without; and requests that share nothing, with and without, in
// turn. Models of random weights, of the demo model's size, in each kind of layer.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/check.h"
#include "models/cpu_model.h"
#include "runtime/engine.h"
#include "runtime/outbox.h"
#include "runtime/steady_clock.h"
#include "tests/bench/random_model.h"
#include "tests/bench/report.h"

ABSL_FLAG(std::string, dir, "/var/tmp/packrat-bench", "Folder for models of random weights.");
ABSL_FLAG(std::string, model, "", "Measure this model alone.");
ABSL_FLAG(std::vector<std::string>, kinds,
          std::vector<std::string>({"rat", "mesa", "gated_delta_net", "mamba2", "attention",
                                    "local_attention"}),
          "Kinds of layers of the models of random weights.");
ABSL_FLAG(int, text_tokens, 10000, "Before the turn.");
ABSL_FLAG(int, turn_tokens, 32, "Of the turn's own.");
ABSL_FLAG(int, rounds, 5, "Of the turn.");
ABSL_FLAG(bool, turn, true, "Measure the turn.");
ABSL_FLAG(int, pairs, 60, "Of requests that share nothing, with and without the cache; 0: none.");
ABSL_FLAG(int, streams, 8, "Of them that run together.");

namespace packrat {
namespace {

using Text = std::vector<int32_t>;

Text RandomText(int tokens, int vocab) {
  static std::mt19937_64 random(1);
  Text text(tokens);
  for (int32_t& token : text) token = static_cast<int32_t>(random() % vocab);
  return text;
}

double Median(std::vector<double> of) {
  std::sort(of.begin(), of.end());
  return of[of.size() / 2];
}

class Bench {
 public:
  Bench(LanguageModel* model, int max_running, int max_context, bool cache, int cache_sequences)
      : model_(model) {
    EngineOptions options;
    options.max_running = max_running;
    options.max_context = max_context;
    options.prefix_cache = cache;
    options.cache_sequences = cache_sequences;
    auto engine = Engine::Create(model, nullptr, options);
    PACKRAT_CHECK(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }

  // Runs these prompts together to their ends; seconds to the end of the last.
  double Run(const std::vector<Text>& prompts, int max_tokens, Finish* last = nullptr) {
    std::vector<std::shared_ptr<Outbox>> outboxes;
    const absl::Time start = SteadyNow();
    for (const Text& prompt : prompts) {
      Request request;
      request.id = next_id_++;
      request.prompt = prompt;
      request.sampling.temperature = 0;
      request.stop.max_tokens = max_tokens;
      request.stop.ignore_eos = true;
      request.outbox = outboxes.emplace_back(std::make_shared<Outbox>(nullptr));
      const absl::Status status = engine_->Submit(std::move(request), SteadyNow());
      PACKRAT_CHECK(status.ok()) << status;
    }
    while (engine_->Step(SteadyNow())) {
    }
    const double seconds = absl::ToDoubleSeconds(SteadyNow() - start);
    for (const auto& outbox : outboxes) {
      Outbox::Update update;
      PACKRAT_CHECK(outbox->Take(&update) && update.finish.has_value());
      PACKRAT_CHECK(update.finish->status.ok()) << update.finish->status;
      if (last != nullptr) *last = *update.finish;
    }
    return seconds;
  }
  double FirstToken(const Text& prompt, int* cached) {
    Finish finish;
    Run({prompt}, 1, &finish);
    *cached = finish.usage.cached_tokens;
    return absl::ToDoubleSeconds(finish.usage.time_to_first_token);
  }

 private:
  LanguageModel* const model_;
  std::unique_ptr<Engine> engine_;
  uint64_t next_id_ = 1;
};

void BenchTurn(LanguageModel* model, const std::string& name) {
  const int vocab = model->config().vocab_size, tokens = absl::GetFlag(FLAGS_text_tokens);
  const int turn = absl::GetFlag(FLAGS_turn_tokens), rounds = absl::GetFlag(FLAGS_rounds);
  Bench with(model, 1, tokens + 64 * turn, true, 4);
  std::vector<double> cached, computed;
  const Text text = RandomText(tokens, vocab);
  int from_cache = 0;
  for (int i = 0; i < rounds; ++i) {
    // The whole, which leaves its state; then a turn after it, as often as it is quick.
    Text whole = text;
    whole[0] = static_cast<int32_t>(i);
    computed.push_back(with.FirstToken(whole, &from_cache));
    PACKRAT_CHECK(from_cache == 0);
    for (int j = 0; j < 4; ++j) {
      Text next = whole;
      const Text more = RandomText(turn, vocab);
      next.insert(next.end(), more.begin(), more.end());
      cached.push_back(with.FirstToken(next, &from_cache));
      PACKRAT_CHECK(from_cache >= tokens - 1) << from_cache;
    }
  }
  const std::string what =
      absl::StrCat(name, ": first token of a turn of ", turn, " after ", tokens);
  Row(what + ", computed anew", 1e3 * Median(computed), "ms");
  Row(what + ", from its state", 1e3 * Median(cached), "ms", 0,
      absl::StrCat(static_cast<int>(Median(computed) / Median(cached)), " times shorter; ",
                   model->state_layout().slot_bytes / 1024, " KiB slot, ",
                   model->state_layout().tail_bytes / 1024, " KiB tail"));
}

// Requests that share nothing, in engines with and without a cache by turns: what the machine does
// besides, and for longer than a pair takes, it does to both.
void BenchMisses(LanguageModel* model, const std::string& name, int prompt, int output) {
  const int vocab = model->config().vocab_size, streams = absl::GetFlag(FLAGS_streams);
  Bench with(model, streams, prompt + output, true, 0);
  Bench without(model, streams, prompt + output, false, 0);
  std::vector<double> ratios;
  for (int i = 0; i < absl::GetFlag(FLAGS_pairs) + 2; ++i) {
    double seconds[2];
    for (const int j : {i % 2, 1 - i % 2}) {
      std::vector<Text> prompts;
      for (int s = 0; s < streams; ++s) prompts.push_back(RandomText(prompt, vocab));
      seconds[j] = (j == 1 ? with : without).Run(prompts, output);
    }
    if (i > 1) ratios.push_back(seconds[0] / seconds[1]);
  }
  std::sort(ratios.begin(), ratios.end());
  const auto at = [&](double share) {
    return ratios[static_cast<size_t>(share * static_cast<double>(ratios.size()))];
  };
  Row(absl::StrCat(name, ": ", streams, " streams of ", prompt, " + ", output,
                   " tokens that share nothing, speed with the cache by that without"),
      at(0.5), "", 0,
      absl::StrFormat("%d pairs; quarters end at %.3f and %.3f", ratios.size(), at(0.25),
                      at(0.75)));
}

absl::Status Run() {
  std::vector<std::pair<std::string, std::string>> models;  // Name, folder.
  if (!absl::GetFlag(FLAGS_model).empty()) {
    models.emplace_back(absl::GetFlag(FLAGS_model), absl::GetFlag(FLAGS_model));
  } else {
    std::filesystem::create_directories(absl::GetFlag(FLAGS_dir));
    for (const std::string& type : absl::GetFlag(FLAGS_kinds)) {
      RandomModelShape shape;
      shape.layer_types.assign(8, type);
      shape.hidden_size = 384;
      shape.intermediate_size = 1024;
      shape.vocab_size = 4096;
      shape.heads = 6;
      shape.kv_heads = 2;
      shape.window = 128;
      const std::string dir = absl::StrCat(absl::GetFlag(FLAGS_dir), "/state_", type);
      WriteRandomModel(dir, shape);
      models.emplace_back(type, dir);
    }
  }
  for (const auto& [name, dir] : models) {
    ModelOptions options;
    auto model = LoadCpuModel(dir, options);
    if (!model.ok()) return model.status();
    if (absl::GetFlag(FLAGS_turn)) BenchTurn(model->get(), name);
    if (absl::GetFlag(FLAGS_pairs) == 0) continue;
    BenchMisses(model->get(), name, 64, 32);
    BenchMisses(model->get(), name, 16, 64);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace packrat

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("what kept states save and cost");
  absl::ParseCommandLine(argc, argv);
  const absl::Status status = packrat::Run();
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
