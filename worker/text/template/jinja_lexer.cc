// Splits a template into data and tokens, and applies the whitespace rules (trim_blocks, lstrip_blocks, minus signs)
// that transformers sets.
#include "worker/text/template/jinja_lexer.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status.h"

namespace kvlink::model::jinja {
namespace {

bool IsNameStart(char32_t c) { return c == '_' || (c < 0x80 && absl::ascii_isalpha(static_cast<unsigned char>(c))); }
bool IsDigit(char32_t c) { return c >= '0' && c <= '9'; }
bool IsNamePart(char32_t c) { return IsNameStart(c) || IsDigit(c); }

class Lexer {
 public:
  explicit Lexer(Text source) : source_(std::move(source)) {}

  absl::StatusOr<std::vector<Token>> Run() {
    while (at_ < source_.size()) {
      KVLINK_RETURN_IF_ERROR(DataAndTag());
    }
    Push(Token::Kind::kEnd);
    return std::move(tokens_);
  }

 private:
  absl::Status Error(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("line ", line_, ": ", what));
  }
  char32_t Peek(size_t ahead = 0) const { return at_ + ahead < source_.size() ? source_[at_ + ahead] : 0; }
  bool At(const char32_t* part) const {
    return source_.compare(at_, std::char_traits<char32_t>::length(part), part) == 0;
  }
  void Skip(size_t count) {
    for (; count > 0 && at_ < source_.size(); --count) line_ += source_[at_++] == '\n';
  }
  void SkipSpace() {
    while (at_ < source_.size() && IsSpace(source_[at_])) Skip(1);
  }
  Token& Push(Token::Kind kind) {
    tokens_.emplace_back();
    tokens_.back().kind = kind;
    tokens_.back().line = line_;
    return tokens_.back();
  }

  // Adds the text up to the next tag, minus what the tag's sign or lstrip_blocks strips from its end, then the tag.
  absl::Status DataAndTag() {
    size_t tag = at_;
    while (tag + 1 < source_.size() &&
           !(source_[tag] == '{' && (source_[tag + 1] == '{' || source_[tag + 1] == '%' || source_[tag + 1] == '#'))) {
      ++tag;
    }
    if (tag + 1 >= source_.size()) tag = source_.size();
    Text data = source_.substr(at_, tag - at_);
    if (tag < source_.size()) StripBefore(source_[tag + 1], tag + 2 < source_.size() ? source_[tag + 2] : 0, data);
    if (!data.empty()) Push(Token::Kind::kData).text = std::move(data);
    Skip(tag - at_);
    if (at_ >= source_.size()) return absl::OkStatus();
    if (Peek(1) == '#') return Comment();
    if (Peek(1) == '{') return Tag(Token::Kind::kVariableBegin);
    return AtRaw() ? Raw() : Tag(Token::Kind::kBlockBegin);
  }

  void StripBefore(char32_t kind, char32_t sign, Text& data) {
    if (sign == '-') {
      data = Strip(data, nullptr, false, true);
    } else if (sign != '+' && kind != '{') {
      const size_t newline = data.rfind(U'\n');
      const size_t begin = newline == Text::npos ? 0 : newline + 1;
      if (begin == 0 && !line_start_) return;
      if (std::all_of(data.begin() + begin, data.end(), IsSpace)) data.resize(begin);
    }
  }

  // After the end of a tag: "-" strips all whitespace that follows; without a sign, any tag except a variable strips
  // one newline.
  void StripAfter(char32_t sign, bool trim) {
    const size_t begin = at_;
    if (sign == '-') {
      SkipSpace();
    } else if (trim && sign != '+' && Peek() == '\n') {
      Skip(1);
    }
    line_start_ = at_ > begin && source_[at_ - 1] == '\n';
  }

  absl::Status Comment() {
    const size_t end = source_.find(U"#}", at_ + 2);
    if (end == Text::npos) return Error("this comment has no end, add \"#}\"");
    const char32_t sign = end > at_ + 2 ? source_[end - 1] : 0;
    Skip(end + 2 - at_);
    StripAfter(sign, true);
    return absl::OkStatus();
  }

