#include "runtime/saved_state.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "models/weights.h"
#include "tests/runtime/fake_model.h"

namespace packrat {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class SavedStateTest : public testing::Test {
 protected:
  SavedStateTest() : owner_(OwnerOf(model_)) {}

  // A text of `size` tokens whose state has come to `position`.
  SavedState State(int size, int position) {
    SavedState state;
    for (int i = 0; i < size; ++i) state.tokens.push_back(i * 7 % FakeModel::kVocab);
    if (size > 1) state.turns = {1, size};
    state.ttl = absl::Minutes(7);
    state.origin = 0x123456789abcdef0;
    state.solver.cg_tolerance = 1e-5f;
    state.solver.cg_max_steps = 7;
    state.position = position;
    state.parts.resize(SavedPartBytes(owner_.layout, position));
    for (size_t i = 0; i < state.parts.size(); ++i) state.parts[i] = static_cast<char>(i * i + 3);
    return state;
  }
  std::string Bytes(const SavedState& state) { return EncodeHeader(state, owner_) + state.parts; }
  absl::Status Refusal(std::string bytes) {
    return DecodeSavedState(std::move(bytes), owner_).status();
  }

  FakeModel model_;
  StateOwner owner_;
};

TEST_F(SavedStateTest, ComesBackAsItWas) {
  for (int position : {0, 16, 17, 31, 32, 40, 41, 200}) {
    const SavedState state = State(position + 3, position);
    auto read = DecodeSavedState(Bytes(state), owner_);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->tokens, state.tokens);
    EXPECT_EQ(read->turns, state.turns);
    EXPECT_EQ(read->ttl, state.ttl);
    EXPECT_EQ(read->origin, state.origin);
    EXPECT_EQ(read->dropped, "");
    EXPECT_EQ(read->solver.cg_tolerance, state.solver.cg_tolerance);
    EXPECT_EQ(read->solver.cg_max_steps, state.solver.cg_max_steps);
    EXPECT_EQ(read->position, position);
    EXPECT_EQ(read->parts, state.parts);
  }
}

TEST_F(SavedStateTest, HasThePartsThatASnapshotHas) {
  const StateLayout& layout = owner_.layout;
  EXPECT_EQ(SavedPartBytes(layout, 0), 0u);
  EXPECT_EQ(SavedPartBytes(layout, 16), layout.SequenceBytes(16));
  // Of a window, what the next token still sees.
  EXPECT_LT(SavedPartBytes(layout, 400), layout.SequenceBytes(400));
}

TEST_F(SavedStateTest, CutAnywhereOrTooLongItIsDamaged) {
  const std::string bytes = Bytes(State(20, 17));
  for (size_t size = 0; size < bytes.size(); ++size) {
    const absl::Status status = Refusal(bytes.substr(0, size));
    ASSERT_TRUE(absl::IsDataLoss(status)) << "cut after " << size << ": " << status;
  }
  EXPECT_TRUE(absl::IsDataLoss(Refusal(bytes + '\0')));
}

TEST_F(SavedStateTest, ABitAnywhereIsDamage) {
  std::string bytes = Bytes(State(20, 17));
  ASSERT_GT(bytes.size(), 4000u);  // Many ways through the hash's lanes.
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    bytes[bit / 8] ^= static_cast<char>(1 << bit % 8);
    const absl::Status status = Refusal(bytes);
    ASSERT_TRUE(absl::IsDataLoss(status)) << "bit " << bit << ": " << status;
    bytes[bit / 8] ^= static_cast<char>(1 << bit % 8);
  }
  EXPECT_EQ(Refusal(bytes), absl::OkStatus());
}

// Who saves may say anything of what follows: what is dropped is not read for ever.
TEST_F(SavedStateTest, ALengthThatCannotBeIsDamage) {
  SavedState state = State(20, 17);
  const uint64_t bytes = state.parts.size();
  state.parts.clear();
  // As a server with a larger layout would have saved it.
  StateOwner other = owner_;
  const auto read = [&](uint64_t times) {
    other.layout.slot_bytes = owner_.layout.slot_bytes + (times - 1) * bytes;
    const uint64_t all = SavedPartBytes(other.layout, 17);
    EXPECT_EQ(all, times * bytes);
    const std::string header = EncodeHeader(state, {all, 0}, other);
    return SizeOfSavedState(header, owner_);
  };
  EXPECT_TRUE(read(16)->exact);
  EXPECT_TRUE(absl::IsDataLoss(read(17).status()));
  EXPECT_TRUE(absl::IsDataLoss(read(uint64_t{1} << 40).status()));
}

