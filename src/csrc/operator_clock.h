// Seconds spent per operator, added up over steps. Reading the clock costs 25 ns; a step reads it a few hundred times.
#pragma once

#include <chrono>
#include <cstdint>

namespace kvloom {

enum class Operator : int { embed, norm, linear, heads, write, attend, observe, head, argmax, count };
constexpr const char* kOperatorNames[(int)Operator::count] = {"embed",  "norm",    "linear", "heads", "write",
                                                              "attend", "observe", "head",   "argmax"};

class OperatorClock {
 public:
  // Runs `work` and charges its time to `op`.
  template <class Work>
  void measure(Operator op, const Work& work) {
    const auto started = std::chrono::steady_clock::now();
    work();
    ticks_[(int)op] += std::chrono::steady_clock::now() - started;
  }

  double seconds(Operator op) const { return std::chrono::duration<double>(ticks_[(int)op]).count(); }

 private:
  std::chrono::steady_clock::duration ticks_[(int)Operator::count] = {};
};

}  // namespace kvloom
