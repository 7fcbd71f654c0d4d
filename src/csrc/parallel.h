// One way to use the cores: OpenMP, in the runtime that torch has already loaded into the process.
#pragma once

#include <cstdint>

namespace kvloom {

// Calls body(i) for i in [0, count), in any order, on at most `threads` threads.
template <class Body>
static inline void parallel_for(int64_t count, int threads, const Body& body) {
  if (threads <= 1 || count <= 1) {  // an OpenMP team of one costs a microsecond
    for (int64_t i = 0; i < count; i++) body(i);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t i = 0; i < count; i++) body(i);
}

}  // namespace kvloom
