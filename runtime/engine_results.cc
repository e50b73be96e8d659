// What a step has computed: tokens, scores, and sequences that went bad.
#include <algorithm>
#include <optional>
#include <utility>

#include "kernels/check.h"
#include "runtime/engine_impl.h"
#include "runtime/no_memory.h"

namespace packrat {
namespace {

TokenLogprobs LogprobsOf(const SampledToken& token) {
  TokenLogprobs logprobs;
  logprobs.logprob = token.logprob;
  logprobs.top.reserve(token.num_top);
  for (int i = 0; i < token.num_top; ++i) {
    logprobs.top.emplace_back(token.top[i].token, token.top[i].logprob);
  }
  return logprobs;
}

}  // namespace

// Waits for the earliest step in flight and takes what it has computed.
void Engine::Impl::FinishStep() {
  NotifyAll();  // Of the step before: see Step().
  Flight& flight = flights[first_flight];
  span_stats.assign(flight.spans.size(), SpanStats());
  const Clock::time_point start = Clock::now();
  const absl::Status status = model->Wait(span_stats.data(), sampled.data());
  const absl::Duration sampling = absl::Seconds(model->sampling_seconds());
  stats.model_time += absl::FromChrono(Clock::now() - start) - sampling;
  stats.sample_time += sampling;
  if (status.ok()) {
    LearnFrom(flight);
    TakeResults(flight);
    flight.sequences.clear();
    first_flight = (first_flight + 1) % kMaxFlights;
    --num_flights;
  } else {
    Fail(status);
  }
  Sweep();
}

// A step that was started before the one before it was over began when that was.
void Engine::Impl::LearnFrom(const Flight& flight) {
  const Clock::time_point begun = std::max(flight.started, last_finished);
  last_finished = Clock::now();
  const double seconds = absl::ToDoubleSeconds(absl::FromChrono(last_finished - begun));
  if (flight.foretold > 0) stats.step_time_ratio.Observe(seconds / flight.foretold);
  step_model.Observe(flight.contents, seconds);
}

void Engine::Impl::TakeResults(const Flight& flight) {
  size_t row = 0;
  stats.max_residual = 0;
  for (size_t i = 0; i < flight.spans.size(); ++i) {
    Sequence* sequence = flight.sequences[i].get();
    const Span& span = flight.spans[i];
    stats.solver += span_stats[i].solver;
    stats.max_residual = std::max(stats.max_residual, span_stats[i].max_residual);
    sequence->ReadSpan(span_stats[i].solver);
    // Where nothing is left to choose from, the state is as good as any.
    const auto is_bad = [](const SampledToken& s) {
      return s.status == SampledToken::Status::kNotFinite;
    };
    const auto first_row = sampled.begin() + static_cast<ptrdiff_t>(row);
    if (cache != nullptr) {
      if (!span_stats[i].finite || std::any_of(first_row, first_row + span.num_logits, is_bad)) {
        sequence->DropKept(cache.get());
      } else if (sequence->finished() && sequence->all_read()) {
        cache->Settle(sequence->id());
      }
    }
    if (!sequence->finished()) {
      if (!span_stats[i].finite) {
        Finish(sequence, FinishReason::kError, not_finite);
      }
      for (size_t r = row; r < row + span.num_logits && !sequence->finished(); ++r) {
        if (flight.rows[r].given >= 0) {
          TakeScore(sequence, sampled[r]);
        } else {
          TakeToken(sequence, sampled[r]);
        }
      }
      const bool only_scores =
          span.num_logits > 0 && flight.rows[row + span.num_logits - 1].given >= 0;
      if (only_scores && !sequence->finished()) Touch(sequence);
    }
    row += span.num_logits;
  }
}

void Engine::Impl::TakeScore(Sequence* sequence, const SampledToken& scored) {
  if (scored.status != SampledToken::Status::kOk) {
    Finish(sequence, FinishReason::kError, not_finite);
    return;
  }
  ++stats.scored_tokens;
  std::optional<FinishReason> reason;
  const absl::Status status = UnlessNoMemory([&] {
    reason = sequence->AcceptScore(
        {scored.token, LogprobsOf(scored), scored.best, scored.entropy, scored.margin});
    return absl::OkStatus();
  });
  if (!status.ok()) {
    Finish(sequence, FinishReason::kError, status);
  } else if (reason.has_value()) {
    Finish(sequence, *reason, absl::OkStatus());
  }
}

void Engine::Impl::TakeToken(Sequence* sequence, const SampledToken& token) {
  if (token.status != SampledToken::Status::kOk) {
    const bool nothing_left = token.status == SampledToken::Status::kNothingLeft;
    Finish(sequence, FinishReason::kError, nothing_left ? sequence->NothingLeft() : not_finite);
    return;
  }
  PACKRAT_CHECK(token.token >= 0 && token.token < limits.num_ids) << token.token;
  ++stats.generated_tokens;
  const absl::Time now = Now();
  CountTokenTime(*sequence, now);
  std::optional<FinishReason> reason;
  const absl::Status status = UnlessNoMemory([&] {
    std::optional<TokenLogprobs> logprobs;
    if (sequence->wants_logprobs()) logprobs = LogprobsOf(token);
    reason = sequence->Accept(token.token, std::move(logprobs), now);
    return absl::OkStatus();
  });
  if (!status.ok()) {
    Finish(sequence, FinishReason::kError, status);
  } else if (reason.has_value()) {
    Finish(sequence, *reason, absl::OkStatus());
  } else {
    Touch(sequence);
  }
}

// Of a token that is about to be accepted.
void Engine::Impl::CountTokenTime(const Sequence& sequence, absl::Time now) {
  const bool first = sequence.usage().completion_tokens == 0;
  BucketCounts* times = first ? &stats.time_to_first_token : &stats.inter_token_time;
  times->Observe(absl::ToDoubleSeconds(now - sequence.last_progress()));
}

}  // namespace packrat