  // Whether "{% raw %}" is next. Does not advance.
  bool AtRaw() const {
    size_t at = at_ + 2;
    if (at < source_.size() && (source_[at] == '-' || source_[at] == '+')) ++at;
    while (at < source_.size() && IsSpace(source_[at])) ++at;
    if (source_.compare(at, 3, U"raw") != 0) return false;
    at += 3;
    while (at < source_.size() && IsSpace(source_[at])) ++at;
    return source_.compare(at, 2, U"%}") == 0 || source_.compare(at, 3, U"-%}") == 0;
  }

  absl::Status Raw() {
    const size_t close = source_.find(U"%}", at_);
    const bool strip = source_[close - 1] == '-';
    Skip(close + 2 - at_);
    StripAfter(strip ? '-' : '+', false);
    for (size_t tag = source_.find(U"{%", at_); tag != Text::npos; tag = source_.find(U"{%", tag + 2)) {
      size_t at = tag + 2;
      const char32_t sign = at < source_.size() ? source_[at] : 0;
      if (sign == '-' || sign == '+') ++at;
      while (at < source_.size() && IsSpace(source_[at])) ++at;
      if (source_.compare(at, 6, U"endraw") != 0) continue;
      at += 6;
      while (at < source_.size() && IsSpace(source_[at])) ++at;
      char32_t after = at < source_.size() ? source_[at] : 0;
      if (after == '-' || after == '+') ++at;
      if (source_.compare(at, 2, U"%}") != 0) continue;
      Text data = source_.substr(at_, tag - at_);
      StripBefore('%', sign, data);
      if (!data.empty()) Push(Token::Kind::kData).text = std::move(data);
      Skip(at + 2 - at_);
      StripAfter(after, true);
      return absl::OkStatus();
    }
    return Error("this raw block has no end, add \"{% endraw %}\"");
  }

  absl::Status Tag(Token::Kind begin) {
    const bool variable = begin == Token::Kind::kVariableBegin;
    const Text end = variable ? U"}}" : U"%}";
    Push(begin);
    Skip(2);
    if (Peek() == '-' || Peek() == '+') Skip(1);
    std::string open;  // brackets open within the tag: inside them, "}}" does not end it
    while (true) {
      SkipSpace();
      if (at_ >= source_.size()) return Error(variable ? "\"{{\" has no \"}}\"" : "\"{%\" has no \"%}\"");
      const char32_t sign = Peek() == '-' || (Peek() == '+' && !variable) ? Peek() : 0;
      if (open.empty() && source_.compare(at_ + (sign != 0), 2, end) == 0) {
        Push(variable ? Token::Kind::kVariableEnd : Token::Kind::kBlockEnd);
        Skip(sign != 0 ? 3 : 2);
        StripAfter(sign, !variable);
        return absl::OkStatus();
      }
      KVLINK_RETURN_IF_ERROR(TagToken(open));
    }
  }

  absl::Status TagToken(std::string& open) {
    const char32_t c = Peek();
    if (IsNameStart(c)) {
      std::string& name = Push(Token::Kind::kName).name;
      for (; at_ < source_.size() && IsNamePart(source_[at_]); ++at_) name += static_cast<char>(source_[at_]);
      return absl::OkStatus();
    }
    if (IsDigit(c)) return Number();
    if (c == '\'' || c == '"') return String();
    static constexpr const char32_t* kOperators[] = {U"**", U"//", U"==", U"!=", U">=", U"<=", U"+", U"-", U"*",
                                                     U"/",  U"%",  U"~",  U"[",  U"]",  U"(",  U")", U"{", U"}",
                                                     U">",  U"<",  U"=",  U".",  U":",  U"|",  U",", U";"};
    for (const char32_t* op : kOperators) {
      if (!At(op)) continue;
      std::string& name = Push(Token::Kind::kOperator).name;
      for (const char32_t* x = op; *x != 0; ++x) name += static_cast<char>(*x);
      if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
      if (c == ')' || c == ']' || c == '}') {
        if (open.empty() || open.back() != static_cast<char>(c))
          return Error(absl::StrCat("unexpected \"", name, "\""));
        open.pop_back();
      }
      Skip(name.size());
      return absl::OkStatus();
    }
    return Error(absl::StrCat("unexpected character \"", EncodeText(Text(1, c)), "\""));
  }

