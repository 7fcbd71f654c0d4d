// Working memory of kernels: one block per thread and purpose, kept between calls and grown when needed.
#pragma once

#include <cstddef>

namespace kvloom {

enum class Scratch { states, missing, tile, observed, activations, gated, count };

// Returns at least `bytes`, aligned to 64 bytes, with undefined contents. Valid until the same thread asks for the same
// purpose again.
void* scratch(Scratch purpose, size_t bytes);

}  // namespace kvloom
