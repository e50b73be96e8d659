// Output of programs for their user, as opposed to the log.
#ifndef PACKRAT_SERVER_STANDARD_OUTPUT_H_
#define PACKRAT_SERVER_STANDARD_OUTPUT_H_

#include <string>

namespace packrat {

// Writes `text` to standard output at once. If that fails (the disk is full, the descriptor is
// closed), says so on standard error and ends the process with 1: nobody would see what it does
// next.
void Print(const std::string& text);

// If one of the descriptors 0 to 2 is closed, the next file or socket gets its number, and what is
// meant for the terminal is written into it. Puts one in its place that fails when it is used; ends
// the process where it cannot. First thing in main, or in .preinit_array where libraries open files
// before main: it calls nothing that a sanitizer would have to prepare.
void FillStandardDescriptors();

}  // namespace packrat

#endif  // PACKRAT_SERVER_STANDARD_OUTPUT_H_
