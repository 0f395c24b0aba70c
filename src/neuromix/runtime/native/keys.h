// The keys of an object in the graph: each is asked for, with what it may hold, and none may be left over.
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "error.h"
#include "json.h"

namespace nmx {

class Keys {
 public:
  // `where` begins each message.
  Keys(const Json& json, std::string where) : where_(std::move(where)) {
    object_ = json.as<Json::Object>();
    if (!object_) fail(where_, ": an object is expected");
    used_.resize(object_->size());
  }

  const std::string& where() const { return where_; }
  void say_where(std::string where) { where_ = std::move(where); }

  template <typename... Parts>
  [[noreturn]] void wrong(std::string_view key, const Parts&... parts) const {
    fail(where_, ": ", in_quotes(key), " ", parts...);
  }

  const Json& any(std::string_view key) {
    for (std::size_t i = 0; i < object_->size(); ++i)
      if ((*object_)[i].key == key) {
        used_[i] = true;
        return (*object_)[i].value;
      }
    wrong(key, "is missing");
  }

  const std::string& string(std::string_view key) { return as<std::string>(any(key), key, "a string"); }
  bool boolean(std::string_view key) { return as<bool>(any(key), key, "true or false"); }
  const Json::Array& list(std::string_view key) { return as<Json::Array>(any(key), key, "a list"); }

  std::size_t integer(std::string_view key, std::size_t least, std::size_t most) {
    return integer_in(any(key), key, least, most);
  }

  void pair(std::string_view key, std::size_t least, std::size_t most, std::size_t (&to)[2]) {
    const auto& items = list(key);
    if (items.size() != 2) wrong(key, "must be a pair");
    for (int i = 0; i < 2; ++i) to[i] = integer_in(items[i], key, least, most);
  }

  std::vector<std::size_t> integers(std::string_view key, std::size_t least, std::size_t most) {
    std::vector<std::size_t> numbers;
    for (const Json& item : list(key)) numbers.push_back(integer_in(item, key, least, most));
    return numbers;
  }

  // A number that is finite as a float, too.
  float number(std::string_view key) {
    const double x = as<double>(any(key), key, "a number");
    if (!(std::abs(x) <= double(std::numeric_limits<float>::max()))) wrong(key, "must be finite in float32");
    return static_cast<float>(x);
  }

  // The position in `names`.
  template <std::size_t N>
  std::size_t choice(std::string_view key, const char* const (&names)[N]) {
    const std::string& given = string(key);
    for (std::size_t i = 0; i < N; ++i)
      if (given == names[i]) return i;
    std::string all;
    for (std::size_t i = 0; i < N; ++i)
      all += (i == 0 ? "" : i + 1 < N ? ", " : " or ") + std::string(names[i]);
    wrong(key, "must be ", all, ", not ", in_quotes(given));
  }

  void none_left() const {
    for (std::size_t i = 0; i < object_->size(); ++i)
      if (!used_[i]) wrong((*object_)[i].key, "is not a key of it");
  }

 private:
  template <typename T>
  const T& as(const Json& json, std::string_view key, const char* what) const {
    const T* value = json.as<T>();
    if (!value) wrong(key, "must be ", what);
    return *value;
  }

  std::size_t integer_in(const Json& json, std::string_view key, std::size_t least, std::size_t most) const {
    const double x = as<double>(json, key, "made of integers");
    if (x != std::floor(x) || !(x >= double(least) && x <= double(most)))
      wrong(key, "must be made of integers from ", least, " to ", most);
    return static_cast<std::size_t>(x);
  }

  const Json::Object* object_;
  std::vector<bool> used_;
  std::string where_;
};

}  // namespace nmx
