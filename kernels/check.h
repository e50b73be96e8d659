// PACKRAT_CHECK stops the process when an invariant of the program is broken. It is never the
// answer to bad input: that gets an absl::Status.
//
//   PACKRAT_CHECK(slot < num_slots);
//   PACKRAT_CHECK(slot < num_slots, "freed twice");
//   PACKRAT_CHECK(slot < num_slots) << "slot " << slot;
#ifndef PACKRAT_KERNELS_CHECK_H_
#define PACKRAT_KERNELS_CHECK_H_

#include <sstream>
#include <string>

namespace packrat {

// Writes `text` as a line to standard error and aborts. Where nobody reads that, it waits for a
// second and aborts without: a process that is broken must not hang on its last words.
[[noreturn]] void Die(const std::string& text);

namespace internal {

// Collects the message; its destructor dies with it.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition, const char* message = "") {
    stream_ << file << ":" << line << ": check failed: " << condition;
    if (*message != '\0') stream_ << ": " << message;
    stream_ << " ";
  }
  CheckFailure(const CheckFailure&) = delete;
  CheckFailure& operator=(const CheckFailure&) = delete;
  [[noreturn]] ~CheckFailure() { Die(stream_.str()); }
  std::ostream& stream() { return stream_; }

 private:
  std::ostringstream stream_;
};

// Turns the stream into void, so that both arms of the ?: below have one type. `&` binds weaker
// than `<<` and stronger than `?:`.
struct Voidify {
  void operator&(std::ostream&) const {}
};

}  // namespace internal
}  // namespace packrat

// The condition is evaluated exactly once, in every build.
#define PACKRAT_CHECK(...) \
  PACKRAT_CHECK_PICK_(__VA_ARGS__, PACKRAT_CHECK2_, PACKRAT_CHECK1_, )(__VA_ARGS__)
#define PACKRAT_CHECK_PICK_(a, b, pick, ...) pick
#define PACKRAT_CHECK1_(condition) PACKRAT_CHECK_IMPL_(condition, #condition, "")
#define PACKRAT_CHECK2_(condition, message) PACKRAT_CHECK_IMPL_(condition, #condition, message)
#define PACKRAT_CHECK_IMPL_(condition, text, message)  \
  __builtin_expect(static_cast<bool>(condition), true) \
      ? static_cast<void>(0)                           \
      : ::packrat::internal::Voidify() &               \
            ::packrat::internal::CheckFailure(__FILE__, __LINE__, text, message).stream()

#endif  // PACKRAT_KERNELS_CHECK_H_
