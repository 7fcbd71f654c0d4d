// Selection at run time among the variants of a kernel.
//
// A family of kernels is a plain struct of function pointers. Its header declares one constant per instruction set with
// KV_DECLARE_VARIANTS, its source defines the constant for its own KV_ISA, and callers use the best one that this
// machine can run:
//
//     struct FooKernels { void (*foo)(const Foo&); };
//     KV_DECLARE_VARIANTS(FooKernels, foo_kernels)      // in foo.h, namespace kvloom
//     const FooKernels foo_kernels = {foo};             // in foo.cpp, namespace kvloom::KV_ISA
//     KV_PICK(foo_kernels, isa).foo(...)                // in bindings.cpp
//
// AMX multiplies matrices, and does nothing for other kernels: its variant of a family is that of avx512vnni, unless
// the family is declared with KV_DECLARE_AMX_VARIANTS (and named in CMakeLists.txt).
#pragma once

#include <cstdlib>
#include <cstring>

#if defined(KV_WITH_AMX)  // the compiler knows it, and this is Linux, which is asked for the tiles
#include <sys/syscall.h>
#include <unistd.h>
#define KV_AMX(X, ...) X(amx, __VA_ARGS__)
#else
#define KV_AMX(X, ...)
#endif

#if defined(__x86_64__)
#define KV_EACH_COMPILED_ISA(X, ...) \
  X(avx512vnni, __VA_ARGS__) X(avx512, __VA_ARGS__) X(avx2, __VA_ARGS__) X(portable, __VA_ARGS__)
#elif defined(__aarch64__)
#define KV_EACH_COMPILED_ISA(X, ...) X(neon, __VA_ARGS__) X(portable, __VA_ARGS__)
#else
#define KV_EACH_COMPILED_ISA(X, ...) X(portable, __VA_ARGS__)
#endif
#define KV_EACH_ISA(X, ...) KV_AMX(X, __VA_ARGS__) KV_EACH_COMPILED_ISA(X, __VA_ARGS__)

#define KV_DECLARE_VARIANT(isa, Table, name) \
  namespace isa {                            \
  extern const Table name;                   \
  }
#define KV_SHARE_VARIANT(isa, Table, name)                         \
  namespace isa {                                                  \
  static constexpr const Table& name = ::kvloom::avx512vnni::name; \
  }
#define KV_DECLARE_VARIANTS(Table, name)                \
  KV_EACH_COMPILED_ISA(KV_DECLARE_VARIANT, Table, name) \
  KV_AMX(KV_SHARE_VARIANT, Table, name)
#define KV_DECLARE_AMX_VARIANTS(Table, name) KV_EACH_ISA(KV_DECLARE_VARIANT, Table, name)

#define KV_VARIANT_ADDRESS(isa, name) &::kvloom::isa::name,
#define KV_PICK(name, isa) (*::kvloom::pick_variant({KV_EACH_ISA(KV_VARIANT_ADDRESS, name)}, isa))

namespace kvloom {

// In order of preference.
#define KV_ENUMERATOR(isa, unused) isa##_isa,
enum Isa : int { KV_EACH_ISA(KV_ENUMERATOR, ) num_isas };
#undef KV_ENUMERATOR

#define KV_NAME(isa, unused) #isa,
static const char* const isa_names[num_isas] = {KV_EACH_ISA(KV_NAME, )};
#undef KV_NAME

#if defined(KV_WITH_AMX)
// Whether the processor and the kernel have AMX tiles, and the kernel lets this process use them. It saves their 8 KiB
// for a process that has asked, and refuses where a signal stack is too small for that.
static inline bool tiles_allowed() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool allowed = __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-int8") &&
                              syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return allowed;
}
#endif

static inline bool machine_runs(Isa isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (isa == avx2_isa) return avx2;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (isa == avx512_isa) return avx512;
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  if (isa == avx512vnni_isa) return vnni;
#if defined(KV_WITH_AMX)
  if (isa == amx_isa) return vnni && tiles_allowed();
#endif
#endif
  return isa < num_isas;
}

// The instruction set of this name; num_isas if the machine or this build does not have it.
static inline Isa find_isa(const char* name) {
  for (int i = 0; i < num_isas; i++)
    if (!std::strcmp(name, isa_names[i]) && machine_runs((Isa)i)) return (Isa)i;
  return num_isas;
}

// The best instruction set that this machine runs, or the one named by the environment variable KVLOOM_ISA. num_isas if
// that one cannot run.
static inline Isa default_isa() {
  if (const char* wanted = std::getenv("KVLOOM_ISA"); wanted && *wanted) return find_isa(wanted);
  int i = 0;
  while (!machine_runs((Isa)i)) i++;
  return (Isa)i;
}

template <class Table>
static inline const Table* pick_variant(const Table* const (&variants)[num_isas], Isa isa) {
  return variants[isa];
}

}  // namespace kvloom
