// gpu_bench: measures the CUDA backend, or predicts what it would measure. See docs/gpu.md.
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "tests/bench/gpu/bench.h"

namespace packrat::gpu_bench {

absl::Status LoadAndStep(const Options& options);  // model.cc

namespace {

constexpr char kUsage[] =
    "gpu_bench [--out=DIR] [--sections=limits,rat,...] [--budget=SECONDS] [--scratch=DIR]\n"
    "          [--predict [--bandwidth=TB/s]] [--tiny] [--check]\n"
    "Writes DIR/bench.jsonl and DIR/bench.txt. --predict: runs nothing, tells times from byte\n"
    "counts. --scratch: where the model of random weights is made (2.6 GB). Ends with 3 where "
    "there\n"
    "is no CUDA device, with 1 if a row failed. --check: only tells the device.\n"
    "Sections: limits, rat, attention, layers, mesa, prompts, products, elementwise, sampling,\n"
    "model; limits are always measured first.\n";

constexpr int kNoDevice = 3;

struct SectionOf {
  const char* name;
  double seconds;  // Of the whole budget of 480.
  void (*run)(Bench*);
};
// The most wanted first: a run that ends early has them.
constexpr SectionOf kSections[] = {
    {"limits", 20, BenchLimits},
    {"rat", 30, BenchRat},
    {"rat_plus", 20, BenchRatPlus},
    {"attention", 60, BenchAttention},
    {"layers", 40, BenchLayers},
    {"mesa", 70, BenchMesa},
    {"model", 130, BenchModel},
    {"prompts", 20, BenchPrompts},
    {"products", 50, BenchProducts},
    {"sampling", 20, BenchSampling},
    {"elementwise", 20, BenchElementwise},
};

struct Flags {
  Options options;
  std::set<std::string> sections;
  double bandwidth = 0;
  bool ready = false, check = false;
};

// False: not understood.
bool Parse(int argc, char** argv, Flags* flags) {
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : argument.substr(equals + 1);
    if (name == "--out" && !value.empty()) {
      flags->options.out = value;
    } else if (name == "--scratch" && !value.empty()) {
      flags->options.scratch = value;
    } else if (name == "--budget" && std::atof(value.c_str()) > 0) {
      flags->options.budget_s = std::atof(value.c_str());
    } else if (name == "--bandwidth" && std::atof(value.c_str()) > 0) {
      flags->bandwidth = std::atof(value.c_str());
    } else if (name == "--sections" && !value.empty()) {
      for (const std::string& section : std::vector<std::string>(absl::StrSplit(value, ','))) {
        bool known = false;
        for (const SectionOf& s : kSections) known |= section == s.name;
        if (!known) return false;
        flags->sections.insert(section);
      }
    } else if (argument == "--predict") {
      flags->options.predict = true;
    } else if (argument == "--tiny") {
      flags->options.tiny = true;
    } else if (argument == "--check") {
      flags->check = true;
    } else if (argument == "--ready") {  // What model.cc starts to time it.
      flags->ready = true;
    } else {
      return false;
    }
  }
  return true;
}

int Main(int argc, char** argv) {
  Flags flags;
  if (!Parse(argc, argv, &flags)) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  Options& options = flags.options;
  char self[4096];
  const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  options.self = length > 0 ? std::string(self, length) : argv[0];
  if (flags.ready) {
    const absl::Status status = LoadAndStep(options);
    std::puts(status.ok() ? "ready" : status.ToString().c_str());
    return status.ok() ? 0 : 1;
  }
  if (!options.out.empty()) mkdir(options.out.c_str(), 0755);
  int errors = 0;
  {
    Report report(options.out);
    Bench bench(options, &report);
    if (!options.predict || flags.check) {
      if (const absl::Status status = bench.Open(); !status.ok()) {
        std::fprintf(stderr, "no CUDA device: %s\n", std::string(status.message()).c_str());
        return kNoDevice;
      }
    }
    if (flags.check) {
      std::fprintf(stderr, "%s\n", bench.device().name.c_str());
      return 0;
    }
    if (flags.bandwidth > 0) bench.limits().bytes_per_second = flags.bandwidth * 1e12;
    for (const SectionOf& section : kSections) {
      const bool wanted = flags.sections.empty() || flags.sections.count(section.name) > 0;
      if (!wanted && section.run != BenchLimits) continue;
      bench.Section(section.name, section.seconds * options.budget_s / 480);
      section.run(&bench);
    }
    errors = report.errors();
  }
  return errors == 0 ? 0 : 1;
}

}  // namespace
}  // namespace packrat::gpu_bench

int main(int argc, char** argv) { return packrat::gpu_bench::Main(argc, argv); }
