// How an op's C++ function becomes a function of the Python module: write it, then LA_OP(name).
//
//   void kv_compress(void* k_out, ..., int64_t tokens, float eps, cudaStream_t stream);
//   LA_OP(kv_compress)
//
// Parameters are pointers (device addresses), int64_t, float or double, and last the stream; Python passes integers for
// pointers and stream. Without a stream a function runs on the host, for tests. It enqueues and returns: it never
// allocates or synchronises, and it throws std::invalid_argument for what its kernel does not take. module.cpp turns
// that and CUDA's errors into Python's.
// No header of Python or torch here: device code compiles without them, and one file serves every version of both.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace la {

union Value {
  int64_t i;
  double f;
};

struct Entry {
  const char* name;
  const char* kinds;  // a letter per parameter: p(ointer), i(nteger), f(loat), s(tream)
  void (*call)(const Value*);
  Entry* next;
  static inline Entry* first = nullptr;

  Entry(const char* name, const char* kinds, void (*call)(const Value*))
      : name(name), kinds(kinds), call(call), next(std::exchange(first, this)) {}
};

template <class T>
constexpr char kind() {
  static_assert(std::is_pointer_v<T> || std::is_floating_point_v<T> || std::is_same_v<T, int64_t>,
                "an op takes pointers, int64_t, float or double");
  if constexpr (std::is_same_v<T, cudaStream_t>) return 's';
  return std::is_pointer_v<T> ? 'p' : std::is_floating_point_v<T> ? 'f' : 'i';
}

template <class T>
T from(const Value& v) {
  if constexpr (std::is_pointer_v<T>) return reinterpret_cast<T>(static_cast<uintptr_t>(v.i));
  else if constexpr (std::is_floating_point_v<T>) return static_cast<T>(v.f);
  else return v.i;
}

template <auto F>
struct Adapter;

template <class... A, void (*F)(A...)>
struct Adapter<F> {
  static constexpr char kinds[] = {kind<A>()..., 0};
  template <size_t... I>
  static void unpack(const Value* v, std::index_sequence<I...>) {
    F(from<A>(v[I])...);
  }
  static void call(const Value* v) { unpack(v, std::index_sequence_for<A...>{}); }
};

}  // namespace la

#define LA_OP(function) \
  static ::la::Entry la_entry_##function(#function, ::la::Adapter<&function>::kinds, ::la::Adapter<&function>::call);
