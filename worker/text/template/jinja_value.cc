// Values, and how Python formats and compares them: repr, JSON, equality across number types.
#include "worker/text/template/jinja_value.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace kvlink::model::jinja {
namespace {

// Python's repr(float): the shortest digits that read back exactly, in exponent form below 1e-4 and from 1e16.
std::string FloatText(double value, bool json) {
  if (std::isnan(value)) return json ? "NaN" : "nan";
  if (std::isinf(value)) return absl::StrCat(value < 0 ? "-" : "", json ? "Infinity" : "inf");
  char buffer[40];
  const double size = std::fabs(value);
  const bool scientific = size != 0 && (size < 1e-4 || size >= 1e16);
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value,
                                 scientific ? std::chars_format::scientific : std::chars_format::fixed);
  std::string text(buffer, end.ptr);
  if (!scientific && text.find('.') == std::string::npos) text += ".0";
  return text;
}

void AppendHex(uint32_t value, int digits, Text& out) {
  for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) out += U"0123456789abcdef"[(value >> shift) & 15];
}

// Escapes have the trust of the character they replace.
void AppendEscape(char32_t c, absl::string_view escape, Text& out) {
  for (const char x : escape) out += static_cast<char32_t>(x) | (c & kUntrusted);
}

void AppendRepr(const Text& text, Text& out) {
  const auto has = [&](char32_t c) {
    return std::any_of(text.begin(), text.end(), [c](char32_t x) { return Plain(x) == c; });
  };
  const char32_t quote = has('\'') && !has('"') ? '"' : '\'';
  out += quote;
  for (const char32_t c : text) {
    const char32_t plain = Plain(c);
    if (plain == quote || plain == '\\') AppendEscape(c, "\\", out);
    if (plain == '\n') {
      AppendEscape(c, "\\n", out);
    } else if (plain == '\r') {
      AppendEscape(c, "\\r", out);
    } else if (plain == '\t') {
      AppendEscape(c, "\\t", out);
    } else if (plain < 0x20 || (plain >= 0x7F && plain <= 0xA0) || plain == 0xAD) {
      AppendEscape(c, "\\x", out);
      Text hex;
      AppendHex(plain, 2, hex);
      for (const char32_t x : hex) out += x | (c & kUntrusted);
    } else {
      out += c;
    }
  }
  out += quote;
}

void AppendJsonString(const Text& text, Text& out) {
  out += U'"';
  for (const char32_t c : text) {
    switch (Plain(c)) {
      case '"':
        AppendEscape(c, "\\\"", out);
        break;
      case '\\':
        AppendEscape(c, "\\\\", out);
        break;
      case '\n':
        AppendEscape(c, "\\n", out);
        break;
      case '\r':
        AppendEscape(c, "\\r", out);
        break;
      case '\t':
        AppendEscape(c, "\\t", out);
        break;
      case '\b':
        AppendEscape(c, "\\b", out);
        break;
      case '\f':
        AppendEscape(c, "\\f", out);
        break;
      default:
        if (Plain(c) < 0x20) {
          AppendEscape(c, Plain(c) < 0x10 ? "\\u000" : "\\u001", out);
          out += U"0123456789abcdef"[Plain(c) & 15] | (c & kUntrusted);
        } else {
          out += c;
        }
    }
  }
  out += U'"';
}

void AppendText(const Value& value, bool repr, Budget& budget, Text& out) {
  if (!budget.Spend(1)) return;
  if (const Text* text = value.string()) {
    if (!budget.SpendText(text->size())) return;
    if (repr) {
      AppendRepr(*text, out);
    } else {
      out += *text;
    }
  } else if (value.is_undefined()) {
    if (repr) out += U"Undefined";
  } else if (value.is_none()) {
    out += U"None";
  } else if (value.is_bool()) {
    out += value.Truthy() ? U"True" : U"False";
  } else if (value.is_int()) {
    out += Ascii(absl::StrCat(value.AsInt()));
  } else if (value.is_float()) {
    out += Ascii(FloatText(value.AsDouble(), false));
  } else if (const List* list = value.list()) {
    out += list->tuple ? U'(' : U'[';
    for (size_t i = 0; i < list->items.size(); ++i) {
      if (i > 0) out += U", ";
      AppendText(list->items[i], true, budget, out);
    }
    if (list->tuple && list->items.size() == 1) out += U',';
    out += list->tuple ? U')' : U']';
  } else if (const Dict* dict = value.dict()) {
    out += U'{';
    for (size_t i = 0; i < dict->entries.size(); ++i) {
      if (i > 0) out += U", ";
      AppendText(dict->entries[i].first, true, budget, out);
      out += U": ";
      AppendText(dict->entries[i].second, true, budget, out);
    }
    out += U'}';
  } else {
    out += Ascii(absl::StrCat("<", value.TypeName(), ">"));
  }
}

