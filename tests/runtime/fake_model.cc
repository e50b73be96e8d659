#include "tests/runtime/fake_model.h"

#include <algorithm>
#include <limits>

#include "kernels/check.h"

namespace packrat {
namespace {

uint64_t Mix(uint64_t a, uint64_t b) {
  uint64_t x = a * 0x9E3779B97F4A7C15u ^ (b + 0x632BE59BD9B4E019u) * 0xD6E8FEB86659FD93u;
  x ^= x >> 32;
  x *= 0xD6E8FEB86659FD93u;
  return x ^ (x >> 29);
}

// A hash with the position that it was written for.
struct Entry {
  int64_t position;
  uint64_t hash;
};
// The tail: hashes of the whole text and of the unfinished RAT chunk.
struct Tail {
  int64_t position;
  uint64_t text_hash;
  uint64_t chunk_hash;
};

uint64_t Read(const Entry& entry, int64_t position, const char* what) {
  PACKRAT_CHECK(entry.position == position)
      << what << " of position " << position << " says " << entry.position;
  return entry.hash;
}

constexpr int kChunk = 8;
constexpr int kWindow = 20;

// What is written for one token of a text, and what the later ones see of it.
uint64_t TokenHash(int position, int32_t token) { return Mix(position, token); }

}  // namespace

ModelConfig FakeModel::MakeConfig(const Options& options) {
  ModelConfig config;
  config.vocab_size = options.vocab;
  config.hidden_size = 16;
  config.max_context = options.max_context;
  config.eos_ids = {kEos};
  if (options.rat) config.mixers.push_back(RatSpec{2, 1, 8, kChunk});
  if (options.window) {
    config.mixers.push_back(AttentionSpec{options.window_heads, options.window_heads, 8, kWindow});
  }
  if (options.full) config.mixers.push_back(AttentionSpec{2, 2, 8, 0});
  if (options.mesa) config.mixers.push_back(MesaSpec{2, 8, 4, 0.25f, true});
  return config;
}

FakeModel::FakeModel(const Options& options)
    : config_(MakeConfig(options)),
      layout_(config_),
      logits_(static_cast<size_t>(options.max_logit_rows) * options.vocab),
      threads_(options.threads),
      ahead_(options.ahead) {
  for (Results& results : results_) {
    results.stats.resize(options.max_batch_tokens);
    results.sampled.resize(options.max_logit_rows);
  }
  tokens_.reserve(options.max_batch_tokens);
  options_.max_batch_tokens = options.max_batch_tokens;
  options_.max_logit_rows = options.max_logit_rows;
  options_.threads = 1;
  TakeSamplers(options.vocab, options.threads > 1 ? &threads_ : nullptr);
  for (const PageClass& c : layout_.page_classes) {
    PACKRAT_CHECK(c.page_bytes >= kBlockTokens * sizeof(Entry));
  }
  PACKRAT_CHECK(!options.mesa || layout_.slot_bytes >= sizeof(Entry));
  PACKRAT_CHECK(layout_.tail_bytes >= sizeof(Tail));
}

void FakeModel::FillLogits(uint64_t hash, float* logits) const {
  for (int v = 0; v < config_.vocab_size; ++v) {
    logits[v] = static_cast<float>(Mix(hash, v) >> 40) * 0x1p-24f * 8.0f - 4.0f;
  }
  // Only prompts go bad.
  logits[kNotFiniteToken] = logits[kNanLogitsToken] = logits[kUnconvergedToken] = -100.0f;
}

absl::Status FakeModel::ReserveSampling(size_t list_bytes) {
  if (!reserve_status.ok()) return reserve_status;
  if (list_bytes > most_list_bytes) return absl::ResourceExhaustedError("no room for lists");
  reserved_list_bytes_ = std::max(reserved_list_bytes_, list_bytes);
  return absl::OkStatus();
}

absl::Status FakeModel::Start(const Batch& batch, const StateMemory& state,
                              absl::Span<const SamplingRow> rows) {
  if (!start_status.ok()) return start_status;
  PACKRAT_CHECK(steps_started_ < steps_waited_for_ + max_steps_in_flight());
  size_t list_bytes = 0;
  for (const SamplingRow& row : rows) list_bytes += SamplingListBytes(row);
  PACKRAT_CHECK(list_bytes <= reserved_list_bytes_, "lists that nobody has reserved memory for")
      << list_bytes << " of " << reserved_list_bytes_;
  const Results& last = results_[(steps_started_ + 1) % 2];
  Results& results = results_[steps_started_ % 2];
  ++steps_started_;
  if (!ahead_) return HostModel::Start(batch, state, rows);
  Batch known = batch;
  tokens_.assign(batch.tokens, batch.tokens + batch.num_tokens);
  for (int32_t& token : tokens_) {
    if (!IsSampledInRow(token)) continue;
    PACKRAT_CHECK(steps_started_ - steps_waited_for_ == 2, "the step before is no longer there");
    PACKRAT_CHECK(RowOf(token) < last.rows);
    const SampledToken& sampled = last.sampled[RowOf(token)];
    token = sampled.status == SampledToken::Status::kOk ? sampled.token : kNotFiniteToken;
  }
  known.tokens = tokens_.data();
  results.spans = batch.num_spans;
  results.rows = static_cast<int>(rows.size());
  for (int i = 0; i < results.rows; ++i) {
    results.sampled[i].status = SampledToken::Status::kNotFinite;
  }
  const absl::Status status = HostModel::Start(known, state, rows);
  return status.ok() ? HostModel::Wait(results.stats.data(), results.sampled.data()) : status;
}

absl::Status FakeModel::Wait(SpanStats* stats, SampledToken* sampled) {
  PACKRAT_CHECK(steps_waited_for_ < steps_started_, "nothing was started");
  const Results& results = results_[steps_waited_for_++ % 2];
  absl::Status status;
  if (ahead_) {
    std::copy_n(results.stats.begin(), results.spans, stats);
    std::copy_n(results.sampled.begin(), results.rows, sampled);
  } else {
    status = HostModel::Wait(stats, sampled);
  }
  return wait_status.ok() ? status : wait_status;
}

uint64_t FakeModel::ReadPages(const Span& span, int position, int32_t token, uint64_t chunk_hash,
                              const StateMemory& state) {
  uint64_t seen = 0;
  for (size_t c = 0; c < layout_.page_classes.size(); ++c) {
    const PageClass& page_class = layout_.page_classes[c];
    const PageTable& table = span.pages[c];
    const auto entries = [&](int page) {
      PACKRAT_CHECK(page_class.kind == PageClass::Kind::kWindow || page < table.ring);
      return reinterpret_cast<Entry*>(state.pages[c].base +
                                      table.pages[page % table.ring] * page_class.page_bytes);
    };
    if (page_class.kind == PageClass::Kind::kRat) {
      for (int chunk = 0; chunk < position / kChunk; ++chunk) {
        seen += Mix(chunk, Read(*entries(chunk), chunk, "RAT entry"));
      }
      if ((position + 1) % kChunk == 0) {
        *entries(position / kChunk) = {position / kChunk, chunk_hash};
      }
      continue;
    }
    entries(position / kBlockTokens)[position % kBlockTokens] = {position,
                                                                 TokenHash(position, token)};
    const int first = page_class.window > 0 ? std::max(0, position - page_class.window + 1) : 0;
    uint64_t sum = 0;
    for (int s = first; s <= position; ++s) {
      sum += Read(entries(s / kBlockTokens)[s % kBlockTokens], s, "key");
    }
    seen = Mix(seen, sum);
  }
  return seen;
}

uint64_t FakeModel::ComputeToken(const Span& span, int position, int32_t token,
                                 const StateMemory& state) {
  Tail& tail = *reinterpret_cast<Tail*>(state.tails + span.tail * layout_.tail_bytes);
  if (position == 0) {
    tail = {0, 0, 0};
  }
  PACKRAT_CHECK(tail.position == position) << "tail of position " << tail.position;
  if (position % kChunk == 0) tail.chunk_hash = 0;
  tail.text_hash = Mix(tail.text_hash, token);
  tail.chunk_hash = Mix(tail.chunk_hash, token);
  tail.position = position + 1;
  uint64_t hash = Mix(ReadPages(span, position, token, tail.chunk_hash, state), tail.text_hash);
  if (layout_.slot_bytes > 0) {
    const auto slot = [&](int32_t s) {
      return reinterpret_cast<Entry*>(state.slots + s * layout_.slot_bytes);
    };
    const int block = position / kBlockTokens;
    if (block > 0) {
      const bool in_span = block * kBlockTokens > span.position;
      hash = Mix(hash, Read(*slot(in_span ? span.slot_out : span.slot_in), block, "slot"));
    }
    if ((position + 1) % kBlockTokens == 0) *slot(span.slot_out) = {block + 1, tail.text_hash};
  }
  return Mix(hash, span.solver.cg_max_steps);
}

absl::StatusOr<float*> FakeModel::Forward(const Batch& batch, const StateMemory& state,
                                          SpanStats* stats) {
  if (on_forward) on_forward(batch);
  PACKRAT_CHECK(batch.num_tokens >= 1 && batch.num_tokens <= options_.max_batch_tokens);
  int row = 0, next_token = 0;
  for (int i = 0; i < batch.num_spans; ++i) {
    const Span& span = batch.spans[i];
    PACKRAT_CHECK(span.first_token == next_token && span.num_tokens >= 1);
    next_token += span.num_tokens;
    stats[i] = SpanStats();
    stats[i].solver.solves = span.num_tokens;
    stats[i].solver.steps = 2 * span.num_tokens;
    bool nan_logits = false;
    for (int t = 0; t < span.num_tokens; ++t) {
      const int32_t token = batch.tokens[span.first_token + t];
      PACKRAT_CHECK(token >= 0 && token < config_.vocab_size) << token;
      if (token == kNotFiniteToken) stats[i].finite = false;
      if (token == kUnconvergedToken) {
        ++stats[i].solver.unconverged;
        stats[i].max_residual = 0.5f;
      }
      if (token == kNanLogitsToken) nan_logits = true;
      const uint64_t hash = ComputeToken(span, span.position + t, token, state);
      if (t < span.num_tokens - span.num_logits) continue;
      PACKRAT_CHECK(row < options_.max_logit_rows);
      float* logits = &logits_[static_cast<size_t>(row++) * config_.vocab_size];
      FillLogits(hash, logits);
      if (nan_logits || !stats[i].finite) logits[7] = std::numeric_limits<float>::quiet_NaN();
    }
  }
  PACKRAT_CHECK(next_token == batch.num_tokens);
  return logits_.data();
}

std::vector<float> FakeModel::LogitsAfter(const std::vector<int32_t>& text,
                                          int cg_max_steps) const {
  const int position = static_cast<int>(text.size()) - 1;
  uint64_t seen = 0;
  for (const PageClass& page_class : layout_.page_classes) {
    if (page_class.kind == PageClass::Kind::kRat) {
      for (int chunk = 0; chunk < position / kChunk; ++chunk) {
        uint64_t hash = 0;
        for (int t = chunk * kChunk; t < (chunk + 1) * kChunk; ++t) hash = Mix(hash, text[t]);
        seen += Mix(chunk, hash);
      }
      continue;
    }
    uint64_t sum = 0;
    for (int s = 0; s <= position; ++s) {
      if (page_class.window == 0 || position - s < page_class.window) sum += TokenHash(s, text[s]);
    }
    seen = Mix(seen, sum);
  }
  uint64_t text_hash = 0, slot_hash = 0;
  const int block = position / kBlockTokens;
  for (int t = 0; t <= position; ++t) {
    text_hash = Mix(text_hash, text[t]);
    if (t + 1 == block * kBlockTokens) slot_hash = text_hash;
  }
  uint64_t hash = Mix(seen, text_hash);
  if (layout_.slot_bytes > 0 && block > 0) hash = Mix(hash, slot_hash);
  std::vector<float> logits(config_.vocab_size);
  FillLogits(Mix(hash, cg_max_steps), logits.data());
  return logits;
}

std::vector<int32_t> FakeModel::GreedyAfter(const std::vector<int32_t>& prompt, int count) const {
  std::vector<int32_t> text = prompt;
  for (int i = 0; i < count; ++i) {
    const std::vector<float> logits = LogitsAfter(text);
    text.push_back(
        static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
  }
  return {text.begin() + prompt.size(), text.end()};
}

}  // namespace packrat
