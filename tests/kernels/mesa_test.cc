#include "kernels/mesa.h"

#include <gtest/gtest.h>

#include <deque>

#include "tests/kernels/mesa_reference.h"
#include "tests/kernels/random.h"
#include "tests/kernels/texts.h"

namespace packrat {
namespace {

using Texts = std::deque<MesaText>;

// What came of feeding texts, each text's part by itself.
struct Outcome {
  std::vector<std::vector<float>> out;          // (length, H * D)
  std::vector<std::vector<float>> sealed;       // The slot, if a block was finished.
  std::vector<std::vector<MesaSolves>> solves;  // (H), over all pieces.
};

// The state of one text: two slots, so that a seal may go to another place than it came from.
struct State {
  GuardedFloats slots[2];
  int current = 0;
  GuardedFloats tail;
  State(size_t slot, size_t tail_floats)
      : slots{GuardedFloats(slot), GuardedFloats(slot)}, tail(tail_floats) {}
};

void Add(const MesaSolves* piece, std::vector<MesaSolves>* sum) {
  for (MesaSolves& s : *sum) {
    s.steps += piece->steps;
    s.unconverged += piece->unconverged;
    // A NaN is taken, and no number replaces it.
    if (piece->max_residual > s.max_residual || std::isnan(piece->max_residual)) {
      s.max_residual = piece->max_residual;
    }
    ++piece;
  }
}

class Feed {
 public:
  Feed(const MesaLayer& layer, const Texts& texts, Cut cut, int threads)
      : layer_(layer),
        texts_(texts),
        random_(7),
        context_(threads, 0, MesaScratchFloats(layer.shape.head_dim)) {
    const MesaShape& s = layer.shape;
    std::vector<int> lengths;
    for (const MesaText& text : texts) {
      lengths.push_back(text.length);
      states_.emplace_back(MesaSlotFloats(s.num_heads, s.head_dim),
                           MesaTailLayout(s.num_heads, s.head_dim, s.conv_size).end);
      outcome.solves.emplace_back(s.num_heads);
    }
    outcome.out.resize(texts.size());
    Feeder feeder(lengths, cut);
    std::vector<Rows> rows;
    while (feeder.Next(&rows)) Step(rows);
    for (size_t i = 0; i < texts.size(); ++i) {
      const GuardedFloats& slot = states_[i].slots[states_[i].current];
      outcome.sealed.emplace_back();
      if (lengths[i] >= kMesaBlock) {
        outcome.sealed.back().assign(slot.data(), slot.data() + slot.size());
      }
    }
  }
  Outcome outcome;

 private:
  std::vector<float> Batch(const std::vector<Rows>& rows, std::vector<float> MesaText::*operand,
                           int width) {
    std::vector<const std::vector<float>*> parts;
    for (const MesaText& text : texts_) parts.push_back(&(text.*operand));
    return Gather(rows, parts, width, width);
  }

  void Step(const std::vector<Rows>& rows) {
    const MesaShape& s = layer_.shape;
    const auto q = Batch(rows, &MesaText::q, s.width()), k = Batch(rows, &MesaText::k, s.width()),
               v = Batch(rows, &MesaText::v, s.width()),
               gate = Batch(rows, &MesaText::gate, s.width()),
               beta = Batch(rows, &MesaText::beta, s.num_heads),
               gamma = Batch(rows, &MesaText::gamma, s.num_heads);
    std::vector<MesaSequence> sequences;
    std::vector<std::vector<float>> before;
    std::vector<int> targets;
    for (size_t i = 0; i < rows.size(); ++i) {
      State& state = states_[i];
      targets.push_back(random_.Int(0, 1));
      if (targets[i] != state.current) state.slots[targets[i]].Poison();
      const GuardedFloats& in = state.slots[state.current];
      before.emplace_back(in.data(), in.data() + in.size());
      sequences.push_back({rows[i], in.data(), state.slots[targets[i]].data(), state.tail.data(),
                           layer_.cg_tolerance, layer_.cg_max_steps});
    }
    GuardedFloats out(static_cast<size_t>(NumTokens(rows)) * s.width());
    std::vector<MesaSolves> solves(rows.size() * s.num_heads, MesaSolves{-99, -99, kNaN});
    Mesa(s, layer_.weights(), sequences,
         {q.data(), k.data(), v.data(), beta.data(), gamma.data(),
          layer_.gated ? gate.data() : nullptr, out.data()},
         solves.data(), &context_);
    EXPECT_TRUE(out.GuardsIntact());
    Scatter(rows, out.data(), s.width(), &outcome.out);
    for (size_t i = 0; i < rows.size(); ++i) {
      Add(&solves[i * s.num_heads], &outcome.solves[i]);
      CheckSlots(rows[i], targets[i], before[i], &states_[i]);
    }
  }

