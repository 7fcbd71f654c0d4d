// The team of threads behind parallel_for.
//
// A kernel call lasts tens of microseconds and there are hundreds per token, so workers spin briefly for the next call
// before they sleep. There is no barrier that all threads must reach: items are claimed one by one, a late worker finds
// nothing left, and a call is over when its last item is. (An OpenMP team does spin at a barrier: with a second busy
// process on the machine a 37 ms token took 290 ms.)

#include <pthread.h>

#include <atomic>
#include <climits>
#include <mutex>
#include <thread>

#include "parallel.h"

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace kvloom {
namespace {

constexpr int kWatch = 2000;  // pauses before a worker sleeps: about 50 microseconds

inline void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Sleeps while `word` has the value `seen`; may wake for no reason.
void sleep_while(std::atomic<uint32_t>& word, uint32_t seen) {
#if defined(__linux__)
  syscall(SYS_futex, (uint32_t*)&word, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
#else
  if (word.load() == seen) std::this_thread::sleep_for(std::chrono::microseconds(50));
#endif
}

void wake_all(std::atomic<uint32_t>& word) {
#if defined(__linux__)
  syscall(SYS_futex, (uint32_t*)&word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
#endif
}

class Pool {
 public:
  void run(int64_t count, int threads, void (*body)(const void*, int64_t), const void* context) {
    std::unique_lock<std::mutex> only_caller(calls_, std::try_to_lock);
    if (!only_caller.owns_lock()) {  // another thread is using the team: work alone
      for (int64_t i = 0; i < count; i++) body(context, i);
      return;
    }
    grow(threads - 1);
    body_ = body, context_ = context, count_ = count, workers_ = threads - 1;
    next_.store(0), done_.store(0);
    call_.fetch_add(1);  // odd: open
    if (sleeping_.load() > 0) wake_all(call_);
    work();
    while (done_.load() < count) relax();
    call_.fetch_add(1);  // even: closed; whoever is still inside finds nothing left, and leaves
    while (inside_.load() > 0) relax();
  }

 private:
  void grow(int wanted) {
    for (; started_ < wanted; started_++) std::thread(&Pool::serve, this, started_).detach();
  }

  void serve(int id) {
    uint32_t seen = 0;
    while (true) {
      const uint32_t call = next_call(seen);
      inside_.fetch_add(1);
      // Entered, then looked again: if the call is still open, the caller will wait for this worker to leave.
      if (call_.load() == call && id < workers_) work();
      inside_.fetch_sub(1);
      seen = call;
    }
  }

  // The number of an open call that this worker has not served.
  uint32_t next_call(uint32_t seen) {
    while (true) {
      uint32_t call = call_.load();
      for (int i = 0; i < kWatch && (call == seen || call % 2 == 0); i++) pause_core(), call = call_.load();
      if (call != seen && call % 2 == 1) return call;
      sleeping_.fetch_add(1);
      sleep_while(call_, call);
      sleeping_.fetch_sub(1);
    }
  }

  void work() {
    for (int64_t i; (i = next_.fetch_add(1)) < count_; done_.fetch_add(1)) body_(context_, i);
  }

  static void relax() {
    static thread_local int turns = 0;
    if (++turns % 64)
      pause_core();
    else
      std::this_thread::yield();
  }

  std::mutex calls_;
  int started_ = 0;
  void (*body_)(const void*, int64_t) = nullptr;
  const void* context_ = nullptr;
  int64_t count_ = 0;
  int workers_ = 0;
  alignas(64) std::atomic<uint32_t> call_{0};
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<int> inside_{0};
  std::atomic<int> sleeping_{0};
};

// Never destroyed: workers may outlive main(). A forked child has no workers, so it starts a new team.
Pool* team = nullptr;

void forget_team() {
  team = nullptr;
}

Pool& the_team() {
  static std::mutex making;
  static std::once_flag watched;
  std::call_once(watched, [] { pthread_atfork(nullptr, nullptr, forget_team); });
  std::lock_guard<std::mutex> lock(making);
  if (!team) team = new Pool;
  return *team;
}

}  // namespace

void run_items(int64_t count, int threads, void (*body)(const void*, int64_t), const void* context) {
  the_team().run(count, threads, body, context);
}

}  // namespace kvloom
