// Sequences of several dials in one model, on whatever device: each has the bits that it has in a
// model of its dial alone.
#ifndef PACKRAT_TESTS_MODELS_MIXED_DIALS_H_
#define PACKRAT_TESTS_MODELS_MIXED_DIALS_H_

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "models/model.h"
#include "tests/models/golden.h"

namespace packrat {

using LoadWithDials = std::function<std::unique_ptr<LanguageModel>(const ModelChoices&)>;

// `load` loads tests/golden/rat_plus, whose own dials differ from layer to layer.
inline void ExpectDialsApart(const LoadWithDials& load) {
  ModelChoices all;
  all.rat_plus_unadapted = true;
  all.rat_plus_dials = {RatPlusDial{16, 8, 4},  {},
                        RatPlusDial{4, 5, 6},   RatPlusDial{1, 0, 0},
                        RatPlusDial{-1, 12, 4}, *ParseRatPlusDial("4:1:16,5,0:0:4")};
  const int dials = static_cast<int>(all.rat_plus_dials.size());
  Golden golden = ReadGolden("rat_plus");
  const int row_values = golden.tokens * golden.vocab;
  // One text, and then another, for each dial.
  Golden texts{2 * dials, golden.tokens, golden.vocab, {}, {}};
  texts.logits.resize(static_cast<size_t>(texts.batch) * row_values);
  std::vector<int> dial_of;
  for (int row = 0; row < texts.batch; ++row) {
    const auto from = golden.ids.begin() + row / dials * golden.tokens;
    texts.ids.insert(texts.ids.end(), from, from + golden.tokens);
    dial_of.push_back(row % dials);
  }
  std::mt19937 random(3);
  const auto model = load(all);
  ASSERT_EQ(model->config().num_dials(), dials);
  const std::vector<float> mixed = Feed(
      model.get(), texts, true, [&] { return 1 + static_cast<int>(random() % 20); }, dial_of);
  const std::vector<float> decoded = Feed(
      model.get(), texts, true, [] { return 1; }, dial_of);
  EXPECT_TRUE(SameBits(mixed, decoded));
  for (int dial = 0; dial < dials; ++dial) {
    SCOPED_TRACE(model->config().dials[dial]);
    ModelChoices one;
    one.rat_plus_unadapted = true;
    one.rat_plus_dials = {all.rat_plus_dials[dial]};
    const auto alone = load(one);
    EXPECT_EQ(alone->fingerprint(), model->fingerprints()[dial]);
    const std::vector<float> expected = Feed(alone.get(), golden, false, [] { return 30; });
    for (int text = 0; text < golden.batch; ++text) {
      const auto at = mixed.begin() + static_cast<ptrdiff_t>(text * dials + dial) * row_values;
      const auto wanted = expected.begin() + static_cast<ptrdiff_t>(text) * row_values;
      EXPECT_TRUE(SameBits({at, at + row_values}, {wanted, wanted + row_values})) << text;
    }
  }
}

}  // namespace packrat

#endif  // PACKRAT_TESTS_MODELS_MIXED_DIALS_H_
