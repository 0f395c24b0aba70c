// The safetensors file that holds a network: the text of its graph, and its tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "json.h"

namespace nmx {

enum class Dtype { float32, int8 };

struct Tensor {
  Dtype dtype;
  std::vector<std::size_t> shape;
  std::size_t first, last;  // bytes, from the end of the header on
};

// Everything about the file is checked when it is opened, except what its tensors hold. Of a file on disk only the
// header is in memory; a tensor is read when it is asked for.
class File {
 public:
  explicit File(const std::string& path);
  // The bytes must outlive the File.
  File(const void* data, std::size_t size);

  const std::string& graph() const { return graph_; }
  const Tensor* find(std::string_view name) const;

  // The numbers of a tensor of that type.
  std::vector<float> floats(const std::string& name) const;
  std::vector<float> finite_floats(const std::string& name) const;
  std::vector<std::int8_t> bytes(const std::string& name) const;

 private:
  void open();
  void copy(std::size_t first, std::size_t size, void* to) const;
  void read_tensor(const Member& member);
  void read_metadata(const Json& json);
  void require_covered(std::size_t size) const;

  const std::byte* data_ = nullptr;  // in memory, or null: on disk
  mutable std::ifstream stream_;
  std::size_t size_ = 0, tensors_at_ = 0;
  std::string graph_;
  std::map<std::string, Tensor, std::less<>> tensors_;
};

}  // namespace nmx
