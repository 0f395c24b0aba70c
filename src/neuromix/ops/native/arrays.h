// Checks of the arrays that Python passes. Nothing is converted or copied: an output that were would be lost.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <string>

namespace neuromix {

namespace nb = nanobind;

using Input = nb::ndarray<nb::ro>;
using Output = nb::ndarray<>;

template <typename Array>
std::string describe(const Array& array) {
  static constexpr const char* kinds[] = {"int", "uint", "float", "object", "bfloat", "complex", "bool"};
  const nb::dlpack::dtype dtype = array.dtype();
  std::string text = dtype.code < 7 ? kinds[dtype.code] : "dtype";
  text += std::to_string(dtype.bits) + "[";
  for (std::size_t i = 0; i < array.ndim(); ++i) text += (i ? ", " : "") + std::to_string(array.shape(i));
  return text + "]";
}

template <typename Array>
bool is_dense(const Array& array) {
  if (array.size() == 0) return true;
  std::int64_t expected = 1;
  for (std::size_t i = array.ndim(); i-- > 0;) {
    if (array.shape(i) != 1 && array.stride(i) != expected) return false;
    expected *= static_cast<std::int64_t>(array.shape(i));
  }
  return true;
}

template <typename Array>
void require_dense(const char* name, const Array& array) {
  if (array.device_type() != nb::device::cpu::value)
    throw nb::value_error((std::string(name) + " must be in CPU memory").c_str());
  if (!is_dense(array)) throw nb::value_error((std::string(name) + " must be contiguous").c_str());
}

// `array` must have the dtype of `model`, and its shape from axis `from` on.
template <typename Array, typename Model>
void require_like(const char* name, const Array& array, const char* model_name, const Model& model,
                  std::size_t from = 0) {
  bool same = array.ndim() + from == model.ndim();
  for (std::size_t i = 0; same && i < array.ndim(); ++i) same = array.shape(i) == model.shape(i + from);
  const std::string given = std::string(name) + " " + describe(array) + " does not fit " + model_name + " " +
                            describe(model);
  if (array.dtype() != model.dtype()) throw nb::type_error((given + ": the dtypes differ").c_str());
  if (!same)
    throw nb::value_error(
        (given + (from ? ": it must have its shape without the time axis" : ": the shapes differ")).c_str());
}

template <typename A, typename B>
void require_apart(const char* a_name, const A& a, const char* b_name, const B& b) {
  const auto a_first = reinterpret_cast<std::uintptr_t>(a.data());
  const auto b_first = reinterpret_cast<std::uintptr_t>(b.data());
  if (a_first < b_first + b.nbytes() && b_first < a_first + a.nbytes())
    throw nb::value_error((std::string(a_name) + " and " + b_name + " must not share memory").c_str());
}

// Calls function(Real{}) with the C++ type of the array's dtype.
template <typename Array, typename Function>
void with_real_type(const char* name, const Array& array, const Function& function) {
  if (array.dtype() == nb::dtype<float>())
    function(float{});
  else if (array.dtype() == nb::dtype<double>())
    function(double{});
  else
    throw nb::type_error(
        (std::string(name) + " " + describe(array) + " must be float32 or float64").c_str());
}

}  // namespace neuromix