void NewLine(int64_t indent, int level, Text& out) {
  if (indent < 0) return;
  out += U'\n';
  out.append(static_cast<size_t>(indent * level), U' ');
}

// Appends a JSON key: strings, and whatever Python converts to one.
bool AppendJsonKey(const Value& key, Text& out) {
  if (const Text* text = key.string()) {
    AppendJsonString(*text, out);
    return true;
  }
  if (key.is_bool() || key.is_none()) {
    out += key.is_none() ? U"\"null\"" : key.Truthy() ? U"\"true\"" : U"\"false\"";
    return true;
  }
  if (!key.is_number()) return false;
  out += U'"';
  out += Ascii(key.is_int() ? absl::StrCat(key.AsInt()) : FloatText(key.AsDouble(), true));
  out += U'"';
  return true;
}

bool AppendJson(const Value& value, int64_t indent, int level, Budget& budget, Text& out) {
  if (!budget.Spend(1 + (indent > 0 ? indent * level / 128 : 0))) return false;
  const Text separator = indent < 0 ? U", " : U",";
  if (const Text* text = value.string()) {
    if (!budget.SpendText(text->size())) return false;
    AppendJsonString(*text, out);
    return true;
  }
  if (value.is_none() || value.is_bool()) {
    out += value.is_none() ? U"null" : value.Truthy() ? U"true" : U"false";
    return true;
  }
  if (value.is_number()) {
    out += Ascii(value.is_int() ? absl::StrCat(value.AsInt()) : FloatText(value.AsDouble(), true));
    return true;
  }
  if (const List* list = value.list()) {
    out += U'[';
    for (size_t i = 0; i < list->items.size(); ++i) {
      if (i > 0) out += separator;
      NewLine(indent, level + 1, out);
      if (!AppendJson(list->items[i], indent, level + 1, budget, out)) return false;
    }
    if (!list->items.empty()) NewLine(indent, level, out);
    out += U']';
    return true;
  }
  const Dict* dict = value.dict();
  if (dict == nullptr) return false;
  out += U'{';
  for (size_t i = 0; i < dict->entries.size(); ++i) {
    if (i > 0) out += separator;
    NewLine(indent, level + 1, out);
    if (!AppendJsonKey(dict->entries[i].first, out)) return false;
    out += U": ";
    if (!AppendJson(dict->entries[i].second, indent, level + 1, budget, out)) return false;
  }
  if (!dict->entries.empty()) NewLine(indent, level, out);
  out += U'}';
  return true;
}

}  // namespace

Value Value::Missing(std::string why) {
  Value value;
  value.data_ = Undefined{std::move(why)};
  return value;
}
Value Value::MakeNone() {
  Value value;
  value.data_ = None{};
  return value;
}
Value Value::Bool(bool b) {
  Value value;
  value.data_ = b;
  return value;
}
Value Value::Int(int64_t i) {
  Value value;
  value.data_ = i;
  return value;
}
Value Value::Float(double d) {
  Value value;
  value.data_ = d;
  return value;
}
Value Value::String(Text text) {
  Value value;
  value.data_ = std::make_shared<const Text>(std::move(text));
  return value;
}
Value Value::MakeList(std::vector<Value> items, bool tuple) {
  auto list = std::make_shared<List>();
  for (const Value& item : items) {
    list->depth = std::max(list->depth, item.depth() + 1);
    list->opaque |= item.opaque();
  }
  list->items = std::move(items);
  list->tuple = tuple;
  Value value;
  value.data_ = std::shared_ptr<const List>(std::move(list));
  return value;
}
Value Value::MakeDict(std::vector<std::pair<Value, Value>> entries) {
  auto dict = std::make_shared<Dict>();
  for (const auto& [key, item] : entries) {
    dict->depth = std::max({dict->depth, key.depth() + 1, item.depth() + 1});
    dict->opaque |= key.opaque() || item.opaque();
  }
  dict->entries = std::move(entries);
  Value value;
  value.data_ = std::shared_ptr<const Dict>(std::move(dict));
  return value;
}
Value Value::MakeNamespace(std::vector<std::pair<std::string, Value>> entries) {
  Value value;
  value.data_ = std::make_shared<Namespace>(Namespace{std::move(entries)});
  return value;
}
Value Value::MakeFunction(Function function) {
  Value value;
  value.data_ = std::make_shared<const Function>(std::move(function));
  return value;
}
Value Value::MakeLoop(std::shared_ptr<Loop> loop) {
  Value value;
  value.data_ = std::move(loop);
  return value;
}

