// Working memory of steps: kept between steps, grown when a step has more rows, and released after many much smaller
// steps.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>

namespace kvloom {

class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { std::free(data_); }

  // Returns at least this many floats, aligned to 64 bytes, with undefined contents. Valid until the next call.
  float* reserve(size_t floats) {
    const size_t bytes = (floats * sizeof(float) + kStep - 1) / kStep * kStep;
    idle_ = bytes < bytes_ / kFar ? idle_ + 1 : 0;
    if (bytes > bytes_ || idle_ > kPatience) {
      std::free(data_);
      data_ = nullptr, bytes_ = 0, idle_ = 0;
      data_ = (float*)std::aligned_alloc(64, bytes);
      if (!data_) throw std::bad_alloc();
      bytes_ = bytes;
    }
    return data_;
  }

  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kStep = 4096, kFar = 8;
  static constexpr int kPatience = 256;  // steps

  float* data_ = nullptr;
  size_t bytes_ = 0;
  int idle_ = 0;
};

}  // namespace kvloom
