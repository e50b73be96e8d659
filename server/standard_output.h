// Output of programs for their user, as opposed to the log.
#ifndef PACKRAT_SERVER_STANDARD_OUTPUT_H_
#define PACKRAT_SERVER_STANDARD_OUTPUT_H_

#include <string>

namespace packrat {

// Writes `text` to standard output at once. Where that cannot be written (the disk is full, the
// descriptor is closed), says so on standard error and ends the process with 1: whatever it would
// do now, nobody would see.
void Print(const std::string& text);

// First thing in main: if one of the descriptors 0 to 2 is closed, the next socket would get its
// number, and text would be written into it. Puts one in its place that fails when it is used.
void FillStandardDescriptors();

}  // namespace packrat

#endif  // PACKRAT_SERVER_STANDARD_OUTPUT_H_