int64_t Value::AsInt() const { return is_bool() ? std::get<bool>(data_) : std::get<int64_t>(data_); }
double Value::AsDouble() const { return is_float() ? std::get<double>(data_) : static_cast<double>(AsInt()); }

bool Value::Truthy() const {
  if (is_undefined() || is_none()) return false;
  if (is_number()) return AsDouble() != 0;
  if (const Text* text = string()) return !text->empty();
  if (const List* items = list()) return !items->items.empty();
  if (const Dict* entries = dict()) return !entries->entries.empty();
  return true;
}

absl::string_view Value::TypeName() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "NoneType";
  if (is_bool()) return "bool";
  if (is_int()) return "int";
  if (is_float()) return "float";
  if (string() != nullptr) return "str";
  if (list() != nullptr) return list()->tuple ? "tuple" : "list";
  if (dict() != nullptr) return "dict";
  if (name_space() != nullptr) return "Namespace";
  return function() != nullptr ? "function" : "loop";
}

int Value::depth() const {
  if (list() != nullptr) return list()->depth;
  if (dict() != nullptr) return dict()->depth;
  return function() != nullptr ? function()->self.depth() + 1 : 0;
}

bool Value::opaque() const {
  if (list() != nullptr) return list()->opaque;
  if (dict() != nullptr) return dict()->opaque;
  if (function() != nullptr) return function()->self.opaque();
  return name_space() != nullptr || loop() != nullptr;
}

const Value* Dict::Find(absl::string_view ascii_key) const {
  const Text wanted = Ascii(ascii_key);
  for (const auto& [key, value] : entries) {
    if (key.string() != nullptr && SameText(*key.string(), wanted)) return &value;
  }
  return nullptr;
}

bool Equal(const Value& a, const Value& b, Budget& budget) {
  if (!budget.Spend(1)) return false;
  if (a.is_number() && b.is_number()) {
    return a.is_float() || b.is_float() ? a.AsDouble() == b.AsDouble() : a.AsInt() == b.AsInt();
  }
  if (a.string() != nullptr && b.string() != nullptr) {
    return a.string()->size() == b.string()->size() && budget.SpendText(a.string()->size()) &&
           SameText(*a.string(), *b.string());
  }
  if (const List* x = a.list(), *y = b.list(); x != nullptr && y != nullptr) {
    if (x->tuple != y->tuple || x->items.size() != y->items.size()) return false;
    for (size_t i = 0; i < x->items.size(); ++i) {
      if (!Equal(x->items[i], y->items[i], budget)) return false;
    }
    return true;
  }
  if (const Dict* x = a.dict(), *y = b.dict(); x != nullptr && y != nullptr) {
    if (x->entries.size() != y->entries.size()) return false;
    for (const auto& [key, value] : x->entries) {
      const Value* other = FindKey(*y, key, budget);
      if (other == nullptr || !Equal(value, *other, budget)) return false;
    }
    return true;
  }
  if (a.name_space() != nullptr || a.loop() != nullptr || a.function() != nullptr) {
    return a.name_space() == b.name_space() && a.loop() == b.loop() && a.function() == b.function();
  }
  return (a.is_none() && b.is_none()) || (a.is_undefined() && b.is_undefined());
}

const Value* FindKey(const Dict& dict, const Value& key, Budget& budget) {
  if (!budget.Spend(1 + static_cast<int64_t>(dict.entries.size() / 64))) return nullptr;
  for (const auto& [candidate, value] : dict.entries) {
    // Fast path: keys usually have the same type, and comparing strings checks lengths first.
    if (candidate.string() != nullptr && key.string() != nullptr) {
      if (SameText(*candidate.string(), *key.string())) return &value;
    } else if (Equal(candidate, key, budget)) {
      return &value;
    }
  }
  return nullptr;
}

Text ToText(const Value& value, Budget& budget) {
  Text out;
  AppendText(value, false, budget, out);
  return out;
}

bool ToJson(const Value& value, int64_t indent, Budget& budget, Text& out) {
  return AppendJson(value, indent, 0, budget, out);
}

}  // namespace kvlink::model::jinja
