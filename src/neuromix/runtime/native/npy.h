// Arrays of float32 in NumPy's .npy files.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace nmx {

struct Array {
  std::vector<std::size_t> shape;
  std::vector<float> numbers;
};

// Both throw Error. A file is written under another name first, so that it is there as a whole or not at all.
Array read_npy(const std::string& path);
void write_npy(const std::string& path, const Array& array);

}  // namespace nmx
