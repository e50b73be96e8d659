#include "models/mixers/spec.h"

#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/batch.h"

namespace packrat {

int EvenHeadDim(JsonFields* fields, const std::string& heads_name, int num_heads, int hidden_size) {
  const int head_dim = hidden_size / num_heads;
  if (hidden_size % num_heads != 0) {
    fields->Fail(heads_name,
                 absl::StrCat("is ", num_heads, "; must divide the hidden size ", hidden_size));
  } else if (head_dim % 2 != 0 || head_dim > kMaxHeadDim) {
    fields->Fail(heads_name, absl::StrCat("is ", num_heads, ", which makes heads of ", head_dim,
                                          " channels; must be even and at most ", kMaxHeadDim));
  }
  return head_dim;
}

int DivisorOfHeads(JsonFields* fields, const std::string& name, int num_heads,
                   std::optional<int> fallback) {
  const int count = fields->Int(name, 1, num_heads, fallback);
  if (num_heads % count != 0) {
    fields->Fail(name, absl::StrCat("is ", count, "; must divide the ", num_heads, " heads"));
  }
  return count;
}

void CheckWidth(JsonFields* fields, const std::string& heads_name, int heads,
                const std::string& dim_name, int dim) {
  if (dim < 1 || heads <= kMaxHidden / dim) return;  // None has been refused already.
  fields->Fail(heads_name, absl::StrCat("is ", heads, "; ", heads_name, " * ", dim_name,
                                        " must be at most ", kMaxHidden));
}

namespace {

void ReadTurns(JsonFields* rope, RopeScaling* scaling) {
  const auto number = [rope](const char* field) {
    if (rope->Get(field) == nullptr) rope->Fail(field, "missing");
    return rope->Number(field, 1e-6, 1e6, 1.0);
  };
  scaling->low_freq_factor = number("low_freq_factor");
  scaling->high_freq_factor = number("high_freq_factor");
  if (scaling->high_freq_factor <= scaling->low_freq_factor) {
    rope->Fail("high_freq_factor",
               absl::StrCat("is ", scaling->high_freq_factor,
                            "; must be more than low_freq_factor, ", scaling->low_freq_factor));
  }
}

constexpr char kOriginal[] = "original_max_position_embeddings";
constexpr char kWhole[] = "max_position_embeddings";

// As in transformers: the one outside where it is there, and the model's whole context where
// neither is.
int ReadOriginalContext(JsonFields* fields, JsonFields* rope) {
  const bool inside = rope->Get(kOriginal) != nullptr;
  if (fields->Get(kOriginal) != nullptr) {
    rope->Ignore({kOriginal});
    return fields->Int(kOriginal, 1, kMaxContext);
  }
  if (inside || fields->Get(kWhole) == nullptr) return rope->Int(kOriginal, 1, kMaxContext);
  return fields->Int(kWhole, 1, kMaxContext);
}

// The whole context over the original one, which transformers takes for a factor of null.
double FactorOfContexts(JsonFields* fields, JsonFields* rope, int original) {
  if (fields->Get(kWhole) == nullptr) {
    rope->Fail("factor", absl::StrCat("missing, and ", kWhole, " to tell it by as well"));
    return 1.0;
  }
  return static_cast<double>(fields->Int(kWhole, 1, kMaxContext)) / original;
}

double ReadFactor(JsonFields* rope) {
  if (rope->Get("factor") == nullptr) rope->Fail("factor", "missing");
  return rope->Number("factor", 1.0, 1e6, 1.0);
}

double ReadYarnFactor(JsonFields* fields, JsonFields* rope, int original) {
  if (rope->Find("factor") == nullptr || rope->Get("factor") != nullptr) return ReadFactor(rope);
  const double factor = FactorOfContexts(fields, rope, original);
  if (factor >= 1.0) return factor;
  rope->Fail("factor", absl::StrCat("is null, so that ", kWhole, " make it ", factor, " times ",
                                    original, "; must be at least 1"));
  return 1.0;
}

// 0 means the same as null.
double NumberUnlessZero(JsonFields* rope, const std::string& name, double fallback) {
  const Json* value = rope->Get(name);
  if (value != nullptr && value->is_number() && value->get<double>() == 0.0) return fallback;
  return rope->Number(name, 1e-6, 1e6, fallback);
}

// As transformers has them: defaults are the paper's, and a factor of cosines and sines that is not
// said follows from that of the frequencies, or from two `mscale` that are not 0.
void ReadYarn(JsonFields* rope, RopeScaling* scaling) {
  scaling->high_freq_factor = NumberUnlessZero(rope, "beta_fast", 32.0);
  scaling->low_freq_factor = NumberUnlessZero(rope, "beta_slow", 1.0);
  if (scaling->high_freq_factor < scaling->low_freq_factor) {
    rope->Fail("beta_fast",
               absl::StrCat("is ", scaling->high_freq_factor, "; must be at least beta_slow, ",
                            scaling->low_freq_factor));
  }
  scaling->ramp = rope->TrueUnlessNull("truncate") ? RopeScaling::Ramp::kWholeChannels
                                                   : RopeScaling::Ramp::kChannels;
  const auto larger = [&](double by) { return 0.1 * by * std::log(scaling->factor) + 1.0; };
  const double over = rope->Number("mscale", 0.0, 1e6, 0.0);
  const double under = rope->Number("mscale_all_dim", 0.0, 1e6, 0.0);
  const bool both = over != 0.0 && under != 0.0;
  scaling->attention_factor = rope->Number("attention_factor", 1e-6, 1e6,
                                           both ? larger(over) / larger(under) : larger(1.0));
}

std::vector<double> ReadDivisors(JsonFields* rope, const std::string& name) {
  const Json* list = rope->Get(name);
  if (list == nullptr || !list->is_array() || list->empty() || list->size() > size_t{kMaxHidden}) {
    rope->Fail(name, "must be a list of numbers, one for each channel that is rotated");
    return {};
  }
  std::vector<double> divisors;
  for (const Json& item : *list) {
    const double divisor = item.is_number() ? item.get<double>() : 0.0;
    if (!(divisor >= 0.01 && divisor <= 1e6)) {
      rope->Fail(name, absl::StrCat("holds ", JsonFields::Shown(item),
                                    "; must be numbers from 0.01 to 1e+06"));
      return {};
    }
    divisors.push_back(divisor);
  }
  return divisors;
}

// The divisors of texts that are no longer than the original context. Those of longer ones are
// checked, and then not needed, since no text becomes longer: where one did, all its tokens would
// change.
void ReadLongRope(JsonFields* fields, JsonFields* rope, RopeScaling* scaling) {
  scaling->longest = ReadOriginalContext(fields, rope);
  scaling->divisors = ReadDivisors(rope, "short_factor");
  ReadDivisors(rope, "long_factor");
  const double factor = rope->Get("factor") == nullptr
                            ? FactorOfContexts(fields, rope, scaling->longest)
                            : rope->Number("factor", 1e-6, 1e6, 1.0);
  if (rope->Get("attention_factor") == nullptr && factor > 1.0) {
    if (scaling->longest == 1) rope->Fail(kOriginal, "is 1; must be more where factor is");
    scaling->attention_factor = std::sqrt(1.0 + std::log(factor) / std::log(scaling->longest));
  } else {
    scaling->attention_factor = rope->Number("attention_factor", 1e-6, 1e6, 1.0);
  }
}

// Of a rope_parameters or rope_scaling of `fields`.
RopeScaling ReadRopeScaling(JsonFields* fields, JsonFields* rope) {
  // "type", as older files call it.
  const char* name = rope->Get("rope_type") == nullptr ? "type" : "rope_type";
  const std::string type = rope->String(name, "default");
  rope->Only("type", type);
  RopeScaling scaling;
  if (type == "linear") {
    scaling.factor = ReadFactor(rope);
  } else if (type == "llama3") {
    scaling.factor = ReadFactor(rope);
    ReadTurns(rope, &scaling);
    scaling.original_context = ReadOriginalContext(fields, rope);
  } else if (type == "yarn") {
    scaling.original_context = ReadOriginalContext(fields, rope);
    scaling.factor = ReadYarnFactor(fields, rope, scaling.original_context);
    ReadYarn(rope, &scaling);
  } else if (type == "longrope") {
    ReadLongRope(fields, rope, &scaling);
  } else if (type != "default") {
    // A token's bits would no longer depend on the tokens before it alone.
    rope->Fail(name,
               absl::StrCat(
                   "is ", Quoted(type),
                   type == "dynamic" ? ", whose frequencies depend on how long a text becomes" : "",
                   "; must be default, linear, llama3, yarn or longrope"));
  }
  return scaling;
}

}  // namespace

double ReadRopeTheta(JsonFields* fields, double fallback, RopeScaling* scaling, double* part) {
  double theta = fields->Number("rope_theta", 1.0, kMaxRopeBase, fallback);
  if (part != nullptr) {
    // A null is no default to transformers, but that of its function, which rotates all.
    const Json* outer = fields->Find("partial_rotary_factor");
    if (outer != nullptr && outer->is_null()) *part = 1.0;
    *part = fields->Number("partial_rotary_factor", 0.0, 1.0, *part);
  }
  const Json* read = nullptr;
  for (const char* name : {"rope_parameters", "rope_scaling"}) {
    const Json* object = fields->Get(name);
    if (object == nullptr || *object == Json::object()) continue;  // To transformers that is none.
    if (read != nullptr && *read != *object) {
      fields->Fail(name, "is not as rope_parameters; must be the same");
    }
    read = object;
    JsonFields rope(*object, fields->Name(name));
    // Of a field that is outside too, the inner one counts, as in transformers: version 5.19 writes
    // a default outside, whatever is inside.
    if (scaling != nullptr) {
      *scaling = ReadRopeScaling(fields, &rope);
    } else {
      rope.Only("rope_type", "default");
      rope.Only("type", "default");
    }
    if (part != nullptr) {
      *part = rope.Number("partial_rotary_factor", 0.0, 1.0, *part);
      rope.Ignore({"mrope_section", "mrope_interleaved"});
    } else {
      rope.Only("partial_rotary_factor", 1.0);
    }
    theta = rope.Number("rope_theta", 1.0, kMaxRopeBase, theta);
    rope.RefuseOthers();
    fields->Check(rope);
  }
  if (scaling != nullptr && scaling->ramp != RopeScaling::Ramp::kTurns && theta <= 1.0) {
    fields->Fail("rope_theta", "is 1; must be more than 1 where yarn scales frequencies");
  }
  return theta;
}

std::string Exact(double number) { return absl::StrFormat("%.17g", number); }

}  // namespace packrat
