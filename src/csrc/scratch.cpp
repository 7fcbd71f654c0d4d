#include "scratch.h"

#include <cstdlib>
#include <new>

namespace kvloom {
namespace {

struct Block {
  void* data = nullptr;
  size_t bytes = 0;
  ~Block() { std::free(data); }
};

thread_local Block blocks[(int)Scratch::count];

}  // namespace

void* scratch(Scratch purpose, size_t bytes) {
  Block& block = blocks[(int)purpose];
  if (bytes > block.bytes) {
    const size_t grown = (bytes + bytes / 4 + 4095) / 4096 * 4096;
    std::free(block.data);
    block = {};
    block.data = std::aligned_alloc(64, grown);
    if (!block.data) throw std::bad_alloc();
    block.bytes = grown;
  }
  return block.data;
}

}  // namespace kvloom
