#include "models/mixers/spec.h"

#include <cmath>

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

// As transformers has them: defaults are the paper's, and a factor of cosines and sines that is not
// said follows from that of the frequencies, or from two `mscale` that are not 0.
void ReadYarn(JsonFields* rope, RopeScaling* scaling) {
  scaling->high_freq_factor = rope->Number("beta_fast", 1e-6, 1e6, 32.0);
  scaling->low_freq_factor = rope->Number("beta_slow", 1e-6, 1e6, 1.0);
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

// Of a rope_parameters or rope_scaling of `fields`.
RopeScaling ReadRopeScaling(JsonFields* fields, JsonFields* rope) {
  // "type", as older files call it.
  const char* name = rope->Get("rope_type") == nullptr ? "type" : "rope_type";
  const std::string type = rope->String(name, "default");
  rope->Only("type", type);
  RopeScaling scaling;
  if (type == "default") return scaling;
  if (type != "linear" && type != "llama3" && type != "yarn") {
    // A token's bits would no longer depend on the tokens before it alone.
    const bool by_length = type == "dynamic" || type == "longrope";
    rope->Fail(
        name, absl::StrCat("is ", Quoted(type),
                           by_length ? ", whose frequencies depend on how long a text becomes" : "",
                           "; must be default, linear, llama3 or yarn"));
    return scaling;
  }
  if (rope->Get("factor") == nullptr) rope->Fail("factor", "missing");
  scaling.factor = rope->Number("factor", 1.0, 1e6, 1.0);
  if (type == "linear") return scaling;
  if (type == "llama3") ReadTurns(rope, &scaling);
  if (type == "yarn") ReadYarn(rope, &scaling);
  // As in transformers, the model's own where none is told.
  constexpr char kOriginal[] = "original_max_position_embeddings";
  constexpr char kWhole[] = "max_position_embeddings";
  const bool told = rope->Get(kOriginal) != nullptr || fields->Get(kWhole) == nullptr;
  scaling.original_context =
      told ? rope->Int(kOriginal, 1, kMaxContext) : fields->Int(kWhole, 1, kMaxContext);
  return scaling;
}

}  // namespace

double ReadRopeTheta(JsonFields* fields, double fallback, RopeScaling* scaling, double* part) {
  double theta = fields->Number("rope_theta", 1.0, kMaxRopeBase, fallback);
  if (part != nullptr) *part = fields->Number("partial_rotary_factor", 0.0, 1.0, *part);
  const Json* read = nullptr;
  for (const char* name : {"rope_parameters", "rope_scaling"}) {
    const Json* object = fields->Get(name);
    if (object == nullptr) continue;
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
