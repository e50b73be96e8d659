// Tokens per second of the bare engine: as many requests as run together, from the first's
// submission to the last's end. Beside it, server_bench.py measures the same through gRPC.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "kernels/check.h"
#include "models/cpu_model.h"
#include "models/load.h"
#include "runtime/engine.h"
#include "runtime/outbox.h"
#include "runtime/steady_clock.h"
#include "tests/bench/report.h"

ABSL_FLAG(std::string, model, "models/demo", "Model folder.");
ABSL_FLAG(std::string, activations, "auto", "Of the CPU: auto, float32 or bfloat16.");
ABSL_FLAG(int, streams, 256, "Requests, which all run together.");
ABSL_FLAG(int, prompt_tokens, 16, "Of each, drawn at random.");
ABSL_FLAG(int, max_tokens, 64, "Generated for each.");

namespace packrat {
namespace {

absl::Status Run() {
  const int streams = absl::GetFlag(FLAGS_streams);
  EngineOptions options;
  options.max_running = streams;
  options.max_batch_tokens = std::max(options.max_batch_tokens, streams);
  options.max_context = absl::GetFlag(FLAGS_prompt_tokens) + absl::GetFlag(FLAGS_max_tokens);
  const auto activations = ActivationTypeOf(absl::GetFlag(FLAGS_activations));
  if (!activations.ok()) return activations.status();
  LoadOptions load;
  load.model.activations = *activations;
  load.model.max_batch_tokens = options.max_batch_tokens;
  load.model.max_logit_rows = options.max_running;
  load.model.max_context = options.max_context;
  auto model = LoadModel(absl::GetFlag(FLAGS_model), load);
  if (!model.ok()) return model.status();
  auto engine = Engine::Create(model->get(), nullptr, options);
  if (!engine.ok()) return engine.status();

  std::mt19937_64 random(1);
  std::vector<double> rates;
  for (int run = 0; run < 4; ++run) {  // The first one warms.
    std::vector<std::shared_ptr<Outbox>> outboxes;
    const absl::Time start = SteadyNow();
    for (int i = 0; i < streams; ++i) {
      Request request;
      request.id = static_cast<uint64_t>(i);
      for (int t = 0; t < absl::GetFlag(FLAGS_prompt_tokens); ++t) {
        request.prompt.push_back(static_cast<int32_t>(random() % (*model)->config().vocab_size));
      }
      request.sampling.temperature = 0.9f;
      request.sampling.top_p = 0.9f;
      request.sampling.seed = request.id;
      request.stop.max_tokens = absl::GetFlag(FLAGS_max_tokens);
      request.stop.ignore_eos = true;
      request.outbox = outboxes.emplace_back(std::make_shared<Outbox>(nullptr));
      const absl::Status status = (*engine)->Submit(std::move(request), SteadyNow());
      if (!status.ok()) return status;
    }
    while ((*engine)->Step(SteadyNow())) {
    }
    const double seconds = absl::ToDoubleSeconds(SteadyNow() - start);
    int64_t tokens = 0;
    for (const auto& outbox : outboxes) {
      Outbox::Update update;
      PACKRAT_CHECK(outbox->Take(&update) && update.finish.has_value());
      tokens += static_cast<int64_t>(update.tokens.size());
    }
    if (run > 0) rates.push_back(static_cast<double>(tokens) / seconds);
  }
  std::sort(rates.begin(), rates.end());
  Row(std::to_string(streams) + " streams, the bare engine", rates[rates.size() / 2], "tokens/s", 0,
      (*model)->device() + ", " + (*model)->numerics_id());
  return absl::OkStatus();
}

}  // namespace
}  // namespace packrat

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("tokens per second of the engine without a server");
  absl::ParseCommandLine(argc, argv);
  const absl::Status status = packrat::Run();
  if (!status.ok()) std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
