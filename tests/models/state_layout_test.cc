// Sizes are worked out by hand here, so that a change of the layout shows.
#include "models/state_layout.h"

#include <gtest/gtest.h>

#include <set>

namespace packrat {
namespace {

RatSpec Rat(int heads, int head_dim, int chunk) { return {heads, 1, head_dim, chunk, 10000.0}; }
AttentionSpec Attention(int heads, int kv_heads, int head_dim, int window) {
  return {heads, kv_heads, head_dim, window, 10000.0, false, false};
}
MesaSpec Mesa(int heads, int head_dim, int conv) { return {heads, head_dim, conv, 0.25f, false}; }

StateLayout Layout(std::vector<MixerSpec> layers) {
  ModelConfig config;
  config.mixers = std::move(layers);
  return StateLayout(config);
}

TEST(StateLayout, MesaSlotAndTail) {
  // 16 heads of 128 channels: the shape in which the specification counts bytes.
  const StateLayout layout = Layout({Mesa(16, 128, 4)});
  EXPECT_EQ(layout.slot_bytes, 16u * (36 * 256 + 128 * 128) * 4);
  EXPECT_EQ(layout.tail_bytes, (2u * 16 * 16 * 128 + 2 * 16 * 16 + 2 * 3 * 16 * 128) * 4);
  EXPECT_TRUE(layout.page_classes.empty());
  EXPECT_EQ(layout.mixers[0].page_class, -1);
  EXPECT_EQ(layout.SequenceBytes(1), layout.SequenceBytes(1'000'000));
}

TEST(StateLayout, MesaWithPaddedHeads) {
  // Rows of 21 channels are padded to 32, so Hkk has three 16x16 blocks and Hkv is 32x32; the
  // convolutions see three rows of 105 channels, padded to 320.
  StateLayout layout = Layout({Mesa(5, 21, 4)});
  EXPECT_EQ(layout.slot_bytes, 5u * (3 * 256 + 32 * 32) * 4);
  EXPECT_EQ(layout.tail_bytes, (2u * 5 * 16 * 32 + 2 * 5 * 16 + 2 * 320) * 4);
  layout = Layout({Mesa(5, 21, 1)});  // One tap: no row before it.
  EXPECT_EQ(layout.tail_bytes, (2u * 5 * 16 * 32 + 2 * 5 * 16) * 4);
}

TEST(StateLayout, GatedDeltaSlotAndTail) {
  // Keys of 24 channels are padded to 32, values of 40 to 48; the convolution sees three rows of
  // 2 * 2 * 24 + 6 * 40 channels, padded to 1008.
  const StateLayout layout = Layout({GatedDeltaSpec{2, 6, 24, 40, 4}});
  EXPECT_EQ(layout.slot_bytes, 6u * 32 * 48 * 4);
  EXPECT_EQ(layout.tail_bytes, (2u * 16 * 32 + 6 * 16 * 48 + 6 * 16 + 1008) * 4);
  EXPECT_TRUE(layout.page_classes.empty());
}

TEST(StateLayout, Mamba2SlotAndTail) {
  // States of 24 channels are padded to 32, heads of 40 to 48; the convolution sees three rows of
  // 6 * 40 + 2 * 2 * 24 channels, padded to 1008.
  Mamba2Spec mamba;
  mamba.num_heads = 6, mamba.num_groups = 2, mamba.head_dim = 40, mamba.state_size = 24;
  const StateLayout layout = Layout({mamba});
  EXPECT_EQ(layout.slot_bytes, 6u * 32 * 48 * 4);
  EXPECT_EQ(layout.tail_bytes, (2u * 16 * 32 + 6 * 16 * 48 + 6 * 16 + 1008) * 4);
  EXPECT_TRUE(layout.page_classes.empty());
}

// Neither slot nor pages: two rows of 20 channels, padded to 48.
TEST(StateLayout, ShortConvTail) {
  const StateLayout layout = Layout({ShortConvSpec{20, 3}, ShortConvSpec{20, 3}});
  EXPECT_EQ(layout.slot_bytes, 0u);
  EXPECT_EQ(layout.tail_bytes, 2u * 48 * 4);
  EXPECT_EQ(layout.mixers[1].tail_offset, 48u * 4);
  EXPECT_TRUE(layout.page_classes.empty());
  EXPECT_EQ(layout.SequenceBytes(1'000'000), 2 * 48 * 4);
  EXPECT_EQ(Layout({ShortConvSpec{20, 1}}).tail_bytes, 0u);  // One tap: no row before it.
}

TEST(StateLayout, RatEntryOfThePapersModels) {
  std::vector<MixerSpec> layers(24, Rat(16, 128, 16));
  const StateLayout layout = Layout(layers);
  ASSERT_EQ(layout.page_classes.size(), 1u);
  EXPECT_EQ(layout.page_classes[0].page_bytes, 24u * 2 * 2048 * 4);
  EXPECT_EQ(layout.page_classes[0].num_layers, 24);
  EXPECT_EQ(layout.page_classes[0].tokens_per_page, 16);
  EXPECT_EQ(layout.tail_bytes, 24u * 2 * 2048 * 4);
  EXPECT_EQ(layout.slot_bytes, 0u);
  EXPECT_EQ(layout.mixers[2].tail_offset, 2u * 2 * 2048 * 4);
  EXPECT_EQ(layout.mixers[2].page_offset, 2u * 2 * 2048 * 4);
}

TEST(StateLayout, OddWidthsAreRoundedUp) {
  StateLayout layout = Layout({Rat(3, 6, 8)});
  EXPECT_EQ(layout.tail_bytes, 2u * 32 * 4);                      // 18 channels.
  EXPECT_EQ(layout.page_classes[0].page_bytes, 2u * 3 * 16 * 4);  // Each head's row.
  layout = Layout({Attention(6, 2, 10, 0)});
  EXPECT_EQ(layout.page_classes[0].page_bytes, 2u * 2 * 16 * 16 * 4);
}

TEST(StateLayout, PairedKeysTakeHalf) {
  ModelConfig config;
  config.mixers = {Attention(6, 2, 10, 0), Rat(3, 6, 8)};
  StateTypes types;
  types.paired_keys = true;
  const StateLayout layout(config, types), plain(config);
  EXPECT_EQ(layout.page_classes[0].page_bytes, 2u * 2 * 16 * 16 * 2);
  EXPECT_EQ(layout.page_classes[1].page_bytes, plain.page_classes[1].page_bytes);
  // Of a token: a pair of channels at a time among the keys, all channels among the values.
  EXPECT_EQ(layout.mixers[0].page_row_bytes[0], 2u * 2);
  EXPECT_EQ(layout.mixers[0].page_row_bytes[1], 16u * 2);
  EXPECT_EQ(plain.mixers[0].page_row_bytes[0], 16u * 4);
  EXPECT_EQ(plain.mixers[0].page_row_bytes[1], 16u * 4);
}

TEST(StateLayout, LayersShareAClassWhenTheirPagesLiveEquallyLong) {
  const StateLayout layout = Layout({
      Rat(4, 16, 16),
      Rat(4, 16, 8),
      Attention(4, 4, 16, 0),
      Attention(4, 2, 16, 128),
      Attention(4, 1, 16, 129),
      Rat(2, 32, 16),
      Attention(8, 4, 48, 128),
      Attention(2, 2, 16, 0),
      Mesa(2, 16, 4),
  });
  const std::vector<std::string> names = {"rat_chunk16", "rat_chunk8", "attention", "window128",
                                          "window129"};
  ASSERT_EQ(layout.page_classes.size(), names.size());
  for (size_t i = 0; i < names.size(); ++i) EXPECT_EQ(layout.page_classes[i].Name(), names[i]);
  const std::vector<int> classes = {0, 1, 2, 3, 4, 0, 3, 2, -1};
  for (size_t i = 0; i < classes.size(); ++i) {
    EXPECT_EQ(layout.mixers[i].page_class, classes[i]) << "layer " << i;
  }
  // Layers of one class may differ in heads: a page is the sum of their parts.
  EXPECT_EQ(layout.page_classes[0].page_bytes, (2u * 64 + 2 * 64) * 4);
  EXPECT_EQ(layout.page_classes[3].page_bytes, (2u * 2 * 256 + 2 * 4 * 16 * 48) * 4);
  EXPECT_EQ(layout.mixers[6].page_offset, 2u * 2 * 256 * 4);
  EXPECT_EQ(layout.page_classes[3].num_layers, 2);
}

TEST(StateLayout, PartsOfAPageAreAlikeOrHaveNoSize) {
  const auto parts = [](const StateLayout& layout) {
    std::vector<size_t> bytes;
    for (const PageClass& c : layout.page_classes) bytes.push_back(c.part_bytes);
    return bytes;
  };
  EXPECT_EQ(parts(Layout({Rat(4, 16, 16), Attention(4, 4, 16, 0), Rat(2, 32, 16),
                          Attention(8, 4, 16, 0), Rat(1, 64, 16)})),
            (std::vector<size_t>{2 * 64 * 4, 2 * 4 * 256 * 4}));
  // The middle one, the last one; three floats are padded as a part is.
  EXPECT_EQ(parts(Layout({Rat(4, 16, 16), Rat(2, 16, 16), Rat(4, 16, 16), Attention(1, 1, 16, 0),
                          Attention(1, 1, 16, 0), Attention(2, 2, 16, 0), Rat(1, 3, 8)})),
            (std::vector<size_t>{0, 0, kStateAlign * 2}));
}

// Two layers of a dial, and one of another dial, make pages of the same size of parts that are not.
TEST(StateLayout, PartsOfAPageAreAlikeInEveryDial) {
  const RatPlusDial archive{16, 0, 4}, none{-1, 12, 0};
  RatPlusSpec narrow{2, 16, archive}, wide{4, 16, none};
  narrow.others[0] = none, wide.others[0] = archive;
  narrow.num_others = wide.num_others = 1;
  ModelConfig config;
  config.dials = {"narrow", "wide"};
  const auto part_bytes = [&](std::vector<MixerSpec> mixers) {
    config.mixers = std::move(mixers);
    const StateLayout layout(config);
    EXPECT_EQ(layout.page_classes.size(), 1u);
    EXPECT_EQ(layout.page_classes[0].part_bytes, layout.ForDial(1).page_classes[0].part_bytes);
    return layout.page_classes[0].part_bytes;
  };
  EXPECT_EQ(part_bytes({narrow, narrow, wide}), 0u);
  RatPlusSpec later = narrow;
  std::swap(later.dial, later.others[0]);
  EXPECT_EQ(part_bytes({narrow, narrow, later, later}), 2u * 32 * 4);
}

TEST(StateLayout, EverythingIsAlignedAndApart) {
  const StateLayout layout = Layout({Mesa(3, 5, 3), Rat(3, 6, 4), Mesa(1, 7, 2), Rat(5, 2, 4),
                                     Attention(3, 1, 14, 9), Mesa(2, 33, 1)});
  EXPECT_EQ(layout.slot_bytes % kStateAlign, 0u);
  EXPECT_EQ(layout.tail_bytes % kStateAlign, 0u);
  for (const PageClass& c : layout.page_classes) EXPECT_EQ(c.page_bytes % kStateAlign, 0u);
  for (const MixerPart& layer : layout.mixers) {
    EXPECT_EQ(layer.slot_offset % kStateAlign, 0u);
    EXPECT_EQ(layer.tail_offset % kStateAlign, 0u);
    EXPECT_EQ(layer.page_offset % kStateAlign, 0u);
  }
  const std::set<size_t> tails = {layout.mixers[0].tail_offset, layout.mixers[1].tail_offset,
                                  layout.mixers[2].tail_offset, layout.mixers[3].tail_offset,
                                  layout.mixers[5].tail_offset};
  EXPECT_EQ(tails.size(), 5u);
  EXPECT_EQ(layout.mixers[5].slot_offset,
            (3u * 512 + 1 * 512) * 4);  // 3 heads and 1 head of one 16x16 block each, twice
}

TEST(PagesFor, RatHoldsFinishedChunksOnly) {
  const PageClass c{PageClass::Kind::kRat, 8, 0, 1, 64};
  EXPECT_EQ(c.PagesFor(0), 0);
  EXPECT_EQ(c.PagesFor(7), 0);
  EXPECT_EQ(c.PagesFor(8), 1);
  EXPECT_EQ(c.PagesFor(17), 2);
}

TEST(PagesFor, ADelayedChunkIsHeldThatMuchLater) {
  const PageClass c{PageClass::Kind::kRat, 8, 0, 1, 64, 13};
  EXPECT_EQ(c.PagesFor(0), 0);
  EXPECT_EQ(c.PagesFor(20), 0);
  EXPECT_EQ(c.PagesFor(21), 1);
  EXPECT_EQ(c.PagesFor(29), 2);
  EXPECT_EQ(c.Name(), "rat_chunk8_delay13");
}

// RAT+ of the 1B size, 24 layers: an archive of an entry for each 16 tokens, a window and sinks in
// the tail.
TEST(StateLayout, RatPlusArchiveWindowAndSinks) {
  const StateLayout layout = Layout(std::vector<MixerSpec>(24, RatPlusSpec{16, 128, {16, 256, 4}}));
  constexpr size_t kEntry = 24u * 2 * 2048 * 4;
  ASSERT_EQ(layout.page_classes.size(), 1u);
  EXPECT_EQ(layout.page_classes[0].page_bytes, kEntry);
  EXPECT_EQ(layout.page_classes[0].tokens_per_page, 16);
  EXPECT_EQ(layout.page_classes[0].delay, 256);
  EXPECT_EQ(layout.tail_bytes, kEntry * (1 + 256 + 4));
  EXPECT_EQ(layout.SequenceBytes(4096), kEntry * (1 + 500));
  EXPECT_EQ(layout.SequenceBytes(16384), kEntry * (1 + 1268));
  // Without an archive there are no pages; where all is seen they are attention's.
  EXPECT_TRUE(Layout({RatPlusSpec{2, 16, {-1, 12, 4}}}).page_classes.empty());
  const StateLayout dense = Layout({RatPlusSpec{2, 16, {1, 12, 4}}});
  EXPECT_EQ(dense.page_classes[0].kind, PageClass::Kind::kFull);
  EXPECT_EQ(dense.tail_bytes, 2u * 32 * 4);
}

// The same classes for every dial: archives share one where their entries are alike, each with
// numbers of its own, and what a dial does not use it never holds.
TEST(StateLayout, DialsShareClasses) {
  RatPlusSpec spec{2, 16, {16, 8, 4}};
  spec.others = {RatPlusDial{64, 0, 4}, RatPlusDial{1, 0, 0}, RatPlusDial{-1, 12, 0}};
  spec.num_others = 3;
  ModelConfig config;
  config.mixers = {spec, AttentionSpec{2, 2, 16}, spec};
  config.dials = {"16,8,4", "64,0,4", "1", "-1,12"};
  const StateLayout layout(config);
  constexpr size_t kEntry = 2u * 32 * 4;
  ASSERT_EQ(layout.num_dials(), 4);
  ASSERT_EQ(layout.page_classes.size(), 3u);
  const auto names = [&] {
    std::vector<std::string> all;
    for (size_t i = 0; i < layout.page_classes.size(); ++i) all.push_back(layout.ClassName(i));
    return all;
  };
  EXPECT_EQ(names(),
            (std::vector<std::string>{"rat_chunk16_delay8", "attention", "attention_dial2"}));
  for (int dial = 0; dial < 4; ++dial) {
    const StateLayout& at = layout.ForDial(dial);
    ModelConfig one;
    one.mixers = MixersAt(config, dial);
    const StateLayout alone(one);
    for (const int tokens : {0, 1, 15, 16, 24, 63, 64, 100, 1000, 1 << 20}) {
      EXPECT_EQ(at.SequenceBytes(tokens), alone.SequenceBytes(tokens)) << dial << " " << tokens;
      EXPECT_LE(at.SequenceBytes(tokens), layout.BytesOfAny(tokens));
    }
    EXPECT_EQ(at.tail_stride, layout.ForDial(0).tail_bytes);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(at.page_classes[i].page_bytes, layout.page_classes[i].page_bytes);
    }
  }
  EXPECT_EQ(layout.page_classes[0].page_bytes, 2 * kEntry);
  EXPECT_EQ(layout.ForDial(1).page_classes[0].tokens_per_page, 64);
  EXPECT_EQ(layout.ForDial(1).tail_bytes, 2 * kEntry * (1 + 4));
  EXPECT_EQ(layout.ForDial(2).page_classes[0].PagesFor(1 << 20), 0);
  EXPECT_EQ(layout.ForDial(2).page_classes[2].page_bytes, 3 * 16 * kEntry);
  EXPECT_EQ(layout.ForDial(3).page_classes[1].PagesFor(100), 7);
}

TEST(PagesFor, FullAttentionHoldsEveryBlock) {
  const PageClass c{PageClass::Kind::kFull, 16, 0, 1, 64};
  EXPECT_EQ(c.PagesFor(0), 0);
  EXPECT_EQ(c.PagesFor(1), 1);
  EXPECT_EQ(c.PagesFor(16), 1);
  EXPECT_EQ(c.PagesFor(17), 2);
}

// The ring must hold every block that a window can touch, wherever it ends, and no more.
TEST(PagesFor, AWindowsRingHoldsWhatAQueryCanSee) {
  for (int window = 1; window <= 70; ++window) {
    const PageClass c{PageClass::Kind::kWindow, 16, window, 1, 64};
    int most = 0;
    for (int t = 0; t < 300; ++t) {
      const int first = std::max(0, t - window + 1) / 16, last = t / 16;
      most = std::max(most, last - first + 1);
      ASSERT_GE(c.PagesFor(t + 1), last - first + 1) << "window " << window << " position " << t;
    }
    EXPECT_EQ(c.PagesFor(300), most) << "window " << window;
    EXPECT_EQ(c.PagesFor(1 << 30), most);
  }
}

TEST(StateLayout, SequenceBytesAddsItAllUp) {
  const StateLayout layout =
      Layout({Mesa(2, 16, 4), Rat(4, 16, 16), Attention(4, 2, 16, 20), Attention(4, 4, 16, 0)});
  const size_t fixed = layout.slot_bytes + layout.tail_bytes;
  EXPECT_EQ(layout.SequenceBytes(0), fixed);
  const size_t rat = 2 * 64 * 4, window = 2 * 2 * 256 * 4, full = 2 * 4 * 256 * 4;
  EXPECT_EQ(layout.SequenceBytes(100), fixed + 6 * rat + 3 * window + 7 * full);
}

}  // namespace
}  // namespace packrat
