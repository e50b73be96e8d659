#include "models/tools/sentencepiece_model.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace packrat {
namespace {

// Fields of a message in the wire format of Protocol Buffers.
class Message {
 public:
  void Integer(int field, int64_t value) {
    Key(field, 0);
    Varint(static_cast<uint64_t>(value));
  }
  void Float(int field, float value) {
    Key(field, 5);
    char bytes[sizeof(value)];
    std::memcpy(bytes, &value, sizeof(value));
    bytes_.append(bytes, sizeof(bytes));
  }
  void Bytes(int field, const std::string& value) {
    Key(field, 2);
    Varint(value.size());
    bytes_ += value;
  }
  void Add(int field, const Message& message) { Bytes(field, message.bytes_); }
  const std::string& bytes() const { return bytes_; }

 private:
  void Key(int field, int wire_type) { Varint(static_cast<uint64_t>(field) << 3 | wire_type); }
  void Varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }

  std::string bytes_;
};

}  // namespace

std::string SerializeSentencePieces(const SentencePieceParts& parts) {
  Message model;
  for (const SentencePieceParts::Piece& piece : parts.pieces) {
    Message m;
    m.Bytes(1, piece.text);
    m.Float(2, piece.score);
    m.Integer(3, static_cast<int>(piece.type));
    model.Add(1, m);
  }
  const bool has_bytes = std::any_of(parts.pieces.begin(), parts.pieces.end(),
                                     [](const auto& p) { return p.type == PieceType::kByte; });
  Message trainer;
  trainer.Integer(3, parts.unigram ? 1 : 2);
  trainer.Integer(4, static_cast<int64_t>(parts.pieces.size()));
  trainer.Integer(35, has_bytes);
  // The library goes by the names of these pieces; without one, by a name that no piece has.
  const auto special = [&](int id_field, int name_field, int id) {
    trainer.Integer(id_field, id);
    trainer.Bytes(name_field, id < 0 ? std::string("\x7f") : parts.pieces[id].text);
  };
  special(40, 45, parts.unknown);
  special(41, 46, parts.bos);
  special(42, 47, parts.eos);
  model.Add(2, trainer);
  Message normalizer;
  normalizer.Bytes(1, parts.character_map.empty() ? "identity" : "precompiled");
  normalizer.Bytes(2, parts.character_map);
  normalizer.Integer(3, parts.add_dummy_prefix);
  normalizer.Integer(4, parts.remove_extra_spaces);
  model.Add(3, normalizer);
  return model.bytes();
}

}  // namespace packrat
