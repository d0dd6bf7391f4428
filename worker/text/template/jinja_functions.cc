// Global functions and methods of the template interpreter.
#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/status.h"
#include "worker/text/template/jinja_evaluator.h"

namespace kvlink::model::jinja {
namespace {

// For all formats that chat templates use, strftime and absl::FormatTime agree.
std::string FormatDate(const std::string& format, const std::string& date) {
  static constexpr char kDateFormat[] = "%d %b %Y";
  if (!date.empty() && format == kDateFormat) return date;
  absl::Time time = absl::Now();
  absl::TimeZone zone = absl::LocalTimeZone();
  std::string error;
  if (!date.empty() && absl::ParseTime(kDateFormat, date, &time, &error)) zone = absl::UTCTimeZone();
  return absl::FormatTime(format, time, zone);
}

}  // namespace

absl::Status Evaluator::SpendSearch(const Text& text, const Text& part, int line) {
  const auto work = static_cast<int64_t>(text.size()) * static_cast<int64_t>(std::max<size_t>(part.size(), 1));
  budget_.Spend(1 + work / 1024);
  return CheckBudget(line);
}

absl::StatusOr<Text> Evaluator::TextArgument(const Arguments& arguments, size_t position, absl::string_view name,
                                             std::optional<Text> fallback) {
  const Value* value = arguments.Find(position, name);
  if (value != nullptr && value->string() != nullptr) return *value->string();
  if ((value == nullptr || value->is_none()) && fallback.has_value()) return *std::move(fallback);
  return Error(arguments.line, absl::StrCat("the argument ", name, " must be a string"));
}

absl::StatusOr<int64_t> Evaluator::IntArgument(const Arguments& arguments, size_t position, absl::string_view name,
                                               std::optional<int64_t> fallback) {
  const Value* value = arguments.Find(position, name);
  if (value != nullptr && value->is_integer()) return value->AsInt();
  if ((value == nullptr || value->is_none()) && fallback.has_value()) return *fallback;
  return Error(arguments.line, absl::StrCat("the argument ", name, " must be an integer"));
}

Evaluator::Result Evaluator::Call(const Function& function, const Arguments& arguments) {
  if (function.macro != nullptr) return CallMacro(*function.macro, arguments);
  if (!function.method) return CallGlobal(function.name, arguments);
  if (const Text* text = function.self.string()) return CallStringMethod(*text, function.name, arguments);
  if (Loop* loop = function.self.loop()) return CallLoopMethod(*loop, function.name, arguments);
  return CallMethod(function.self, function.name, arguments);
}

Evaluator::Result Evaluator::CallGlobal(const std::string& name, const Arguments& arguments) {
  const int line = arguments.line;
  if (name == "raise_exception") {
    if (arguments.values.empty()) return Error(line, "raise_exception takes a message");
    return absl::FailedPreconditionError(EncodeText(ToText(arguments.values[0], budget_)));
  }
  if (name == "strftime_now") {
    KVLINK_ASSIGN_OR_RETURN(const Text format, TextArgument(arguments, 0, "format", std::nullopt));
    KVLINK_ASSIGN_OR_RETURN(Text date, DecodeText(FormatDate(EncodeText(format), date_), /*trusted=*/true));
    return NewText(std::move(date), line);
  }
  if (name == "range") {
    KVLINK_ASSIGN_OR_RETURN(int64_t start, IntArgument(arguments, 0, "start", std::nullopt));
    int64_t stop = start;
    if (arguments.values.size() > 1) {
      KVLINK_ASSIGN_OR_RETURN(stop, IntArgument(arguments, 1, "stop", std::nullopt));
    } else {
      start = 0;
    }
    KVLINK_ASSIGN_OR_RETURN(const int64_t step, IntArgument(arguments, 2, "step", 1));
    if (step == 0) return Error(line, "the step of range() must not be 0");
    std::vector<Value> items;
    for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
      if (!budget_.Spend(1)) break;
      items.push_back(Value::Int(i));
      if (__builtin_add_overflow(i, step, &i)) break;
    }
    return NewList(std::move(items), line);
  }
  // namespace(...) and dict(...): named values, preceded by those of a dictionary argument.
  std::vector<std::pair<Value, Value>> entries;
  if (!arguments.values.empty()) {
    const Dict* dict = arguments.values[0].dict();
    if (dict == nullptr) return Error(line, absl::StrCat(name, "() takes a dictionary or named values"));
    entries = dict->entries;
  }
  for (const auto& [key, value] : arguments.named) entries.emplace_back(Value::String(key), value);
  if (name == "dict") return NewDict(std::move(entries), line);
  std::vector<std::pair<std::string, Value>> attributes;
  for (auto& [key, value] : entries) {
    if (value.opaque()) return Unimplemented(line, "a namespace or a loop within a namespace");
    if (key.string() != nullptr) attributes.emplace_back(EncodeText(*key.string()), std::move(value));
  }
  return Value::MakeNamespace(std::move(attributes));
}

