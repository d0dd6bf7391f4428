// Expressions of the template interpreter.
#include <algorithm>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/text/template/jinja_evaluator.h"

namespace kvlink::model::jinja {
namespace {

using Kind = Expression::Kind;

// Jinja's name for the type, as in "'dict object' has no attribute".
std::string ObjectName(const Value& value) { return absl::StrCat("'", value.TypeName(), " object'"); }

bool HasMethod(const Value& value, const std::string& name) {
  static constexpr const char* kString[] = {
      "strip", "lstrip", "rstrip",     "split", "splitlines", "startswith", "endswith",     "replace",     "upper",
      "lower", "title",  "capitalize", "find",  "count",      "join",       "removeprefix", "removesuffix"};
  static constexpr const char* kDict[] = {"get", "items", "keys", "values"};
  static constexpr const char* kList[] = {"index", "count"};
  static constexpr const char* kLoop[] = {"cycle", "changed"};
  const auto in = [&](const auto& names) {
    return std::find(std::begin(names), std::end(names), name) != std::end(names);
  };
  if (value.string() != nullptr) return in(kString);
  if (value.dict() != nullptr) return in(kDict);
  if (value.list() != nullptr) return in(kList);
  return value.loop() != nullptr && in(kLoop);
}

Value LoopAttribute(const Loop& loop, const std::string& name, bool& known) {
  const auto index = static_cast<int64_t>(loop.index);
  const auto length = static_cast<int64_t>(loop.items.size());
  known = true;
  if (name == "index") return Value::Int(index + 1);
  if (name == "index0") return Value::Int(index);
  if (name == "revindex") return Value::Int(length - index);
  if (name == "revindex0") return Value::Int(length - index - 1);
  if (name == "first") return Value::Bool(index == 0);
  if (name == "last") return Value::Bool(index == length - 1);
  if (name == "length") return Value::Int(length);
  if (name == "depth") return Value::Int(loop.depth);
  if (name == "depth0") return Value::Int(loop.depth - 1);
  if (name == "previtem") return index > 0 ? loop.items[loop.index - 1] : Value::Missing("there is no previous item");
  if (name == "nextitem")
    return index + 1 < length ? loop.items[loop.index + 1] : Value::Missing("there is no next item");
  known = false;
  return Value();
}

// The positions that a Python slice selects from a sequence of `size`.
std::vector<size_t> SlicePositions(int64_t size, const Value* start, const Value* stop, int64_t step) {
  const auto bound = [&](const Value* value, int64_t fallback) {
    if (value == nullptr || value->is_none()) return fallback;
    int64_t at = value->AsInt();
    if (at < 0) at = at < -size ? -1 : at + size;
    if (step > 0) return std::clamp<int64_t>(at, 0, size);
    return std::clamp<int64_t>(at, -1, size - 1);
  };
  const int64_t begin = bound(start, step > 0 ? 0 : size - 1);
  const int64_t end = bound(stop, step > 0 ? size : -1);
  std::vector<size_t> positions;
  for (int64_t at = begin; step > 0 ? at < end : at > end; at += step) {
    positions.push_back(static_cast<size_t>(at));
    if (step > 0 ? at > end - step : at < end - step) break;  // the next one could overflow
  }
  return positions;
}

int64_t FloorDivide(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

}  // namespace

Value Evaluator::Lookup(const std::string& name) const {
  for (size_t i = scopes_.size(); i-- > frame_;) {
    if (const auto found = scopes_[i].find(name); found != scopes_[i].end()) return found->second;
  }
  for (size_t i = std::min<size_t>(frame_, 2); i-- > 0;) {
    if (const auto found = scopes_[i].find(name); found != scopes_[i].end()) return found->second;
  }
  return Value::Missing(absl::StrCat("'", name, "' is undefined"));
}

Evaluator::Result Evaluator::Eval(const Expression& expression) {
  Nest nest(this);
  KVLINK_RETURN_IF_ERROR(Enter(expression.line));
  switch (expression.kind) {
    case Kind::kLiteral:
      return expression.literal;
    case Kind::kName:
      return Lookup(expression.name);
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
      return EvalContainer(expression);
    case Kind::kAttribute: {
      KVLINK_ASSIGN_OR_RETURN(const Value object, Eval(*expression.args[0]));
      return Attribute(object, expression.name, expression.line);
    }
    case Kind::kItem:
      return EvalItem(expression);
    case Kind::kSlice:
      return EvalSlice(expression);
    case Kind::kCall:
      return EvalCall(expression);
    case Kind::kFilter:
      return EvalFilter(expression, nullptr);
    case Kind::kTest:
      return EvalTest(expression);
    case Kind::kNot: {
      KVLINK_ASSIGN_OR_RETURN(const Value value, Eval(*expression.args[0]));
      return Value::Bool(!value.Truthy());
    }
    case Kind::kNegative:
    case Kind::kPositive: {
      KVLINK_ASSIGN_OR_RETURN(const Value value, Eval(*expression.args[0]));
      return Arithmetic(expression.kind == Kind::kNegative ? "-" : "+", Value::Int(0), value, expression.line);
    }
    case Kind::kBinary:
      return EvalBinary(expression);
    case Kind::kConcat:
      return EvalConcat(expression);
    case Kind::kCompare:
      return EvalCompare(expression);
    case Kind::kAnd:
    case Kind::kOr: {
      KVLINK_ASSIGN_OR_RETURN(Value left, Eval(*expression.args[0]));
      if (left.Truthy() == (expression.kind == Kind::kOr)) return left;
      return Eval(*expression.args[1]);
    }
    case Kind::kConditional: {
      KVLINK_ASSIGN_OR_RETURN(const Value condition, Eval(*expression.args[1]));
      if (condition.Truthy()) return Eval(*expression.args[0]);
      if (expression.args[2] != nullptr) return Eval(*expression.args[2]);
      return Value::Missing("the inline if was false and has no else");
    }
  }
  return Error(expression.line, "an unknown expression");
}

Evaluator::Result Evaluator::EvalContainer(const Expression& expression) {
  std::vector<Value> items;
  for (const ExpressionPtr& arg : expression.args) {
    KVLINK_ASSIGN_OR_RETURN(Value item, Eval(*arg));
    items.push_back(std::move(item));
  }
  if (expression.kind != Kind::kDict)
    return NewList(std::move(items), expression.line, expression.kind == Kind::kTuple);
  Dict dict;
  for (size_t i = 0; i + 1 < items.size(); i += 2) {
    if (items[i].list() != nullptr || items[i].dict() != nullptr) return Error(expression.line, "a key must be plain");
    const Value* old = FindKey(dict, items[i], budget_);
    if (old != nullptr) {
      const_cast<Value&>(*old) = items[i + 1];
    } else {
      dict.entries.emplace_back(items[i], items[i + 1]);
    }
  }
  return NewDict(std::move(dict.entries), expression.line);
}

Evaluator::Result Evaluator::Attribute(const Value& object, const std::string& name, int line) {
  if (object.undefined() != nullptr) return Error(line, object.undefined()->why);
  if (HasMethod(object, name)) {
    Function function;
    function.name = name;
    function.method = true;
    function.self = object;
    return Value::MakeFunction(std::move(function));
  }
  if (const Dict* dict = object.dict()) {
    budget_.Spend(static_cast<int64_t>(dict->entries.size() / 64));
    if (const Value* value = dict->Find(name)) return *value;
  }
  if (const Namespace* space = object.name_space()) {
    budget_.Spend(static_cast<int64_t>(space->entries.size() / 64));
    for (const auto& [key, value] : space->entries) {
      if (key == name) return value;
    }
  }
  if (object.loop() != nullptr) {
    bool known = false;
    Value value = LoopAttribute(*object.loop(), name, known);
    if (known) return value;
  }
  return Value::Missing(absl::StrCat(ObjectName(object), " has no attribute '", name, "'"));
}

Evaluator::Result Evaluator::Item(const Value& object, const Value& key, int line) {
  if (object.undefined() != nullptr) return Error(line, object.undefined()->why);
  if (const Dict* dict = object.dict()) {
    if (const Value* value = FindKey(*dict, key, budget_)) return *value;
  }
  if (key.is_integer() && (object.list() != nullptr || object.string() != nullptr)) {
    const auto size =
        static_cast<int64_t>(object.list() != nullptr ? object.list()->items.size() : object.string()->size());
    const int64_t at = key.AsInt() < 0 ? key.AsInt() + size : key.AsInt();
    if (at < 0 || at >= size) return Value::Missing(absl::StrCat(ObjectName(object), " has no element ", key.AsInt()));
    return object.list() != nullptr ? object.list()->items[at] : Value::String(Text(1, (*object.string())[at]));
  }
  if (key.string() != nullptr) return Attribute(object, EncodeText(*key.string()), line);
  return Value::Missing(absl::StrCat(ObjectName(object), " has no such element"));
}

Evaluator::Result Evaluator::EvalItem(const Expression& expression) {
  KVLINK_ASSIGN_OR_RETURN(const Value object, Eval(*expression.args[0]));
  KVLINK_ASSIGN_OR_RETURN(const Value key, Eval(*expression.args[1]));
  return Item(object, key, expression.line);
}

Evaluator::Result Evaluator::EvalSlice(const Expression& expression) {
  KVLINK_ASSIGN_OR_RETURN(const Value object, Eval(*expression.args[0]));
  if (object.undefined() != nullptr) return Error(expression.line, object.undefined()->why);
  Value parts[3];
  const Value* given[3] = {nullptr, nullptr, nullptr};
  for (int i = 0; i < 3; ++i) {
    if (expression.args[i + 1] == nullptr) continue;
    KVLINK_ASSIGN_OR_RETURN(parts[i], Eval(*expression.args[i + 1]));
    if (!parts[i].is_integer() && !parts[i].is_none()) return Error(expression.line, "a slice takes integers");
    given[i] = &parts[i];
  }
  const int64_t step = given[2] == nullptr || given[2]->is_none() ? 1 : given[2]->AsInt();
  if (step == 0) return Error(expression.line, "the step of a slice must not be 0");
  if (const Text* text = object.string()) {
    budget_.SpendText(text->size());
    Text out;
    for (const size_t at : SlicePositions(text->size(), given[0], given[1], step)) out += (*text)[at];
    return NewText(std::move(out), expression.line);
  }
  const List* list = object.list();
  if (list == nullptr) return Error(expression.line, absl::StrCat(ObjectName(object), " cannot be sliced"));
  std::vector<Value> items;
  for (const size_t at : SlicePositions(list->items.size(), given[0], given[1], step)) items.push_back(list->items[at]);
  return NewList(std::move(items), expression.line, list->tuple);
}

absl::StatusOr<Arguments> Evaluator::EvalArguments(const Expression& expression) {
  Arguments arguments;
  arguments.line = expression.line;
  for (size_t i = 1; i < expression.args.size(); ++i) {
    KVLINK_ASSIGN_OR_RETURN(Value value, Eval(*expression.args[i]));
    arguments.values.push_back(std::move(value));
  }
  for (const auto& [name, arg] : expression.named) {
    KVLINK_ASSIGN_OR_RETURN(Value value, Eval(*arg));
    arguments.named.emplace_back(name, std::move(value));
  }
  return arguments;
}

Evaluator::Result Evaluator::EvalCall(const Expression& expression) {
  const Expression& callee = *expression.args[0];
  Value function;
  if (callee.kind == Kind::kAttribute) {
    KVLINK_ASSIGN_OR_RETURN(const Value object, Eval(*callee.args[0]));
    KVLINK_ASSIGN_OR_RETURN(function, Attribute(object, callee.name, callee.line));
    if (function.is_undefined() &&
        (object.string() != nullptr || object.list() != nullptr || object.dict() != nullptr)) {
      return Unimplemented(callee.line, absl::StrCat("the method \"", callee.name, "\" of a ", object.TypeName()));
    }
  } else {
    KVLINK_ASSIGN_OR_RETURN(function, Eval(callee));
  }
  if (function.undefined() != nullptr) return Error(expression.line, function.undefined()->why);
  if (function.function() == nullptr)
    return Error(expression.line, absl::StrCat(ObjectName(function), " cannot be called"));
  KVLINK_ASSIGN_OR_RETURN(const Arguments arguments, EvalArguments(expression));
  return Call(*function.function(), arguments);
}

Evaluator::Result Evaluator::EvalFilter(const Expression& expression, const Value* input) {
  Value value;
  if (expression.args[0] == nullptr) {
    value = *input;
  } else if (expression.args[0]->kind == Kind::kFilter) {
    KVLINK_ASSIGN_OR_RETURN(value, EvalFilter(*expression.args[0], input));
  } else {
    KVLINK_ASSIGN_OR_RETURN(value, Eval(*expression.args[0]));
  }
  KVLINK_ASSIGN_OR_RETURN(const Arguments arguments, EvalArguments(expression));
  return Filter(expression.name, value, arguments);
}

Evaluator::Result Evaluator::EvalTest(const Expression& expression) {
  KVLINK_ASSIGN_OR_RETURN(const Value value, Eval(*expression.args[0]));
  KVLINK_ASSIGN_OR_RETURN(const Arguments arguments, EvalArguments(expression));
  KVLINK_ASSIGN_OR_RETURN(const bool passed, Test(expression.name, value, arguments));
  return Value::Bool(passed);
}

Evaluator::Result Evaluator::EvalBinary(const Expression& expression) {
  KVLINK_ASSIGN_OR_RETURN(const Value a, Eval(*expression.args[0]));
  KVLINK_ASSIGN_OR_RETURN(const Value b, Eval(*expression.args[1]));
  return Arithmetic(expression.name, a, b, expression.line);
}

Evaluator::Result Evaluator::Arithmetic(const std::string& op, const Value& a, const Value& b, int line) {
  for (const Value* value : {&a, &b}) {
    if (value->undefined() != nullptr) return Error(line, value->undefined()->why);
  }
  if (op == "+" && a.string() != nullptr && b.string() != nullptr) return NewText(*a.string() + *b.string(), line);
  if (op == "+" && a.list() != nullptr && b.list() != nullptr && a.list()->tuple == b.list()->tuple) {
    std::vector<Value> items = a.list()->items;
    items.insert(items.end(), b.list()->items.begin(), b.list()->items.end());
    return NewList(std::move(items), line, a.list()->tuple);
  }
  if (op == "*" && (a.string() != nullptr || b.string() != nullptr) && (a.is_integer() || b.is_integer())) {
    const Text& text = a.string() != nullptr ? *a.string() : *b.string();
    const int64_t count = std::max<int64_t>(0, a.is_integer() ? a.AsInt() : b.AsInt());
    if (!text.empty() && count > kMaxOutputBytes / static_cast<int64_t>(text.size())) {
      return absl::ResourceExhaustedError(
          absl::StrCat("line ", line, ": a string of more than ", kMaxOutputBytes, " characters"));
    }
    Text out;
    for (int64_t i = 0; i < count && !text.empty(); ++i) out += text;
    return NewText(std::move(out), line);
  }
  if (!a.is_number() || !b.is_number()) {
    return Error(line, absl::StrCat("\"", op, "\" does not take a ", a.TypeName(), " and a ", b.TypeName()));
  }
  const bool divides = op == "/" || op == "//" || op == "%";
  if (divides && b.AsDouble() == 0) return Error(line, "division by zero");
  if (a.is_float() || b.is_float() || op == "/" || (op == "**" && b.AsDouble() < 0)) {
    const double x = a.AsDouble(), y = b.AsDouble();
    if (op == "+") return Value::Float(x + y);
    if (op == "-") return Value::Float(x - y);
    if (op == "*") return Value::Float(x * y);
    if (op == "/") return Value::Float(x / y);
    if (op == "//") return Value::Float(std::floor(x / y));
    if (op == "%") return Value::Float(x - y * std::floor(x / y));
    return Value::Float(std::pow(x, y));
  }
  const int64_t x = a.AsInt(), y = b.AsInt();
  int64_t result = 0;
  bool overflow = divides && x == INT64_MIN && y == -1;
  if (op == "+") {
    overflow = __builtin_add_overflow(x, y, &result);
  } else if (op == "-") {
    overflow = __builtin_sub_overflow(x, y, &result);
  } else if (op == "*") {
    overflow = __builtin_mul_overflow(x, y, &result);
  } else if (op == "**") {
    result = 1;
    for (int64_t i = 0; i < y && !overflow && !(x == 1 || (x == 0 && i > 0)); ++i) {
      budget_.Spend(1);
      if (budget_.exhausted()) break;
      overflow = __builtin_mul_overflow(result, x, &result);
    }
  } else if (!overflow) {
    result = op == "//" ? FloorDivide(x, y) : x - FloorDivide(x, y) * y;
  }
  if (overflow) return Error(line, "a number beyond 64 bits");
  return Value::Int(result);
}

Evaluator::Result Evaluator::EvalConcat(const Expression& expression) {
  Text out;
  for (const ExpressionPtr& arg : expression.args) {
    KVLINK_ASSIGN_OR_RETURN(const Value value, Eval(*arg));
    out += value.string() != nullptr ? *value.string() : ToText(value, budget_);
    if (static_cast<int64_t>(out.size()) > kMaxOutputBytes) break;  // NewText reports the error
  }
  return NewText(std::move(out), expression.line);
}

Evaluator::Result Evaluator::EvalCompare(const Expression& expression) {
  KVLINK_ASSIGN_OR_RETURN(Value left, Eval(*expression.args[0]));
  for (size_t i = 0; i < expression.names.size(); ++i) {
    KVLINK_ASSIGN_OR_RETURN(Value right, Eval(*expression.args[i + 1]));
    KVLINK_ASSIGN_OR_RETURN(const bool holds, Compare(expression.names[i], left, right, expression.line));
    if (!holds) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

absl::StatusOr<bool> Evaluator::Compare(const std::string& op, const Value& a, const Value& b, int line) {
  if (op == "==") return Equal(a, b, budget_);
  if (op == "!=") return !Equal(a, b, budget_);
  if (op == "<") return Less(a, b, line);
  if (op == ">") return Less(b, a, line);
  if (op == "<=" || op == ">=") {
    KVLINK_ASSIGN_OR_RETURN(const bool beyond, op == "<=" ? Less(b, a, line) : Less(a, b, line));
    const bool unordered = a.is_number() && (std::isnan(a.AsDouble()) || std::isnan(b.AsDouble()));
    return !beyond && !unordered;
  }
  KVLINK_ASSIGN_OR_RETURN(const bool contains, Contains(b, a, line));
  return contains == (op == "in");
}

absl::StatusOr<bool> Evaluator::Less(const Value& a, const Value& b, int line) {
  for (const Value* value : {&a, &b}) {
    if (value->undefined() != nullptr) return Error(line, value->undefined()->why);
  }
  if (a.is_number() && b.is_number()) {
    return a.is_float() || b.is_float() ? a.AsDouble() < b.AsDouble() : a.AsInt() < b.AsInt();
  }
  if (a.string() == nullptr || b.string() == nullptr) {
    return Error(line, absl::StrCat("a ", a.TypeName(), " and a ", b.TypeName(), " have no order"));
  }
  budget_.SpendText(std::min(a.string()->size(), b.string()->size()));
  return LessText(*a.string(), *b.string());
}

absl::StatusOr<bool> Evaluator::Contains(const Value& container, const Value& item, int line) {
  if (const Text* text = container.string()) {
    if (item.string() == nullptr) return Error(line, absl::StrCat("\"in\" a string does not take a ", item.TypeName()));
    KVLINK_RETURN_IF_ERROR(SpendSearch(*text, *item.string(), line));
    return FindText(*text, *item.string()) != Text::npos;
  }
  if (const Dict* dict = container.dict()) return FindKey(*dict, item, budget_) != nullptr;
  KVLINK_ASSIGN_OR_RETURN(const std::vector<Value> items, Items(container, line));
  return std::any_of(items.begin(), items.end(), [&](const Value& x) { return Equal(x, item, budget_); });
}

absl::StatusOr<std::vector<Value>> Evaluator::Items(const Value& value, int line) {
  std::vector<Value> items;
  if (const List* list = value.list()) {
    items = list->items;
  } else if (const Dict* dict = value.dict()) {
    for (const auto& entry : dict->entries) items.push_back(entry.first);
  } else if (const Text* text = value.string()) {
    if (!budget_.Spend(static_cast<int64_t>(text->size()))) return CheckBudget(line);
    for (const char32_t c : *text) items.push_back(Value::String(Text(1, c)));
  } else if (!value.is_undefined()) {
    return Error(line, absl::StrCat(ObjectName(value), " is not iterable"));
  }
  budget_.Spend(static_cast<int64_t>(items.size()) / 8);
  KVLINK_RETURN_IF_ERROR(CheckBudget(line));
  return items;
}

}  // namespace kvlink::model::jinja
