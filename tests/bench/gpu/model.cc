// The whole model: decoding, prompts, host time, loading, determinism.
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "models/gpu/model.h"
#include "tests/bench/gpu/bench.h"
#include "tests/bench/gpu/decoder.h"
#include "tests/bench/random_model.h"

namespace packrat::gpu_bench {
namespace {

using ModelOr = absl::StatusOr<std::unique_ptr<LanguageModel>>;

struct Setup {
  std::string dir;
  RandomModelShape shape;
  int context, prompt;  // Of decoding rows; of the prompt row.
  std::vector<int> batches;
};

Setup SetupOf(const Options& options) {
  Setup setup{options.scratch + "/rat1300m", Rat1300M(), 4096, 8192, {1, 64, 256}};
  if (options.tiny) {
    setup.dir = options.scratch + "/tiny";
    setup.shape.layer_types.assign(2, "rat");
    setup.shape.hidden_size = 64, setup.shape.intermediate_size = 96, setup.shape.heads = 4;
    setup.shape.kv_heads = 4, setup.shape.vocab_size = 96, setup.shape.max_context = 256;
    setup.context = 48, setup.prompt = 40, setup.batches = {1, 3};
  }
  return setup;
}

ModelOr Load(const Setup& setup, int batch, int tokens, bool deterministic,
             WeightFormat weights = WeightFormat::kStored, bool overlap_kernels = false) {
  ModelOptions options;
  options.weights = weights;
  options.max_batch_tokens = std::max(batch, tokens);
  options.max_logit_rows = batch;
  options.max_context = std::max(setup.context, setup.prompt) + 256;
  gpu::GpuOptions gpu_options;
  gpu_options.deterministic = deterministic;
  gpu_options.overlap_kernels = overlap_kernels;
  return gpu::LoadGpuModel(setup.dir, options, gpu_options);
}

// Steps of decoding that end at `position`; the first ones capture and warm up.
absl::StatusOr<StepTime> MedianStep(Bench* bench, Decoder* decoder, int batch, int position,
                                    double pause = 0) {
  const int warm = 3, steps = bench->options().tiny ? 2 : pause > 0 ? 20 : 100;
  decoder->MoveTo(std::max(0, position - warm - steps));
  std::vector<double> starts, waits, totals;
  for (int i = 0; i < warm + steps; ++i) {
    BENCH_ASSIGN(const StepTime time, decoder->Feed(0, batch, 1, nullptr, pause));
    if (i < warm) continue;
    starts.push_back(time.start), waits.push_back(time.wait), totals.push_back(time.total());
    if (bench->OutOfTime() && totals.size() > 5) break;
  }
  StepTime median;
  median.start = Median(starts);
  median.wait = pause > 0 ? Median(waits) : Median(totals) - median.start;
  return median;
}

// A row of one decoding step, held against the time that its kernels take at least.
void AddDecode(Bench* bench, const std::string& name, const std::string& shape,
               const Kernels& kernels, int batch, double seconds, const std::string& note) {
  Row row;
  row.name = name, row.shape = shape, row.note = note;
  row.work = Sum(kernels);
  const Floor floor = FloorOf(kernels, bench->limits());
  row.predicted = bench->options().predict;
  row.seconds = row.predicted ? floor.seconds : seconds;
  row.unit = "tokens/s";
  row.figure = row.predicted ? 0 : batch / seconds;
  row.limit = batch / floor.seconds;
  row.limited_by = floor.limited_by;
  bench->Add(std::move(row));
}

void DecodeRows(Bench* bench, const Setup& setup, LanguageModel* model, const std::string& name,
                DType weights = DType::kBF16) {
  for (const int batch : setup.batches) {
    const std::string shape = absl::StrCat("batch ", batch, ", position ", setup.context);
    const Kernels kernels = ModelDecode(setup.shape, batch, setup.context - 1, weights);
    if (model == nullptr) {
      AddDecode(bench, name, shape, kernels, batch, 0, "");
      continue;
    }
    const auto run = [&]() -> absl::StatusOr<StepTime> {
      BENCH_ASSIGN(const std::unique_ptr<Decoder> decoder,
                   Decoder::Make(model, batch, setup.context + 16));
      return MedianStep(bench, decoder.get(), batch, setup.context);
    };
    const auto time = run();
    if (!time.ok()) {
      bench->Error(name, shape, time.status());
      continue;
    }
    AddDecode(bench, name, shape, kernels, batch, time->total(),
              absl::StrFormat("Start() %.1f us", time->start * 1e6));
  }
}

// The rows of decoding once more, with kernels that begin before those before them have ended.
// Older devices have none.
absl::Status OverlapRows(Bench* bench, const Setup& setup) {
  const int batch = setup.batches.back();
  const ModelOr model = Load(setup, batch, batch, false, WeightFormat::kStored, true);
  if (absl::IsFailedPrecondition(model.status())) return absl::OkStatus();
  if (!model.ok()) return model.status();
  DecodeRows(bench, setup, model->get(), "decode, overlapping kernels");
  return absl::OkStatus();
}

// Host time in which the device may be idle: all of Start(), and Wait() where the work is done.
absl::Status HostRow(Bench* bench, const Setup& setup, LanguageModel* model) {
  const int batch = setup.batches.back();
  BENCH_ASSIGN(const std::unique_ptr<Decoder> decoder,
               Decoder::Make(model, batch, setup.context + 16));
  BENCH_ASSIGN(const StepTime step, MedianStep(bench, decoder.get(), batch, setup.context));
  BENCH_ASSIGN(const StepTime paused,
               MedianStep(bench, decoder.get(), batch, setup.context, 3 * step.total()));
  Row row;
  row.name = "host time of a step that the device does not cover (at most)";
  row.shape = absl::StrCat("batch ", batch, ", position ", setup.context);
  row.seconds = step.start + paused.wait;
  row.figure = 100 * row.seconds / step.total();
  row.unit = "% of a step";
  row.note = absl::StrFormat("Start() %.1f us, Wait() of done work %.1f us, step %.3f ms",
                             step.start * 1e6, paused.wait * 1e6, step.total() * 1e3);
  bench->Add(std::move(row));
  return absl::OkStatus();
}

absl::Status PromptRow(Bench* bench, const Setup& setup, LanguageModel* model) {
  Row row;
  row.name = "prompt";
  row.shape = absl::StrCat("one prompt of ", setup.prompt, " tokens");
  row.work.flops = ModelPromptFlops(setup.shape, setup.prompt);
  row.unit = "TFLOP/s";
  row.limit = bench->limits().bf16_flops / 1e12;
  row.limited_by = "bf16 products";
  row.predicted = model == nullptr;
  row.seconds = row.work.flops / bench->limits().bf16_flops;
  if (model != nullptr) {
    BENCH_ASSIGN(const std::unique_ptr<Decoder> decoder,
                 Decoder::Make(model, 1, setup.prompt + 16));
    std::vector<double> seconds;
    for (int i = 0; i < (bench->options().tiny ? 2 : 8); ++i) {
      decoder->MoveTo(0);
      BENCH_ASSIGN(const StepTime time, decoder->Feed(0, 1, setup.prompt));
      if (i > 0) seconds.push_back(time.total());
    }
    row.seconds = Median(seconds);
    row.figure = row.work.flops / row.seconds / 1e12;
    row.note = absl::StrFormat("%.0f tokens/s", setup.prompt / row.seconds);
  }
  bench->Add(std::move(row));
  return absl::OkStatus();
}

// The paper's measurement: prompts of 3,072, then 1,024 tokens generated, decoding alone counted,
// at the batch that fits. Steps are measured at 16 positions of the 1,024 and stand for all of
// them.
absl::Status PaperRow(Bench* bench, const Setup& setup) {
  const bool tiny = bench->options().tiny;
  const int prompt = tiny ? 24 : 3072, generated = tiny ? 16 : 1024;
  const std::string name =
      absl::StrCat("prompt ", prompt, ", ", generated, " generated, decoding only");
  int batch = tiny ? 2 : 2048;
  if (bench->options().predict) {
    AddDecode(bench, name, absl::StrCat("batch ", batch),
              ModelDecode(setup.shape, batch, prompt + generated / 2), batch, 0, "");
    return absl::OkStatus();
  }
  if (!tiny) {  // What is left beside weights and a step's scratch, in steps of 64.
    BENCH_ASSIGN(const std::unique_ptr<LanguageModel> small, Load(setup, 64, 64, false));
    const double each = Decoder::BytesFor(*small, 1, prompt + generated);
    const double scratch = 600e3;  // Of a sequence: a row of logits, activations, split sums.
    const double left = bench->UsableBytes() / 0.6 - 3e9;
    batch = std::clamp(static_cast<int>(left / (each + scratch)) / 64 * 64, 64, 4096);
  }
  BENCH_ASSIGN(const std::unique_ptr<LanguageModel> model, Load(setup, batch, batch, false));
  BENCH_ASSIGN(const std::unique_ptr<Decoder> decoder,
               Decoder::Make(model.get(), batch, prompt + generated));
  double seconds = 0, floor = 0;
  const int points = tiny ? 2 : 16, steps = 4;
  for (int i = 0; i < points; ++i) {
    decoder->MoveTo(prompt + (2 * i + 1) * generated / (2 * points) - steps / 2);
    std::vector<double> times;
    for (int step = 0; step < steps; ++step) {
      BENCH_ASSIGN(const StepTime time, decoder->Feed(0, batch, 1));
      if (step > 0) times.push_back(time.total());
    }
    seconds += Median(times) / points;
    const Kernels kernels = ModelDecode(setup.shape, batch, decoder->position(0));
    floor += FloorOf(kernels, bench->limits()).seconds / points;
  }
  Row row;
  row.name = name;
  row.shape = absl::StrCat("batch ", batch);
  row.seconds = seconds;
  row.figure = batch / seconds, row.unit = "tokens/s";
  row.limit = batch / floor, row.limited_by = "bandwidth and bf16 products";
  row.note = "the paper: 31,170 on a GH200 (attention 3,052); steps at 16 positions";
  bench->Add(std::move(row));
  return absl::OkStatus();
}

// How often the greedy token of a sequence alone is another than in company, the same tokens fed.
absl::Status AloneRow(Bench* bench, const Setup& setup, LanguageModel* model, bool deterministic) {
  const bool tiny = bench->options().tiny;
  const int company = setup.batches.back() < 64 ? setup.batches.back() : 64;
  const int alone = tiny ? 1 : 8, prompt = tiny ? 20 : 128, steps = tiny ? 3 : 64;
  BENCH_ASSIGN(const std::unique_ptr<Decoder> decoder,
               Decoder::Make(model, company, prompt + steps + 16));
  // (steps, company): what the company was fed, and what it sampled.
  std::vector<std::vector<int32_t>> sampled;
  std::vector<int32_t> next(company);
  const auto keep = [&](int count) {
    for (int i = 0; i < count; ++i) next[i] = decoder->sampled(i).token;
  };
  // Prompts one by one, in both runs: only decoding is compared.
  const auto feed_prompt = [&](int first, int count) -> absl::Status {
    for (int s = first; s < first + count; ++s) {
      BENCH_RETURN_IF_ERROR(decoder->Feed(s, 1, prompt).status());
      next[s - first] = decoder->sampled(0).token;
    }
    return absl::OkStatus();
  };
  decoder->MoveTo(0);
  BENCH_RETURN_IF_ERROR(feed_prompt(0, company));
  sampled.push_back(next);
  for (int step = 0; step < steps; ++step) {
    BENCH_RETURN_IF_ERROR(decoder->Feed(0, company, 1, next.data()).status());
    keep(company);
    sampled.push_back(next);
  }
  int different = 0;
  decoder->MoveTo(0);
  for (int s = 0; s < alone; ++s) {
    BENCH_RETURN_IF_ERROR(feed_prompt(s, 1));
    for (int step = 0; step < steps; ++step) {
      const int32_t fed = sampled[step][s];
      BENCH_RETURN_IF_ERROR(decoder->Feed(s, 1, 1, &fed).status());
      if (decoder->sampled(0).token != sampled[step + 1][s]) ++different;
    }
  }
  Row row;
  row.name = absl::StrCat("greedy tokens that differ alone and in company",
                          deterministic ? ", deterministic" : "");
  row.shape = absl::StrCat(alone, " of ", company, " sequences, ", steps, " tokens");
  row.figure = 100.0 * different / (alone * steps);
  row.unit = "%";
  row.note = absl::StrCat(different, " of ", alone * steps,
                          "; random weights, whose logits lie close together");
  if (deterministic && different > 0) row.error = "must be none";
  bench->Add(std::move(row));
  return absl::OkStatus();
}

// From the start of a process until its first step is done.
absl::Status ReadyRow(Bench* bench, const Setup& setup) {
  const std::string command =
      absl::StrCat("'", bench->options().self, "' --ready --scratch='", bench->options().scratch,
                   "'", bench->options().tiny ? " --tiny" : "");
  const auto begin = std::chrono::steady_clock::now();
  std::FILE* process = popen(command.c_str(), "r");
  if (process == nullptr) return absl::InternalError("popen failed");
  char line[512] = "";
  const bool told = std::fgets(line, sizeof line, process) != nullptr;
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  pclose(process);
  if (!told || std::string(line) != "ready\n") {
    return absl::InternalError(absl::StrCat("the process said '", line, "'"));
  }
  Row row;
  row.name = "process start to first step done, files in the page cache";
  row.shape = absl::StrFormat("%.2f GB of weights", 2e-9 * ModelParameters(setup.shape));
  row.seconds = seconds.count();
  row.figure = 2e-9 * ModelParameters(setup.shape) / row.seconds, row.unit = "GB/s";
  bench->Add(std::move(row));
  return absl::OkStatus();
}

}  // namespace

absl::Status LoadAndStep(const Options& options) {
  const Setup setup = SetupOf(options);
  BENCH_ASSIGN(const std::unique_ptr<LanguageModel> model, Load(setup, 256, 8192, false));
  BENCH_ASSIGN(const std::unique_ptr<Decoder> decoder, Decoder::Make(model.get(), 1, 64));
  return decoder->Feed(0, 1, 1).status();
}

void BenchModel(Bench* bench) {
  const Setup setup = SetupOf(bench->options());
  const auto report = [&](const char* name, const absl::Status& status) {
    if (!status.ok()) bench->Error(name, "", status);
  };
  if (bench->options().predict) {
    DecodeRows(bench, setup, nullptr, "decode");
    DecodeRows(bench, setup, nullptr, "decode, int8 weights", DType::kInt8);
    DecodeRows(bench, setup, nullptr, "decode, int4 weights", DType::kInt4);
    report("prompt", PromptRow(bench, setup, nullptr));
    report("the paper's run", PaperRow(bench, setup));
    return;
  }
  mkdir(bench->options().scratch.c_str(), 0755);
  WriteRandomModel(setup.dir, setup.shape);
  report("ready", ReadyRow(bench, setup));
  for (const bool deterministic : {false, true}) {
    if (bench->OutOfTime()) break;
    const ModelOr model = Load(setup, setup.batches.back(), setup.prompt, deterministic);
    if (!model.ok()) {
      report(deterministic ? "loading, deterministic" : "loading", model.status());
      continue;
    }
    DecodeRows(bench, setup, model->get(), deterministic ? "decode, deterministic" : "decode");
    if (!deterministic) {
      report("overlapping kernels", OverlapRows(bench, setup));
      report("host time", HostRow(bench, setup, model->get()));
      report("prompt", PromptRow(bench, setup, model->get()));
    }
    report("alone and in company", AloneRow(bench, setup, model->get(), deterministic));
  }
  for (const DType type : {DType::kInt8, DType::kInt4}) {
    if (bench->OutOfTime()) break;
    const std::string name = absl::StrCat("decode, ", DTypeName(type), " weights");
    const ModelOr model = Load(setup, setup.batches.back(), setup.batches.back(), false,
                               type == DType::kInt8 ? WeightFormat::kInt8 : WeightFormat::kInt4);
    if (model.ok()) {
      DecodeRows(bench, setup, model->get(), name, type);
    } else {
      report(name.c_str(), model.status());
    }
  }
  if (bench->OutOfTime()) {
    bench->Error("the paper's run", "", absl::DeadlineExceededError("not run: out of time"));
  } else {
    report("the paper's run", PaperRow(bench, setup));
  }
}

}  // namespace packrat::gpu_bench