  // Sealed state changes at a block's end only, and only where it is told to.
  void CheckSlots(const Rows& rows, int target, const std::vector<float>& before, State* state) {
    const bool sealed = (rows.position + rows.num_tokens) / kMesaBlock > rows.position / kMesaBlock;
    const GuardedFloats& in = state->slots[state->current];
    if (!sealed || target != state->current) {
      EXPECT_TRUE(SameBits(in.data(), before.data(), before.size())) << "the sealed state changed";
    }
    if (!sealed && target != state->current) {
      EXPECT_TRUE(state->slots[target].Unwritten(0, before.size())) << "sealed too early";
    }
    if (sealed) state->current = target;
    EXPECT_TRUE(state->slots[0].GuardsIntact());
    EXPECT_TRUE(state->slots[1].GuardsIntact());
    EXPECT_TRUE(state->tail.GuardsIntact());
  }

  const MesaLayer& layer_;
  const Texts& texts_;
  Random random_;
  PoisonedContext context_;
  std::deque<State> states_;
};

void ExpectRight(const MesaLayer& layer, const Texts& texts, const Outcome& outcome) {
  const MesaShape& s = layer.shape;
  for (size_t i = 0; i < texts.size(); ++i) {
    ASSERT_EQ(outcome.out[i].size(), texts[i].expected.size());
    for (size_t at = 0; at < texts[i].expected.size(); at += s.head_dim) {
      double squared = 0;
      for (int d = 0; d < s.head_dim; ++d) {
        squared += std::pow(outcome.out[i][at + d] - texts[i].expected[at + d], 2);
      }
      ASSERT_LE(std::sqrt(squared), texts[i].tolerance[at])
          << "text " << i << " token " << at / s.width() << " head " << at % s.width() / s.head_dim;
    }
  }
}

void ExpectSame(const Outcome& a, const Outcome& b) {
  EXPECT_EQ(a.out, b.out);
  EXPECT_EQ(a.sealed, b.sealed);
  for (size_t i = 0; i < a.solves.size(); ++i) {
    for (size_t head = 0; head < a.solves[i].size(); ++head) {
      EXPECT_EQ(a.solves[i][head].steps, b.solves[i][head].steps);
      EXPECT_EQ(a.solves[i][head].unconverged, b.solves[i][head].unconverged);
      EXPECT_EQ(a.solves[i][head].max_residual, b.solves[i][head].max_residual);
    }
  }
}

void ExpectConverged(const MesaLayer& layer, const Texts& texts, const Outcome& outcome) {
  for (size_t i = 0; i < texts.size(); ++i) {
    for (const MesaSolves& solves : outcome.solves[i]) {
      EXPECT_EQ(solves.unconverged, 0);
      EXPECT_LE(solves.max_residual, layer.cg_tolerance);
      EXPECT_LE(solves.steps, int64_t{texts[i].length} * layer.cg_max_steps);
    }
  }
}

std::string Describe(const MesaLayer& layer, const Texts& texts) {
  const MesaShape& s = layer.shape;
  return "heads " + std::to_string(s.num_heads) + " dim " + std::to_string(s.head_dim) + " conv " +
         std::to_string(s.conv_size) + " gated " + std::to_string(layer.gated) + " text " +
         std::to_string(texts[0].length) + " tolerance " + std::to_string(layer.cg_tolerance);
}

void ExpectRightInEveryCut(const MesaLayer& layer, const Texts& texts) {
  SCOPED_TRACE(Describe(layer, texts));
  ForEachCpu([&](int threads) {
    const Outcome whole = Feed(layer, texts, Cut::kWhole, threads).outcome;
    ExpectRight(layer, texts, whole);
    ExpectConverged(layer, texts, whole);
    for (const Cut cut : kCuts) {
      SCOPED_TRACE(testing::Message() << "cut " << static_cast<int>(cut));
      ExpectSame(Feed(layer, texts, cut, threads).outcome, whole);
    }
  });
}

TEST(MesaTest, MeetsTheReferenceInEveryCut) {
  Random random(1);
  for (int i = 0; i < 25; ++i) {
    MesaLayer layer(
        &random, {random.Int(1, 3),
                  random.OneOf<int>({1, 2, 5, 8, 13, 16, 17, 24, 31, 32, 33, 48, 64}), i % 5 + 1});
    layer.cg_tolerance = random.OneOf<float>({1e-6f, 1e-5f, 1e-3f});
    Texts texts;
    for (int n = random.Int(1, 3); n > 0; --n) {
      texts.push_back(layer.RandomText(&random, random.Int(1, 60), random.OneOf<float>({0, 3, 7})));
      MesaReference(layer, -1, &texts.back());
    }
    ExpectRightInEveryCut(layer, texts);
    if (HasFailure()) return;
  }
}

// Gamma 0.999 over many blocks: the hardest systems that a layer meets.
TEST(MesaTest, LongMemory) {
  Random random(2);
  MesaLayer layer(&random, {1, 64, 4});
  layer.cg_tolerance = 1e-5f;
  Texts texts;
  texts.push_back(layer.RandomText(&random, 500, 6.9068f));
  MesaReference(layer, -1, &texts[0]);
  ExpectRightInEveryCut(layer, texts);
}

// Forgets everything at once, or nothing at all.
TEST(MesaTest, ExtremeDecays) {
  for (const float gamma : {-300.0f, -100.0f, -30.0f, 30.0f, 300.0f}) {
    Random random(3);
    MesaLayer layer(&random, {2, 20, 3});
    Texts texts;
    texts.push_back(layer.RandomText(&random, 50, 0.0f));
    std::fill(texts[0].gamma.begin(), texts[0].gamma.end(), gamma);
    MesaReference(layer, -1, &texts[0]);
    ExpectRightInEveryCut(layer, texts);
  }
}

// With so few steps nothing converges: what is served is the current x, and the report says so.
TEST(MesaTest, StopsAtTheStepLimitAndReportsIt) {
  for (const int steps : {0, 1, 2, 4}) {
    Random random(4);
    MesaLayer layer(&random, {2, 48, 4});
    layer.cg_max_steps = steps;
    layer.cg_tolerance = 1e-7f;
    Texts texts;
    for (const int length : {40, 21}) {
      texts.push_back(layer.RandomText(&random, length, 5.0f));
      MesaReference(layer, steps, &texts.back());
    }
    SCOPED_TRACE(testing::Message() << steps << " steps");
    ForEachCpu([&](int threads) {
      const Outcome whole = Feed(layer, texts, Cut::kWhole, threads).outcome;
      ExpectRight(layer, texts, whole);
      for (const Cut cut : kCuts) ExpectSame(Feed(layer, texts, cut, threads).outcome, whole);
      for (size_t i = 0; i < texts.size(); ++i) {
        for (int head = 0; head < 2; ++head) {
          double largest = 0, error = 0;
          int64_t unconverged = 0;
          for (int t = 0; t < texts[i].length; ++t) {
            const double residual = texts[i].residual[t * 2 + head];
            largest = std::max(largest, residual);
            error = std::max(error, texts[i].residual_error[t * 2 + head]);
            // The first token's matrix has rank one: that system may be solved in two steps.
            if (residual > 1e-5) ++unconverged;
          }
          const MesaSolves& solves = whole.solves[i][head];
          EXPECT_NEAR(solves.max_residual, largest, error);
          EXPECT_GE(solves.unconverged, unconverged);
          EXPECT_LE(solves.unconverged, texts[i].length);
          EXPECT_GE(solves.steps, unconverged * steps);
          EXPECT_LE(solves.steps, int64_t{texts[i].length} * steps);
          EXPECT_GT(unconverged, steps < 4 ? texts[i].length - 3 : 0);
        }
      }
    });
  }
}

TEST(MesaTest, LooserToleranceTakesFewerSteps) {
  Random random(5);
  MesaLayer layer(&random, {2, 32, 4});
  Texts texts;
  texts.push_back(layer.RandomText(&random, 60, 5.0f));
  ForEachCpu([&](int threads) {
    int64_t last = 1 << 30;
    for (const float tolerance : {1e-6f, 1e-4f, 1e-2f, 1e9f}) {
      layer.cg_tolerance = tolerance;
      const Outcome outcome = Feed(layer, texts, Cut::kWhole, threads).outcome;
      ExpectConverged(layer, texts, outcome);
      EXPECT_LT(outcome.solves[0][0].steps, last);
      last = outcome.solves[0][0].steps;
    }
    EXPECT_EQ(last, 0) << "the start is good enough";
  });
}

TEST(MesaTest, ZeroQueriesAreSolvedWithoutAStep) {
  Random random(6);
  MesaLayer layer(&random, {2, 24, 3});
  layer.conv_q_bias.clear();
  Texts texts;
  texts.push_back(layer.RandomText(&random, 40, 3.0f));
  texts.push_back(layer.RandomText(&random, 40, 3.0f));
  std::fill(texts[0].q.begin(), texts[0].q.end(), 0.0f);
  std::fill(texts[1].q.begin() + 10 * 48, texts[1].q.begin() + 20 * 48, 0.0f);
  for (MesaText& text : texts) MesaReference(layer, -1, &text);
  ExpectRightInEveryCut(layer, texts);
  ForEachCpu([&](int threads) {
    for (const Cut cut : kCuts) {
      const Outcome outcome = Feed(layer, texts, cut, threads).outcome;
      for (const float x : outcome.out[0]) ASSERT_EQ(x, 0.0f);
      for (const MesaSolves& solves : outcome.solves[0]) {
        EXPECT_EQ(solves.steps, 0);
        EXPECT_EQ(solves.unconverged, 0);
        EXPECT_EQ(solves.max_residual, 0.0f);
      }
      for (int t = 12; t < 20; ++t) {
        for (int d = 0; d < 48; ++d) ASSERT_EQ(outcome.out[1][t * 48 + d], 0.0f);
      }
      for (const MesaSolves& solves : outcome.solves[1]) EXPECT_GT(solves.steps, 0);
    }
  });
}

// Queries whose squares, or whose tolerance, vanish in float32.
TEST(MesaTest, TinyQueries) {
  Random random(7);
  MesaLayer layer(&random, {1, 24, 1});
  layer.conv_q_bias.clear();
  for (int exponent = -8; exponent >= -44; exponent -= 3) {
    Texts texts;
    texts.push_back(layer.RandomText(&random, 20, 3.0f));
    for (float& x : texts[0].q) x *= static_cast<float>(std::pow(10.0, exponent));
    MesaReference(layer, -1, &texts[0]);
    SCOPED_TRACE(testing::Message() << "1e" << exponent);
    ExpectRightInEveryCut(layer, texts);
    if (HasFailure()) return;
  }
}

TEST(MesaTest, NaNStaysInItsSequenceAndIsSeenThere) {
  Random random(8);
  MesaLayer layer(&random, {2, 24, 4});
  layer.gated = true;
  layer.cg_max_steps = 20;
  Texts texts;
  for (int i = 0; i < 3; ++i) texts.push_back(layer.RandomText(&random, 37, 3.0f));
  const int token = 21, width = layer.shape.width();
  for (std::vector<float> MesaText::*operand :
       {&MesaText::q, &MesaText::k, &MesaText::v, &MesaText::beta, &MesaText::gamma,
        &MesaText::gate}) {
    Texts bad = texts;
    (bad[1].*operand)[token * (bad[1].*operand).size() / 37] = kNaN;
    const bool solver = operand != &MesaText::v && operand != &MesaText::gate;
    ForEachCpu([&](int threads) {
      for (const Cut cut : kCuts) {
        const Outcome clean = Feed(layer, texts, cut, threads).outcome,
                      dirty = Feed(layer, bad, cut, threads).outcome;
        for (const size_t other : {size_t{0}, size_t{2}}) {
          EXPECT_TRUE(SameBits(clean.out[other], dirty.out[other]));
          EXPECT_TRUE(SameBits(clean.sealed[other], dirty.sealed[other]));
          EXPECT_EQ(clean.solves[other][0].steps, dirty.solves[other][0].steps);
        }
        const float* row = dirty.out[1].data() + token * width;
        EXPECT_TRUE(std::any_of(row, row + width, [](float x) { return std::isnan(x); }))
            << "a NaN vanished, cut " << static_cast<int>(cut);
        if (solver) {
          EXPECT_GT(dirty.solves[1][0].unconverged, 0);
          EXPECT_TRUE(std::isnan(dirty.solves[1][0].max_residual));
        }
        if (cut == Cut::kSingle) {
          EXPECT_TRUE(SameBits(clean.out[1].data(), dirty.out[1].data(), token * width));
        }
      }
    });
  }
}

TEST(MesaTest, SealedStateHasItsLayout) {
  Random random(9);
  MesaLayer layer(&random, {2, 37, 2});
  Texts texts;
  texts.push_back(layer.RandomText(&random, 35, 3.0f));
  ForEachCpu([&](int threads) {
    const Outcome outcome = Feed(layer, texts, Cut::kRandom, threads).outcome;
    ExpectSealed(layer, texts[0], 32, outcome.sealed[0].data());
  });
}

}  // namespace
}  // namespace packrat
