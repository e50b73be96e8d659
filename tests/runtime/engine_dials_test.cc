// Texts with several dials of RAT+ in one engine, with the real kernels: each gets what an engine
// with its dial alone gives it, whatever runs beside it and wherever it begins. And texts that go
// coarser: what that is, and that it does not depend on what is kept.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/engine.h"
#include "tests/models/golden.h"
#include "tests/models/model_files.h"
#include "tests/runtime/golden_engine.h"

namespace packrat {
namespace {

constexpr int kRequests = kOnGpu ? 6 : 160, kLongest = kOnGpu ? 60 : 150,
              kMostGenerated = kOnGpu ? 10 : 30, kGenerated = kOnGpu ? 3 : 20;

using Dial = LayerDials;

// From fine to coarse, but for the last, which is beside the second.
std::vector<Dial> Dials() {
  return {RatPlusDial{1, 0, 0}, RatPlusDial{4, 8, 6}, RatPlusDial{16, 5, 6}, RatPlusDial{16, 0, 0},
          RatPlusDial{-1, 7, 4}};
}
constexpr int kFourToSixteen = 2, kBare = 3, kNoArchive = 4;

class EngineDialsTest : public GoldenEngineTest {
 protected:
  static ModelOptions Options(std::vector<Dial> dials) {
    ModelOptions options;
    options.max_batch_tokens = 256;
    options.max_logit_rows = 64;
    options.threads = 1;
    options.max_context = 256;
    options.choices.rat_plus_dials = std::move(dials);
    options.choices.rat_plus_unadapted = true;
    return options;
  }
  static std::unique_ptr<Engine> StartPlain(LanguageModel* model) {
    EngineOptions options;
    options.max_running = 1;
    options.max_batch_tokens = 256;
    options.max_context = 256;
    options.poison_freed_state = true;
    options.prefix_cache = false;
    return Start(model, options);
  }
  static EngineOptions Cached(const LanguageModel& model, int longest) {
    EngineOptions options;
    options.max_running = 4;
    options.max_batch_tokens = 48;
    options.max_context = 256;
    options.poison_freed_state = true;
    options.cache_sequences = 5;
    options.park_memory = int64_t{1} << 30;
    options.state_bytes = longest * static_cast<int64_t>(model.state_layout().BytesOfAny(256));
    return options;
  }
  // What it gets alone.
  static void Run(Engine* engine, Request request, Consumer* consumer) {
    Submit(engine, std::move(request));
    RunUntilIdle(engine);
    consumer->Poll();
    ASSERT_TRUE(consumer->finish.has_value());
    EXPECT_EQ(consumer->finish->status, absl::OkStatus());
  }
};

struct Case {
  std::vector<int32_t> prompt;
  TextDials dials;
  int count, priority;
  Consumer consumer;
};

TEST_P(EngineDialsTest, MixedTextsGetWhatEachGetsAlone) {
  const auto model = Load(Options(Dials()));
  auto engine = Start(model.get(), Cached(*model, 3));
  std::vector<std::unique_ptr<Case>> cases;
  int went_coarser = 0;
  const auto make = [&](const Case& from, Consumer* consumer, uint64_t id) {
    Request request = Make(consumer, id, from.prompt, from.count);
    request.dials = from.dials;
    request.priority = from.priority;
    request.cache.importance = 1;
    return request;
  };
  // From nothing, or from what another one has got, with its dials or from there on a coarser one.
  const auto next = [&] {
    auto one = std::make_unique<Case>();
    one->count = 1 + Pick(kMostGenerated);
    one->priority = Pick(3);
    one->dials.last = Pick(5);
    if (!cases.empty() && Pick(4) > 0) {
      const Case& from = *cases[Pick(cases.size())];
      one->prompt = from.prompt;
      if (from.consumer.finish.has_value()) {
        one->prompt.insert(one->prompt.end(), from.consumer.tokens.begin(),
                           from.consumer.tokens.end());
      }
      const auto before = static_cast<int32_t>(one->prompt.size());
      const bool coarser = before >= kMinSnapshotTokens &&
                           CheckCoarser(model->config(), from.dials.last, one->dials.last).ok() &&
                           one->dials.last != from.dials.last;
      const int32_t wanted = one->dials.last;
      if (Pick(3) > 0) one->dials = from.dials;
      if (coarser && one->dials == from.dials) {
        one->dials.finer.push_back({before, from.dials.last});
        one->dials.last = wanted;
        ++went_coarser;
      }
    }
    const Text more = RandomText(*model, 1 + Pick(one->prompt.empty() ? kLongest / 2 : 20));
    one->prompt.insert(one->prompt.end(), more.begin(), more.end());
    if (static_cast<int>(one->prompt.size()) > kLongest) {
      one->prompt = RandomText(*model, 20);
      one->dials = {Pick(5), {}};
    }
    return one;
  };
  while (!engine->idle() || static_cast<int>(cases.size()) < kRequests) {
    if (static_cast<int>(cases.size()) < kRequests && (engine->idle() || Pick(8) == 0)) {
      cases.push_back(next());
      Submit(engine.get(), make(*cases.back(), &cases.back()->consumer, cases.size()));
    }
    Step(engine.get());
    ASSERT_FALSE(HasFatalFailure());
    for (auto& one : cases) one->consumer.Poll();
  }
  if (!kOnGpu) {
    EXPECT_GT(went_coarser, kRequests / 20);
    EXPECT_GT(engine->stats().cache.cached_tokens, 0);
    // Of those that have gone coarser, some begin before that and some behind it.
    int before = 0, behind = 0;
    for (const auto& one : cases) {
      if (one->dials.finer.empty() || one->consumer.finish->usage.cached_tokens == 0) continue;
      const bool in_last = one->consumer.finish->usage.cached_tokens > one->dials.finer.back().end;
      ++(in_last ? behind : before);
    }
    EXPECT_GT(before, 0);
    EXPECT_GT(behind, 0);
  }

  const auto plain = StartPlain(model.get());
  std::vector<std::unique_ptr<LanguageModel>> alone;
  std::vector<std::unique_ptr<Engine>> engines;
  for (const Dial& dial : Dials()) {
    alone.push_back(Load(Options({dial})));
    engines.push_back(StartPlain(alone.back().get()));
  }
  for (size_t i = 0; i < cases.size(); ++i) {
    Case& one = *cases[i];
    SCOPED_TRACE(testing::Message() << "case " << i << ", dial " << one.dials.last << ", parts "
                                    << one.dials.num_parts());
    ASSERT_TRUE(one.consumer.finish.has_value());
    ASSERT_EQ(one.consumer.finish->status, absl::OkStatus());
    Consumer expected;
    Request request = make(one, &expected, i);
    const bool whole = one.dials.finer.empty();
    if (whole) request.dials = {};
    Run(whole ? engines[one.dials.last].get() : plain.get(), std::move(request), &expected);
    ExpectSameBits(one.consumer, expected, one.count);
  }
}

// Of a model with one layer, entries depend on the text alone: who goes coarser has from there on
// what a text with that dial has.
TEST_P(EngineDialsTest, OneLayerGoesOnAsIfItHadAlwaysBeenCoarser) {
  ModelFiles files(GetParam());
  files.ReplaceInConfig("\"num_layers\": 3", "\"num_layers\": 1");
  files.ReplaceInConfig("[1, 16, 4]", "1");
  files.ReplaceInConfig("[0, 8, 0]", "0");
  files.ReplaceInConfig("[0, 4, 2]", "0");
  auto& tensors = files.tensors;
  tensors.erase(std::remove_if(tensors.begin(), tensors.end(),
                               [](const TensorToWrite& tensor) {
                                 return tensor.name.find("layers.1.") != std::string::npos ||
                                        tensor.name.find("layers.2.") != std::string::npos;
                               }),
                tensors.end());
  files.Write();
  const auto model = Load(Options(Dials()), files.dir().path());
  ASSERT_NE(model, nullptr);
  const auto engine = StartPlain(model.get());
  for (const auto& [from, to] : std::vector<std::pair<int, int>>{{0, 1},
                                                                 {0, 2},
                                                                 {0, kBare},
                                                                 {0, kNoArchive},
                                                                 {1, kFourToSixteen},
                                                                 {1, kNoArchive},
                                                                 {1, kBare},
                                                                 {kFourToSixteen, kBare}}) {
    for (const int end : kOnGpu ? std::vector<int>{37} : std::vector<int>{16, 37, 64, 75}) {
      SCOPED_TRACE(testing::Message() << from << " to " << to << " after " << end);
      const Text text = RandomText(*model, 80);
      Consumer coarser, always;
      Request request = Make(&coarser, 1, text, kGenerated);
      request.dials = {to, {{end, from}}};
      Run(engine.get(), std::move(request), &coarser);
      request = Make(&always, 2, text, kGenerated);
      request.dials.last = to;
      Run(engine.get(), std::move(request), &always);
      ExpectSameBits(coarser, always, kGenerated);
    }
  }
}

// The reference: each token sees what its own dial sees, of a text with dials 1, 4,8,6 and 16 from
// tokens 0, 30 and 51 on.
TEST_P(EngineDialsTest, GoingCoarserMeetsTheReference) {
  const Golden golden = ReadGolden(GetParam(), "expected_coarser.safetensors");
  const auto model = Load(Options(Dials()));
  const auto engine = StartPlain(model.get());
  double worst = 0;
  for (int row = 0; row < golden.batch; ++row) {
    const auto* ids = golden.ids.data() + row * golden.tokens;
    Consumer consumer;
    Request request = Make(&consumer, row, Text(ids, ids + golden.tokens), 0);
    request.score_from = 1;
    request.dials = {kBare, {{30, 0}, {51, 1}}};
    Run(engine.get(), std::move(request), &consumer);
    ASSERT_EQ(static_cast<int>(consumer.scores.size()), golden.tokens - 1);
    for (int t = 1; t < golden.tokens; ++t) {
      const float* logits = golden.logits.data() +
                            (row * golden.tokens + t - 1) * static_cast<ptrdiff_t>(golden.vocab);
      double sum = 0;
      for (int v = 0; v < golden.vocab; ++v) sum += std::exp(double{logits[v]});
      const double expected = logits[ids[t]] - std::log(sum);
      worst = std::max(worst, std::abs(expected - consumer.scores[t - 1].logprobs.logprob));
    }
  }
  EXPECT_LT(worst, 5e-5);
}

// Admission is by what the dial takes: as many texts of a coarse one run together as fit.
TEST_P(EngineDialsTest, ATextTakesWhatItsDialDoes) {
  if (kOnGpu) GTEST_SKIP() << "the same on the CPU";
  const auto model = Load(Options(Dials()));
  const auto engine = Start(model.get(), Cached(*model, 2));
  for (int dial = 0; dial < static_cast<int>(Dials().size()); ++dial) {
    Consumer consumer;
    Request request = Make(&consumer, dial, RandomText(*model, 200), 5);
    request.dials.last = dial;
    request.cache.use = false;
    Submit(engine.get(), std::move(request));
    Step(engine.get());
    const StateLayout& layout = model->state_layout().ForDial(dial);
    const EngineStats stats = engine->stats();
    EXPECT_EQ(stats.pools[kTailParts].used, 1);
    for (size_t c = 0; c < layout.page_classes.size(); ++c) {
      EXPECT_EQ(stats.pools[kPageParts + c].used, layout.page_classes[c].PagesFor(205))
          << "dial " << dial << " " << stats.pools[kPageParts + c].kind;
    }
    RunUntilIdle(engine.get());
  }
}

// Where another has its pages too, a text that goes coarser gives back fewer than it then takes. If
// they are gone, it waits, also beyond park_memory, and goes on with the same bits.
TEST_P(EngineDialsTest, WithoutRoomItWaits) {
  if (kOnGpu) GTEST_SKIP() << "the same on the CPU";
  constexpr int kFine = 1, kShared = 200, kEnd = 220;
  const auto model = Load(Options(Dials()));
  EngineOptions options = Cached(*model, 4);
  options.max_running = 16;
  options.max_batch_tokens = 16;
  options.park_memory = 0;
  const auto engine = Start(model.get(), options), plain = StartPlain(model.get());
  const StateLayout& fine = model->state_layout().ForDial(kFine);
  const StateLayout& coarse = model->state_layout().ForDial(kFourToSixteen);
  const auto entries = std::find_if(
      fine.page_classes.begin(), fine.page_classes.end(),
      [](const PageClass& c) { return c.kind == PageClass::Kind::kRat && c.num_layers > 0; });
  const auto kind = entries - fine.page_classes.begin();
  ASSERT_GT(coarse.page_classes[kind].PagesFor(kEnd), 0) << "both dials have their entries there";
  const auto available = [&] {
    const EngineStats::Pool pool = engine->stats().pools[kPageParts + kind];
    return pool.total - pool.used;
  };

  // All with their requests, which each then makes alone.
  std::vector<std::pair<std::unique_ptr<Consumer>, Request>> all;
  const auto submit = [&](const Text& prompt, int count, const TextDials& dials) {
    auto consumer = std::make_unique<Consumer>();
    Request request = Make(consumer.get(), all.size() + 1, prompt, count);
    request.dials = dials;
    Submit(engine.get(), request);
    all.emplace_back(std::move(consumer), std::move(request));
  };
  const Text shared = RandomText(*model, kShared);
  const auto beginning = [&](int tokens) {
    Text text = shared;
    const Text more = RandomText(*model, tokens - kShared);
    text.insert(text.end(), more.begin(), more.end());
    return text;
  };
  submit(shared, 1, {kFine, {}});
  RunUntilIdle(engine.get());
  submit(beginning(kShared + 2), 50, {kFine, {}});
  Step(engine.get());
  submit(beginning(kEnd + 5), 10, {kFourToSixteen, {{kEnd, kFine}}});
  Step(engine.get());
  ASSERT_EQ(engine->stats().running, 2);
  // Others take what that one leaves, since it begins with what the one before it has.
  for (int64_t left = available(); left > 0;) {
    int tokens = 256;
    while (entries->PagesFor(tokens) > left) --tokens;
    left -= entries->PagesFor(tokens);
    submit(RandomText(*model, 1), tokens - 1, {kFine, {}});
  }
  for (int i = 0; i < 6 && engine->stats().parking.parks == 0; ++i) Step(engine.get());
  EXPECT_EQ(engine->stats().parking.parks, 1);
  EXPECT_EQ(engine->stats().parking.sequences, 1);
  EXPECT_EQ(engine->stats().parking.bytes, Snapshot::Bytes(coarse, kEnd, 0));
  EXPECT_EQ(engine->stats().waiting, 1);
  while (!engine->idle()) engine->Step(absl::UnixEpoch() + absl::Hours(1));  // It waits so long.
  ASSERT_EQ(engine->CheckIntegrity(), absl::OkStatus());
  EXPECT_EQ(engine->stats().parking.resumes, 1);
  EXPECT_EQ(engine->stats().parking.bytes, 0);
  for (auto& [consumer, request] : all) {
    SCOPED_TRACE(request.id);
    consumer->Poll();
    ASSERT_TRUE(consumer->finish.has_value());
    ASSERT_EQ(consumer->finish->status, absl::OkStatus());
    EXPECT_EQ(consumer->finish->usage.parked_time > absl::ZeroDuration(),
              !request.dials.finer.empty());
    Consumer alone;
    request.outbox = alone.outbox;
    Run(plain.get(), request, &alone);
    ExpectSameBits(*consumer, alone, request.stop.max_tokens);
  }
}

TEST_P(EngineDialsTest, WhatCannotBeIsRefused) {
  const auto model = Load(Options(Dials()));
  const auto engine = StartPlain(model.get());
  const auto refused = [&](const TextDials& dials) {
    Consumer consumer;
    Request request = Make(&consumer, 1, RandomText(*model, 40), 5);
    request.dials = dials;
    return std::string(engine->Submit(std::move(request), absl::UnixEpoch()).message());
  };
  EXPECT_EQ(refused({5, {}}), "dials[0] is 5; range [0, 5)");
  EXPECT_EQ(refused({0, {{20, 1}}}),
            "is 1,0,0; the text has 4,8,6, with which it has not kept all tokens");
  EXPECT_EQ(refused({1, {{20, 2}}}),
            "is 4,8,6; the text has 16,5,6, with which it has not kept the ends of stretches of 4 "
            "tokens");
  EXPECT_EQ(refused({2, {{20, 3}}}),
            "is 16,5,6; the text has 16,0,0, with which it has not kept the last 5 tokens");
  EXPECT_EQ(refused({2, {{15, 1}}}), "dials.finer[0].end is 15; range [16, 39]");
  EXPECT_EQ(refused({2, {{40, 1}}}), "dials.finer[0].end is 40; range [16, 39]");
  EXPECT_EQ(refused({2, {{20, 0}, {20, 1}}}), "dials.finer[1].end is 20; range [21, 39]");
}

INSTANTIATE_TEST_SUITE_P(Models, EngineDialsTest, ::testing::Values("rat_plus"));

}  // namespace
}  // namespace packrat
