// Mistakes in files and arguments, each as one line that says what is wrong.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace nmx {

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  stream.imbue(std::locale::classic());
  (stream << ... << parts);
  return stream.str();
}

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw Error(text(parts...));
}

// A name out of a file, fit for a line: shortened, and without control characters.
inline std::string in_quotes(std::string_view name) {
  constexpr std::size_t kMost = 100;
  std::size_t size = name.size();
  if (size > kMost)
    for (size = kMost; size > 0 && (name[size] & 0xC0) == 0x80;) --size;  // not within a character
  std::string line = "'";
  for (const char c : name.substr(0, size))
    line += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
  return line + (size < name.size() ? "...'" : "'");
}

}  // namespace nmx
