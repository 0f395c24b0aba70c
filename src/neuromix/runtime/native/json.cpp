#include "json.h"

#include <algorithm>
#include <cstdint>
#include <locale>
#include <sstream>

#include "error.h"

namespace nmx {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// The bytes of the character that begins a text, 0 where it is not well-formed UTF-8.
std::size_t character_size(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t size = first >= 0xC2 && first <= 0xDF   ? 2
                           : first >= 0xE0 && first <= 0xEF ? 3
                           : first >= 0xF0 && first <= 0xF4 ? 4
                                                            : 0;
  for (std::size_t i = 1; i < size; ++i)
    if ((byte(i) & 0xC0) != 0x80) return 0;
  // Overlong forms, surrogates, and what is above U+10FFFF.
  const unsigned second = byte(1);
  if ((first == 0xE0 && second < 0xA0) || (first == 0xED && second > 0x9F) ||
      (first == 0xF0 && second < 0x90) || (first == 0xF4 && second > 0x8F))
    return 0;
  return size;
}

void append_utf8(std::string& out, std::uint32_t code) {
  const auto tail = [&](unsigned shift) { out += static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | (code >> 6));
    tail(0);
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | (code >> 12));
    tail(6), tail(0);
  } else {
    out += static_cast<char>(0xF0 | (code >> 18));
    tail(12), tail(6), tail(0);
  }
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json document() {
    Json json = value(0);
    skip_space();
    if (at_ < text_.size()) wrong("something follows the value");
    return json;
  }

 private:
  [[noreturn]] void wrong(const char* what) const { fail("not JSON at byte ", at_, ": ", what); }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  void skip_space() {
    while (at_ < text_.size() && (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r')) ++at_;
  }

  bool take(char c) {
    skip_space();
    if (peek() != c || at_ == text_.size()) return false;
    ++at_;
    return true;
  }

  Json value(std::size_t depth) {
    if (depth > kJsonDepth) wrong("nested too deep");
    if (++values_ > kJsonValues) wrong("too many values");
    skip_space();
    switch (peek()) {
      case '{':
        return {object(depth)};
      case '[':
        return {array(depth)};
      case '"':
        return {string()};
      case 't':
        return word("true"), Json{true};
      case 'f':
        return word("false"), Json{false};
      case 'n':
        return word("null"), Json{nullptr};
    }
    return {number()};
  }

  void word(std::string_view expected) {
    if (text_.substr(at_, expected.size()) != expected) wrong("a value is expected");
    at_ += expected.size();
  }

  Json::Array array(std::size_t depth) {
    Json::Array items;
    take('[');
    if (take(']')) return items;
    do items.push_back(value(depth + 1));
    while (take(','));
    if (!take(']')) wrong("',' or ']' is expected");
    return items;
  }

  Json::Object object(std::size_t depth) {
    Json::Object members;
    take('{');
    if (take('}')) return members;
    do {
      skip_space();
      if (peek() != '"') wrong("a key is expected");
      std::string key = string();
      if (!take(':')) wrong("':' is expected");
      members.push_back({std::move(key), value(depth + 1)});
    } while (take(','));
    if (!take('}')) wrong("',' or '}' is expected");
    require_distinct(members);
    return members;
  }

  static void require_distinct(const Json::Object& members) {
    std::vector<std::string_view> keys;
    for (const Member& member : members) keys.push_back(member.key);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) fail("key ", in_quotes(*twice), " occurs twice");
  }

  std::string string() {
    std::string out;
    for (++at_; peek() != '"';) {
      if (static_cast<unsigned char>(peek()) < 0x20)
        wrong("a string does not end, or has a control character");
      if (peek() == '\\') {
        escape(out);
        continue;
      }
      const std::size_t size = character_size(text_.substr(at_));
      if (size == 0) wrong("a string is not UTF-8");
      out += text_.substr(at_, size);
      at_ += size;
    }
    ++at_;
    return out;
  }

  void escape(std::string& out) {
    static constexpr std::string_view names = "\"\\/bfnrt", characters = "\"\\/\b\f\n\r\t";
    ++at_;
    const char c = peek();
    ++at_;
    if (c == 'u') return append_utf8(out, escaped_code());
    const std::size_t which = names.find(c);
    if (which == names.npos) wrong("unknown escape");
    out += characters[which];
  }

  // The character that \u names; those beyond 16 bits take two of them.
  std::uint32_t escaped_code() {
    const std::uint32_t code = hex4();
    if (code < 0xD800 || code > 0xDFFF) return code;
    if (code > 0xDBFF || text_.substr(at_, 2) != "\\u") wrong("half a surrogate pair");
    at_ += 2;
    const std::uint32_t low = hex4();
    if (low < 0xDC00 || low > 0xDFFF) wrong("half a surrogate pair");
    return 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
  }

  std::uint32_t hex4() {
    static constexpr std::string_view digits = "0123456789abcdef";
    std::uint32_t code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = peek();
      const std::size_t digit = digits.find(c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c);
      if (digit == digits.npos) wrong("four hexadecimal digits are expected");
      code = code * 16 + static_cast<std::uint32_t>(digit);
    }
    return code;
  }

  void digits() {
    if (!is_digit(peek())) wrong(at_ < text_.size() ? "a value is expected" : "the text ends too early");
    while (is_digit(peek())) ++at_;
  }

  double number() {
    const std::size_t first = at_;
    if (peek() == '-') ++at_;
    const bool zero = peek() == '0';
    const std::size_t whole = at_;
    digits();
    if (zero && at_ > whole + 1) wrong("a number begins with 0");
    const std::size_t whole_end = at_;
    if (peek() == '.') ++at_, digits();
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      digits();
    }
    const std::string_view all = text_.substr(first, at_ - first);
    return at_ == whole_end && all.size() <= 15 ? integer(all) : real(all);
  }

  static double integer(std::string_view all) {
    const bool negative = all[0] == '-';
    std::int64_t n = 0;
    for (const char c : all.substr(negative)) n = 10 * n + (c - '0');
    return negative ? -double(n) : double(n);
  }

  // By way of a stream, since strtod would read a number as the user's locale writes it.
  double real(std::string_view all) const {
    std::istringstream stream{std::string(all)};
    stream.imbue(std::locale::classic());
    double number = 0;
    if (!(stream >> number)) wrong("a number is out of range");
    return number;
  }

  std::string_view text_;
  std::size_t at_ = 0, values_ = 0;
};

}  // namespace

Json parse_json(std::string_view text) { return Parser(text).document(); }

}  // namespace nmx