Evaluator::Result Evaluator::CallStringMethod(const Text& self, const std::string& name, const Arguments& arguments) {
  const int line = arguments.line;
  if (name == "strip" || name == "lstrip" || name == "rstrip") {
    const Value* given = arguments.Find(0, "chars");
    KVLINK_ASSIGN_OR_RETURN(const Text chars, TextArgument(arguments, 0, "chars", Text()));
    KVLINK_RETURN_IF_ERROR(SpendSearch(self, chars, line));
    const bool whitespace = given == nullptr || given->is_none();
    return NewText(Strip(self, whitespace ? nullptr : &chars, name != "rstrip", name != "lstrip"), line);
  }
  if (name == "upper") return NewText(Upper(self), line);
  if (name == "lower") return NewText(Lower(self), line);
  if (name == "title") return NewText(Title(self), line);
  if (name == "capitalize") return NewText(Capitalize(self), line);
  if (name == "startswith" || name == "endswith") {
    if (arguments.values.empty()) return Error(line, absl::StrCat(name, " takes a string"));
    std::vector<Value> parts = {arguments.values[0]};
    if (const List* list = arguments.values[0].list()) parts = list->items;
    for (const Value& part : parts) {
      if (part.string() == nullptr) return Error(line, absl::StrCat(name, " takes a string, not a ", part.TypeName()));
      budget_.SpendText(part.string()->size());
      if (name == "startswith" ? StartsWith(self, *part.string()) : EndsWith(self, *part.string()))
        return Value::Bool(true);
    }
    return Value::Bool(false);
  }
  if (name == "split") {
    const Value* given = arguments.Find(0, "sep");
    KVLINK_ASSIGN_OR_RETURN(const int64_t limit, IntArgument(arguments, 1, "maxsplit", -1));
    KVLINK_ASSIGN_OR_RETURN(const Text separator, TextArgument(arguments, 0, "sep", Text()));
    const bool whitespace = given == nullptr || given->is_none();
    if (!whitespace && separator.empty()) return Error(line, "split takes a separator that is not empty");
    KVLINK_RETURN_IF_ERROR(SpendSearch(self, separator, line));
    std::vector<Value> items;
    for (Text& part : whitespace ? SplitWhitespace(self, limit) : Split(self, separator, limit)) {
      items.push_back(Value::String(std::move(part)));
    }
    return NewList(std::move(items), line);
  }
  if (name == "splitlines") {
    budget_.SpendText(self.size());
    std::vector<Value> items;
    for (Text& part : SplitLines(self)) items.push_back(Value::String(std::move(part)));
    return NewList(std::move(items), line);
  }
  if (name == "join") {
    if (arguments.values.size() != 1) return Error(line, "join takes a list");
    KVLINK_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(arguments.values[0], line));
    return JoinText(items, self, line);
  }
  KVLINK_ASSIGN_OR_RETURN(const Text part, TextArgument(arguments, 0, "the first", std::nullopt));
  KVLINK_RETURN_IF_ERROR(SpendSearch(self, part, line));
  if (name == "replace") {
    KVLINK_ASSIGN_OR_RETURN(const Text to, TextArgument(arguments, 1, "the second", std::nullopt));
    KVLINK_ASSIGN_OR_RETURN(const int64_t count, IntArgument(arguments, 2, "count", -1));
    return ReplaceText(self, part, to, count, line);
  }
  if (name == "removeprefix") return NewText(StartsWith(self, part) ? self.substr(part.size()) : self, line);
  if (name == "removesuffix") {
    return NewText(EndsWith(self, part) ? self.substr(0, self.size() - part.size()) : self, line);
  }
  if (name == "find") {
    const size_t found = FindText(self, part);
    return Value::Int(found == Text::npos ? -1 : static_cast<int64_t>(found));
  }
  if (name == "count") {
    if (part.empty()) return Value::Int(static_cast<int64_t>(self.size()) + 1);
    int64_t count = 0;
    for (size_t at = FindText(self, part); at != Text::npos; at = FindText(self, part, at + part.size())) ++count;
    return Value::Int(count);
  }
  return Unimplemented(line, absl::StrCat("the method \"", name, "\" of a str"));
}

