// The only way to use several cores: a team of threads that claim items one by one.
#pragma once

#include <cstdint>

namespace kvloom {

// Calls body(context, i) for i in [0, count), in any order, on the calling thread and up to `threads` - 1 workers.
// Compiled only once (pool.cpp). A call never waits for a worker that has not started: on a busy machine the caller
// does the work itself.
void run_items(int64_t count, int threads, void (*body)(const void* context, int64_t item), const void* context);

// The same for any callable.
template <class Body>
static inline void parallel_for(int64_t count, int threads, const Body& body) {
  if (threads <= 1 || count <= 1) {
    for (int64_t i = 0; i < count; i++) body(i);
    return;
  }
  run_items(count, threads, [](const void* context, int64_t i) { (*(const Body*)context)(i); }, &body);
}

}  // namespace kvloom
