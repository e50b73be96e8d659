// Output of programs for their user; this is not the log.
#ifndef PACKRAT_SERVER_STANDARD_OUTPUT_H_
#define PACKRAT_SERVER_STANDARD_OUTPUT_H_

#include <string>

namespace packrat {

// Writes `text` to standard output at once. If that fails (the disk is full, the descriptor is
// closed), says so on standard error and ends the process with 1: nobody would see what it does
// next.
void Print(const std::string& text);

// If one of the descriptors 0 to 2 is closed, the next file or socket gets its number, and output
// for the terminal would go into it. This opens a descriptor in its place that fails when it is
// used, or ends the process. Call it first in main, or in .preinit_array if libraries open files
// before main: it calls nothing that a sanitizer must prepare.
void FillStandardDescriptors();

}  // namespace packrat

#endif  // PACKRAT_SERVER_STANDARD_OUTPUT_H_