Evaluator::Result Evaluator::ReplaceText(const Text& text, const Text& from, const Text& to, int64_t count, int line) {
  int64_t found = from.empty() ? static_cast<int64_t>(text.size()) + 1 : 0;
  if (!from.empty()) {
    for (size_t at = FindText(text, from); at != Text::npos; at = FindText(text, from, at + from.size())) ++found;
  }
  if (count >= 0) found = std::min(found, count);
  if (static_cast<int64_t>(text.size()) + found * static_cast<int64_t>(to.size()) > 2 * kMaxOutputBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("line ", line, ": a string of more than ", kMaxOutputBytes, " characters"));
  }
  return NewText(Replace(text, from, to, count), line);
}

Evaluator::Result Evaluator::JoinText(const std::vector<Value>& items, const Text& separator, int line) {
  Text out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += separator;
    out += items[i].string() != nullptr ? *items[i].string() : ToText(items[i], budget_);
    if (static_cast<int64_t>(out.size()) > kMaxOutputBytes) break;  // NewText reports the error
  }
  return NewText(std::move(out), line);
}

Evaluator::Result Evaluator::CallMethod(const Value& self, const std::string& name, const Arguments& arguments) {
  const int line = arguments.line;
  if (const Dict* dict = self.dict()) {
    if (name == "get") {
      if (arguments.values.empty()) return Error(line, "get takes a key");
      if (const Value* value = FindKey(*dict, arguments.values[0], budget_)) return *value;
      return arguments.values.size() > 1 ? arguments.values[1] : Value::MakeNone();
    }
    std::vector<Value> items;
    for (const auto& [key, value] : dict->entries) {
      items.push_back(name == "keys" ? key : name == "values" ? value : Value::MakeList({key, value}, /*tuple=*/true));
    }
    return NewList(std::move(items), line);
  }
  const List* list = self.list();
  if (list == nullptr || arguments.values.size() != 1) return Error(line, absl::StrCat(name, " takes one value"));
  int64_t count = 0;
  for (size_t i = 0; i < list->items.size(); ++i) {
    if (!Equal(list->items[i], arguments.values[0], budget_)) continue;
    if (name == "index") return Value::Int(static_cast<int64_t>(i));
    ++count;
  }
  if (name == "index") return Error(line, "the value is not in the list");
  return Value::Int(count);
}

Evaluator::Result Evaluator::CallLoopMethod(Loop& loop, const std::string& name, const Arguments& arguments) {
  if (name == "cycle") {
    if (arguments.values.empty()) return Error(arguments.line, "cycle takes values");
    return arguments.values[loop.index % arguments.values.size()];
  }
  KVLINK_ASSIGN_OR_RETURN(Value now, NewList(arguments.values, arguments.line));
  if (now.opaque()) return Unimplemented(arguments.line, "a namespace or a loop in loop.changed()");
  const bool changed = !Equal(now, loop.changed, budget_);
  if (changed) loop.changed = std::move(now);
  return Value::Bool(changed);
}

}  // namespace kvlink::model::jinja