TEST_F(SavedStateTest, OfAnotherModelItIsRefusedWithBothNames) {
  const std::string bytes = Bytes(State(20, 17));
  const auto refused = [&](const StateOwner& owner) {
    const absl::Status status = DecodeSavedState(bytes, owner).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    return std::string(status.message());
  };
  StateOwner other = owner_;
  other.fingerprints = {"0123"};
  EXPECT_THAT(refused(other), AllOf(HasSubstr("model 'fake'"), HasSubstr("'0123'")));
  // Whatever it is called there.
  StateOwner long_name = owner_;
  long_name.fingerprints = {std::string(100000, 'x')};
  const std::string named = EncodeHeader(State(20, 0), long_name);
  EXPECT_LT(DecodeSavedState(named, owner_).status().message().size(), 500u);
  other = owner_;
  other.max_context = 19;
  EXPECT_THAT(refused(other), AllOf(HasSubstr("20 tokens"), HasSubstr("up to 19")));
}

// The text can be computed anew.
TEST_F(SavedStateTest, OfAnotherNumericsIdOrLayoutItLosesItsState) {
  const SavedState saved = State(20, 17);
  const std::string bytes = Bytes(saved);
  const auto dropped = [&](const StateOwner& owner) {
    const auto read = DecodeSavedState(bytes, owner);
    EXPECT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->tokens, saved.tokens);
    EXPECT_EQ(read->turns, saved.turns);
    EXPECT_EQ(read->position, 0);
    EXPECT_EQ(read->parts, "");
    // Damage is found all the same.
    std::string changed = bytes;
    changed.back() ^= 1;
    EXPECT_TRUE(absl::IsDataLoss(DecodeSavedState(changed, owner).status()));
    EXPECT_TRUE(
        absl::IsDataLoss(DecodeSavedState(bytes.substr(0, bytes.size() - 1), owner).status()));
    return read->dropped;
  };
  StateOwner other = owner_;
  other.numerics_id = "gpu";
  EXPECT_THAT(dropped(other), AllOf(HasSubstr(owner_.numerics_id), HasSubstr("'gpu'")));
  other = owner_;
  other.layout.page_classes[0].page_bytes += 64;
  EXPECT_THAT(dropped(other), HasSubstr("state layout"));
  // A text alone has nothing to lose.
  other.numerics_id = "gpu";
  EXPECT_EQ(DecodeSavedState(Bytes(State(20, 0)), other)->dropped, "");
}

TEST_F(SavedStateTest, ItsBeginningTellsItsSize) {
  SavedState state = State(20, 17);
  state.turns.clear();
  for (int i = 1; i <= 20; ++i) state.turns.push_back(i);
  const std::string bytes = Bytes(state);
  const size_t header = EncodeHeader(state, owner_).size();
  EXPECT_LE(header, MostHeaderBytes(20));
  for (size_t size = 0; size <= bytes.size(); ++size) {
    const auto told = SizeOfSavedState(bytes.substr(0, size), owner_);
    ASSERT_TRUE(told.ok()) << told.status();
    ASSERT_EQ(told->exact, size >= header);
    ASSERT_EQ(told->bytes, size < 24 ? 24 : size < header ? header : bytes.size());
  }
}

TEST_F(SavedStateTest, ItsBeginningTellsWhatIsWrong) {
  for (const char* wrong : {"x", "PACKRATS", "packrat"}) {
    EXPECT_TRUE(absl::IsDataLoss(SizeOfSavedState(wrong, owner_).status())) << wrong;
  }
  std::string bytes = Bytes(State(20, 17));
  StateOwner other = owner_;
  other.fingerprints = {"0123"};
  const size_t header = EncodeHeader(State(20, 17), owner_).size();
  EXPECT_TRUE(
      absl::IsFailedPrecondition(SizeOfSavedState(bytes.substr(0, header), other).status()));
  // No more is read than a text of this server takes.
  bytes[15] = 1;
  const absl::Status status = SizeOfSavedState(bytes.substr(0, 24), owner_).status();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
}

TEST_F(SavedStateTest, OfAnotherVersionItIsRefused) {
  // Only the first 24 bytes are the same in all versions.
  for (const uint32_t version : {1, 4}) {
    std::string bytes("PACKRAT\x1a?\0\0\0\x03\0\0\0", 16);
    bytes[8] = static_cast<char>(version);
    const uint64_t hash = HashBytes(version, "new", 3);
    bytes.append(reinterpret_cast<const char*>(&hash), sizeof hash);
    const absl::Status status = Refusal(bytes + "new");
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(absl::StrCat("format ", version, "; this server reads 2")));
  }
}

