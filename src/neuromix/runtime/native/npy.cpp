#include "npy.h"

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "value.h"

namespace nmx {
namespace {

constexpr char kMagic[] = "\x93NUMPY";
constexpr std::size_t kMagicSize = 6, kHeaderMost = 1 << 16;

// The literal of a Python dictionary after the magic, the version and its length.
std::string read_header(std::istream& stream) {
  char magic[kMagicSize + 2];
  if (!stream.read(magic, sizeof magic) || std::string(magic, kMagicSize) != std::string(kMagic, kMagicSize))
    fail("not an .npy file");
  const int length_bytes = magic[kMagicSize] == 1 ? 2 : 4;
  std::size_t length = 0;
  for (int i = 0; i < length_bytes; ++i) length |= std::size_t(stream.get() & 0xFF) << 8 * i;
  if (!stream || length > kHeaderMost) fail("the header is broken");
  std::string header(length, ' ');
  if (!stream.read(header.data(), static_cast<std::streamsize>(length))) fail("the header is broken");
  return header;
}

// The text of an entry of the dictionary.
std::string entry(const std::string& header, const std::string& key) {
  const std::size_t found = header.find("'" + key + "':");
  if (found == header.npos) fail("the header has no ", key);
  const std::size_t first = header.find_first_not_of(' ', found + key.size() + 3);
  const std::size_t last =
      first == header.npos ? first : header.find_first_of(header[first] == '(' ? ")" : ",}", first);
  if (last == header.npos) fail("the header is broken");
  return header.substr(first, last - first);
}

std::vector<std::size_t> shape_of(const std::string& header) {
  if (entry(header, "descr") != "'<f4'") fail("the numbers must be float32 ('<f4')");
  if (entry(header, "fortran_order") != "False") fail("the array must be in C order");
  const std::string tuple = entry(header, "shape");
  if (tuple.empty() || tuple[0] != '(') fail("the shape is broken");
  std::vector<std::size_t> shape;
  std::istringstream sides(tuple.substr(1));
  for (std::string side; std::getline(sides, side, ',');) {
    const std::size_t first = side.find_first_not_of(' ');
    if (first == side.npos) continue;
    if (side.size() - first > 12 || side.find_first_not_of("0123456789", first) != side.npos)
      fail("the shape is broken");
    shape.push_back(std::size_t(std::stoull(side.substr(first))));
  }
  return shape;
}

Array read_array(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) fail("there is no such file");
  std::ifstream stream(path, std::ios::binary);
  Array array;
  array.shape = shape_of(read_header(stream));
  std::size_t bytes = sizeof(float);
  for (const std::size_t n : array.shape) bytes = checked_product(bytes, n);
  const auto here = stream.tellg();
  if (here < 0 || std::filesystem::file_size(path) - std::size_t(here) < bytes) fail("the file is too short");
  array.numbers.resize(bytes / sizeof(float));
  stream.read(reinterpret_cast<char*>(array.numbers.data()), static_cast<std::streamsize>(bytes));
  if (!stream) fail("the file cannot be read");
  return array;
}

std::string header_of(const Array& array) {
  std::string shape;
  for (const std::size_t n : array.shape) shape += std::to_string(n) + ", ";
  if (array.shape.size() > 1) shape.resize(shape.size() - 2);
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + shape + "), }";
  const std::size_t before = kMagicSize + 4;
  header += std::string(63 - (before + header.size()) % 64, ' ') + "\n";
  const std::size_t length = header.size();
  return std::string(kMagic, kMagicSize) + '\x01' + '\0' + char(length & 0xFF) + char(length >> 8) + header;
}

}  // namespace

Array read_npy(const std::string& path) {
  try {
    return read_array(path);
  } catch (const Error& error) {
    fail(path, ": ", error.what());
  }
}

void write_npy(const std::string& path, const Array& array) {
  const std::string temporary = path + "." + std::to_string(std::random_device{}()) + ".tmp";
  std::error_code error;
  {
    std::ofstream stream(temporary, std::ios::binary);
    const std::string header = header_of(array);
    stream.write(header.data(), static_cast<std::streamsize>(header.size()));
    stream.write(reinterpret_cast<const char*>(array.numbers.data()),
                 static_cast<std::streamsize>(array.numbers.size() * sizeof(float)));
    stream.close();
    if (stream) std::filesystem::rename(temporary, path, error);
    if (stream && !error) return;
  }
  std::filesystem::remove(temporary, error);
  fail(path, ": the file cannot be written");
}

}  // namespace nmx
