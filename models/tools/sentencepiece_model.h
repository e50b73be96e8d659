// Writes a tokenizer.model, the serialized ModelProto of the SentencePiece library
// (sentencepiece_model.proto), of the parts that other files carry.
#ifndef PACKRAT_MODELS_TOOLS_SENTENCEPIECE_MODEL_H_
#define PACKRAT_MODELS_TOOLS_SENTENCEPIECE_MODEL_H_

#include <string>
#include <vector>

namespace packrat {

enum class PieceType { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

struct SentencePieceParts {
  struct Piece {
    std::string text;  // With U+2581 for a space.
    float score = 0;
    PieceType type = PieceType::kNormal;
  };
  std::vector<Piece> pieces;
  bool unigram = false;          // Else byte pairs.
  int unknown = -1;              // Ids; -1: there is none.
  int bos = -1, eos = -1;        // Of control pieces.
  bool add_dummy_prefix = true;  // A space before a text.
  bool remove_extra_spaces = false;
  std::string character_map;  // precompiled_charsmap; empty: characters stay as they are.
};

std::string SerializeSentencePieces(const SentencePieceParts& parts);

}  // namespace packrat

#endif  // PACKRAT_MODELS_TOOLS_SENTENCEPIECE_MODEL_H_