  absl::Status Number() {
    std::string digits;
    bool is_float = false;
    const auto take = [&] {
      for (; IsDigit(Peek()) || (Peek() == '_' && IsDigit(Peek(1))); ++at_) {
        if (Peek() != '_') digits += static_cast<char>(Peek());
      }
    };
    if (Peek() == '0' && (absl::ascii_isalpha(static_cast<unsigned char>(Peek(1) & 0x7F)))) {
      return Error("write this number in decimal");
    }
    take();
    const bool after_dot = tokens_.back().kind == Token::Kind::kOperator && tokens_.back().name == ".";
    if (!after_dot && Peek() == '.' && IsDigit(Peek(1))) {
      is_float = true;
      digits += '.';
      ++at_;
      take();
    }
    const size_t sign = Peek(1) == '+' || Peek(1) == '-' ? 1 : 0;
    if (!after_dot && (Peek() == 'e' || Peek() == 'E') && IsDigit(Peek(1 + sign))) {
      is_float = true;
      digits += 'e';
      if (sign != 0) digits += static_cast<char>(Peek(1));
      at_ += 1 + sign;
      take();
    }
    Token& token = Push(is_float ? Token::Kind::kFloat : Token::Kind::kInteger);
    const bool ok = is_float ? absl::SimpleAtod(digits, &token.number) : absl::SimpleAtoi(digits, &token.integer);
    return ok ? absl::OkStatus() : Error("this number is too large");
  }

  absl::Status String() {
    const char32_t quote = Peek();
    Text text;
    Token token;
    token.line = line_;
    Skip(1);
    while (Peek() != quote) {
      if (at_ >= source_.size()) return Error("this string has no end");
      if (Peek() == '\\') {
        Skip(1);
        KVLINK_RETURN_IF_ERROR(Escape(text));
      } else {
        text += Peek();
        Skip(1);
      }
    }
    Skip(1);
    token.kind = Token::Kind::kString;
    token.text = std::move(text);
    tokens_.push_back(std::move(token));
    return absl::OkStatus();
  }

  // Python's escapes; an unknown escape is kept as it is, backslash included.
  absl::Status Escape(Text& text) {
    static constexpr char32_t kFrom[] = U"\\'\"abfnrtv";
    static constexpr char32_t kTo[] = U"\\'\"\a\b\f\n\r\t\v";
    const char32_t c = Peek();
    if (at_ >= source_.size()) return Error("this string has no end");
    if (c == '\n') {
      Skip(1);
      return absl::OkStatus();
    }
    for (int i = 0; kFrom[i] != 0; ++i) {
      if (c != kFrom[i]) continue;
      text += kTo[i];
      ++at_;
      return absl::OkStatus();
    }
    if (c >= '0' && c <= '7') {
      char32_t value = 0;
      for (int i = 0; i < 3 && Peek() >= '0' && Peek() <= '7'; ++i, ++at_) value = value * 8 + (Peek() - '0');
      text += value;
      return absl::OkStatus();
    }
    const int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits == 0) {
      text += U'\\';
      return absl::OkStatus();
    }
    ++at_;
    uint64_t value = 0;
    for (int i = 0; i < digits; ++i, ++at_) {
      const char32_t d = Peek();
      if (d >= 0x80 || !absl::ascii_isxdigit(static_cast<unsigned char>(d)))
        return Error("this string has a broken escape");
      value = value * 16 + (IsDigit(d) ? d - '0' : (d | 0x20) - 'a' + 10);
    }
    if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF))
      return Error("this string escapes what is no character");
    text += static_cast<char32_t>(value);
    return absl::OkStatus();
  }

  const Text source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_start_ = true;  // whether the last character consumed ended a line
  std::vector<Token> tokens_;
};

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source) {
  std::string lines = absl::StrReplaceAll(source, {{"\r\n", "\n"}, {"\r", "\n"}});
  if (absl::EndsWith(lines, "\n")) lines.pop_back();
  absl::StatusOr<Text> text = DecodeText(lines, /*trusted=*/true);
  if (!text.ok()) return Annotate(text.status(), "the template");
  return Lexer(*std::move(text)).Run();
}

}  // namespace kvlink::model::jinja
