// The ops compiled into this library, called by name: for tests/cuda_cpu.py.
#include <cstring>
#include <string>

#include "registry.h"

extern "C" const char* kinds(const char* name) {
  for (const la::Entry* op = la::Entry::first; op; op = op->next)
    if (!std::strcmp(op->name, name)) return op->kinds;
  return nullptr;
}

// nullptr, or what went wrong.
extern "C" const char* run(const char* name, const la::Value* values, int falling) {
  static std::string said;
  cpu::falling = falling;
  for (const la::Entry* op = la::Entry::first; op; op = op->next) {
    if (std::strcmp(op->name, name)) continue;
    try {
      op->call(values);
      return nullptr;
    } catch (const std::exception& error) {
      said = error.what();
      return said.c_str();
    }
  }
  return "no such op";
}