// A text with dials is read where the model has them, under whatever numbers.
TEST_F(SavedStateTest, DialsAreFoundByTheirFingerprints) {
  StateOwner two = owner_;
  two.fingerprints = {"fine", "coarse"};
  two.layout.others = {owner_.layout};
  two.coarser = {{0, 1}};
  SavedState state = State(20, 17);
  state.dials = {1, {{17, 0}}};
  const auto bytes = [&] { return EncodeHeader(state, two) + state.parts; };
  EXPECT_EQ(DecodeSavedState(bytes(), two)->dials, state.dials);
  StateOwner three = two;
  three.fingerprints = {"coarse", "other", "fine"};
  three.layout.others = {owner_.layout, owner_.layout};
  three.coarser = {{2, 0}, {2, 1}};
  EXPECT_EQ(DecodeSavedState(bytes(), three)->dials, (TextDials{0, {{17, 2}}}));
  StateOwner one = owner_;
  one.fingerprints = {"coarse"};
  const absl::Status refused = DecodeSavedState(bytes(), one).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("'fine'"));
  for (const TextDials& dials :
       {TextDials{1, {{18, 0}}}, TextDials{1, {{15, 0}}}, TextDials{1, {{17, 0}, {17, 0}}}}) {
    state.dials = dials;
    EXPECT_TRUE(absl::IsDataLoss(DecodeSavedState(bytes(), two).status()));
  }
  state.dials = {1, {}};
  EXPECT_EQ(DecodeSavedState(bytes(), one)->dials, TextDials());
}

// Every turn of such a text would be refused.
TEST_F(SavedStateTest, DialsThatDoNotGoFromFineToCoarseAreDamage) {
  StateOwner owner = owner_;
  owner.fingerprints = {"fine", "coarse", "coarsest", "beside"};
  owner.layout.others = {owner_.layout, owner_.layout, owner_.layout};
  owner.coarser = {{0, 1}, {0, 2}, {0, 3}, {1, 2}};
  SavedState state = State(40, 39);
  const auto read = [&](const TextDials& dials) {
    state.dials = dials;
    return DecodeSavedState(EncodeHeader(state, owner) + state.parts, owner).status();
  };
  for (const TextDials& good : {TextDials{1, {{17, 0}}}, TextDials{2, {{17, 0}, {30, 1}}}}) {
    EXPECT_EQ(read(good), absl::OkStatus());
  }
  for (const TextDials& bad :
       {TextDials{0, {{17, 1}}}, TextDials{1, {{17, 1}}}, TextDials{2, {{17, 1}, {30, 0}}},
        TextDials{2, {{17, 0}, {30, 3}}}, TextDials{1, {{17, 0}, {30, 2}}}}) {
    const absl::Status status = read(bad);
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("has a dial with which no text"));
  }
}

// A text has one form: what has no dials before its last one is of the format without them.
TEST_F(SavedStateTest, AnEmptyListOfDialsIsDamage) {
  const std::string header = EncodeHeader(State(20, 0), owner_).substr(24) + std::string(4, '\0');
  const uint32_t numbers[] = {3, static_cast<uint32_t>(header.size())};
  const uint64_t hash = HashBytes(3, header.data(), header.size());
  std::string bytes = "PACKRAT\x1a";
  bytes.append(reinterpret_cast<const char*>(numbers), sizeof numbers);
  bytes.append(reinterpret_cast<const char*>(&hash), sizeof hash);
  const absl::Status status = Refusal(bytes + header);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("no dials before its last one"));
}

// Whoever forges the hashes too meets the same bounds as any request.
TEST_F(SavedStateTest, WhatNoModelCanHaveComeToIsDamaged) {
  const auto damaged = [&](const SavedState& state, const std::string& why) {
    const absl::Status status = Refusal(Bytes(state));
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(why));
  };
  SavedState state = State(20, 17);
  state.tokens[3] = FakeModel::kVocab;
  damaged(state, "token 3 is 101; range [0, 100]");
  state.tokens[3] = -1;
  damaged(state, "token 3 is -1");
  state = State(20, 17);
  state.turns = {5, 5};
  damaged(state, "a turn ends at token 5; range [6, 20]");
  state.turns = {0};
  damaged(state, "a turn ends at token 0");
  state.turns = {21};
  damaged(state, "a turn ends at token 21");
  damaged(State(20, 21), "its position is 21; range [16, 20], or 0");
  damaged(State(20, 15), "its position is 15");
  state = State(20, 17);
  state.solver.cg_max_steps = 0;
  damaged(state, "cg_max_steps is 0; range [1, ");
  state.solver = {std::numeric_limits<float>::quiet_NaN(), 7};
  damaged(state, "cg_tolerance is nan; range [1e-");
}

TEST(SavedStateDeathTest, PartsOfAnotherPositionAreABrokenInvariant) {
  const FakeModel model;
  SavedState state;
  state.tokens.resize(20);
  state.position = 16;
  EXPECT_DEATH(EncodeHeader(state, OwnerOf(model)), "0 bytes at position 16");
}

}  // namespace
}  // namespace packrat
