// liveact_kernels._C: every function that registered itself (registry.h). This file names no op.
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "registry.h"

namespace py = pybind11;

namespace {

const char* wanted(char kind) {
  if (kind == 'f') return "a number";
  if (kind == 'i') return "an integer";
  return kind == 's' ? "a stream as an integer" : "an address as an integer";
}

la::Value convert(const la::Entry& op, size_t i, py::handle given) {
  la::Value v;
  if (op.kinds[i] == 'f') v.f = PyFloat_AsDouble(given.ptr());
  else if (op.kinds[i] == 'i') v.i = PyLong_AsLongLong(given.ptr());
  else v.i = static_cast<int64_t>(PyLong_AsUnsignedLongLong(given.ptr()));
  if (PyErr_Occurred()) {
    PyErr_Clear();
    throw py::type_error(std::string(op.name) + ": argument " + std::to_string(i) + ": expected " +
                         wanted(op.kinds[i]) + ", got " + std::string(py::repr(given)));
  }
  return v;
}

void run(const la::Entry& op, const py::args& given) {
  const size_t n = std::strlen(op.kinds);
  if (given.size() != n)
    throw py::type_error(std::string(op.name) + ": expected " + std::to_string(n) + " arguments, got " +
                         std::to_string(given.size()));
  std::vector<la::Value> values(n);
  for (size_t i = 0; i < n; ++i) values[i] = convert(op, i, given[i]);
  const bool launches = n && op.kinds[n - 1] == 's';
  cudaError_t error = cudaSuccess;
  {
    py::gil_scoped_release released;
    if (launches) (void)cudaGetLastError();  // an error of somebody else's launch is not this op's
    op.call(values.data());
    if (launches) error = cudaGetLastError();
  }
  if (error != cudaSuccess) throw std::runtime_error(std::string(op.name) + ": " + cudaGetErrorString(error));
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "CUDA C++ kernels of liveact_kernels: functions of addresses, sizes and a stream; csrc/registry.h.";
  for (la::Entry* op = la::Entry::first; op; op = op->next)
    m.attr(op->name) = py::cpp_function([op](const py::args& args) { run(*op, args); }, py::name(op->name));
  py::list archs;
  std::string all = LA_ARCHS;
  for (size_t at = 0, end; at < all.size(); at = end + 1) {
    end = std::min(all.find(',', at), all.size());
    archs.append("sm_" + all.substr(at, end - at));
  }
  m.attr("ARCHS") = py::tuple(archs);
  m.attr("CUDART") = CUDART_VERSION;  // of the runtime inside: 13000 is CUDA 13.0
  py::dict build;
  build["nvcc"] = LA_NVCC;
  build["pybind11"] = PYBIND11_TOSTRING(PYBIND11_VERSION_MAJOR) "." PYBIND11_TOSTRING(PYBIND11_VERSION_MINOR);
  m.attr("BUILD") = build;
}
