#include "models/text/sentence_pieces.h"

#include <sentencepiece_processor.h>

namespace packrat {

struct SentencePieces::Processor {
  sentencepiece::SentencePieceProcessor p;
};

SentencePieces::SentencePieces() : processor_(std::make_unique<Processor>()) {}
SentencePieces::~SentencePieces() = default;

bool SentencePieces::Load(const std::string& serialized) {
  return !serialized.empty() && processor_->p.LoadFromSerializedProto(serialized).ok();
}

bool SentencePieces::Encode(const std::string& text, std::vector<int32_t>* ids) const {
  std::vector<int> found;
  if (!processor_->p.Encode(text, &found).ok()) return false;
  ids->insert(ids->end(), found.begin(), found.end());
  return true;
}

std::string SentencePieces::Decode(int id) const {
  std::string text;
  return processor_->p.Decode(std::vector<int>{id}, &text).ok() ? text : "";
}

int SentencePieces::size() const { return processor_->p.GetPieceSize(); }
int SentencePieces::bos_id() const { return processor_->p.bos_id(); }
int SentencePieces::eos_id() const { return processor_->p.eos_id(); }
int SentencePieces::IdOf(const std::string& piece) const {
  // Without such a piece the library gives the id of the unknown piece.
  const int id = processor_->p.PieceToId(piece);
  return processor_->p.IdToPiece(id) == piece ? id : -1;
}
const std::string& SentencePieces::Piece(int id) const { return processor_->p.IdToPiece(id); }
bool SentencePieces::IsControl(int id) const { return processor_->p.IsControl(id); }
bool SentencePieces::IsUnknown(int id) const { return processor_->p.IsUnknown(id); }
bool SentencePieces::IsByte(int id) const { return processor_->p.IsByte(id); }

}  // namespace packrat
