// What a JSON schema is made of where it refers to other places and combines several schemas.
#ifndef PACKRAT_MODELS_TEXT_GRAMMAR_SCHEMA_PARTS_H_
#define PACKRAT_MODELS_TEXT_GRAMMAR_SCHEMA_PARTS_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "models/files/ordered_json.h"

namespace packrat {

// Counts what it copies and compares: a small schema may ask for immense work by its $refs.
class SchemaParts {
 public:
  explicit SchemaParts(OrderedJson document) : document_(std::move(document)) {}

  const OrderedJson& document() const { return document_; }

  // The place in the document that a $ref names.
  absl::StatusOr<const OrderedJson*> Target(const OrderedJson& ref);

  // Adds to `base`, an object, what `part` asks for: what its $ref and its allOf bring, in this
  // order, and then what stands beside them; anyOf and oneOf if `branches`.
  absl::Status Merge(const OrderedJson& part, bool branches, OrderedJson* base);

  // To be called before `value` is copied or written.
  absl::Status Spend(const OrderedJson& value);

 private:
  absl::Status CheckWork() const;

  const OrderedJson document_;
  absl::flat_hash_map<std::string, const OrderedJson*> targets_;  // Of each $ref; null: none.
  std::vector<const OrderedJson*> open_;                          // Parts that are being merged.
  size_t work_ = 0;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_GRAMMAR_SCHEMA_PARTS_H_
