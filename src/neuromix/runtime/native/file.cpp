#include "file.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <utility>

#include "error.h"

namespace nmx {
namespace {

constexpr std::size_t kLengthBytes = 8;
constexpr std::size_t kHeaderMost = std::size_t{1} << 24;
constexpr std::size_t kAxesMost = 8;

const Json& member(const Json::Object& object, std::string_view key) {
  for (const Member& m : object)
    if (m.key == key) return m.value;
  fail("key ", in_quotes(key), " is missing");
}

// An integer of at least 0 that a double holds exactly.
std::size_t size_of(const Json& json) {
  const double* number = json.as<double>();
  if (!number || !(*number >= 0 && *number <= 9007199254740992.0) || *number != std::floor(*number))
    fail("sizes and offsets must be integers of at least 0");
  if (*number > double(std::numeric_limits<std::size_t>::max() / 2)) fail("a size is too large");
  return static_cast<std::size_t>(*number);
}

std::vector<std::size_t> sizes_of(const Json& json, const char* what) {
  const auto* items = json.as<Json::Array>();
  if (!items || items->size() > kAxesMost) fail(what, " must be a short list");
  std::vector<std::size_t> sizes;
  for (const Json& item : *items) sizes.push_back(size_of(item));
  return sizes;
}

std::size_t byte_size(const Tensor& tensor) {
  std::size_t size = tensor.dtype == Dtype::float32 ? sizeof(float) : 1;
  for (const std::size_t n : tensor.shape) {
    if (n > 0 && size > std::numeric_limits<std::size_t>::max() / n) fail("the shape is too large");
    size *= n;
  }
  return size;
}

Tensor tensor_of(const Json::Object& object) {
  if (object.size() != 3) fail("the keys must be 'dtype', 'shape' and 'data_offsets'");
  const auto* dtype = member(object, "dtype").as<std::string>();
  if (!dtype || (*dtype != "F32" && *dtype != "I8")) fail("the dtype must be F32 or I8");
  const auto offsets = sizes_of(member(object, "data_offsets"), "data_offsets");
  if (offsets.size() != 2 || offsets[0] > offsets[1]) fail("data_offsets must be two ascending offsets");
  Tensor tensor{*dtype == "F32" ? Dtype::float32 : Dtype::int8, sizes_of(member(object, "shape"), "shape"),
                offsets[0], offsets[1]};
  if (byte_size(tensor) != tensor.last - tensor.first) fail("the offsets do not fit the shape");
  return tensor;
}

}  // namespace

File::File(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) fail("there is no such file");
  const auto size = std::filesystem::file_size(path, error);
  stream_.open(path, std::ios::binary);
  if (error || !stream_) fail("the file cannot be opened");
  size_ = std::size_t(size);
  open();
}

File::File(const void* data, std::size_t size) : data_(static_cast<const std::byte*>(data)), size_(size) { open(); }

void File::copy(std::size_t first, std::size_t size, void* to) const {
  if (size == 0) return;
  if (data_) {
    std::memcpy(to, data_ + first, size);
    return;
  }
  stream_.seekg(std::streamoff(first));
  if (!stream_.read(static_cast<char*>(to), std::streamsize(size))) fail("the file cannot be read");
}

void File::open() {
  if (size_ < kLengthBytes) fail("not a safetensors file: too short");
  unsigned char little_endian[kLengthBytes];
  copy(0, kLengthBytes, little_endian);
  std::uint64_t length = 0;
  for (std::size_t i = kLengthBytes; i-- > 0;) length = length << 8 | little_endian[i];
  if (length > size_ - kLengthBytes) fail("not a safetensors file: the header is longer than the file");
  if (length > kHeaderMost) fail("the header is longer than ", kHeaderMost, " bytes");

  std::string header(std::size_t(length), ' ');
  copy(kLengthBytes, header.size(), header.data());
  const Json json = parse_json(header);
  const auto* members = json.as<Json::Object>();
  if (!members) fail("not a safetensors file: the header is no object");
  bool has_metadata = false;
  for (const Member& m : *members) {
    const bool is_metadata = m.key == "__metadata__";
    has_metadata |= is_metadata;
    is_metadata ? read_metadata(m.value) : read_tensor(m);
  }
  if (!has_metadata) fail("not an .nmx file: the header has no metadata");
  tensors_at_ = kLengthBytes + header.size();
  require_covered(size_ - tensors_at_);
}

void File::read_metadata(const Json& json) {
  const auto* members = json.as<Json::Object>();
  if (!members) fail("the metadata must be an object of strings");
  const std::string *format = nullptr, *graph = nullptr;
  for (const Member& m : *members) {
    const auto* string = m.value.as<std::string>();
    if (!string) fail("metadata ", in_quotes(m.key), " must be a string");
    if (m.key == "format") format = string;
    if (m.key == "graph") graph = string;
  }
  if (!format || *format != "nmx") fail("not an .nmx file: the format in the metadata is not 'nmx'");
  if (!graph) fail("not an .nmx file: the metadata has no graph");
  graph_ = *graph;
}

void File::read_tensor(const Member& m) {
  try {
    const auto* object = m.value.as<Json::Object>();
    if (!object) fail("an object is expected");
    tensors_.emplace(m.key, tensor_of(*object));
  } catch (const Error& error) {
    fail("tensor ", in_quotes(m.key), ": ", error.what());
  }
}

// One tensor must follow the other, from the end of the header to the end of the file.
void File::require_covered(std::size_t size) const {
  std::vector<std::pair<std::size_t, std::size_t>> ranges;
  for (const auto& [name, tensor] : tensors_) ranges.emplace_back(tensor.first, tensor.last);
  std::sort(ranges.begin(), ranges.end());
  std::size_t end = 0;
  for (const auto& [first, last] : ranges) {
    if (first != end) fail("tensors overlap or leave gaps at byte ", std::min(first, end), " of the data");
    end = last;
  }
  if (end != size) fail("the tensors take ", end, " bytes, the file has ", size, " for them");
}

const Tensor* File::find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

std::vector<float> File::floats(const std::string& name) const {
  const Tensor& tensor = tensors_.at(name);
  std::vector<float> numbers((tensor.last - tensor.first) / sizeof(float));
  copy(tensors_at_ + tensor.first, numbers.size() * sizeof(float), numbers.data());
  return numbers;
}

std::vector<float> File::finite_floats(const std::string& name) const {
  std::vector<float> numbers = floats(name);
  bool finite = true;
  for (const float x : numbers) finite &= std::abs(x) <= std::numeric_limits<float>::max();
  if (!finite) fail("tensor ", in_quotes(name), " has numbers that are not finite");
  return numbers;
}

std::vector<std::int8_t> File::bytes(const std::string& name) const {
  const Tensor& tensor = tensors_.at(name);
  std::vector<std::int8_t> numbers(tensor.last - tensor.first);
  copy(tensors_at_ + tensor.first, numbers.size(), numbers.data());
  return numbers;
}

}  // namespace nmx
