// In which format a device keeps each matrix: what ModelOptions ask for, and what the checkpoint
// has.
#ifndef PACKRAT_MODELS_WEIGHT_FORMATS_H_
#define PACKRAT_MODELS_WEIGHT_FORMATS_H_

#include <string>
#include <vector>

#include "kernels/dtype.h"
#include "models/device.h"
#include "models/model.h"
#include "models/weights.h"

namespace packrat {

struct WeightFormats {
  // `tied`: whether the output matrix is the embedding, which no file has quantised. Unless asked
  // for a format, it goes with the layers where they are quantised in the file, while a matrix that
  // is the output's alone stays as the file has it.
  WeightFormats(const WeightLoader& loader, bool tied, const ModelOptions& options);

  // For numerics_id(): what was asked for, "-weights-int4-output-int8". The types in the checkpoint
  // itself are part of the fingerprint.
  std::string Id() const;

  WeightFormat layers, output;  // Of the layers' matrices, and of the output matrix.
};

// Of a matrix that is stored in `stored`: what is quantised stays so.
DType FormatOf(DType stored, WeightFormat asked);
// Of parts that become one: `mixed` where they differ. Where its rows of `in` values are no
// multiple of a group, the loader gets an error and the answer is `mixed`.
DType FormatOf(const std::vector<DeviceWeights::Rows>& parts, int in, WeightFormat asked,
               DType mixed, WeightLoader* loader);

}  // namespace packrat

#endif  // PACKRAT_MODELS_WEIGHT_FORMATS_H_
