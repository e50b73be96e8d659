// The parts of the SentencePiece library that this project uses. Its header declares names in
// namespace absl, so no source can include both it and Abseil. Only sentence_pieces.cc includes it.
#ifndef PACKRAT_MODELS_TEXT_SENTENCE_PIECES_H_
#define PACKRAT_MODELS_TEXT_SENTENCE_PIECES_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace packrat {

// A SentencePiece model. Ids are in [0, size()). Const members are thread-safe.
class SentencePieces {
 public:
  SentencePieces();
  ~SentencePieces();

  // `serialized`: the bytes of a tokenizer.model. False if they are not a usable model; then only
  // the destructor may be called.
  bool Load(const std::string& serialized);

  // Appends the ids of `text`, which is valid UTF-8. False if the library fails.
  bool Encode(const std::string& text, std::vector<int32_t>* ids) const;

  // The library's text for one piece alone.
  std::string Decode(int id) const;

  int size() const;
  int bos_id() const;  // -1 if there is none; the same below.
  int eos_id() const;
  int IdOf(const std::string& piece) const;
  const std::string& Piece(int id) const;  // With U+2581 for a space.
  bool IsControl(int id) const;
  bool IsUnknown(int id) const;
  bool IsByte(int id) const;  // Then the piece is "<0x00>" to "<0xFF>".

 private:
  struct Processor;
  std::unique_ptr<Processor> processor_;
};

}  // namespace packrat

#endif  // PACKRAT_MODELS_TEXT_SENTENCE_PIECES_H_
