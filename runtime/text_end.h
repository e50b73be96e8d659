// Where the text of a session ends: what the prefix cache keeps for it is the state there.
#ifndef PACKRAT_RUNTIME_TEXT_END_H_
#define PACKRAT_RUNTIME_TEXT_END_H_

#include <memory>

namespace packrat {

// Whoever stands there holds it: a session that has come to it by a turn or from elsewhere, and its
// forks, until each goes on, is rewound, or ends. The others only see whether anybody does, and how
// many.
struct TextEnd {};
using HeldTextEnd = std::shared_ptr<const TextEnd>;
using SeenTextEnd = std::weak_ptr<const TextEnd>;

inline bool IsSame(const SeenTextEnd& a, const SeenTextEnd& b) {
  return !a.owner_before(b) && !b.owner_before(a);
}
// Somebody stood there, and nobody does.
inline bool IsLeft(const SeenTextEnd& end) { return end.expired() && !IsSame(end, {}); }

// Of a turn: the end that its session goes on from, and the one that it comes to, held until it is
// known whether the session does. Both may be nobody's.
struct TurnEnds {
  SeenTextEnd from, to;
};

}  // namespace packrat

#endif  // PACKRAT_RUNTIME_TEXT_END_H_
