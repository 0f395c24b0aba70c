// A strict reader of JSON.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace nmx {

struct Member;

struct Json {
  using Array = std::vector<Json>;
  using Object = std::vector<Member>;  // in the order of the text, no key twice

  std::variant<std::nullptr_t, bool, double, std::string, Array, Object> value;

  template <typename T>
  const T* as() const {
    return std::get_if<T>(&value);
  }
};

struct Member {
  std::string key;
  Json value;
};

// Limits of what is read, so that a small text cannot take much memory or a deep stack.
constexpr std::size_t kJsonDepth = 16;
constexpr std::size_t kJsonValues = std::size_t{1} << 20;

// Throws Error where the text is not JSON in UTF-8, has a key twice in one object, a number out of the range
// of double, or is beyond the limits.
Json parse_json(std::string_view text);

}  // namespace nmx
