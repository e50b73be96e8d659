// What the operating system reports about this process: the source of the process_* metrics.
#ifndef PACKRAT_SERVER_PROCESS_STATS_H_
#define PACKRAT_SERVER_PROCESS_STATS_H_

namespace packrat {

struct ProcessStats {
  double cpu_seconds = 0;  // Of all threads, user and system.
  double resident_bytes = 0;
  double virtual_bytes = 0;
  double threads = 0;
  double open_fds = 0;
  double max_fds = 0;             // The soft limit; infinite where there is none.
  double start_time_seconds = 0;  // Since the Unix epoch. The same at every reading.
};

// Values that cannot be read are 0.
ProcessStats ReadProcessStats();

}  // namespace packrat

#endif  // PACKRAT_SERVER_PROCESS_STATS_H_
